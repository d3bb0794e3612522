"""Where a model goes: to one GPU, over several, or partly to main memory."""

from pathlib import Path

import pytest
import torch
from helpers_adapters import adapted, write_adapter
from helpers_folders import edit, random_model
from helpers_texts import one_line
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from crossdiff.device import MEMORY
from crossdiff.models import load, placement
from crossdiff.models.footprint import PASS_TOKENS, Footprint, footprint, footprint_of
from crossdiff.models.load import load_model
from crossdiff.models.placement import MAIN_MEMORY, OFFLOAD, Places, place, spread
from crossdiff.models.quantised import write_bits

GB = 10**9


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
        f"and each keeps {kept / 1e9:.1f} GB for activations; it would fit: 3 x {room}, "
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
