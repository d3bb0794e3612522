"""Counts by group of token against a walk over every token, and planted latents."""

import math

import numpy as np
import pandas as pd
import pytest
from helpers_latents import classed, firings_of
from hypothesis import given
from hypothesis import strategies as st

from crossdiff.latents.template_tokens import (
    ABOVE,
    GROUPS,
    TemplateCounter,
    headlines,
    shares_by_set,
    token_groups,
)
from crossdiff.texts.chats import CONTENT, HEADER, NO_ROLE, TURN_END
from crossdiff.texts.formats import ROLES
from crossdiff.texts.shards import Shard

USER, ASSISTANT = ROLES.index("user"), ROLES.index("assistant")


def shard_of(*sequences: list[tuple[int, int]]) -> Shard:
    """A shard of sequences, each a list of (role, template part); tokens and documents count up."""
    lengths = [len(sequence) for sequence in sequences]
    role, template = (
        np.array([token for sequence in sequences for token in sequence], np.int8).reshape(-1, 2).T
    )
    return Shard(
        token=np.arange(sum(lengths), dtype=np.int32),
        document=np.repeat(np.arange(len(lengths)), lengths),
        position=np.concatenate([np.arange(length, dtype=np.int32) for length in lengths]),
        role=role,
        template=template,
    )


def turn(role: int, content: int) -> list[tuple[int, int]]:
    """A marker, a role word and a newline; ``content`` tokens; an end marker."""
    return [(role, HEADER)] * 3 + [(role, CONTENT)] * content + [(role, TURN_END)]


DOCUMENT = [(NO_ROLE, HEADER)] + [(NO_ROLE, CONTENT)] * 6
CHAT = turn(USER, 2) + turn(ASSISTANT, 12)
SHARD = shard_of(CHAT, DOCUMENT, CHAT)


def counted(
    codes: np.ndarray, shard: Shard = SHARD, rows: np.ndarray | None = None, largest: np.ndarray | None = None
) -> TemplateCounter:
    counter = TemplateCounter([shard], codes.max(axis=0) if largest is None else largest)
    counter.add(firings_of(codes, 0, np.arange(len(codes)) if rows is None else rows))
    return counter


def walk(shard: Shard) -> list[str]:
    """The group of every token, by walking through the shard."""
    names, since = [], math.inf
    for position, role, template in zip(shard.position, shard.role, shard.template, strict=True):
        since = math.inf if position == 0 else since + 1
        since = 0 if template != CONTENT else since
        if role == NO_ROLE:
            names.append("document")
        elif position == 0:
            names.append("first")
        elif template != CONTENT:
            names.append("header" if template == HEADER else "turn_end")
        else:
            names.append(f"after_{since}" if since <= 10 else "later")
    return names


def test_groups_of_a_chat_and_a_document() -> None:
    chat = ["first", "header", "header", "after_1", "after_2", "turn_end", "header", "header", "header"]
    chat += [f"after_{distance}" for distance in range(1, 11)] + ["later", "later", "turn_end"]
    assert [GROUPS[group] for group in token_groups(SHARD)] == [*chat, *["document"] * 7, *chat]


TOKENS = st.tuples(
    st.sampled_from([NO_ROLE, USER, ASSISTANT]), st.sampled_from([CONTENT] * 6 + [HEADER, TURN_END])
)


@given(st.lists(st.lists(TOKENS, min_size=1, max_size=30), min_size=1, max_size=6))
def test_groups_equal_a_walk(sequences: list[list[tuple[int, int]]]) -> None:
    shard = shard_of(*sequences)
    assert [GROUPS[group] for group in token_groups(shard)] == walk(shard)


@given(st.integers(0, 2**32))
def test_counts_equal_a_walk(seed: int) -> None:
    generator = np.random.default_rng(seed)
    codes = (
        generator.random((len(SHARD.token), 3)) * (generator.random((len(SHARD.token), 3)) < 0.4)
    ).astype(np.float32)
    rows = np.flatnonzero(generator.random(len(codes)) < 0.8)
    largest = np.full(3, 1.1, np.float32)
    counter = counted(codes, rows=rows, largest=largest)
    table, groups = counter.table(), np.array(walk(SHARD))
    assert counter.tokens() == {group: int((groups[rows] == group).sum()) for group in GROUPS}
    for latent, row in enumerate(table.to_dict("records")):
        values = np.where(np.isin(np.arange(len(codes)), rows), codes[:, latent], 0)
        assert row["latent"] == latent
        assert row["activations"] == (values > 0).sum()
        assert {group: row[group] for group in GROUPS} == {
            group: ((values > 0) & (groups == group)).sum() for group in GROUPS
        }
        assert {role: row[role] for role in ROLES} == {
            role: ((values > 0) & (SHARD.role == i)).sum() for i, role in enumerate(ROLES)
        }
        for share in (0, *ABOVE):
            strong = (
                (values > np.float32(share) * largest[latent]) & (SHARD.role != NO_ROLE) & (groups != "first")
            )
            expected = np.isin(groups[strong], ["header", "turn_end"]).mean() if strong.any() else math.nan
            name = f"template_share_above_{share}" if share else "template_share"
            assert row[name] == pytest.approx(expected, nan_ok=True)


def test_latent_of_the_newline_in_the_header_has_share_one() -> None:
    newline = np.flatnonzero((SHARD.position % len(CHAT) == 2) & (SHARD.role != NO_ROLE))
    codes = np.zeros((len(SHARD.token), 1), np.float32)
    codes[newline] = 1
    row = counted(codes).table().iloc[0]
    assert row.template_share == row["template_share_above_0.7"] == 1
    assert row.activations == row.header == row.user == 2


def test_latent_that_is_strong_on_template_tokens_only() -> None:
    """Weak everywhere, at full strength on headers: the share grows with the strength that is asked for."""
    codes = np.full((len(SHARD.token), 1), 0.3, np.float32)
    codes[SHARD.template == HEADER] = 1
    row = counted(codes).table().iloc[0]
    assert row.template_share == row["template_share_above_0.1"] == pytest.approx(14 / 42)
    assert row["template_share_above_0.4"] == row["template_share_above_0.7"] == pytest.approx(10 / 10)


def test_silent_latents_have_no_share() -> None:
    """One never fires, one fires in documents only, one on first tokens only."""
    codes = np.zeros((len(SHARD.token), 3), np.float32)
    codes[SHARD.role == NO_ROLE, 1] = 1
    codes[SHARD.position == 0, 2] = 1
    table = counted(codes).table()
    assert table.activations.tolist() == [0, 7, 3]
    assert table.document.tolist() == [0, 7, 1]
    assert table["first"].tolist() == [0, 0, 2]
    assert table.filter(like="template_share").isna().all(axis=None)


def test_counts_add_up_over_shards_and_pieces() -> None:
    codes = np.random.default_rng(0).random((len(SHARD.token), 2)).astype(np.float32)
    shards = [SHARD, shard_of(DOCUMENT)]
    counter = TemplateCounter(shards, np.ones(2, np.float32))
    for rows in np.split(np.arange(len(codes)), [len(CHAT), len(CHAT) + len(DOCUMENT)]):
        counter.add(firings_of(codes, 0, rows))
    counter.add(firings_of(codes[:7], 1, np.arange(7)))
    table = counter.table()
    whole = counted(codes, largest=np.ones(2, np.float32)).table()
    pd.testing.assert_frame_equal(
        table.drop(columns=["document", "activations"]), whole.drop(columns=["document", "activations"])
    )
    assert (table.document - whole.document).tolist() == [7, 7]


# Sets of latents


def shares(*values: float) -> pd.DataFrame:
    return pd.DataFrame({"latent": range(len(values)), "template_share": values})


TOKENS_READ = dict.fromkeys(GROUPS, 0) | {
    "document": 1000,
    "first": 50,
    "header": 10,
    "turn_end": 10,
    "after_1": 10,
    "later": 50,
}


def test_headlines_of_each_set() -> None:
    betas = classed(["shared", "shared", "other", "chat-only", "chat-only", "dead"])
    table = shares(0.1, 1 / 3, 0.2, 0.5, 0.51, 0.9)
    rows = headlines(betas, table, TOKENS_READ, top=3).set_index("set")
    assert rows.latents.to_dict() == {"chat-only": 2, "most chat-leaning": 3, "shared": 2}
    assert rows.mostly_on_template.to_dict() == pytest.approx(
        {"chat-only": 1 / 2, "most chat-leaning": 1 / 3, "shared": 0}
    )
    assert rows.at_least_a_third.to_dict() == pytest.approx(
        {"chat-only": 1, "most chat-leaning": 2 / 3, "shared": 1 / 2}
    )
    assert rows.text_share.tolist() == [0.25] * 3  # of 80 tokens; documents and first tokens do not count


def test_latents_that_do_not_fire_in_chats_are_left_out_and_an_empty_set_has_no_shares() -> None:
    betas, table = classed(["shared", "shared", "other"]), shares(0.6, math.nan, 0.2)
    assert {name: members.tolist() for name, members in shares_by_set(betas, table, 1).items()} == {
        "chat-only": [],
        "most chat-leaning": [0.2],
        "shared": [0.6],
    }
    rows = headlines(betas, table, TOKENS_READ, top=1).set_index("set")
    assert rows.latents["chat-only"] == 0
    assert math.isnan(rows.mostly_on_template["chat-only"]) and math.isnan(rows.at_least_a_third["chat-only"])
