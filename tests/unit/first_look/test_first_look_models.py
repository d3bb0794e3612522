"""The pass of both models agrees with whole forward passes, sequence by sequence."""

from typing import Any

import numpy as np
import pytest
import torch
from helpers_first_look import VOCABULARY, both_kinds
from helpers_models import FAMILIES, tiny_model
from torch.nn.functional import normalize

from crossdiff.first_look import layers, mean_differences
from crossdiff.first_look.passes import PROMOTED, one_pass
from crossdiff.first_look.sample import places
from crossdiff.models import predictions
from crossdiff.models.answers import greedy
from crossdiff.models.parts import decoder_layers
from crossdiff.models.predictions import kl_from_chat

MODELS = {
    family: (tiny_model(family, VOCABULARY, 0), tiny_model(family, VOCABULARY, 1)) for family in FAMILIES
}
SAMPLE = both_kinds()
PROMPTS = [np.array([1, 9, 2, 1]), np.array([1, 8, 7, 2, 1])]
ANSWERS = [np.array([10, 11, 12]), np.array([13, 14])]


@pytest.fixture(params=FAMILIES)
def models(request):
    return MODELS[request.param]


def streams_and_logits(model: Any, ids: np.ndarray, patch: dict[int, torch.Tensor] | None = None) -> Any:
    """The output of every block (layers, tokens, d_model) and the logits of a whole pass, through hooks.

    ``patch``: layer -> output in place of its own.
    """
    found, handles = [], []

    def hook(layer: int) -> Any:
        def keep(_block: Any, _inputs: Any, output: Any) -> Any:
            stream = output[0] if isinstance(output, tuple) else output
            if patch and layer in patch:
                stream = patch[layer][None]
            found.append(stream[0])
            return (stream, *output[1:]) if isinstance(output, tuple) else stream

        return keep

    for layer, block in enumerate(decoder_layers(model)):
        handles.append(block.register_forward_hook(hook(layer)))
    try:
        with torch.inference_mode():
            logits = model(input_ids=torch.from_numpy(ids).long()[None], use_cache=False).logits[0]
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(found), logits


def test_kl_of_two_distributions_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """p = (1/2, 1/2), q = (3/4, 1/4): KL = ln(2/3) / 2 + ln(2) / 2."""
    monkeypatch.setattr(predictions, "head_logits", lambda _model, residual: residual)
    p, q = torch.zeros(3, 2), torch.tensor([[np.log(3), 0.0]] * 3)
    np.testing.assert_allclose(kl_from_chat(None, p, [q, p]), [[0.1438410, 0.0]] * 3, atol=1e-6)


def test_probability_is_shared_by_the_ids_that_both_models_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions, "head_logits", lambda _model, residual: residual)
    found = predictions.log_probabilities(None, torch.tensor([[0.0, np.log(3), 9.0]]), 2)
    np.testing.assert_allclose(found.exp(), [[0.25, 0.75]], atol=1e-6)


@pytest.mark.parametrize("batch_tokens", [1, 40])
def test_one_pass_is_what_whole_passes_give(models, batch_tokens: int) -> None:
    shard = SAMPLE.shard
    which, place_of = places(shard)
    found = one_pass(*models, shard, place_of, len(which), batch_tokens)
    streams, logits = [], []
    for model in models:
        parts = [
            streams_and_logits(model, shard.token[start:stop])
            for start, stop in zip(*shard.sequence_bounds(), strict=True)
        ]
        streams.append(torch.cat([part[0] for part in parts], dim=1))
        logits.append(torch.cat([part[1] for part in parts]).log_softmax(dim=1))
    difference = streams[1] - streams[0]
    np.testing.assert_allclose(found.norms, torch.stack(streams).norm(dim=3), rtol=1e-4)
    np.testing.assert_allclose(found.difference, difference.norm(dim=2), rtol=1e-4)
    np.testing.assert_allclose(found.cosine, torch.cosine_similarity(*streams, dim=2), atol=1e-4)
    for number in range(len(which)):
        expected = difference[:, place_of == number].mean(dim=1)
        np.testing.assert_allclose(found.means[:, number], expected, atol=1e-4)
    kl = (logits[1].exp() * (logits[1] - logits[0])).sum(dim=1)
    np.testing.assert_allclose(found.kl, kl, rtol=1e-3, atol=1e-5)
    likely = ((logits[1] - logits[0]) * (logits[1].exp() >= 0.01)).clamp_min(0)
    best = likely.topk(PROMOTED, dim=1).values
    np.testing.assert_allclose(found.promoted_by, best, atol=1e-3)
    assert 0 < (best > 0).sum() < best.numel()
    np.testing.assert_allclose(likely.gather(1, torch.from_numpy(found.promoted).long()), best, atol=1e-3)


def test_equal_models_do_not_differ_and_others_do(models) -> None:
    shard = SAMPLE.shard
    which, place_of = places(shard)
    for pair, expected in (((models[1], models[1]), True), (models, False)):
        found = one_pass(*pair, shard, place_of, len(which), 40)
        table = layers.layer_table(found, shard)
        assert layers.are_equal(table, found.kl) is expected


def test_patched_kl_is_that_of_whole_passes_with_hooks(models) -> None:
    base, chat = models
    found = layers.patched_kl(base, chat, PROMPTS, ANSWERS)
    assert list(found) == [0, 1, 2, 3]
    for layer, kl in found.items():
        every = []
        for prompt, answer in zip(PROMPTS, ANSWERS, strict=True):
            ids = np.concatenate([prompt, answer])
            of_base, _ = streams_and_logits(base, ids)
            own = streams_and_logits(chat, ids)[1].log_softmax(dim=1)
            patched = streams_and_logits(chat, ids, {layer: of_base[layer]})[1].log_softmax(dim=1)
            predicting = slice(len(prompt) - 1, len(ids) - 1)
            every.append((own.exp() * (own - patched)).sum(dim=1)[predicting])
        assert kl == pytest.approx(float(torch.cat(every).mean()), rel=1e-3)


def test_nothing_is_patched_without_answers(models) -> None:
    assert layers.patched_kl(*models, PROMPTS, [np.array([], int)] * 2) == {}


def test_promoted_tokens_of_a_mean_difference_are_those_of_the_head() -> None:
    chat = MODELS["llama"][1]
    _, place_of = places(SAMPLE.shard)
    which, _ = places(SAMPLE.shard)
    direction = torch.zeros(2, 16)
    direction[0, 3], direction[1, 3] = 2.0, -0.5
    counts = np.bincount(place_of[place_of >= 0])[:2]
    table = mean_differences.difference_table(chat, direction.numpy(), which[:2], counts, 4.0)
    weight = chat.model.norm.weight * torch.nn.functional.one_hot(torch.tensor(3), 16) * 4  # an RMS of 1
    logits = (chat.lm_head.weight @ weight).detach()
    assert table.promoted[0][0] == table.suppressed[1][0] == int(logits.argmax())
    assert table.promoted_by[0][0] == pytest.approx(float(logits.max() - logits.mean()), rel=1e-4)
    assert table.norm.tolist() == [2.0, 0.5]
    assert table.relative_norm.tolist() == [0.5, 0.125]
    assert table.random_by.nunique() == 1 and table.random_by[0] > 0


def test_a_sample_without_any_place_gives_an_empty_table() -> None:
    """As few long documents do."""
    table = mean_differences.difference_table(MODELS["llama"][1], np.zeros((0, 16)), [], np.array([]), 4.0)
    assert table.empty and "promoted" in table and "random_by" in table


def test_added_direction_changes_answers_as_a_hook_does() -> None:
    chat = MODELS["llama"][1]
    direction = torch.arange(16.0)
    found = mean_differences.steered_answers(chat, PROMPTS, {"text": direction}, 1, 6.0, 4)
    assert [steered.condition for steered in found] == ["chat", "text", "random"]
    for steered, expected in zip(found[0].answers, greedy(chat, PROMPTS, 4), strict=True):
        assert steered.tolist() == expected.tolist()
    step = normalize(direction, dim=0) * mean_differences.STRENGTH * 6.0
    for prompt, answer in zip(PROMPTS, found[1].answers, strict=True):
        ids = prompt.copy()
        for token in answer:
            streams, _ = streams_and_logits(chat, ids)
            patched = streams[1].clone()
            patched[len(prompt) - 1 :] += step
            _, logits = streams_and_logits(chat, ids, {1: patched})
            assert int(logits[-1].argmax()) == token
            ids = np.append(ids, token)


def test_random_directions_are_always_the_same_unit_vectors() -> None:
    one, two = mean_differences.random_directions(8), mean_differences.random_directions(8)
    assert torch.equal(one, two)
    np.testing.assert_allclose(one.norm(dim=1), 1, rtol=1e-5)
