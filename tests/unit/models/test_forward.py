"""Running a part of a model, up to a layer or from it on, gives what the whole model gives."""

import copy
from collections import Counter

import pytest
import torch
from torch.testing import assert_close
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    BloomConfig,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTJConfig,
    GPTNeoXConfig,
    LlamaConfig,
    Qwen2Config,
    Qwen3Config,
)

from crossdiff.errors import UserError
from crossdiff.models.forward import (
    head_logits,
    resume_from_layer,
    run_to_layer,
    run_to_layers,
)
from crossdiff.models.parts import decoder_layers

VOCABULARY, LENGTH, WINDOW = 64, 24, 8  # sequences longer than the sliding window
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
GROUPED = SIZES | {"num_key_value_heads": 2, "head_dim": 8, "initializer_range": 0.3}

# Where a family mixes sliding and full attention, there are more layers than one turn of the pattern.
CONFIGS = {
    "llama": LlamaConfig(num_hidden_layers=3, **GROUPED),
    "gemma2": Gemma2Config(
        num_hidden_layers=4,
        sliding_window=WINDOW,
        attn_logit_softcapping=2.0,
        final_logit_softcapping=3.0,
        query_pre_attn_scalar=8,
        **GROUPED,
    ),
    "gemma3": Gemma3TextConfig(
        num_hidden_layers=7, sliding_window=WINDOW, query_pre_attn_scalar=8, **GROUPED
    ),
    "qwen2": Qwen2Config(
        num_hidden_layers=4, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=2, **GROUPED
    ),
    "qwen3": Qwen3Config(num_hidden_layers=3, **GROUPED),
    "gpt_neox": GPTNeoXConfig(num_hidden_layers=3, initializer_range=0.3, **SIZES),
    # The blocks of these give tuples.
    "gptj": GPTJConfig(
        vocab_size=VOCABULARY,
        n_embd=32,
        n_layer=3,
        n_head=4,
        rotary_dim=4,
        n_positions=LENGTH + 5,
        initializer_range=0.3,
    ),
    "falcon": FalconConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        initializer_range=0.3,
    ),
    "bloom": BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=3, n_head=4, initializer_range=0.3),
}
IDS = torch.randint(VOCABULARY, (2, LENGTH), generator=torch.Generator().manual_seed(0))


def make_model(config, seed: int = 0):
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(copy.deepcopy(config)).eval()


MODELS = {name: make_model(config) for name, config in CONFIGS.items()}


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]


def n_layers(model) -> int:
    return model.config.num_hidden_layers


@torch.inference_mode()
def full_pass(model, ids=IDS):
    """The residual stream after every block, and the logits."""
    last: list[torch.Tensor] = []
    # hidden_states[-1] has the final norm applied, so the last block's output is read off the block.
    handle = decoder_layers(model)[-1].register_forward_hook(
        lambda _module, _inputs, output: last.append(output[0] if isinstance(output, tuple) else output)
    )
    output = model(input_ids=ids, use_cache=False, output_hidden_states=True)
    handle.remove()
    [after_last] = last
    assert not torch.allclose(after_last, output.hidden_states[-1])
    return [*output.hidden_states[1:-1], after_last], output.logits


def test_families_use_what_sets_them_apart():
    assert (
        set(MODELS["gemma3"].config.layer_types)
        == set(MODELS["qwen2"].config.layer_types)
        == {"full_attention", "sliding_attention"}
    )
    assert full_pass(MODELS["gemma2"])[1].abs().max() < 3.0  # capped
    # The window matters: a token outside it changes nothing after the first block.
    for family in ("gemma2", "gemma3", "qwen2"):
        other = IDS.clone()
        other[:, 0] = (other[:, 0] + 1) % VOCABULARY
        change = (
            (full_pass(MODELS[family], other)[0][0] - full_pass(MODELS[family])[0][0]).abs().amax(dim=(0, 2))
        )
        first_is_sliding = MODELS[family].config.layer_types[0] == "sliding_attention"
        assert (change[WINDOW + 1 :].max() == 0) == first_is_sliding


def test_run_to_layer_gives_the_full_models_residual_stream_at_every_layer(model):
    for layer, expected in enumerate(full_pass(model)[0]):
        assert_close(run_to_layer(model, IDS, layer), expected, rtol=0, atol=0)


def test_one_pass_gives_the_stream_of_every_layer_that_a_pass_of_its_own_gives(model):
    last, hooks = n_layers(model) - 1, [len(block._forward_hooks) for block in decoder_layers(model)]
    for layers in ([0, last], [last, 0], [1], list(range(n_layers(model)))):
        together = run_to_layers(model, IDS, layers)
        assert len(together) == len(layers)
        for layer, found in zip(layers, together, strict=True):
            assert torch.equal(found, run_to_layer(model, IDS, layer))
    assert not torch.equal(*run_to_layers(model, IDS, [0, 1]))
    assert [len(block._forward_hooks) for block in decoder_layers(model)] == hooks


@pytest.mark.parametrize("family", ["llama", "gptj"])  # whose blocks give a tensor, and a tuple
def test_block_that_changes_its_input_in_place_leaves_earlier_streams_alone(family):
    model = make_model(CONFIGS[family])
    expected = [run_to_layer(model, IDS, layer) for layer in (0, 1)]

    def double(_block, inputs):
        inputs[0].mul_(2)

    decoder_layers(model)[1].register_forward_pre_hook(double)
    first, second = run_to_layers(model, IDS, [0, 1])
    assert torch.equal(first, expected[0])
    assert not torch.allclose(second, expected[1])
    assert torch.equal(second, run_to_layer(model, IDS, 1))


def test_no_later_layer_and_no_head_runs(model):
    ran: Counter[str] = Counter()
    watched = {f"layer {i}": layer for i, layer in enumerate(decoder_layers(model))} | {
        "head": model.get_output_embeddings()
    }
    handles = [
        module.register_forward_pre_hook(lambda *_, name=name: ran.update([name]))
        for name, module in watched.items()
    ]
    try:
        for layer in range(n_layers(model)):
            ran.clear()
            run_to_layers(model, IDS, range(layer + 1))
            assert ran == {f"layer {i}": 1 for i in range(layer + 1)}
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("padding", [0, 63])
def test_padding_on_the_right_does_not_change_the_tokens_before_it(model, padding):
    lengths = (LENGTH, 11)
    padded = torch.full((2, LENGTH + 5), padding)
    for row, length in enumerate(lengths):
        padded[row, :length] = IDS[row, :length]
    for layer in range(n_layers(model)):
        found = run_to_layer(model, padded, layer)
        for row, length in enumerate(lengths):
            alone = run_to_layer(model, IDS[row : row + 1, :length], layer)
            assert_close(found[row, :length], alone[0], rtol=1e-4, atol=1e-4)


def test_resuming_gives_the_full_models_last_residual_stream_from_every_layer(model):
    residuals, _ = full_pass(model)
    for layer, residual in enumerate(residuals):
        assert_close(resume_from_layer(model, residual, IDS, layer), residuals[-1], rtol=0, atol=0)


def test_head_gives_the_full_models_logits_at_any_positions(model):
    residuals, logits = full_pass(model)
    everywhere = head_logits(model, residuals[-1].flatten(0, 1))
    assert_close(everywhere, logits.flatten(0, 1), rtol=1e-5, atol=1e-5)
    some = torch.tensor([3, 40, 7])
    assert_close(
        head_logits(model, residuals[-1].flatten(0, 1)[some]), everywhere[some], rtol=1e-5, atol=1e-5
    )


def test_resuming_depends_on_the_residual_stream_and_not_on_the_ids(model):
    layer = n_layers(model) // 2
    residual = full_pass(model)[0][layer]
    last = resume_from_layer(model, residual, IDS, layer)
    assert_close(resume_from_layer(model, residual, IDS.flip(0), layer), last, rtol=0, atol=0)
    assert not torch.allclose(resume_from_layer(model, residual.flip(0), IDS, layer), last)


def test_residual_stream_of_another_model_can_be_put_in(model):
    """Resuming with another model's activations equals replacing the block's output in a full pass."""
    layer = n_layers(model) // 2
    foreign = torch.randn(*IDS.shape, 32, generator=torch.Generator().manual_seed(1))
    handle = decoder_layers(model)[layer].register_forward_hook(
        lambda _module, _inputs, output: (foreign, *output[1:]) if isinstance(output, tuple) else foreign
    )
    with torch.inference_mode():
        expected = model(input_ids=IDS, use_cache=False).logits
    handle.remove()
    resumed = resume_from_layer(model, foreign, IDS, layer)
    assert_close(head_logits(model, resumed.flatten(0, 1)), expected.flatten(0, 1), rtol=1e-5, atol=1e-5)


def test_skipped_blocks_do_no_work(model):
    blocks, layer = list(decoder_layers(model)), n_layers(model) - 2
    residuals, _ = full_pass(model)
    # The first call sends a token through block 0 to see what it returns.
    head_logits(model, residuals[-1][:, 0])
    ran: list[int] = []
    handles = [
        block.register_forward_pre_hook(lambda *_, i=i: ran.append(i)) for i, block in enumerate(blocks)
    ]
    resume_from_layer(model, residuals[layer], IDS, layer)
    head_logits(model, residuals[-1][:, 0])
    for handle in handles:
        handle.remove()
    assert ran == [layer + 1]


def state_of(model):
    """Give what a call may not change: every module, its hooks, and the weights."""
    modules = [
        (name, id(module), len(module._forward_hooks), len(module._forward_pre_hooks))
        for name, module in model.named_modules()
    ]
    return modules, {name: weight.clone() for name, weight in model.state_dict().items()}


def assert_unchanged(model, before) -> None:
    modules, weights = state_of(model)
    assert modules == before[0] and weights.keys() == before[1].keys()
    assert all(torch.equal(weights[name], weight) for name, weight in before[1].items())


def test_model_is_unchanged_afterwards(model):
    before = state_of(model)
    head_logits(model, resume_from_layer(model, run_to_layer(model, IDS, 1), IDS, 1)[:, 0])
    assert_unchanged(model, before)


def test_model_is_unchanged_after_an_error(model):
    before = state_of(model)
    with pytest.raises(IndexError):
        run_to_layer(model, IDS + VOCABULARY, 1)  # ids beyond the vocabulary
    with pytest.raises(RuntimeError):
        resume_from_layer(model, torch.zeros(2, LENGTH, 7), IDS, 0)  # another width
    assert_unchanged(model, before)
    assert_close(full_pass(model)[1], full_pass(make_model(model.config))[1])


def test_result_is_in_the_models_dtype():
    model = make_model(CONFIGS["llama"]).to(torch.bfloat16)
    assert run_to_layer(model, IDS, 1).dtype == torch.bfloat16


def test_blocks_are_found_under_their_familys_name():
    model = make_model(GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=3, n_head=4))
    assert list(decoder_layers(model)) == list(model.transformer.h)


def test_family_whose_head_gives_other_rows_than_it_was_given_is_refused_by_name():
    model = make_model(CONFIGS["llama"])
    model.get_output_embeddings().register_forward_hook(lambda _module, _inputs, output: output[:1])
    with pytest.raises(
        UserError,
        match=r"^LlamaForCausalLM: 2 positions gave 1 rows of logits; this family is not supported$",
    ):
        head_logits(model, torch.zeros(2, 32))


def test_family_without_decoder_blocks_is_refused_by_name():
    encoder = BertForMaskedLM(
        BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=48,
        )
    )
    with pytest.raises(UserError, match=r"^BertForMaskedLM: its 2 transformer blocks were not found"):
        decoder_layers(encoder)
