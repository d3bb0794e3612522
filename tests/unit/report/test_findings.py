"""The first screen: every kind of sentence has tables from which it follows, and others from which not."""

from typing import Any

import pandas as pd
import pytest
from helpers_steering import steered_answers

from crossdiff.config import Stated
from crossdiff.interventions.steering_effects import effects
from crossdiff.report.findings import LEAST_GROUPS, MOST, Finding, findings, limits
from crossdiff.report.halves import halves
from crossdiff.report.marks import Known
from crossdiff.report.shown_latents import ShownLatents

JUDGED = {
    "latents": 100,
    "classes": {"chat-only": 10},
    "chat_only_confirmed": 8,
    "others_confirmed": 9,
    "base_only_confirmed": 0,
}


def refused(
    base: tuple[float, float], chat: tuple[float, float], kind: str = "harmful"
) -> list[dict[str, Any]]:
    """Rows with these intervals."""
    return [
        {"model": model, "requests": kind, "asked": 72, "refused": number, "low": low, "high": high}
        for model, number, (low, high) in (("base", 2, base), ("chat", 70, chat))
    ]


def latent(number: int, **changes: Any) -> dict[str, Any]:
    row = {"latent": number, "class": "other", "name": "", "explained": ""}
    row |= {"pattern": f"after {number}", "confirmed_95": True}
    return row | {"contexts": [[f"context of {number}"]]} | changes


def turns(base: str | None, chat: str | None) -> dict[str, Any]:
    """Facts of a pair with these texts between turns."""
    return {"base": {"between_turns": base}, "chat": {"between_turns": chat}}


def said(
    rows: list[dict[str, Any]] | None = None,
    groups: list[tuple[int, int, float]] | None = None,
    firings: tuple[int, int] = (90, 10),
    evaluation: dict[str, Any] = JUDGED,
    **given: Any,
) -> list[Finding]:
    """Findings of a crosscoder topk. ``groups``: (latent, group, strength). A tenth of the text is talk."""
    rows = rows or []
    table = pd.DataFrame(groups or [], columns=["latent", "group", "strength"])
    parts = zip(("talk", "pages"), firings, (100, 900), strict=True)
    table = pd.concat([table.assign(dataset=name, firings=fired, tokens=size) for name, fired, size in parts])
    contexts = {row["latent"]: row["contexts"] for row in rows}
    defaults: dict[str, Any] = {
        "layer": 12,
        "refusals": [],
        "kl": {},
        "known": {"topk": Known()},
        "facts": turns("\n", "\n"),
    }
    return findings(
        {"topk": evaluation},
        {"topk": ShownLatents(rows, rows, contexts)},
        {"topk": table},
        **defaults | given,
    )


@pytest.mark.parametrize(
    ("base", "chat", "sentence"),
    [
        ((0.0, 0.1), (0.9, 1.0), "The chat model refuses harmful requests."),
        ((0.9, 1.0), (0.0, 0.1), "The chat model no longer refuses harmful requests."),
        ((0.0, 0.1), (0.2, 0.4), "The chat model refuses harmful requests more often than the base model."),
        ((0.8, 0.9), (0.5, 0.7), "The chat model refuses harmful requests less often than the base model."),
        ((0.0, 0.5), (0.5, 1.0), None),
        ((0.0, 0.5), (0.1, 0.9), None),
    ],
)
def test_changed_behaviour_needs_intervals_apart(
    base: tuple[float, float], chat: tuple[float, float], sentence: str | None
) -> None:
    found = said(refusals=refused(base, chat))
    assert [one.text for one in found] == ([sentence] if sentence else [])
    if sentence:
        assert found[0].evidence == "It refuses 70 of 72 held-out ones, the base model 2 of 72."


def test_a_new_turn_template_is_shown_next_to_the_old_one() -> None:
    (found,) = said(facts=turns("<end>\n<user>", "<closed>\n"))
    assert found.text == "The chat model has a turn template that is not the base model's."
    assert found.evidence == (
        'Between an answer and a user\'s next words it has "<closed>↵", the base model "<end>↵<user>".'
    )


@pytest.mark.parametrize(
    ("base", "chat"), [("<end>", "<end>"), (None, "<end>"), ("<end>", None), (None, None)]
)
def test_turn_templates_are_no_finding_if_equal_or_not_both_known(base: str | None, chat: str | None) -> None:
    assert not said(facts=turns(base, chat))


def test_a_pair_that_was_checked_by_an_older_version_has_no_turn_templates() -> None:
    assert not said(facts={"base": {"layers": 30}, "chat": {"layers": 30}})


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


def test_a_language_model_names_a_group_that_people_have_not_named() -> None:
    words = "answers that refuse"
    rows = [latent(1), latent(2, explained=words), latent(3, explained="no", name="refusals")]
    first, second = said(rows, [(1, 0, 3.0), (2, 0, 2.0), (3, 1, 1.0)])
    assert first.text.startswith(f'The chat model has a concept of its own: "{words}" and 1 more, ')
    assert first.evidence.endswith(" A language model named it from contexts, and may be wrong.")
    assert '"refusals"' in second.text and "language model" not in second.evidence


def where(template: tuple[int, float], talk: tuple[int, float], pages: tuple[int, float]) -> pd.DataFrame:
    """Tokens and share of the KL: of template tokens, a third of which are ends, and of two data sets.

    The KL of all 1000 tokens together is 1000 nats.
    """
    tokens, share = template
    rows = [("part", "content", 1000 - tokens, 1 - share), ("part", "header", 2 * tokens / 3, 2 * share / 3)]
    rows += [("part", "turn end", tokens / 3, share / 3)]
    rows += [("data set", "talk", *talk), ("data set", "pages", *pages), ("token", "5", 9, 0.9)]
    table = pd.DataFrame(rows, columns=["by", "value", "tokens", "share"])
    return table.assign(kl=1000 * table.share / table.tokens)


@pytest.mark.parametrize(
    ("template", "talk", "pages", "place"),
    [
        ((90, 0.6), (100, 0.9), (900, 0.1), "right after tokens of the chat template"),
        ((90, 0.4), (100, 0.6), (900, 0.4), "in talk"),
        ((400, 0.6), (600, 0.7), (400, 0.3), None),  # of much of the text
        ((90, 0.4), (300, 0.55), (700, 0.45), None),
        ((0, 0.0), (500, 0.5), (500, 0.5), None),
    ],
)
def test_where_predictions_differ_is_said_of_a_small_place_with_most_of_it(
    template: tuple[int, float], talk: tuple[int, float], pages: tuple[int, float], place: str | None
) -> None:
    found = said(where=where(template, talk, pages))
    sentence = f"The two models predict different next tokens mostly {place}."
    assert [one.text for one in found] == ([sentence] if place else [])
    if place == "in talk":
        assert found[0].evidence == (
            "60 % of the KL between their predictions is there, and 10 % of the tokens."
        )


def of_sets(*sets: tuple[str, int, float]) -> pd.DataFrame:
    """Data sets with their tokens and KL per token. Their shares are too even for "mostly"."""
    table = pd.DataFrame(sets, columns=["value", "tokens", "kl"])
    return table.assign(by="data set", share=0.4)


def test_data_sets_in_which_predictions_differ_more_are_named() -> None:
    (found,) = said(where=of_sets(("pages", 5000, 1.4), ("requests", 1000, 4.0), ("talk", 2000, 2.8)))
    assert found.text == "The two models' predictions differ more in requests and talk than in pages."
    assert found.evidence == (
        "The mean KL per token, after template tokens too, is 4.00 nats in requests, 2.80 nats in talk and "
        "1.40 nats in pages."
    )


@pytest.mark.parametrize(
    "sets",
    [
        [("pages", 5000, 1.4)],  # nothing to compare with
        [("pages", 5000, 1.4), ("talk", 5000, 2.0)],
        [("pages", 5000, 1.4), ("talk", 999, 9.0)],  # too few tokens
        [("pages", 5000, 1.4), ("talk", 999, 9.0), ("requests", 5000, 1.5)],
        [("pages", 5000, 0.0), ("talk", 5000, 0.0)],
    ],
)
def test_data_sets_are_not_compared(sets: list[tuple[str, int, float]]) -> None:
    assert not said(where=of_sets(*sets))


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
    assert shown[-1].evidence.endswith(f"are in the lists below: {9 - len(shown)} of topk.")
    assert found[-1].text.startswith("The latents of topk and its biases together carry")


@pytest.mark.parametrize(("steered", "first"), [(5, 5), (4, 8)])
def test_one_of_the_strongest_groups_comes_first_if_it_changes_answers(steered: int, first: int) -> None:
    rows = [latent(number) for number in range(9)]
    groups = [(number, number, float(number)) for number in range(9)]  # 8, 7, 6 and 5 are the strongest
    known = {"topk": Known(steering=effects(steered_answers(latents=(steered,)), Stated(), 0))}
    found = said(rows, groups, known=known)
    order = [one.latents[0][1] for one in found if one.latents]
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


@pytest.mark.parametrize(
    ("low", "high", "lowest", "verdict"),
    [
        (0.05, 0.3, 0.1, "So this ranking finds latents that matter more than others."),
        (
            0.05,
            0.3,
            -0.1,
            "But patching this half is not shown to lower the KL, so it need not hold what matters.",
        ),
        (-0.3, -0.1, 0.1, "So this ranking puts latents first that matter less than others."),
        (
            -0.1,
            0.3,
            0.1,
            "The interval holds 0, so this run does not show that the ranking finds what matters.",
        ),
    ],
)
def test_best_halves_are_judged_against_random_ones(
    low: float, high: float, lowest: float, verdict: str
) -> None:
    nan = float("nan")
    rows = [("best_scaling", "all", 0.2, low, high, 0.3, lowest)]
    rows += [("best_scaling", "rest", 9.0, 9.0, 9.0, 9.0, 9.0), ("best_norm", "all", 0.5, nan, nan, 0.5, 0.4)]
    rows += [("worst_norm", "all", 0.7, 0.6, 0.8, 0.7, 0.6)]
    names = ["variant", "group", "beyond_random", "beyond_random_low", "beyond_random_high"]
    names += ["reduction", "reduction_low"]
    expected = {"crosscoder": "topk", "ranking": "latent scaling", "change": -0.3, "beyond": 0.2}
    expected |= {"low": low, "high": high}
    assert halves({"topk": pd.DataFrame(rows, columns=names)}) == [expected | {"verdict": verdict}]
