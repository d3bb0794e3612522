"""Planting: the truth says what is in the activations, in any order of jobs; wrong settings are refused."""

import re

import numpy as np
import pytest
import torch
from helpers_activations import token_shard
from helpers_planted import D_MODEL, LENGTHS, NORM, planted_settings
from pydantic import ValidationError

from crossdiff.config import Noise
from crossdiff.errors import UserError
from crossdiff.planted import concepts as planted_concepts
from crossdiff.planted.concepts import draw, eligible
from crossdiff.planted.planting import firings, noise, plant

SHARD = token_shard(LENGTHS)
ALL_KINDS = {"chat_only": 8, "base_only": 4, "weakened": 4, "decoupled": 4, "rotated": 4, "shared": 4}


def drawn(d_model: int = D_MODEL, **changes):
    return draw(planted_settings(**changes), [SHARD], NORM, d_model)


def test_table_has_the_kinds_that_were_asked_for() -> None:
    table = drawn(concepts=ALL_KINDS).table
    assert table.kind.value_counts().to_dict() == ALL_KINDS
    assert (table.ratio[table.kind == "chat_only"] == 0).all()
    assert np.isinf(table.ratio[table.kind == "base_only"]).all()
    assert table.ratio[table.kind == "weakened"].tolist() == pytest.approx(
        [0.05, 0.333333, 0.616667, 0.9], abs=1e-5
    )
    assert set(table.context) == {"random", "token", "position", "topic"}


def test_directions_are_unit_apart_and_rotated_by_the_angle() -> None:
    concepts = drawn(concepts=ALL_KINDS, largest_cosine=0.4)
    base, chat = concepts.directions.unbind(1)
    torch.testing.assert_close(base.norm(dim=1), torch.ones(len(base)))
    cosine = chat @ chat.T - torch.eye(len(chat))
    assert cosine.abs().max() <= 0.4 + 1e-6
    angles = torch.rad2deg(torch.acos((base * chat).sum(dim=1).clamp(-1, 1)))
    torch.testing.assert_close(
        angles.double(), torch.tensor(concepts.table.angle.tolist()).double(), atol=0.1, rtol=0
    )


def test_concepts_fire_in_their_context_as_often_as_said() -> None:
    settings = planted_settings(concepts=ALL_KINDS)
    concepts = draw(settings, [SHARD], NORM, D_MODEL).table
    fired = firings(concepts, settings, SHARD)
    for concept in concepts.itertuples():
        rows = fired[fired.concept == concept.concept]
        assert eligible(concept.where, SHARD)[rows.row].all()
        expected = concept.frequency * len(SHARD.token)
        for model in ("base", "chat"):
            count = int((rows[model] > 0).sum())
            present = concept.kind != {"base": "chat_only", "chat": "base_only"}[model]
            assert abs(count - present * expected) <= 5 * np.sqrt(expected) * present, concept
        assert concept.rate <= 0.5


def test_strengths_have_the_ratio_and_the_median() -> None:
    settings = planted_settings(concepts=ALL_KINDS)
    concepts = draw(settings, [SHARD], NORM, D_MODEL).table
    fired = firings(concepts, settings, SHARD).merge(concepts, on="concept")
    weakened = fired[fired.kind == "weakened"]
    np.testing.assert_allclose(weakened.base, weakened.chat * weakened.ratio, rtol=1e-5)
    shared = fired[fired.kind.isin(["shared", "rotated"])]
    assert (shared.base == shared.chat).all()
    assert fired.chat[fired.chat > 0].median() == pytest.approx(settings.strength * NORM, rel=0.1)
    decoupled = fired[fired.kind == "decoupled"]
    both = ((decoupled.base > 0) & (decoupled.chat > 0)).sum() / (decoupled.chat > 0).sum()
    assert both == pytest.approx(0.5, abs=0.1)


def test_firings_depend_on_seed_and_shard_alone() -> None:
    settings = planted_settings()
    concepts = draw(settings, [SHARD], NORM, D_MODEL).table
    other = token_shard(LENGTHS[1:])
    first = firings(concepts, settings, SHARD)
    firings(concepts, settings, other)
    assert firings(concepts, settings, SHARD).equals(first)
    assert not firings(concepts, settings.model_copy(update={"seed": 4}), SHARD).equals(first)


def test_models_differ_by_the_planted_concepts_alone() -> None:
    settings = planted_settings(concepts=ALL_KINDS)
    concepts = draw(settings, [SHARD], NORM, D_MODEL)
    fired = firings(concepts.table, settings, SHARD)
    background = noise(Noise(d_model=D_MODEL, norm=NORM), settings, SHARD)
    assert background.square().sum(dim=1).mean().sqrt().item() == pytest.approx(NORM, rel=0.02)
    planted = plant(background, concepts, fired)
    expected = background.repeat(2, 1, 1).numpy().copy()
    for row in fired.itertuples():
        for m, strength in enumerate((row.base, row.chat)):
            expected[m, row.row] += strength * concepts.directions[row.concept, m].numpy()
    np.testing.assert_allclose(planted.float().numpy(), expected, atol=0.02, rtol=2**-8)
    shared = ~np.isin(np.arange(len(SHARD.token)), fired.row)
    assert shared.any()
    assert torch.equal(planted[0, torch.from_numpy(shared)], planted[1, torch.from_numpy(shared)])


def test_more_concepts_than_dimensions_hold_apart_is_refused_with_the_number_that_works() -> None:
    with pytest.raises(
        UserError,
        match=r"concepts: found 28, but 8 dimensions hold only \d+ directions apart .*; up to \d+ would work",
    ) as error:
        drawn(8, concepts=ALL_KINDS, largest_cosine=0.3)
    works = int(re.search(r"(\d+) would work", str(error.value))[1])
    assert len(drawn(8, concepts={"chat_only": works}, largest_cosine=0.3).table) == works
    with pytest.raises(UserError):
        drawn(8, concepts={"chat_only": works + 1}, largest_cosine=0.3)


def test_strength_that_changes_the_norms_is_refused_with_one_that_works() -> None:
    with pytest.raises(
        UserError, match=r"strength: found 2, which raises the root mean square norm by .* more than .* 20.0%"
    ) as error:
        drawn(strength=2.0, largest_norm_change=0.2)
    works = float(re.search(r"up to ([\d.]+) would work", str(error.value))[1])
    drawn(strength=works, largest_norm_change=0.2)
    with pytest.raises(UserError):
        drawn(strength=works + 0.002, largest_norm_change=0.2)


def test_too_few_tokens_are_refused_with_what_works() -> None:
    with pytest.raises(
        UserError,
        match=r"frequency: found 0.001, about 5 firings in 4,800 training tokens.*with 20,000 tokens",
    ) as error:
        drawn(frequency=(0.001, 0.06))
    works = float(re.search(r"at least ([\d.]+),", str(error.value))[1])
    drawn(frequency=(works, 0.06))


@pytest.mark.parametrize(
    ("context", "rare", "times"),
    [
        # The last of 40 positions in 120 documents; it fires on half of them.
        ("position", '{"period": 1000, "phase": 39}', 60),
        ("topic", '{"topics": 8000, "topic": 7999}', 0),  # no document at all
    ],
)
def test_context_of_too_few_tokens_is_refused(
    monkeypatch: pytest.MonkeyPatch, context: str, rare: str, times: int
) -> None:
    where = planted_concepts._where
    monkeypatch.setattr(
        planted_concepts, "_where", lambda name, *rest: rare if name == context else where(name, *rest)
    )
    said = rf"found 80, but concept \d+ fires only about {times} times, because its context \({context}\)"
    with pytest.raises(UserError, match=said):
        drawn(fewest_firings=80)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"frequency": (0.1, 0.05)}, "frequency: found 0.1, 0.05, allowed: first <= second"),
        ({"frequency": (0.0, 0.1)}, "greater than 0"),
        ({"frequency": (0.1, 0.3)}, "less than or equal to 0.25"),
        ({"rotation": (0, 10)}, "greater than 0"),
        ({"rotation": (10, 91)}, "less than or equal to 90"),
    ],
)
def test_ranges_are_checked(change: dict, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        planted_settings(**change)
