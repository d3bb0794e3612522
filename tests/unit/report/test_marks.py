"""Marks of findings: every kind has tables from which it follows, and others from which not."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers_steering import CONTROLS, steered_answers

from crossdiff.config import Stated
from crossdiff.interventions.steering_effects import effects
from crossdiff.latents.template_tokens import GROUPS
from crossdiff.report.first_look import FirstLookInputs, promoted_tokens
from crossdiff.report.marks import Known, Mark, marks, seen_too


def row(latent: int, **changes: Any) -> dict[str, Any]:
    return {"latent": latent, "class": "chat-only", "confirmed_95": True} | changes


def marks_of(known: Known, *own: dict[str, Any]) -> list[Mark]:
    """All marks but the first one, which every group has."""
    return marks(own or (row(5),), known)[1:]


def test_confirmed_with_certainty_are_counted() -> None:
    [mark] = marks([row(1), row(2, confirmed_95=False)], Known())
    assert mark.text == "1 of 2 confirmed at 95 %" and "95 % intervals" in mark.meaning


def test_other_seeds_are_told_only_if_there_are_some() -> None:
    assert marks_of(Known(seeds=1, again={5: 2})) == []
    [mark] = marks_of(Known(seeds=4, again={5: 1, 6: 2}), row(5), row(6))
    assert mark.text == "found again in 2 of 3 other seeds"
    [mark] = marks_of(Known(seeds=2), row(5))
    assert mark.text == "found again in 0 of 1 other seeds"


def kl_rows(low: float, variant: str = "group_3", group: str = "all") -> pd.DataFrame:
    row = {"variant": variant, "group": group, "reduction": 0.25, "reduction_low": low}
    return pd.DataFrame([row | {"reduction_high": 0.3, "tokens": 1695}])


def test_share_of_the_kl_is_that_of_the_group() -> None:
    _, mark = marks([row(5), row(6)], Known(kl=kl_rows(0.2)), group=3)
    assert mark.text == "carries 25 % of the KL"
    assert mark.meaning == (
        "If the group's 2 latents are patched from the chat model into the base at the compared layer, "
        "the KL to the chat model's predictions of 1,695 answer tokens falls by 25 % "
        "(95 % interval 20 % to 30 %)."
    )


def test_a_group_that_raises_the_kl_says_so() -> None:
    table = kl_rows(-0.3).assign(reduction=-0.25, reduction_high=-0.2)
    _, mark = marks([row(5)], Known(kl=table), group=3)
    assert mark.text == "patched alone, raises the KL by 25 %"
    assert mark.meaning.endswith("rises by 25 % (95 % interval 20 % to 30 %).")


@pytest.mark.parametrize(
    "table", [kl_rows(0.0), kl_rows(float("nan")), kl_rows(0.2, "group_1"), kl_rows(0.2, group="rest"), None]
)
def test_no_share_of_the_kl_without_an_interval_above_zero(table: pd.DataFrame | None) -> None:
    assert len(marks([row(5)], Known(kl=table), group=3)) == 1


def template(**counts: int) -> Known:
    """Latent 5 fires this often on each group of token, latent 6 nowhere."""
    table = pd.DataFrame([dict.fromkeys(GROUPS, 0) | counts, dict.fromkeys(GROUPS, 0)])
    table.insert(0, "activations", [sum(counts.values()), 0])
    table.insert(0, "latent", [5, 6])
    read = dict.fromkeys(GROUPS, 0) | {"document": 500, "first": 10, "header": 15, "turn_end": 5, "later": 80}
    return Known(template=table, read=read)


def test_template_share_counts_chats_without_their_first_tokens() -> None:
    found = template(document=50, first=7, header=20, turn_end=10, later=10)
    [mark] = marks_of(found, row(5), row(6))
    assert mark.text == "75 % on template tokens"
    assert mark.meaning == (
        "Of 40 firings in chats, 75 % are on tokens of the chat template. "
        "These are 20 % of the chats' tokens. First tokens do not count."
    )


@pytest.mark.parametrize("known", [Known(), template(document=50, first=7)])
def test_no_template_share_without_a_firing_in_chats(known: Known) -> None:
    assert marks_of(known) == []


def test_an_effect_of_steering_has_its_numbers_and_controls() -> None:
    steered = Known(steering=effects(steered_answers(), Stated(), 0))
    [mark] = marks_of(steered, row(4), row(5))
    assert mark.text == "steered, an answer refuses for 3 of 24 harmful requests, 24 before"
    assert mark.meaning.startswith(
        "Latent 5 at strength -1 (95 % interval 4 % to 31 %; 86 % to 100 % before)."
    )
    assert mark.meaning.endswith("With 3 other directions of the same norm 24 of the answers do so.")


def odd_answers() -> pd.DataFrame:
    answers = steered_answers()
    answers.loc[answers.direction == "latent", "nats"] += 3 * answers.tokens
    return answers


@pytest.mark.parametrize(
    "answers",
    [
        steered_answers(effect=False),
        steered_answers(latents=(6,)),
        steered_answers(latents=()),
        steered_answers(controls=()),
        steered_answers(asked=2),
        odd_answers(),
    ],
    ids=["no effect", "another latent", "no latent", "no controls", "few requests", "odd answers"],
)
def test_no_effect_of_steering_without_an_interval_apart_and_controls(answers: pd.DataFrame) -> None:
    assert marks_of(Known(steering=effects(answers, Stated(), 0))) == []


def test_a_control_that_goes_as_far_takes_the_mark_away() -> None:
    answers = steered_answers()
    changed = answers.direction == CONTROLS[0][0]
    answers.loc[changed & (answers.requests == "harmful"), "shown"] = False
    answers.loc[changed & (answers.requests == "benign"), "shown"] = True
    assert marks_of(Known(steering=effects(answers, Stated(), 0))) == []


def directions(common: list[int], dead: tuple[int, ...] = ()) -> pd.DataFrame:
    """Latents with this many of their ten promoted tokens below 10."""
    promoted = [[*range(count), *range(50, 60 - count)] for count in common]
    near = [[] if latent in dead else [0] for latent in range(len(common))]
    return pd.DataFrame({"latent": range(len(common)), "promoted": promoted, "near": near})


@pytest.mark.parametrize(
    ("common", "dead", "seen"),
    [
        ([4, 3, *[0] * 38], (), {0: 4, 1: 3}),  # 1 and 2 of 40
        ([4, 3, 3, *[0] * 37], (), {0: 4}),  # 3 of 40 have 3 or more
        ([2, *[0] * 39], (), {}),
        ([9] * 40, (), {}),
        ([9, *[0] * 39], (0,), {}),
        ([9, 9, 9, *[0] * 38], (1, 2), {0: 9}),
    ],
    ids=["few have as many", "many have as many", "too few", "all", "dead", "dead ones do not count"],
)
def test_the_first_look_saw_latents_with_rare_many_tokens_in_common(
    common: list[int], dead: tuple[int, ...], seen: dict[int, int]
) -> None:
    assert seen_too(directions(common, dead), set(range(10))) == seen


def test_a_planted_chat_model_has_no_promoted_tokens() -> None:
    assert seen_too(pd.DataFrame({"latent": [0], "promoted": [[]], "near": [[1]]}), {1, 2, 3}) == {}


def test_latent_without_a_chat_direction_was_not_seen() -> None:
    table = pd.DataFrame({"latent": [0, 1], "promoted": [None, [1, 2, 3]], "near": [[1], [0]]})
    assert seen_too(table, {1, 2, 3}) == {}  # every latent that promotes tokens has as many in common
    many = pd.DataFrame(
        {"latent": range(100), "promoted": [[1, 2, 3], None] + [[9]] * 98, "near": [[1]] * 100}
    )
    assert seen_too(many, {1, 2, 3}) == {0: 3}


def test_seen_by_the_first_look_is_said_of_the_chat_models_latents_alone() -> None:
    [mark] = marks_of(Known(seen={5: 3, 6: 7, 9: 10}), row(5), row(6))
    assert mark.text == "seen by the first look too" and mark.meaning.startswith("7 of the ten tokens")
    assert marks_of(Known(seen={9: 10}), row(5)) == []
    assert marks_of(Known(seen={5: 3}), row(5, **{"class": "base-only"})) == []


def test_tokens_of_the_first_look_are_those_that_it_shows(tmp_path: Path) -> None:
    promoted, topics, means = (
        tmp_path / name for name in ("promoted.csv", "topics.parquet", "means.parquet")
    )
    pd.DataFrame({"token": range(100, 130)}).to_csv(promoted, index=False)
    pd.DataFrame({"tokens": [[1, 2], [2, 3]]}).to_parquet(topics)
    pd.DataFrame({"promoted": [np.arange(20, 32)]}).to_parquet(means)
    paths = dict.fromkeys(FirstLookInputs._fields, "") | {
        "promoted": str(promoted),
        "topics": str(topics),
        "mean_differences": str(means),
    }
    assert promoted_tokens(FirstLookInputs(**paths)) == {*range(100, 124), 1, 2, 3, *range(20, 28)}
