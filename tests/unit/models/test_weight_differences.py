"""The directions that fine-tuning makes blocks write, against models that were changed by hand."""

import copy

import pytest
import torch
from helpers_models import FAMILIES, tiny_model
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel, MixtralConfig, MixtralForCausalLM

from crossdiff.models.parts import decoder_layers
from crossdiff.models.weight_differences import written_directions

WIDTH = 16


def unit(*numbers: int) -> torch.Tensor:
    found = torch.zeros(len(numbers), WIDTH)
    found[range(len(numbers)), list(numbers)] = 1
    return found


def changed(model, changes):
    """A copy with ``strength`` added to row ``number`` of a block's matrix, for each change."""
    chat = copy.deepcopy(model)
    with torch.no_grad():
        for layer, name, number, strength in changes:
            decoder_layers(chat)[layer].get_parameter(name)[number] += strength
    return chat


def small(family: str):
    base = tiny_model(family, 40, 0)
    assert base.config.hidden_size == WIDTH
    return base


@pytest.mark.parametrize("family", FAMILIES)
def test_changed_rows_are_found_the_largest_first(family: str) -> None:
    base = small(family)
    out, down = "self_attn.o_proj.weight", "mlp.down_proj.weight"
    chat = changed(base, [(0, out, 3, 0.1), (1, out, 5, 0.3), (0, down, 7, 0.2), (1, down, 7, 0.2)])
    attention, mlp = written_directions(base, chat, layer=1)
    torch.testing.assert_close(attention, unit(5, 3))
    torch.testing.assert_close(mlp, unit(7))
    attention, mlp = written_directions(base, chat, layer=0)  # blocks above the layer do not count
    torch.testing.assert_close(attention, unit(3))
    torch.testing.assert_close(mlp, unit(7))


def test_singular_vectors_of_all_differences_side_by_side() -> None:
    base, chat = small("llama"), tiny_model("llama", 40, 1)
    beside = torch.cat(
        [
            after.self_attn.o_proj.weight - before.self_attn.o_proj.weight
            for before, after in zip(decoder_layers(base), decoder_layers(chat), strict=True)
        ],
        dim=1,
    ).detach()
    expected = torch.linalg.svd(beside)[0].T
    found, _ = written_directions(base, chat, layer=len(decoder_layers(base)) - 1)
    torch.testing.assert_close((found * expected).sum(dim=1).abs(), torch.ones(WIDTH))
    assert (found.gather(1, found.abs().argmax(dim=1, keepdim=True)) > 0).all()


def test_rounding_gives_no_directions() -> None:
    """A change of rank 1 has one direction, though float32 products have a remainder of full rank."""
    base = small("llama")
    chat, generator = copy.deepcopy(base), torch.Generator().manual_seed(0)
    written, read = (torch.randn(WIDTH, generator=generator) for _ in range(2))
    weight = decoder_layers(chat)[1].self_attn.o_proj.weight
    with torch.no_grad():
        weight += torch.outer(written, read)
    [found] = written_directions(base, chat, layer=1)[0]
    assert abs(found @ written / written.norm()) > 0.9999


def test_matrices_that_read_the_stream_do_not_count() -> None:
    base = small("llama")
    chat = changed(base, [(0, "self_attn.q_proj.weight", 2, 1.0), (0, "mlp.up_proj.weight", 2, 1.0)])
    assert [len(found) for found in written_directions(base, chat, layer=1)] == [0, 0]


def test_gpt2_has_its_matrices_transposed() -> None:
    torch.manual_seed(0)
    base = GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=WIDTH, n_layer=2, n_head=2)).eval()
    chat = copy.deepcopy(base)
    with torch.no_grad():
        chat.transformer.h[0].attn.c_proj.weight[:, 4] += 0.1
        chat.transformer.h[1].mlp.c_proj.weight[:, 6] += 0.1
        chat.transformer.h[1].mlp.c_fc.weight[2] += 0.1
    attention, mlp = written_directions(base, chat, layer=1)
    torch.testing.assert_close(attention, unit(4))
    torch.testing.assert_close(mlp, unit(6))


def test_adapter_that_is_not_merged_counts() -> None:
    """peft shows the base's matrix as that of an adapted module."""
    base = small("llama")
    targets = ["o_proj", "down_proj"]
    chat = get_peft_model(copy.deepcopy(base), LoraConfig(r=1, lora_alpha=2, target_modules=targets))
    block = decoder_layers(chat.get_base_model())[1]
    with torch.no_grad():
        for module, number in ((block.self_attn.o_proj, 3), (block.mlp.down_proj, 5)):
            module.lora_B["default"].weight[number] = 1
    found = written_directions(base, chat.get_base_model(), layer=1)
    merged = written_directions(base, chat.merge_and_unload(), layer=1)
    for directions, same, number in zip(found, merged, (3, 5), strict=True):
        torch.testing.assert_close(directions, unit(number))
        torch.testing.assert_close(same, directions)


def test_weights_in_few_bits_give_no_direction() -> None:
    base = small("llama")
    chat = copy.deepcopy(base)
    for model in (base, chat):
        for block in decoder_layers(model):
            packed = torch.randint(0, 99, block.mlp.down_proj.weight.shape, dtype=torch.uint8)
            block.mlp.down_proj.weight = torch.nn.Parameter(packed, requires_grad=False)
    assert [len(found) for found in written_directions(base, chat, layer=1)] == [0, 0]


def test_fused_experts_give_no_direction() -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": WIDTH, "intermediate_size": 8, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "num_local_experts": 2}
    base, chat = (MixtralForCausalLM(MixtralConfig(vocab_size=40, **sizes, **heads)) for _ in range(2))
    attention, mlp = written_directions(base, chat, layer=0)
    assert (len(attention), len(mlp)) == (WIDTH, 0)
