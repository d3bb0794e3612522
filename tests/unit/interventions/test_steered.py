"""Steered answers against brute force: one prompt and one token at a time, without a cache."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from helpers_models import D_MODEL, FAMILIES, tiny_model
from torch import Tensor
from torch.testing import assert_close

from crossdiff.interventions.changes import Change, changed
from crossdiff.interventions.steered_answers import answer, read
from crossdiff.models.answers import answer_nats, greedy
from crossdiff.models.forward import head_logits
from crossdiff.models.parts import decoder_layers

VOCABULARY, LAYER, NEW = 40, 1, 7
GENERATOR = np.random.default_rng(0)
PROMPTS = [GENERATOR.integers(VOCABULARY, size=length) for length in (5, 9, 3, 9)]


@pytest.fixture(params=FAMILIES)
def model(request):
    return tiny_model(request.param, VOCABULARY, 1)


def vector(seed: int, size: float = 3.0) -> Tensor:
    return size * torch.randn(D_MODEL, generator=torch.Generator().manual_seed(seed))


NOTHING = Change.add(torch.zeros(D_MODEL))
CHANGES = [NOTHING, Change.add(vector(1)), Change.add(-vector(1)), Change.ablate(vector(2))]


def plain(model, ids: Tensor, edit: Callable[[Tensor], Tensor], start: int = 0) -> tuple[Tensor, Tensor]:
    """Give last residual streams (positions, d_model) and logits of one sequence, edited at the layer."""
    layers, last = decoder_layers(model), []

    def at_layer(_module, _inputs, output):
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        for position in range(start, hidden.shape[1]):
            hidden[0, position] = edit(hidden[0, position])
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    def at_end(_module, _inputs, output):
        last.append(output[0] if isinstance(output, tuple) else output)

    handles = [layers[LAYER].register_forward_hook(at_layer), layers[-1].register_forward_hook(at_end)]
    with torch.inference_mode():
        logits = model(ids[None], use_cache=False).logits[0]
    for handle in handles:
        handle.remove()
    return last[0][0], logits


def plain_answer(model, prompt: np.ndarray, edit: Callable[[Tensor], Tensor], start: int = 0) -> list[int]:
    ids = torch.from_numpy(prompt)
    for _ in range(NEW):
        ids = torch.cat([ids, plain(model, ids, edit, start)[1][-1].argmax()[None]])
    return ids[len(prompt) :].tolist()


EDITS = [
    lambda h: h,
    lambda h: h + vector(1),
    lambda h: h - vector(1),
    lambda h: h - (h @ vector(2)) * vector(2) / (vector(2) @ vector(2)),
]


FROM_FIRST = [0] * len(PROMPTS)


def all_answers(model, changes, start=FROM_FIRST, **kwargs) -> list[list[list[int]]]:
    found = answer(model, read(model, PROMPTS, LAYER, start), changes, NEW, **kwargs)
    return [[ids.tolist() for ids in part.answers] for part in found]


# The change itself.


def test_vector_is_added_exactly_at_steered_positions_and_nowhere_else():
    hidden = torch.randn(2, 5, D_MODEL)
    steered = torch.tensor([[0, 1, 1, 0, 1], [1, 0, 0, 0, 0]]).bool()
    new = changed(hidden, Change(torch.stack([vector(1), vector(2)]), torch.zeros(2, D_MODEL)), steered)
    for row, added in enumerate((vector(1), vector(2))):
        for position in range(5):
            assert_close(
                new[row, position], hidden[row, position] + added * steered[row, position], rtol=0, atol=1e-6
            )


def test_projecting_out_leaves_no_component_and_everything_across():
    hidden, direction = torch.randn(3, 4, D_MODEL), vector(3)
    parts = Change.ablate(direction)
    new = changed(hidden, Change(*(part.expand(3, -1) for part in parts)), torch.ones(3, 4).bool())
    assert_close(new @ direction, torch.zeros(3, 4), rtol=0, atol=1e-4)
    across = torch.linalg.qr(torch.cat([direction[:, None], torch.randn(D_MODEL, D_MODEL - 1)], dim=1)).Q[
        :, 1:
    ]
    assert_close(new @ across, hidden @ across)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_change_by_nothing_is_exact(dtype):
    hidden = torch.randn(2, 3, D_MODEL).to(dtype)
    assert torch.equal(changed(hidden, Change(*torch.zeros(2, 2, D_MODEL)), torch.ones(2, 3).bool()), hidden)


# Answers.


def test_unsteered_answers_are_the_models_own(model):
    assert all_answers(model, [NOTHING])[0] == [ids.tolist() for ids in greedy(model, PROMPTS, NEW)]


def test_every_change_gives_the_answers_of_full_recomputation(model):
    found = all_answers(model, CHANGES)
    assert found == [[plain_answer(model, prompt, edit) for prompt in PROMPTS] for edit in EDITS]
    assert len({str(answers) for answers in found}) == 4


def test_answers_do_not_depend_on_how_many_are_made_at_a_time(model):
    assert (
        all_answers(model, CHANGES, rows=4)
        == all_answers(model, CHANGES, rows=1000)
        == all_answers(model, CHANGES, rows=8)
    )


# Lengths of the prompts are 5, 9, 3, 9: changes that begin in all of them, in some, in every answer.
@pytest.mark.parametrize("start", [[2, 6, 0, 7], [4, 2, 6, 0], [5, 9, 5, 10]])
def test_change_holds_from_where_each_prompt_says_be_it_in_its_answer(model, start):
    found = all_answers(model, CHANGES, start)
    assert found == [
        [plain_answer(model, prompt, edit, first) for prompt, first in zip(PROMPTS, start, strict=True)]
        for edit in EDITS
    ]
    assert found != all_answers(model, CHANGES)


@pytest.mark.parametrize("start", [FROM_FIRST, [2, 6, 1, 7]])
def test_predictions_along_a_follow_up_are_those_of_full_recomputation(model, start):
    follow_up = torch.from_numpy(GENERATOR.integers(VOCABULARY, size=(len(PROMPTS), 3)))
    for found, edit in zip(
        answer(model, read(model, PROMPTS, LAYER, start, follow_up), CHANGES, NEW), EDITS, strict=True
    ):
        for row, prompt in enumerate(PROMPTS):
            residual, logits = plain(
                model, torch.cat([torch.from_numpy(prompt), follow_up[row]]), edit, start[row]
            )
            assert_close(found.predicting[row], residual[len(prompt) - 1 :], rtol=1e-3, atol=1e-4)
            assert_close(
                head_logits(model, found.predicting[row]), logits[len(prompt) - 1 :], rtol=1e-3, atol=1e-3
            )


def test_follow_up_does_not_change_the_answers(model):
    start = [2, 6, 1, 7]
    follow_up = torch.from_numpy(GENERATOR.integers(VOCABULARY, size=(len(PROMPTS), 3)))
    found = [
        [ids.tolist() for ids in part.answers]
        for part in answer(model, read(model, PROMPTS, LAYER, start, follow_up), CHANGES, NEW)
    ]
    assert found == all_answers(model, CHANGES, start)


def test_answer_ends_with_its_turn(model):
    whole = all_answers(model, CHANGES)
    model.generation_config.eos_token_id = end = whole[1][0][3]
    for answers, cut in zip(whole, all_answers(model, CHANGES), strict=True):
        assert cut == [ids[: ids.index(end) + 1] if end in ids else ids for ids in answers]


def test_model_is_as_it_was_afterwards(model):
    before = model(torch.from_numpy(PROMPTS[0])[None]).logits
    all_answers(model, CHANGES)
    assert torch.equal(model(torch.from_numpy(PROMPTS[0])[None]).logits, before)


# Nats.


def test_nats_of_answers_are_those_of_one_plain_pass_each(model):
    prompts = [PROMPTS[i] for i in (0, 1, 0, 2, 3)]
    answers = [np.array(ids, int) for ids in ([3, 4, 5], [], [3, 4, 5], [7], [1, 2])]
    expected = []
    for prompt, ids in zip(prompts, answers, strict=True):
        both = torch.from_numpy(np.concatenate([prompt, ids]))
        with torch.inference_mode():
            log_p = model(both[None]).logits[0].log_softmax(dim=1)
        expected.append(-sum(float(log_p[len(prompt) - 1 + i, token]) for i, token in enumerate(ids)))
    np.testing.assert_allclose(answer_nats(model, prompts, answers, batch=2), expected, rtol=1e-4, atol=1e-5)


def test_nats_of_nothing_are_zero(model):
    assert answer_nats(model, PROMPTS, [np.array([], int)] * 4).tolist() == [0, 0, 0, 0]
