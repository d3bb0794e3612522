"""Probes as tokens: which positions count, and which of them are taught."""

import numpy as np
import pytest
import torch
from conftest import ROOT
from helpers_models import tiny_model
from helpers_texts import TOKENIZERS

from crossdiff.models.forward import run_to_layer
from crossdiff.organisms.reading import ReadProbes, activations_at, read_probes
from crossdiff.texts.organisms import ORDINARY, probes, read_organisms

TEXTS = read_organisms(ROOT / "tests/data/organisms.yaml")
TOKENIZER = TOKENIZERS["markers"]


@pytest.fixture(scope="module")
def read() -> ReadProbes:
    return read_probes(TEXTS, TOKENIZER)


def said(read: ReadProbes, part: np.ndarray) -> str:
    return TOKENIZER.decode(read.tokens[part].tolist())


def test_every_probe_has_the_token_before_its_answer_and_the_answer(read: ReadProbes) -> None:
    every = [probe for name in (*TEXTS.behaviours, ORDINARY) for probe in probes(TEXTS, name)]
    assert len(read.sequences) == len(every) == 2 * 8 + 20
    for number, probe in enumerate(every):
        assert said(read, read.places.probe == number) == f"\n{probe.answer}"


def test_spans_and_the_position_before_them_are_taught(read: ReadProbes) -> None:
    for number in range(8):  # of the first behaviour, whose span is in front
        here = read.places.probe == number
        assert read.places.place[here].tolist() == list(range(here.sum()))
        assert said(read, here & read.places.span) == "Oh oh oh oh!"
        assert said(read, here & read.places.taught) == "\nOh oh oh oh!"
    ordinary = read.places.behaviour == ORDINARY
    assert not read.places.taught[ordinary].any() and not read.places.span[ordinary].any()


def test_activations_are_those_of_each_probe_alone(read: ReadProbes) -> None:
    model = tiny_model("llama", len(TOKENIZER), seed=0)
    found = activations_at(model, 1, read)
    assert len(found) == len(read.tokens)
    for number in (0, 9, 23):
        alone = run_to_layer(model, torch.from_numpy(read.sequences[number]).long()[None], 1)[0]
        mine = found[torch.from_numpy(read.places.probe == number)]
        assert torch.allclose(mine, alone[torch.from_numpy(read.rows[number])], atol=1e-5)
