"""Several changes at once, and streamed answers, against full recomputation and plain algebra."""

import numpy as np
import pytest
import torch
from helpers_models import D_MODEL, FAMILIES, tiny_model
from torch.testing import assert_close

from crossdiff.interventions import streamed
from crossdiff.interventions.changes import Change, changed
from crossdiff.interventions.steered_answers import answer, read
from crossdiff.interventions.streamed import answer_stream, effect, known_prompt, together
from crossdiff.models.answers import greedy

VOCABULARY, LAYER, NEW, START = 40, 1, 7, 2
PROMPT = np.random.default_rng(0).integers(VOCABULARY, size=9)


@pytest.fixture(params=FAMILIES)
def model(request):
    return tiny_model(request.param, VOCABULARY, 1)


def vector(seed: int, size: float = 3.0) -> torch.Tensor:
    return size * torch.randn(D_MODEL, generator=torch.Generator().manual_seed(seed))


def applied(changes: list[Change], hidden: torch.Tensor) -> torch.Tensor:
    steered = torch.ones(1, hidden.shape[1], dtype=torch.bool)
    for change in changes:
        hidden = changed(hidden, Change(*(part[None] for part in change)), steered)
    return hidden


def test_all_ablated_directions_are_gone_whatever_their_angle_and_the_added_vectors_stay():
    a, near = vector(1), vector(1) + 0.1 * vector(2)
    hidden = torch.randn(1, 4, D_MODEL, generator=torch.Generator().manual_seed(9))
    removed = applied(together([Change.ablate(a), Change.ablate(near)]), hidden)
    for direction in (a, near):
        assert (removed @ (direction / direction.norm())).abs().max() < 1e-4
    basis = torch.linalg.qr(torch.stack([a, near], dim=1))[0]
    assert_close(removed, hidden - hidden @ basis @ basis.T, atol=1e-4, rtol=0)
    both = [Change.ablate(a), Change.add(a), Change.ablate(near), Change.add(vector(3))]
    for order in (both, both[::-1]):
        assert_close(applied(together(order), hidden), removed + a + vector(3), atol=1e-4, rtol=0)


def test_a_direction_ablated_twice_is_ablated_once_and_nothing_is_nothing():
    a = vector(1)
    assert len(together([Change.ablate(a), Change.ablate(-2 * a)])) == 1
    assert together([]) == together([Change.nothing(D_MODEL)]) == []


@pytest.mark.parametrize("change", [None, Change.add(vector(1)), Change.ablate(vector(2))])
@pytest.mark.parametrize("caches", [True, False])
def test_streamed_answer_is_that_of_the_steering_table(model, change, caches, monkeypatch):
    expected = greedy(model, [PROMPT], NEW)[0]
    if change is not None:
        known = read(model, [PROMPT], LAYER, [START])
        [expected] = next(answer(model, known, [change], NEW)).answers
        assert expected.tolist() != greedy(model, [PROMPT], NEW)[0].tolist()
    monkeypatch.setattr(streamed, "only_attends", lambda _model: caches)
    changes = together([change] if change else [])
    assert list(answer_stream(model, PROMPT, LAYER, changes, START, NEW)) == expected.tolist()


def test_streamed_answer_ends_with_its_turn_and_leaves_the_model_as_it_was(model):
    plain = greedy(model, [PROMPT], NEW)[0].tolist()
    model.generation_config.eos_token_id = plain[2]
    stream = answer_stream(model, PROMPT, LAYER, [Change.add(vector(1))], START, NEW)
    next(stream)
    stream.close()  # as when a client leaves
    found = list(answer_stream(model, PROMPT, LAYER, [], START, NEW))
    assert found == plain[: plain.index(plain[2]) + 1]


def test_effect_is_the_kl_of_plain_passes(model):
    vector_ = vector(1)

    def steer(_module, _inputs, output):
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        hidden[:, START:] += vector_
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    ids = torch.from_numpy(PROMPT)[None]
    with torch.inference_mode():
        own = model(ids).logits[0].log_softmax(dim=1)
        handle = model.model.layers[LAYER].register_forward_hook(steer)
        other = model(ids).logits[0].log_softmax(dim=1)
        handle.remove()
    known = known_prompt(model, PROMPT, LAYER)
    found = effect(model, known, LAYER, together([Change.add(vector_)]), START)
    assert found.kl == pytest.approx((own.exp() * (own - other)).sum(dim=1).numpy(), abs=1e-4)
    assert (found.kl[:START] < 1e-6).all() and found.kl[START:].min() > 1e-3
    assert_close(found.before, own[-1].exp(), atol=1e-5, rtol=0)
    assert_close(found.after, other[-1].exp(), atol=1e-5, rtol=0)
    assert effect(model, known, LAYER, [], START).kl.max() == 0
