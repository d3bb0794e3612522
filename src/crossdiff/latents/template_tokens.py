"""How much of each latent's activity falls on chat-template tokens, and how far after them the rest lies.

See docs/method.md 13. Shares are taken over chats only, as in the paper, because documents have no template.
The first token of a sequence (BOS if there is one) is counted by itself, because its activations are unlike
all others.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from crossdiff.latents.applies import missing, reason, table_of
from crossdiff.latents.evaluation import most_chat_leaning
from crossdiff.texts.chats import CONTENT, HEADER, NO_ROLE
from crossdiff.texts.formats import ROLES
from crossdiff.texts.shards import Shard

if TYPE_CHECKING:  # figures import this module and start faster without the imports of firings
    from crossdiff.latents.firings import Firings

NEAR = 10  # up to this distance after a template token, each distance is a group
OUTSIDE = ("document", "first")
TEMPLATE = ("header", "turn_end")
# Every token is in exactly one group. after_3 is the third content token after a template token.
GROUPS = (*OUTSIDE, *TEMPLATE, *(f"after_{distance}" for distance in range(1, NEAR + 1)), "later")
ABOVE = (0.1, 0.4, 0.7)  # shares of the latent's largest activation (docs/method.md 13)

MOSTLY, A_THIRD = 1 / 2, 1 / 3


def token_groups(tokens: Shard) -> np.ndarray:
    """The index in GROUPS of every token of a shard, (rows,) int8."""
    row = np.arange(len(tokens.token))
    is_template = tokens.template != CONTENT
    last = np.maximum.accumulate(np.where(is_template, row, -1))
    # The last template token may belong to another sequence.
    distance = np.where(last >= row - tokens.position, row - last, NEAR + 1)
    part = np.where(tokens.template == HEADER, GROUPS.index("header"), GROUPS.index("turn_end"))
    after = GROUPS.index("after_1") - 1 + np.minimum(distance, NEAR + 1)
    groups = np.where(is_template, part, after)
    groups[tokens.position == 0] = GROUPS.index("first")
    groups[tokens.role == NO_ROLE] = GROUPS.index("document")
    return groups.astype(np.int8)


class TemplateCounter:
    """Counts the activations of each latent by group of token, by strength and by role."""

    def __init__(self, shards: Sequence[Shard], largest: np.ndarray) -> None:
        """``largest`` (latents,): the largest activation of each latent over all training tokens."""
        self.largest = largest
        self.groups = [token_groups(shard) for shard in shards]
        self.roles = [shard.role for shard in shards]
        self.text = np.zeros(len(GROUPS), np.int64)
        self.by_group = np.zeros((len(largest), len(GROUPS), len(ABOVE) + 1), np.int64)
        self.by_role = np.zeros((len(largest), len(ROLES) + 1), np.int64)

    def add(self, firings: "Firings") -> None:
        """Count some firings of a stream."""
        groups, roles = self.groups[firings.shard], self.roles[firings.shard]
        self.text += np.bincount(groups[firings.rows], minlength=len(GROUPS))
        latent = firings.latent.astype(np.int64)
        above = (firings.value > share * self.largest[latent] for share in ABOVE)
        strength = sum(above, start=np.zeros(len(latent), np.int8))
        _count(self.by_group, latent, groups[firings.row], strength)
        _count(self.by_role, latent, roles[firings.row])

    def tokens(self) -> dict[str, int]:
        """The number of tokens in each group, over all tokens that were read."""
        return dict(zip(GROUPS, self.text.tolist(), strict=True))

    def table(self) -> pd.DataFrame:
        """Give the counts as a table with one row per latent.

        Columns:

        - latent
        - activations: number of all its activations
        - a column for each group of GROUPS and for each role of ROLES: number of its activations there
        - template_share: share of its activations in chats that are on template tokens
        - template_share_above_{x}: the same for activations above x times its largest one

        A share is NaN for a latent without such activations.
        """
        counts = self.by_group.sum(axis=2)
        columns = {"latent": np.arange(len(counts)), "activations": counts.sum(axis=1)}
        columns |= dict(zip(GROUPS, counts.T, strict=True)) | dict(zip(ROLES, self.by_role.T, strict=False))
        columns["template_share"] = template_share(counts)
        for bucket, share in enumerate(ABOVE, start=1):
            strong = self.by_group[:, :, bucket:].sum(axis=2)
            columns[f"template_share_above_{share}"] = template_share(strong)
        return pd.DataFrame(columns)


def _count(counts: np.ndarray, *index: np.ndarray) -> None:
    """Add one at each place that the arrays of indices name, in place."""
    flat = np.ravel_multi_index(index, counts.shape)
    counts += np.bincount(flat, minlength=counts.size).reshape(counts.shape)


def template_share(counts: np.ndarray) -> np.ndarray:
    """The share of template tokens among tokens in chats, (...), from counts (..., group).

    It is NaN where there are no tokens in chats.
    """
    template = counts[..., [GROUPS.index(group) for group in TEMPLATE]].sum(axis=-1)
    chats = counts[..., len(OUTSIDE) :].sum(axis=-1)
    return template / np.where(chats > 0, chats, np.nan)


def shares_by_set(betas: pd.DataFrame, table: pd.DataFrame, top: int) -> dict[str, pd.Series]:
    """Template shares by set of latents, for the latents that fire in chats.

    The sets are the class chat-only, the ``top`` most chat-leaning latents, and the class shared. ``table``
    is the one of ``TemplateCounter``.
    """
    members = {
        "chat-only": betas[betas["class"] == "chat-only"],
        "most chat-leaning": most_chat_leaning(betas, top),
        "shared": betas[betas["class"] == "shared"],
    }
    shares = table.set_index("latent").template_share
    return {name: shares[latents.latent].dropna() for name, latents in members.items()}


def headlines(betas: pd.DataFrame, table: pd.DataFrame, tokens: dict[str, int], top: int) -> pd.DataFrame:
    """Summarise template shares: one row for each set of ``shares_by_set``. Columns:

    - set, latents: the set's name, and how many of its latents fire in chats.
    - mostly_on_template: share of these latents whose template share is above 1/2.
    - at_least_a_third: share of these latents whose template share is 1/3 or more.
    - text_share: share of template tokens in the chats that were read, the same in all rows.

    Shares of an empty set are NaN. Without a base decoder there are no classes. Their numbers are then
    missing, and ``does_not_apply`` says why.
    """
    why = reason(betas)
    text_share = float(template_share(np.array([tokens[group] for group in GROUPS])))
    rows = [
        {"set": name}
        | missing(
            why if name in ("chat-only", "shared") else "",
            {
                "latents": len(shares),
                "mostly_on_template": (shares > MOSTLY).mean(),
                "at_least_a_third": (shares >= A_THIRD).mean(),
                "text_share": text_share,
            },
            ("text_share",),
        )
        for name, shares in shares_by_set(betas, table, top).items()
    ]
    return table_of(rows)
