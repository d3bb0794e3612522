"""A model over several devices computes what it computes on one, and never with tensors of two of them."""

from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import dispatch_model
from helpers_activations import chats, random_crosscoder
from helpers_adapters import adapted, write_adapter
from helpers_devices import KIND, moved, several_devices
from helpers_families import VOCABULARY as FAMILY_WORDS
from helpers_families import tiny
from helpers_folders import random_model
from helpers_models import D_MODEL, FAMILIES, tiny_model
from transformers import PreTrainedModel

from crossdiff.activations.pairs import Summary
from crossdiff.interventions.causal_effect import Answers
from crossdiff.interventions.patching import WHOLE, Variant, answer_kl
from crossdiff.interventions.proof import PARTS, prove
from crossdiff.models import digests, load
from crossdiff.models.adapters import with_adapter
from crossdiff.models.answers import greedy
from crossdiff.models.digests import digest
from crossdiff.models.footprint import footprint
from crossdiff.models.forward import run_to_layers
from crossdiff.models.load import load_model
from crossdiff.models.logit_lens import promoted_tokens
from crossdiff.models.parts import device_of_inputs
from crossdiff.models.placement import MAIN_MEMORY, Places, spread, undispatched
from crossdiff.models.replacements import with_replacements

VOCABULARY = 200
TEXTS = [np.arange(1, 1 + length) for length in (6, 24, 24, 40)]
ALL = list(PARTS)


def two_places(model: PreTrainedModel, share: float) -> Places:
    """Places for two devices, of which each has room for a share of the weights."""
    needed = footprint(model, torch.float32)
    room = needed.activations + share * needed.weights
    places = spread(needed, {0: room, 1: room})
    assert set(places.values()) == {0, 1}
    return places


def dispatched(model: PreTrainedModel, places: Places, devices: list[torch.device]) -> PreTrainedModel:
    named = {part: str(devices[where]) if isinstance(where, int) else where for part, where in places.items()}
    skipped = model._skip_keys_device_placement
    return dispatch_model(deepcopy(model), named, skip_keys=skipped, force_hooks=True)


@pytest.mark.parametrize("layer", [0, 1, 3])
@pytest.mark.parametrize(("family", "share"), [("llama", 0.7), ("gemma2", 0.6), ("gemma2", 0.7)])
def test_a_spread_model_is_proved_to_be_the_same(family, share, layer):
    model = tiny_model(family, VOCABULARY, 0)
    expected = prove(deepcopy(model), "one", TEXTS, layer, ALL)
    with several_devices() as devices:
        apart = dispatched(model, two_places(model, share), devices)
        assert device_of_inputs(apart) == devices[0]
        assert {weight.device for weight in apart.parameters()} == set(devices)
        assert prove(apart, "two", TEXTS, layer, ALL) == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    "family", ["gpt2", "gemma3", "gpt_oss", "deepseek_v3", "qwen3_next", "jamba", "lfm2", "mamba"]
)
def test_families_are_the_same_over_two_devices(family):
    """Experts, states and vision towers, too. Their differences stay within rounding of float32."""
    model = tiny(family)
    needed = footprint(model, torch.float32)
    places = dict.fromkeys((*needed.outside, next(iter(needed.blocks))), 0)
    places |= {block: 1 for block in needed.blocks if block not in places}
    texts = [text % (FAMILY_WORDS - 4) for text in TEXTS]
    with several_devices() as devices:
        found = prove(dispatched(model, places, devices), family, texts, 1, ALL)
    assert max(found.values()) < 5e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_partly_in_main_memory_is_proved_to_be_the_same(family, monkeypatch):
    monkeypatch.setitem(digests.ROWS, KIND, 7)
    model = tiny_model(family, VOCABULARY, 0)
    expected = prove(deepcopy(model), "one", TEXTS, 1, ALL)
    places = dict.fromkeys(footprint(model, torch.float32).outside, 0) | {
        "model.layers.0": 0,
        "model.layers.1": 1,
        "model.layers.2": MAIN_MEMORY,
        "model.layers.3": MAIN_MEMORY,
    }
    with several_devices() as devices:
        apart = dispatched(model, places, devices)
        assert torch.device("meta") in {weight.device for weight in apart.parameters()}
        assert prove(apart, "apart", TEXTS, 1, ALL) == expected
        assert digest(apart) == digest(model)


@pytest.mark.parametrize("family", FAMILIES)
def test_streams_come_back_where_the_tokens_are(family):
    model = tiny_model(family, VOCABULARY, 0)
    ids = torch.tensor(TEXTS[1])[None]
    with_replacements(model, {3: 4})
    expected = run_to_layers(model, ids, [0, 3, 1])
    with several_devices() as devices:
        apart = dispatched(tiny_model(family, VOCABULARY, 0), two_places(model, 0.7), devices)
        with_replacements(apart, {3: 4})
        found = run_to_layers(apart, ids.to(devices[0]), [0, 3, 1])
        assert [stream.device for stream in found] == [devices[0]] * 3
        assert all(torch.equal(one.cpu(), other) for one, other in zip(found, expected, strict=True))


def test_tokens_that_directions_promote_are_those_of_one_device():
    model = tiny_model("gemma2", VOCABULARY, 0)
    directions = torch.randn(5, D_MODEL, generator=torch.Generator().manual_seed(0))
    expected = promoted_tokens(model, directions)
    with several_devices() as devices:
        found = promoted_tokens(dispatched(model, two_places(model, 0.7), devices), directions.to(devices[1]))
    assert found.map(list).equals(expected.map(list))


@pytest.mark.parametrize("chat_is", ["spread", "whole"])
def test_patching_with_models_and_crosscoder_on_different_devices(chat_is):
    base, chat = (tiny_model("llama", VOCABULARY, seed) for seed in (0, 1))
    crosscoder = random_crosscoder(D_MODEL, 24).requires_grad_(False)
    crosscoder.layer, crosscoder.threshold = 1, crosscoder.threshold + 1.0
    shard, summary = chats(VOCABULARY), Summary(1, 0, None, [1.0, 1.0], [], [], 1, 0, 0)
    wanted = np.zeros(len(shard.token), bool)
    wanted[Answers.of(shard).row] = True
    variants = [*map(Variant, WHOLE), Variant("some", "subtraction", np.array([1, 4, 5, 17]))]
    expected = answer_kl(base, chat, crosscoder, summary, shard, wanted, variants, 64).kl[wanted]
    with several_devices() as devices:
        spread_out = dispatched(chat, two_places(chat, 0.7), devices)
        pair = moved(base, devices[0]), spread_out if chat_is == "spread" else moved(chat, devices[1])
        found = answer_kl(*pair, crosscoder, summary, shard, wanted, variants, 64).kl[wanted]
    assert (expected > 0).any()
    np.testing.assert_array_equal(found, expected)


# Adapters, and loading straight to the places.


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return random_model(tmp_path_factory.mktemp("base") / "base", layers=4)


def test_loading_to_several_places_gives_the_same_model(base, monkeypatch):
    """Without a GPU, weights wait on the disk instead of in main memory."""
    expected = load_model(base, torch.float32)
    places: Places = dict.fromkeys(footprint(expected, torch.float32).outside, "cpu")
    places |= {f"model.layers.{number}": "disk" if number > 1 else "cpu" for number in range(4)}
    monkeypatch.setattr(load, "place", lambda *_: places)
    found = load_model(base, torch.float32)
    assert found.model.layers[3].mlp.up_proj.weight.device.type == "meta"
    assert digest(found) == digest(expected)
    for one, other in zip(greedy(found, TEXTS, 4), greedy(expected, TEXTS, 4), strict=True):
        np.testing.assert_array_equal(one, other)
    assert prove(found, "it", TEXTS, 1, ALL) == prove(expected, "it", TEXTS, 1, ALL)


@pytest.mark.parametrize("of_blocks", [(0, 0, 1, 1), (0, 1, MAIN_MEMORY, MAIN_MEMORY)])
def test_adapter_goes_around_layers_wherever_they_are(base, tmp_path, monkeypatch, of_blocks):
    monkeypatch.setitem(digests.ROWS, KIND, 7)
    write_adapter(base, tmp_path / "lora")
    folder = adapted(base, tmp_path / "lora", tmp_path / "chat", trained_on=str(base))
    expected = load_model(folder, torch.float32)
    plain = load_model(base, torch.float32)
    places: Places = dict.fromkeys(footprint(plain, torch.float32).outside, 0)
    places |= {f"model.layers.{number}": where for number, where in enumerate(of_blocks)}
    with several_devices() as devices:
        apart = dispatched(plain, places, devices)
        with undispatched(apart):
            with_adapter(apart, folder)
        lora = apart.model.layers[3].mlp.down_proj.lora_A.default
        assert lora.weight.device.type == ("meta" if MAIN_MEMORY in of_blocks else KIND)
        assert prove(apart, "apart", TEXTS, 1, ALL) == prove(expected, "one", TEXTS, 1, ALL)
        assert digest(apart) == digest(expected)
