"""Findings on what the models do: each kind of sentence has tables for which it must not appear."""

import pandas as pd
import pytest
from helpers_findings import refused, said, turns


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


def test_a_turn_template_is_new_to_a_raw_base_model() -> None:
    (found,) = said(facts=turns(None, "<closed>\n"))
    assert found.text == "The chat model has a turn template, and the base model has no known one."
    assert found.evidence == 'Between an answer and a user\'s next words it has "<closed>↵".'


@pytest.mark.parametrize(("base", "chat"), [("<end>", "<end>"), ("<end>", None), (None, None)])
def test_turn_templates_are_no_finding_if_equal_or_the_chat_models_is_unknown(
    base: str | None, chat: str | None
) -> None:
    assert not said(facts=turns(base, chat))


def test_a_pair_that_was_checked_by_an_older_version_has_no_turn_templates() -> None:
    assert not said(facts={"base": {"layers": 30}, "chat": {"layers": 30}})


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
