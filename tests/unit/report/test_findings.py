"""Findings on latents: each kind of sentence has tables for which it must not appear, and they are few."""

from typing import Any

import pandas as pd
import pytest
from helpers_findings import JUDGED, latent, refused, said, turns
from helpers_steering import steered_answers

from crossdiff.config import Stated
from crossdiff.interventions.steering_effects import effects
from crossdiff.report.findings import LEAST_GROUPS, MOST, findings, limits
from crossdiff.report.marks import Known
from crossdiff.report.shown_latents import ShownLatents


def test_several_latents_of_one_concept_are_one_finding() -> None:
    rows = [latent(1), latent(2, confirmed_95=False), latent(3, name="small talk")]
    found = said(rows, [(1, 0, 1.0), (2, 0, 3.0), (3, 1, 2.0)])
    assert [one.text for one in found] == [
        f"The chat model has a concept of its own: {called}, which fires in talk (90 % of its firings, "
        "10 % of the text)."
        for called in ("latent 2 (after 2) and 1 more", '"small talk"')
    ]
    assert found[0].latents == (("topk", 2), ("topk", 1)) and found[0].context == ["context of 2"]
    assert [mark.text for mark in found[0].marks] == ["1 of 2 confirmed at 95 %"]
    assert found[0].evidence == "2 confirmed latents of topk."


TALK = ", which fires in talk (60 % of its firings, 10 % of the text)"
EVERYWHERE = ", which fires in all kinds of text"


@pytest.mark.parametrize(
    ("firings", "place"),
    [((60, 40), TALK), ((49, 51), EVERYWHERE), ((10, 90), EVERYWHERE), ((4, 96), ""), ((0, 0), "")],
)
def test_a_data_set_is_named_only_where_it_has_most_firings_and_far_more_than_its_text(
    firings: tuple[int, int], place: str
) -> None:
    [found] = said([latent(1)], [(1, 0, 1.0)], firings)
    assert found.text == f"The chat model has a concept of its own: latent 1 (after 1){place}."


@pytest.mark.parametrize(("firings", "named"), [((89, 11), True), ((75, 25), True), ((74, 26), False)])
def test_a_data_set_with_half_of_the_text_is_named_if_firings_are_three_times_as_frequent(
    firings: tuple[int, int], named: bool
) -> None:
    table = pd.DataFrame({"latent": 1, "group": 0, "strength": 1.0, "dataset": ["talk", "pages"]})
    table = table.assign(firings=firings, tokens=500)
    shown = ShownLatents([latent(1)], [latent(1)], {})
    (found,) = findings(
        {"topk": JUDGED}, {"topk": shown}, {"topk": table}, [], {}, {"topk": Known()}, turns(None, None), 12
    )
    assert (f"fires in talk ({firings[0]} % of its firings, 50 % of the text)" in found.text) == named


def test_where_a_latent_fires_is_no_finding_in_a_text_of_one_data_set() -> None:
    table = pd.DataFrame({"latent": [1], "group": 0, "strength": 1.0, "dataset": "talk"})
    table = table.assign(firings=90, tokens=100)
    shown = ShownLatents([latent(1)], [latent(1)], {})
    (found,) = findings(
        {"topk": JUDGED}, {"topk": shown}, {"topk": table}, [], {}, {"topk": Known()}, turns(None, None), 12
    )
    assert found.text == "The chat model has a concept of its own: latent 1 (after 1)."


@pytest.mark.parametrize(
    ("firings", "place"), [((90, 10), " (5 mostly in talk)"), ((20, 80), ""), ((10, 90), "")]
)
def test_places_of_further_latents_are_counted(firings: tuple[int, int], place: str) -> None:
    rows = [latent(number) for number in range(9)]
    groups = [(number, number, float(number)) for number in range(9)]
    *_, last = said(rows, groups, firings)
    assert last.evidence == (
        f"1 confirmed latent of topk. Further confirmed latents are in the lists below: 5 of topk{place}."
    )


def test_a_language_model_names_a_group_that_people_have_not_named() -> None:
    words = "answers that refuse"
    rows = [latent(1), latent(2, explained=words), latent(3, explained="no", name="refusals")]
    first, second = said(rows, [(1, 0, 3.0), (2, 0, 2.0), (3, 1, 1.0)])
    assert first.text.startswith(f'The chat model has a concept of its own: "{words}" and 1 more, ')
    assert first.evidence.endswith(" A language model named it from contexts, and may be wrong.")
    assert '"refusals"' in second.text and "language model" not in second.evidence


@pytest.mark.parametrize(("kinds", "described"), [("abc", LEAST_GROUPS), ("abcd", LEAST_GROUPS - 1)])
def test_groups_come_before_what_latents_carry_but_not_before_refuted_claims(
    kinds: str, described: int
) -> None:
    rows = [latent(number) for number in range(9)]
    groups = [(number, number, float(number)) for number in range(9)]
    refusals = [row for kind in kinds for row in refused((0, 0.1), (0.9, 1), kind)]
    refuted = JUDGED | {"chat_only_confirmed": 4}
    found = said(rows, groups, refusals=refusals, kl={"topk": kl_rows(0.5, 0.4)}, evaluation=refuted)
    assert len(found) == MOST and len([one for one in found if one.latents]) == described
    assert found[-1].text.startswith("Latent scaling does not confirm most latents")


def test_other_findings_leave_less_room_for_groups() -> None:
    rows = [latent(number) for number in range(9)]
    groups = [(number, number, float(number)) for number in range(9)]
    kinds = [row for kind in "abc" for row in refused((0, 0.1), (0.9, 1), kind)]
    found = said(rows, groups, refusals=kinds, kl={"topk": kl_rows(0.5, 0.4)})
    shown = [one for one in found if one.latents]
    assert len(shown) == MOST - 4
    assert shown[-1].evidence.endswith(
        f"are in the lists below: {9 - len(shown)} of topk (6 mostly in talk)."
    )
    assert found[-1].text.startswith("The latents of topk and its biases together carry")


@pytest.mark.parametrize(("steered", "first"), [(5, 5), (4, 8)])
def test_one_of_the_strongest_groups_comes_first_if_it_changes_answers(steered: int, first: int) -> None:
    rows = [latent(number) for number in range(9)]
    groups = [(number, number, float(number)) for number in range(9)]  # 8, 7, 6 and 5 are the strongest
    known = {"topk": Known(steering=effects(steered_answers(latents=(steered,)), Stated(), 0))}
    found = said(rows, groups, known=known)
    order = [one.latents[0][1] for one in found if one.latents]
    # Latent 4 changes answers too, but is not among the strongest.
    does = ", which changes whether an answer refuses, and which fires in talk"
    assert [does in one.text for one in found if one.latents] == [steered == 5, False, False, False]
    assert order == [first, *(number for number in (8, 7, 6, 5) if number != first)]


def test_confirmed_latents_of_other_crosscoders_are_counted() -> None:
    table = pd.DataFrame({"latent": [1, 1], "group": 0, "strength": 1.0, "dataset": ["talk", "pages"]})
    table = table.assign(firings=[90, 10], tokens=[100, 900])
    two = pd.concat([table, table.assign(latent=2)])
    shown = {
        name: ShownLatents([latent(1), latent(2)], [latent(1), latent(2)], {}) for name in ("topk", "l1")
    }
    (found,) = findings(
        dict.fromkeys(shown, JUDGED),
        shown,
        {"topk": two, "l1": table},
        [],
        {},
        dict.fromkeys(shown, Known()),
        turns(None, None),
        12,
    )
    assert found.evidence == (
        "2 confirmed latents of topk. Further confirmed latents are in the lists below: 1 of l1."
    )


def test_a_base_only_group_is_the_base_models() -> None:
    [found] = said([latent(1, **{"class": "base-only"})], [(1, 0, 1.0)])
    assert found.text.startswith("The base model has a concept of its own: latent 1")
    assert found.marks == ()  # mirrored ratios have no intervals


def test_the_strongest_groups_come_first_and_there_are_few() -> None:
    rows = [latent(number) for number in range(9)]
    groups = [(number, number, float(number)) for number in range(9)]
    kinds = [row for kind in "abcdef" for row in refused((0, 0.1), (0.9, 1), kind)]
    assert [one.latents[0][1] for one in said(rows, groups)] == [8, 7, 6, 5]
    assert len(said(rows, groups, refusals=kinds)) == MOST


def test_that_nothing_is_confirmed_is_said_only_then() -> None:
    none = JUDGED | {"others_confirmed": 0, "chat_only_confirmed": 0, "classes": {"chat-only": 0}}
    [found] = said(evaluation=none)
    assert (
        found.text.startswith("Latent scaling confirms no latent") and "100 latents of topk" in found.evidence
    )
    assert found.text.startswith("Latent scaling confirms no latent, so this page shows no concept")
    assert said(evaluation=none, seed=3)[0].text.startswith("Latent scaling confirms no latent of seed 3, so")
    assert said(evaluation=none | {"base_only_confirmed": 1}) == []
    assert said(evaluation=none | {"does_not_apply": "no base decoder"}) == []


@pytest.mark.parametrize(
    ("changes", "refuted"),
    [
        ({"chat_only_confirmed": 4}, True),
        ({"chat_only_confirmed": 5}, False),
        ({"classes": {"chat-only": 0}, "chat_only_confirmed": 0}, False),
        ({"chat_only_confirmed": 4, "chat_only_set": 10}, False),
        ({"chat_only_confirmed": 0, "classes": {"chat-only": 4}}, False),  # too few to say most
    ],
)
def test_most_claims_are_refuted(changes: dict[str, Any], refuted: bool) -> None:
    found = said(evaluation=JUDGED | changes)
    assert len(found) == refuted
    assert not refuted or found[0].evidence.startswith("It confirms 4 of 10.")


def kl_rows(reduction: float, low: float, group: str = "all", variant: str = "all") -> pd.DataFrame:
    row = {"group": group, "variant": variant, "reduction": reduction, "reduction_low": low, "kl": 0.046}
    row |= {"reduction_high": reduction + 0.1, "tokens": 1695, "conversations": 40}
    unpatched = {"variant": "none", "kl": 0.21, "reduction": 0.0, "reduction_low": float("nan")}
    return pd.DataFrame([row | unpatched, row])


def test_what_the_latents_carry_is_that_of_the_best_crosscoder() -> None:
    [found] = said(kl={"l1": kl_rows(0.5, 0.4), "topk": kl_rows(0.77, 0.7)})
    assert found.text == (
        "The latents of topk and its biases together carry 77 % of what changes up to layer 12 and reaches "
        "the chat model's predictions."
    )
    assert found.evidence == (
        "95 % interval 70 % to 87 %: KL on 1,695 answer tokens of 40 conversations, 0.05 nats instead of "
        "0.21 with the base's activations there."
    )


@pytest.mark.parametrize(
    "table",
    [
        kl_rows(0.1, 0.0),
        kl_rows(0.5, float("nan")),
        kl_rows(0.5, 0.4, group="rest"),
        kl_rows(0.5, 0.4, variant="best_norm"),
    ],
)
def test_nothing_is_carried_without_an_interval_above_zero(table: pd.DataFrame) -> None:
    assert said(kl={"topk": table}) == []


def test_limits_name_what_was_not_run() -> None:
    everything = {"causal": True, "steering": True}
    assert limits([], 2, everything) == []
    assert limits(["a caution"], 2, everything) == ["a caution"]
    assert ["one seed" in one for one in limits([], 1, everything)] == [True]
    found = limits([], 3, {"causal": False, "steering": False})
    assert [one.split(":")[0] for one in found] == ["No section causal", "No section steering"]
