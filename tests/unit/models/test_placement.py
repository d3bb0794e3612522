"""Where a model goes: to one GPU, over several, or partly to main memory; and what it computes there."""

from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import dispatch_model
from helpers_activations import chats, random_crosscoder
from helpers_adapters import adapted, write_adapter
from helpers_devices import KIND, moved, several_devices
from helpers_folders import edit, random_model
from helpers_models import D_MODEL, FAMILIES, tiny_model
from helpers_texts import one_line
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from crossdiff.activations.pairs import Summary
from crossdiff.device import MEMORY
from crossdiff.interventions.causal_effect import Answers
from crossdiff.interventions.patching import WHOLE, Variant, answer_kl
from crossdiff.interventions.proof import PARTS, prove
from crossdiff.latents.directions import promoted_tokens
from crossdiff.models import digests, load, placement
from crossdiff.models.adapters import with_adapter
from crossdiff.models.answers import greedy
from crossdiff.models.digests import digest
from crossdiff.models.footprint import PASS_TOKENS, Footprint, footprint, footprint_of
from crossdiff.models.forward import device_of_inputs, run_to_layers
from crossdiff.models.load import load_model
from crossdiff.models.placement import MAIN_MEMORY, OFFLOAD, Places, place, spread, undispatched
from crossdiff.models.quantised import write_bits
from crossdiff.models.replacements import with_replacements

GB = 10**9
VOCABULARY = 200
TEXTS = [np.arange(1, 1 + length) for length in (6, 24, 24, 40)]
ALL = list(PARTS)


def large(**changes) -> PreTrainedModel:
    """The shape of a Llama of 70 billion weights, without memory."""
    sizes = {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "vocab_size": 128_256}
    heads = {"num_attention_heads": 64, "num_key_value_heads": 8}
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(LlamaConfig(**(sizes | heads | changes)))


SEVENTY = footprint(large(), torch.bfloat16)


def taken(needed: Footprint, places: Places) -> dict[int | str, int]:
    """Bytes of weights in each place."""
    found: dict[int | str, int] = {}
    for part, size in (needed.outside | needed.blocks).items():
        found[places[part]] = found.get(places[part], 0) + size
    return found


# Sizes.


def test_footprint_counts_every_weight_once():
    assert SEVENTY.weights == pytest.approx(2 * 70_553_706_496, rel=1e-6)  # the checkpoint's own count
    assert list(SEVENTY.blocks) == [f"model.layers.{number}" for number in range(80)]
    tied = footprint(large(tie_word_embeddings=True), torch.bfloat16)
    assert SEVENTY.weights - tied.weights == 2 * 128_256 * 8192
    # 8192 tokens: 4 residual streams and 2 MLP vectors in float32; 4 times 512 rows of logits.
    assert SEVENTY.activations == 4 * (8192 * (4 * 8192 + 2 * 28672) + 4 * 512 * 128_256)


@pytest.mark.parametrize(("bits", "each"), [(8, 1), (4, 0.5625)])
def test_few_bits_shrink_the_linear_layers_of_blocks(bits, each):
    linear = 80 * (2 * 8192 * 8192 + 2 * 8192 * 1024 + 3 * 8192 * 28672)
    few = footprint(large(), torch.bfloat16, bits)
    assert SEVENTY.weights - few.weights == pytest.approx((2 - each) * linear, rel=1e-6)
    assert few.outside == SEVENTY.outside


def test_footprint_of_a_folder_is_that_of_its_tensors(tmp_path):
    folder = random_model(tmp_path / "model")
    stored = sum(value.nbytes for value in load_model(folder, torch.float32).state_dict().values())
    found = footprint_of(folder, torch.float32)
    assert 0 <= found.weights - stored < 1000  # rotary frequencies, which no file holds
    write_adapter(folder, tmp_path / "lora")
    chat = adapted(folder, tmp_path / "lora", tmp_path / "chat", trained_on=str(folder))
    size = (chat / "adapter_model.safetensors").stat().st_size
    assert footprint_of(chat, torch.float32).weights == pytest.approx(found.weights + size, abs=2)


# Places.


def test_a_model_that_fits_goes_whole_to_the_first_gpu_with_room():
    whole = SEVENTY.weights + SEVENTY.activations
    assert set(spread(SEVENTY, {0: whole, 1: whole}).values()) == {0}
    assert set(spread(SEVENTY, {0: whole - 1, 1: whole}).values()) == {1}


@pytest.mark.parametrize("rooms", [dict.fromkeys(range(4), 80 * GB), {0: 30 * GB, 1: 80 * GB, 2: 60 * GB}])
def test_blocks_are_spread_in_order_and_leave_room_everywhere(rooms):
    places = spread(SEVENTY, rooms)
    order = sorted(rooms, key=lambda gpu: -rooms[gpu])
    ranks = [order.index(places[block]) for block in SEVENTY.blocks]
    assert ranks == sorted(ranks) and set(ranks) == set(range(len(rooms)))
    assert {places[part] for part in SEVENTY.outside} == {order[0]}
    block = max(SEVENTY.blocks.values())
    sizes, free = taken(SEVENTY, places), {gpu: room - SEVENTY.activations for gpu, room in rooms.items()}
    share = max(sizes[gpu] / free[gpu] for gpu in order)
    assert share <= 1
    assert all(
        sizes[gpu] + block > (share - 0.01) * free[gpu] for gpu in order[:-1]
    )  # the last takes the rest


def test_without_room_there_is_no_place_and_main_memory_takes_the_last_blocks():
    assert spread(SEVENTY, {0: 80 * GB}) is None
    assert spread(SEVENTY, {0: 80 * GB}, 60 * GB) is None
    places = spread(SEVENTY, {0: 80 * GB}, 100 * GB)
    in_order = [places[block] for block in SEVENTY.blocks]
    assert in_order == sorted(in_order, key=lambda where: where == MAIN_MEMORY)
    block = max(SEVENTY.blocks.values())  # one comes from main memory at a time
    used = taken(SEVENTY, places)[0] + SEVENTY.activations
    assert used + block <= 80 * GB < used + 2 * block


def test_what_lies_outside_the_blocks_must_fit_one_gpu():
    outside = sum(SEVENTY.outside.values())
    assert spread(SEVENTY, dict.fromkeys(range(90), SEVENTY.activations + outside - 1)) is None


# Errors, before a weight is read.


@pytest.fixture
def gpus(monkeypatch) -> dict[int, float]:
    """Number of a GPU that the machine seems to have -> its free bytes."""
    found: dict[int, float] = {}
    monkeypatch.setattr(placement, "_visible", lambda: [torch.device("cuda", number) for number in found])
    monkeypatch.setattr(placement, "room", lambda where: found[where.index])
    monkeypatch.setattr(placement, "_main_memory", lambda: 300e6)
    monkeypatch.setattr(load, "read_weights", lambda *_, **__: pytest.fail("weights were read"))
    monkeypatch.setenv(PASS_TOKENS, "1000")
    return found


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return random_model(tmp_path_factory.mktemp("large") / "model", layers=12, d_model=1024)


def test_two_gpus_of_a_machine_are_filled_before_main_memory(gpus, model, monkeypatch):
    needed = needs(model)
    gpus |= dict.fromkeys(range(2), needed.activations + 0.4 * needed.weights)
    monkeypatch.setenv(OFFLOAD, "1")
    places = place(model, torch.bfloat16)
    assert [places[block] for block in needed.blocks] == sorted(map(places.get, needed.blocks), key=str)
    assert set(places.values()) == {0, 1, MAIN_MEMORY}


def needs(model: Path) -> Footprint:
    return footprint_of(model, torch.bfloat16)


def test_a_model_that_fits_nowhere_says_what_would_fit(gpus, model):
    needed = needs(model)
    kept = needed.activations
    gpus[0] = kept + needed.weights / 2
    message, room = one_line(load_model, model, torch.bfloat16), f"{gpus[0] / 1e9:.1f} GB"
    small = {bits: footprint_of(model, torch.bfloat16, bits).weights / 1e9 for bits in (8, 4)}
    assert message.startswith(
        f"{model}: needs {needed.weights / 1e9:.1f} GB in bfloat16, the job's GPUs have 1 x {room}, "
        f"of which {kept / 1e9:.1f} GB each are kept for activations; it would fit: 3 x {room}, "
    )
    assert f"or bits: 4 ({small[4]:.1f} GB), or gpus.offload: true (" in message
    assert "bits: 8" not in message  # it has half of the weights, and more
    gpus[1] = kept + needed.weights
    assert place(model, torch.bfloat16) == torch.device("cuda", 1)


def test_only_what_helps_is_suggested(gpus, model, monkeypatch):
    needed = needs(model)
    gpus[0] = needed.activations + needed.weights / 20  # not even the embeddings fit with a block
    monkeypatch.setattr(placement, "_main_memory", lambda: 1e6)
    message = one_line(load_model, model, torch.bfloat16)
    assert "bits" not in message and "offload" not in message


def test_offload_is_used_only_if_asked_for_and_never_of_few_bits(gpus, model, monkeypatch, tmp_path):
    needed = needs(model)
    gpus[0] = needed.activations + needed.weights / 2
    monkeypatch.setenv(OFFLOAD, "1")
    places = place(model, torch.bfloat16)
    assert set(places.values()) == {0, MAIN_MEMORY}
    few = random_model(tmp_path / "few", layers=12, d_model=1024)
    write_bits(few, 8)
    gpus[0] = needed.activations + needed.weights / 4
    message = one_line(place, few, torch.bfloat16)
    assert "bits" not in message.split("fit:")[1] and "offload" not in message.split("fit:")[1]


def test_a_limit_that_leaves_nothing_for_activations_is_an_error_of_its_own(gpus, model, monkeypatch):
    kept = needs(model).activations
    gpus[0] = kept * 0.9
    alone = f"the activations of a forward pass of {model} alone need {kept / 1e9:.1f} GB"
    message = one_line(load_model, model, torch.bfloat16)
    free = f"GPU memory: {gpus[0] / 1e9:.1f} GB is free"
    assert message == f"{free}, and {alone}; free it, or lower activations.batch_tokens"
    monkeypatch.setenv(MEMORY, str(kept * 0.9 / 1e9))
    message = one_line(load_model, model, torch.bfloat16)
    assert message.startswith("gpus.memory: found 0.0") and "leaves nothing for weights" in message
    assert message.endswith(f"{alone}; raise it, or lower activations.batch_tokens")


def test_with_too_little_main_memory_the_line_says_how_much_there_is(gpus, model, monkeypatch):
    gpus[0] = needs(model).activations + needs(model).weights / 20
    monkeypatch.setenv(OFFLOAD, "1")
    monkeypatch.setattr(placement, "_main_memory", lambda: 20e6)
    assert one_line(place, model, torch.bfloat16).endswith("it would fit: more main memory than 0.0 GB")


def test_a_folder_that_is_no_language_model_is_refused_in_one_line(gpus, tmp_path):
    gpus[0] = 80 * GB
    folder = random_model(tmp_path / "model")
    edit(folder / "config.json", model_type="clip")
    message = one_line(load_model, folder, torch.bfloat16)
    assert message.startswith(f"{folder}: not a usable model folder")


def test_named_devices_are_the_only_ones(gpus, model):
    gpus |= {0: 80 * GB, 1: 80 * GB}
    assert place(model, torch.bfloat16) == torch.device("cuda", 0)
    assert place(model, torch.bfloat16, [torch.device("cuda", 1)]) == torch.device("cuda", 1)
    assert place(model, torch.bfloat16, [torch.device("cpu")]) == torch.device("cpu")


# What a spread model computes: as on one device, and never with tensors of two.


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
