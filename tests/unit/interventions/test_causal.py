"""Sets of latents, answer tokens and the KL table agree with plain computations."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossdiff.errors import UserError
from crossdiff.interventions.causal_effect import (
    Answers,
    conversations,
    group_sets,
    kl_table,
    patched_sets,
    variants,
)
from crossdiff.interventions.patching import FORMS, WHOLE, Variant
from crossdiff.texts.chats import CONTENT, HEADER, NO_ROLE, TURN_END
from crossdiff.texts.formats import ROLES
from crossdiff.texts.shards import Shard

NAN = float("nan")
SYSTEM, USER, ASSISTANT = range(3)
assert ROLES == ("system", "user", "assistant")


# Sets of latents.


def betas(nu_error, nu_reconstruction, dead=()) -> pd.DataFrame:
    """Latent 0 leans to the chat model most, the last one least."""
    count = len(nu_error)
    names = np.array(["other"] * count, object)
    names[list(dead)] = "dead"
    return pd.DataFrame(
        {
            "latent": range(count),
            "relative_norm_difference": np.linspace(0.99, 0.5, count),
            "nu_error": np.asarray(nu_error, float),
            "nu_reconstruction": np.asarray(nu_reconstruction, float),
            "class": names,
        }
    )


EIGHT = betas([0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1], [0.1, 0.9, 0.2, 0.3, 0.8, 0.4, 0.05, 0.6])


def test_halves_by_decoder_norm_are_the_first_and_last_of_the_ranking():
    sets = patched_sets(EIGHT, top=6, random_sets=0, seed=0)
    assert sets["best_norm"].tolist() == [0, 1, 2]
    assert sets["worst_norm"].tolist() == [3, 4, 5]


def test_halves_by_latent_scaling_go_by_the_sum_of_ranks():
    sets = patched_sets(EIGHT, top=8, random_sets=0, seed=0)
    # Ranks of nu_error: 8 7 6 5 4 3 2 1; of nu_reconstruction: 2 8 3 4 7 5 1 6; sums: 10 15 9 9 11 8 3 7.
    assert sets["best_scaling"].tolist() == [6, 7, 5, 2]
    assert sets["worst_scaling"].tolist() == [3, 0, 4, 1]


def test_latents_with_undefined_or_odd_ratios_have_no_rank_by_latent_scaling():
    table = betas([0.1, NAN, 0.3, 0.4, 2.5, 0.6], [0.1, 0.2, -0.2, 0.4, 0.5, 0.6])
    sets = patched_sets(table, top=6, random_sets=0, seed=0)
    assert sets["best_scaling"].tolist() == [0]
    assert sets["worst_scaling"].tolist() == [5]  # the middle one of three is in neither half
    assert sets["best_norm"].tolist() == [0, 1, 2]


def test_dead_latents_are_in_no_set():
    sets = patched_sets(betas([0.1] * 6, [0.1] * 6, dead=(0, 3)), top=4, random_sets=3, seed=0)
    assert set(np.concatenate(list(sets.values()))) == {1, 2, 4, 5}


def test_no_latent_alive_gives_empty_sets():
    sets = patched_sets(betas([NAN] * 3, [NAN] * 3, dead=(0, 1, 2)), top=4, random_sets=1, seed=0)
    assert {name: len(latents) for name, latents in sets.items()} == dict.fromkeys(
        ("best_norm", "worst_norm", "best_scaling", "worst_scaling", "random_1"), 0
    )


def test_random_halves_differ_and_are_decided_by_the_seed():
    table = betas([0.1] * 40, [0.1] * 40)
    one, same, other = (patched_sets(table, 30, random_sets=2, seed=seed) for seed in (0, 0, 1))
    assert len(one["random_1"]) == len(set(one["random_1"])) == 15
    assert set(one["random_1"]) < set(range(30))
    assert one["random_1"].tolist() == same["random_1"].tolist()
    assert one["random_1"].tolist() != one["random_2"].tolist()
    assert one["random_1"].tolist() != other["random_1"].tolist()


def test_the_strongest_groups_of_confirmed_latents_are_sets():
    strength = {1: 0.5, 2: 3.0, 3: 2.0, 4: 1.0, 5: 0.2, 6: 2.6}
    rows = [(latent, latent % 5, value) for latent, value in strength.items()]  # 1 and 6 are one group
    table = pd.DataFrame(rows, columns=["latent", "group", "strength"])
    table = pd.concat([table.assign(dataset=name) for name in ("talk", "pages")])
    found = group_sets(table)
    assert {name: latents.tolist() for name, latents in found.items()} == {
        "group_1": [1, 6],
        "group_2": [2],
        "group_3": [3],
        "group_4": [4],
    }
    assert list(found) == ["group_1", "group_2", "group_3", "group_4"]
    assert group_sets(table[:0]) == {}
    measured = variants(found | {"best_norm": np.array([1])})
    assert [(one.name, one.form) for one in measured if one.latents is not None] == [
        *((f"group_{number}", FORMS[0]) for number in (1, 2, 3, 4)),
        ("best_norm", FORMS[0]),
        ("best_norm", FORMS[1]),
    ]


def test_ranked_sets_are_measured_in_both_forms_and_random_ones_in_the_main_form():
    found = [
        (variant.name, variant.form) for variant in variants(patched_sets(EIGHT, 8, random_sets=1, seed=0))
    ]
    ranked = ["best_norm", "worst_norm", "best_scaling", "worst_scaling"]
    assert found == [(name, None) for name in WHOLE] + [
        (name, FORMS[0]) for name in [*ranked, "random_1"]
    ] + [(name, FORMS[1]) for name in ranked]


# Answer tokens.


def shard(*sequences: list[tuple[int, int, int]]) -> Shard:
    """Sequences of runs (role, template part, number of tokens)."""
    rows = [
        (s, role, part)
        for s, runs in enumerate(sequences)
        for role, part, count in runs
        for _ in range(count)
    ]
    sequence, role, template = (np.array(column) for column in zip(*rows, strict=True))
    position = np.arange(len(rows)) - np.searchsorted(sequence, sequence)
    return Shard(
        np.arange(len(rows), dtype=np.int32),
        sequence + 100,
        position.astype(np.int32),
        role.astype(np.int8),
        template.astype(np.int8),
    )


ASKED = [(USER, HEADER, 2), (USER, CONTENT, 3), (USER, TURN_END, 1)]
ANSWERED = [(ASSISTANT, HEADER, 1), (ASSISTANT, CONTENT, 2), (ASSISTANT, TURN_END, 1)]


def test_answer_tokens_are_the_assistants_words_and_turn_end():
    answers = Answers.of(shard([*ASKED, *ANSWERED]))
    assert answers.row.tolist() == [7, 8, 9]
    assert answers.place.tolist() == [0, 1, 2]


def test_every_answer_counts_from_its_own_start():
    answers = Answers.of(shard([*ASKED, *ANSWERED, *ASKED, *ANSWERED], [*ASKED, *ANSWERED]))
    assert answers.place.tolist() == [0, 1, 2] * 3
    assert answers.conversation.tolist() == [0] * 6 + [1] * 3
    assert answers.row.tolist() == [7, 8, 9, 17, 18, 19, 27, 28, 29]


def test_token_that_opens_a_sequence_is_predicted_by_nothing():
    answers = Answers.of(shard([(ASSISTANT, CONTENT, 3)], [(ASSISTANT, CONTENT, 2)]))
    assert answers.row.tolist() == [1, 2, 4]
    assert answers.place.tolist() == [0, 1, 0]


def test_documents_and_system_turns_hold_no_answer():
    assert not len(
        Answers.of(
            shard([(NO_ROLE, HEADER, 1), (NO_ROLE, CONTENT, 5)], [(SYSTEM, HEADER, 1), (SYSTEM, CONTENT, 3)])
        ).row
    )


RUN = st.tuples(
    st.sampled_from([USER, ASSISTANT]), st.sampled_from([HEADER, CONTENT, TURN_END]), st.integers(1, 3)
)


@given(st.lists(st.lists(RUN, min_size=1), min_size=1, max_size=4))
def test_answer_tokens_equal_a_plain_walk(sequences):
    tokens = shard(*sequences)
    expected, index, sequence = [], 0, -1
    for row in range(len(tokens.token)):
        sequence += tokens.position[row] == 0
        is_answer = (
            tokens.role[row] == ASSISTANT and tokens.template[row] != HEADER and tokens.position[row] > 0
        )
        index = 0 if not is_answer else index
        if is_answer:
            expected.append((row, sequence, index))
            index += 1
    assert list(zip(*(column.tolist() for column in Answers.of(tokens)), strict=True)) == expected


# Conversations.


def test_first_conversations_with_an_answer_are_taken_from_all_shards():
    first = shard([*ASKED, *ANSWERED], ASKED, [*ASKED, *ANSWERED])
    taken = conversations({"talk": [first, shard([*ANSWERED, *ASKED])]}, 3)
    assert len(taken.sequence_starts()) == 3
    assert taken.token.tolist() == [*range(10), *range(16, 26), *range(10)]
    assert len(conversations({"talk": [first]}, 1).token) == 10


def test_every_data_set_gives_its_share():
    taken = conversations(
        {"talk": [shard([*ASKED, *ANSWERED], ANSWERED)], "requests": [shard(ANSWERED, ANSWERED)]}, 1
    )
    assert np.diff(taken.sequence_starts()).tolist() == [10]
    assert len(taken.token) == 14


def test_too_few_conversations_are_refused_by_number():
    with pytest.raises(
        UserError, match=r"^causal\.conversations: found 3, talk has 1 validation chats with an answer;"
    ):
        conversations({"talk": [shard([*ASKED, *ANSWERED], ASKED)]}, 3)


# The table.

SETS = [
    Variant("none"),
    Variant("all"),
    Variant("best_norm", "subtraction", np.array([0, 2])),
    Variant("worst_norm", "additive", np.array([], int)),
]
FIRED = np.array([3, 1, 0])


def example(tokens: int = 200, seed: int = 0) -> tuple[np.ndarray, Answers]:
    """KL of four patched runs; ten conversations with one answer each, conversations differ."""
    generator = np.random.default_rng(seed)
    conversation = np.sort(generator.integers(10, size=tokens))
    index = np.arange(tokens) - np.searchsorted(conversation, conversation)
    level = generator.gamma(2, size=10)[conversation]
    kl = level[:, None] * generator.gamma(1, size=(tokens, 4)) * [1, 0.4, 0.7, 1]
    return kl.astype(np.float32), Answers(np.arange(tokens), conversation, index)


def row(table: pd.DataFrame, variant: str, group: str) -> pd.Series:
    [found] = [row for _, row in table[(table.variant == variant) & (table.group == group)].iterrows()]
    return found


def table_of(kl: np.ndarray, answers: Answers, seed: int = 0) -> pd.DataFrame:
    return kl_table(kl, answers, SETS, FIRED, first_tokens=9, seed=seed)


def test_means_and_intervals_are_the_papers():
    kl, answers = example()
    table = table_of(kl, answers)
    for group, member in (
        ("all", answers.place >= 0),
        ("first 9", answers.place < 9),
        ("rest", answers.place >= 9),
    ):
        for number, variant in enumerate(SETS):
            values, found = kl[member, number].astype(float), row(table, variant.name, group)
            half = 1.96 * np.sqrt(values.var(ddof=1) / len(values))
            assert found.tokens == member.sum()
            np.testing.assert_allclose(
                [found.kl, found.low, found.high], [values.mean(), values.mean() - half, values.mean() + half]
            )
            assert found.reduction == pytest.approx(1 - values.mean() / kl[member, 0].astype(float).mean())


def test_groups_share_out_all_tokens():
    table = table_of(*example())
    assert (
        row(table, "all", "all").tokens
        == row(table, "all", "first 9").tokens + row(table, "all", "rest").tokens
        == 200
    )


def test_bootstrap_over_conversations_is_wider_where_conversations_differ():
    found = row(table_of(*example()), "none", "all")
    assert found.low_conversations < found.low < found.high < found.high_conversations
    assert found.low_conversations < found.kl < found.high_conversations


def test_bootstrap_is_that_of_multinomial_draws_of_conversations():
    kl, answers = example()
    table = table_of(kl, answers, seed=5)
    names = np.unique(answers.conversation)
    drawn = np.random.default_rng(5).multinomial(len(names), [1 / len(names)] * len(names), size=1000)
    weights = drawn[:, np.searchsorted(names, answers.conversation)]  # (draw, token)
    means = weights @ kl.astype(float) / weights.sum(axis=1)[:, None]
    columns = ["low_conversations", "high_conversations", "reduction_low", "reduction_high"]
    found = np.array([row(table, variant.name, "all")[columns] for variant in SETS], float)
    expected = [np.percentile(values, (2.5, 97.5), axis=0) for values in (means, 1 - means / means[:, [0]])]
    np.testing.assert_allclose(found, np.concatenate(expected).T, rtol=1e-10)


def test_bootstrap_has_about_the_spread_of_the_mean_over_new_conversations():
    tokens = np.repeat(np.arange(60), 5)
    values = np.random.default_rng(1).normal(size=60)[tokens]
    kl = np.stack([values, values, values, values], axis=1).astype(np.float32)
    found = row(table_of(kl, Answers(tokens, tokens, np.zeros(300, int))), "none", "all")
    expected = 2 * 1.96 * np.std(values[::5], ddof=1) / np.sqrt(60)
    assert found.high_conversations - found.low_conversations == pytest.approx(expected, rel=0.15)


def test_reduction_is_compared_on_the_same_draws():
    kl, answers = example()
    # It is exactly a quarter on every token: the reduction is certain, though the KL is not.
    kl[:, 1] = kl[:, 0] / 4
    found = row(table_of(kl, answers), "all", "all")
    np.testing.assert_allclose([found.reduction, found.reduction_low, found.reduction_high], 0.75)
    assert found.high_conversations > 1.1 * found.low_conversations


def test_ranked_halves_are_compared_with_random_ones_on_the_same_draws():
    none, answers = example()
    forms = {
        "best_norm": (0.5, "subtraction"),
        "worst_norm": (0.9, "subtraction"),
        "worst_scaling": (0.4, "additive"),
    }
    random = {"random_1": (0.8, "subtraction"), "random_2": (0.6, "subtraction")}
    for sets, expected in ((forms | random, [0.2, -0.2]), (forms, [NAN, NAN])):
        measured = [
            Variant("none"),
            *(Variant(name, form, np.array([0])) for name, (_, form) in sets.items()),
        ]
        # Every patched run leaves one share of the KL on every token, so the comparison is certain.
        kl = none[:, :1] * np.array([1, *(share for share, _ in sets.values())], np.float32)
        table = kl_table(kl, answers, measured, FIRED, first_tokens=9, seed=0)
        for variant, beyond in zip(sets, [*expected, NAN, NAN, NAN], strict=False):
            found = row(table, variant, "all")
            values = [found.beyond_random, found.beyond_random_low, found.beyond_random_high]
            np.testing.assert_allclose(values, beyond, atol=1e-6)


def test_reduction_of_none_is_zero():
    found = row(table_of(*example()), "none", "all")
    assert (found.reduction, found.reduction_low, found.reduction_high) == (0, 0, 0)


def test_sizes_of_sets_and_how_many_fired():
    table = table_of(*example())
    assert (row(table, "best_norm", "all").latents, row(table, "best_norm", "all").fired) == (2, 1)
    assert (row(table, "worst_norm", "all").latents, row(table, "worst_norm", "all").fired) == (0, 0)
    assert pd.isna(row(table, "none", "all").latents)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_undefined_kl_is_counted_and_leaves_no_mean(bad):
    kl, answers = example()
    kl[[3, 150], 2] = bad
    table = table_of(kl, answers)
    found = row(table, "best_norm", "all")
    assert found.undefined == 2
    assert (
        found[["kl", "low", "high", "low_conversations", "high_conversations", "reduction", "reduction_low"]]
        .isna()
        .all()
    )
    assert row(table, "all", "all").undefined == 0
    assert np.isfinite(row(table, "all", "all").kl)


def test_one_conversation_has_no_interval_over_conversations():
    kl, answers = example()
    found = row(table_of(kl, answers._replace(conversation=np.zeros(200, int))), "all", "all")
    assert found.conversations == 1
    assert np.isfinite([found.kl, found.low, found.reduction]).all()
    assert np.isnan([found.low_conversations, found.reduction_high]).all()


def test_group_without_tokens_is_undefined():
    kl, answers = example()
    found = row(table_of(kl, answers._replace(place=answers.place % 9)), "all", "rest")
    assert (found.tokens, found.conversations) == (0, 0)
    assert np.isnan([found.kl, found.low, found.low_conversations, found.reduction]).all()


def test_base_that_is_the_chat_model_leaves_nothing_to_reduce():
    kl, answers = example()
    table = table_of(0 * kl, answers)
    assert row(table, "all", "all").kl == 0
    assert np.isnan(row(table, "all", "all").reduction)
