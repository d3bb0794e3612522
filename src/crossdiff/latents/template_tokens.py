"""How much of each latent's activity falls on chat-template tokens, and how far after them the rest lies (docs/method.md 13).

Shares are taken over chats alone, as in the paper: documents have no template. The first token of a sequence (BOS where there is one) is
counted by itself, for its activations are unlike all others.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from crossdiff.latents.evaluation import most_chat_leaning
from crossdiff.texts.chats import CONTENT, HEADER, NO_ROLE
from crossdiff.texts.formats import ROLES
from crossdiff.texts.shards import Shard

if TYPE_CHECKING:  # figures read this module, and need not wait for what reads firings
    from crossdiff.latents.firings import Firings

NEAR = 10  # distances after a template token that are counted one by one
OUTSIDE = ("document", "first")
TEMPLATE = ("header", "turn_end")
# Every token is in exactly one group; after_3 is the third content token after a template token.
GROUPS = (*OUTSIDE, *TEMPLATE, *(f"after_{distance}" for distance in range(1, NEAR + 1)), "later")
ABOVE = (0.1, 0.4, 0.7)  # shares of the latent's largest activation (docs/method.md 13)

MOSTLY, A_THIRD = 1 / 2, 1 / 3


def token_groups(tokens: Shard) -> np.ndarray:
    """(rows,) int8: the index in GROUPS of every token of a shard."""
    row = np.arange(len(tokens.token))
    is_template = tokens.template != CONTENT
    last = np.maximum.accumulate(np.where(is_template, row, -1))
    distance = np.where(
        last >= row - tokens.position, row - last, NEAR + 1
    )  # the last template token may be of another sequence
    part = np.where(tokens.template == HEADER, GROUPS.index("header"), GROUPS.index("turn_end"))
    after = GROUPS.index("after_1") - 1 + np.minimum(distance, NEAR + 1)
    groups = np.where(is_template, part, after)
    groups[tokens.position == 0] = GROUPS.index("first")
    groups[tokens.role == NO_ROLE] = GROUPS.index("document")
    return groups.astype(np.int8)


class TemplateCounter:
    """Counts, from a stream of firings, each latent's activations by group of token, strength and role."""

    def __init__(self, shards: Sequence[Shard], largest: np.ndarray) -> None:
        """``largest``: (latents,) the largest activation of each latent over all training tokens."""
        self.largest = largest
        self.groups = [token_groups(shard) for shard in shards]
        self.roles = [shard.role for shard in shards]
        self.text = np.zeros(len(GROUPS), np.int64)
        self.by_group = np.zeros((len(largest), len(GROUPS), len(ABOVE) + 1), np.int64)
        self.by_role = np.zeros((len(largest), len(ROLES) + 1), np.int64)

    def add(self, firings: "Firings") -> None:
        groups, roles = self.groups[firings.shard], self.roles[firings.shard]
        self.text += np.bincount(groups[firings.rows], minlength=len(GROUPS))
        latent = firings.latent.astype(np.int64)
        strength = sum(
            (firings.value > share * self.largest[latent] for share in ABOVE),
            start=np.zeros(len(latent), np.int8),
        )
        _count(self.by_group, latent, groups[firings.row], strength)
        _count(self.by_role, latent, roles[firings.row])

    def tokens(self) -> dict[str, int]:
        """How many of the tokens read are in each group."""
        return dict(zip(GROUPS, self.text.tolist(), strict=True))

    def table(self) -> pd.DataFrame:
        """One row per latent.

        Columns: latent; activations (all of them) and their number in each group of GROUPS and in each role's turns; template_share, the
        share of activations in chats that are on template tokens, and template_share_above_{x}, the same of those above x times the
        latent's largest activation. A share is NaN for a latent without such activations.
        """
        counts = self.by_group.sum(axis=2)
        columns = {"latent": np.arange(len(counts)), "activations": counts.sum(axis=1)}
        columns |= dict(zip(GROUPS, counts.T, strict=True)) | dict(zip(ROLES, self.by_role.T, strict=False))
        columns["template_share"] = template_share(counts)
        for bucket, share in enumerate(ABOVE, start=1):
            columns[f"template_share_above_{share}"] = template_share(
                self.by_group[:, :, bucket:].sum(axis=2)
            )
        return pd.DataFrame(columns)


def _count(counts: np.ndarray, *index: np.ndarray) -> None:
    """Add one at every place that the arrays of indices name."""
    counts += np.bincount(np.ravel_multi_index(index, counts.shape), minlength=counts.size).reshape(
        counts.shape
    )


def template_share(counts: np.ndarray) -> np.ndarray:
    """Share of template tokens among those in chats, from counts (..., group); NaN where there are none."""
    template = counts[..., [GROUPS.index(group) for group in TEMPLATE]].sum(axis=-1)
    chats = counts[..., len(OUTSIDE) :].sum(axis=-1)
    return template / np.where(chats > 0, chats, np.nan)


def shares_by_set(betas: pd.DataFrame, table: pd.DataFrame, top: int) -> dict[str, pd.Series]:
    """The template shares of the latents of each set that fire in chats: chat-only by class, the ``top`` most chat-leaning, shared."""
    members = {
        "chat-only": betas[betas["class"] == "chat-only"],
        "most chat-leaning": most_chat_leaning(betas, top),
        "shared": betas[betas["class"] == "shared"],
    }
    shares = table.set_index("latent").template_share
    return {name: shares[latents.latent].dropna() for name, latents in members.items()}


def headlines(betas: pd.DataFrame, table: pd.DataFrame, tokens: dict[str, int], top: int) -> pd.DataFrame:
    """One row per set of latents: how many fire in chats, and which shares of these do so mostly, or by a third, on template tokens.

    text_share is the share of template tokens in the chats that were read. Shares of an empty set are NaN.
    """
    text_share = float(template_share(np.array([tokens[group] for group in GROUPS])))
    rows = [
        {
            "set": name,
            "latents": len(shares),
            "mostly_on_template": (shares > MOSTLY).mean(),
            "at_least_a_third": (shares >= A_THIRD).mean(),
            "text_share": text_share,
        }
        for name, shares in shares_by_set(betas, table, top).items()
    ]
    return pd.DataFrame(rows)
