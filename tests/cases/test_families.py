"""Families of language models, tiny and random: what jobs do with them is what they compute themselves.

docs/families.md holds the table. To write it again:
`PYTHONPATH=src:tests:tests/helpers python tests/cases/test_families.py`.
"""

import copy
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_families import FAMILIES, VISION_FAMILIES, VOCABULARY, tiny
from helpers_texts import one_line
from transformers import GenerationConfig, PreTrainedModel

from crossdiff.errors import UserError
from crossdiff.interventions import proof, steered_answers
from crossdiff.interventions.proof import PARTS, prove
from crossdiff.models import answers
from crossdiff.models.answers import greedy
from crossdiff.models.digests import digest
from crossdiff.models.forward import only_attends
from crossdiff.models.load import check_weights, load_model
from crossdiff.models.parts import decoder_layers

PAGE = Path(__file__).parents[2] / "docs/families.md"
ALL = [*FAMILIES, *VISION_FAMILIES]
QUICK = ("gpt2", "gemma3", "gpt_oss", "deepseek_v3", "qwen3_next", "jamba", "lfm2", "mamba", "rwkv")
LAYER, EXACT = 1, 5e-5  # float32 rounds that much at most, in the token that it rounds most
GENERATOR = np.random.default_rng(0)
TEXTS = [GENERATOR.integers(1, VOCABULARY - 4, size=length) for length in (7, 20, 20, 41)]

# Family -> part -> the reason for which it is refused.
STREAMS = "not one residual stream"
REFUSED = {
    "gemma3n_text": dict.fromkeys(("harvest", "head", "patching", "steering", "perplexity"), STREAMS),
    "rwkv": {"generation": "differs from the model's own forward pass"},
}

selected = [pytest.param(family, marks=() if family in QUICK else pytest.mark.slow) for family in ALL]


def outcome(model: PreTrainedModel, family: str, part: str) -> str:
    """Empty if a part agrees to EXACT, else the line that refuses it."""
    try:
        difference = prove(model, family, TEXTS, LAYER, [part])[part]
    except UserError as error:
        return str(error)
    return "" if difference <= EXACT else f"differs by {difference}"


@pytest.mark.parametrize("family", selected)
def test_family_agrees_with_its_own_forward_pass_or_is_refused_with_a_reason(family: str) -> None:
    model, refused = tiny(family), REFUSED.get(family, {})
    for part in PARTS:
        said = outcome(model, family, part)
        assert refused[part] in said and said.startswith(f"{family}: ") if part in refused else said == "", (
            part
        )


@torch.inference_mode()
def own_answer(model: PreTrainedModel, prompt: np.ndarray) -> list[int]:
    """The new tokens of the model's own greedy ``generate``, for one prompt."""
    plain = copy.copy(model)
    plain.generation_config = GenerationConfig(
        do_sample=False, max_new_tokens=8, eos_token_id=0, pad_token_id=0
    )
    ids = torch.from_numpy(prompt)[None]
    return plain.generate(input_ids=ids, attention_mask=torch.ones_like(ids))[0, len(prompt) :].tolist()


@pytest.mark.parametrize("family", selected)
def test_batched_answers_are_those_of_generate(family: str) -> None:
    model = tiny(family)
    model.generation_config.eos_token_id = 0
    found = [answer.tolist() for answer in greedy(model, TEXTS, 8)]
    agrees = found == [own_answer(model, prompt) for prompt in TEXTS]
    assert agrees != ("generation" in REFUSED.get(family, {}))


@pytest.mark.parametrize("family", selected)
def test_weights_come_back_as_written(family: str, tmp_path: Path) -> None:
    model = tiny(family)
    model.save_pretrained(tmp_path)
    check_weights(tmp_path)
    assert digest(load_model(tmp_path, torch.float32)) == digest(model)


@pytest.mark.parametrize("family", ["llama", "qwen3_next", pytest.param("phimoe", marks=pytest.mark.slow)])
def test_rounding_of_bfloat16_is_allowed(family: str) -> None:
    model = tiny(family).bfloat16()
    found = prove(model, family, TEXTS, LAYER, list(PARTS))
    assert 0 < max(found.values()) <= proof.allowed(model) < 0.1


def test_caches_are_told_apart() -> None:
    told = {family: only_attends(tiny(family)) for family in QUICK}
    assert [family for family, plain in told.items() if plain] == ["gpt2", "gemma3", "gpt_oss", "deepseek_v3"]


@pytest.mark.parametrize("layer", [0, 3])
def test_first_and_last_layer_are_proved_too(layer: int) -> None:
    model = tiny("gemma2")
    assert max(prove(model, "gemma2", TEXTS, layer, list(PARTS)).values()) <= EXACT


# What is wrong is refused.


def test_padding_that_is_read_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recurrent state that has read the padding on the left."""
    monkeypatch.setattr(answers, "only_attends", lambda _model: True)
    message = one_line(prove, tiny("minimax"), "it", TEXTS, LAYER, ["generation"])
    assert message.startswith("it: generation with MiniMaxForCausalLM differs from the model's own")
    assert message.endswith("leave out the section behaviour, and set causal.answers: dataset")


def test_cache_of_attention_for_a_recurrent_model_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steered_answers, "only_attends", lambda _model: True)
    for family in ("qwen3_next", "jamba", "lfm2"):
        message = one_line(prove, tiny(family), "it", TEXTS, LAYER, ["steering"])
        assert message.startswith("it: steering ") and message.endswith("leave out the section steering")


@pytest.mark.parametrize("family", ["llama", "mamba"])
@pytest.mark.parametrize("off", [-1, 1])
def test_activations_of_another_layer_are_refused(
    family: str, off: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = proof.run_to_layer
    monkeypatch.setattr(proof, "run_to_layer", lambda model, ids, layer: right(model, ids, layer + off))
    message = one_line(prove, tiny(family), "it", TEXTS, LAYER, ["harvest"])
    assert "differs from the model's own forward pass by" in message


@pytest.mark.parametrize("wrong", [0.0, 100.0, float("nan")])
@pytest.mark.parametrize("tokens", [slice(0, 2), slice(None)])
@pytest.mark.parametrize("part", ["harvest", "patching"])
def test_one_wrong_text_in_a_batch_is_refused(
    part: str, tokens: slice, wrong: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shortest one, which is padded most."""
    right = proof.run_to_layer

    def spoiled(model: PreTrainedModel, ids: torch.Tensor, layer: int) -> torch.Tensor:
        found = right(model, ids, layer).clone()
        if len(found) > 1:
            found[0, tokens] *= wrong
        return found

    monkeypatch.setattr(proof, "run_to_layer", spoiled)
    message = one_line(prove, tiny("llama"), "it", TEXTS, LAYER, [part])
    assert f"{part} with LlamaForCausalLM differs from the model's own forward pass by" in message


def test_steered_logits_that_are_not_numbers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    right = proof.head_logits
    monkeypatch.setattr(proof, "head_logits", lambda model, residual: right(model, residual) * torch.nan)
    message = one_line(prove, tiny("llama"), "it", TEXTS, LAYER, ["steering"])
    assert "steering with LlamaForCausalLM differs from the model's own forward pass by nan" in message


def test_some_tokens_of_a_mixture_of_experts_may_differ_and_not_of_other_models() -> None:
    sizes, limits = [torch.tensor([0.5, *[0.1] * 9])] * 2, [torch.ones(10)] * 2
    assert proof._worst(tiny("deepseek_v3"), sizes, limits).difference == pytest.approx(0.1)
    assert proof._worst(tiny("llama"), sizes, limits).difference == pytest.approx(0.5)


def test_the_worst_token_is_the_one_that_differs_most_for_what_rounding_explains() -> None:
    sizes, limits = [torch.tensor([0.5, 0.3, 0.0])], [torch.tensor([1.0, 0.1, 0.1])]
    assert proof._worst(tiny("llama"), sizes, limits) == pytest.approx((0.3, 0.1))


@pytest.mark.parametrize("family", ["llama", "deepseek_v3"])
def test_a_token_that_is_no_number_is_the_worst(family: str) -> None:
    """Rounding sends no token of a mixture of experts there."""
    sizes, limits = [torch.tensor([0.5, torch.nan, *[0.0] * 18])] * 2, [torch.ones(20)] * 2
    assert np.isnan(proof._worst(tiny(family), sizes, limits).difference)


def sensitive() -> PreTrainedModel:
    """A model in bfloat16 whose attention jumps from one token to another at a rounding."""
    model = tiny("llama")
    for block in decoder_layers(model):
        block.self_attn.q_proj.weight.data *= 30
        for module in block.modules():
            if isinstance(module, torch.nn.Linear):
                module.weight.data *= 3
    return model.bfloat16()


def test_a_token_that_amplifies_rounding_may_differ_more(monkeypatch: pytest.MonkeyPatch) -> None:
    right, model, found, seeds = proof.resume_from_layer, sensitive(), [], itertools.count()

    def rounded(model: PreTrainedModel, hidden: torch.Tensor, *others: object) -> torch.Tensor:
        off = 2 * torch.rand(hidden.shape, generator=torch.Generator().manual_seed(next(seeds))) - 1
        return right(model, (hidden * (1 + off * torch.finfo(torch.bfloat16).eps)).bfloat16(), *others)

    monkeypatch.setattr(proof, "resume_from_layer", rounded)
    for _ in range(4):
        found.append(prove(model, "it", TEXTS, LAYER, ["patching"])["patching"])
        assert prove(tiny("llama").bfloat16(), "it", TEXTS, LAYER, ["patching"])
    assert max(found) > 2 * proof.allowed(model)


@pytest.mark.parametrize("part", ["patching", "steering", "generation"])
def test_a_wrong_computation_of_a_model_that_amplifies_rounding_is_refused(
    part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = proof.head_logits
    monkeypatch.setattr(proof, "head_logits", lambda model, residual: right(model, residual).roll(1, 0))
    monkeypatch.setattr(proof, "greedy", lambda model, texts, tokens: [text[:tokens] for text in texts])
    message = one_line(prove, sensitive(), "it", TEXTS, LAYER, [part])
    assert f"{part} with LlamaForCausalLM differs from the model's own forward pass by" in message


def test_tokenizer_that_makes_too_few_tokens_is_refused() -> None:
    message = one_line(proof.proof_texts, lambda _text: {"input_ids": [0]})
    assert message.startswith(
        "the chat tokenizer: found 1 tokens for 110 English words, at least 6 are needed"
    )


def test_weights_that_are_not_numbers_are_refused() -> None:
    model = tiny("llama")
    model.lm_head.weight.data[3] = float("nan")
    assert "by nan, allowed: 0.002" in one_line(prove, model, "it", TEXTS, LAYER, ["head"])


# The table.


def table(of: Sequence[str]) -> list[str]:
    """The rows of docs/families.md, for these families."""
    rows = []
    for family in of:
        model, refused = tiny(family), REFUSED.get(family, {})
        cache = "attention" if only_attends(model) else "other"
        said = {part: "refused" if part in refused else "yes" for part in PARTS}
        rows.append(f"| `{family}` | {cache} | {' | '.join(said.values())} |")
    return rows


def test_page_lists_every_family_with_what_the_tests_found() -> None:
    rows = PAGE.read_text().partition("| family |")[2].splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == ALL
    assert set(table(QUICK)) == {row for row in rows if row.split("`")[1] in QUICK}


def test_most_families_agree_in_everything() -> None:
    assert len(ALL) >= 40 and len(ALL) - len(REFUSED) >= 34


if __name__ == "__main__":
    text = PAGE.read_text()
    head = text[: text.index("| family |")]
    lines = [
        f"| family | cache | {' | '.join(PARTS)} |",
        "| --- " * (len(PARTS) + 2) + "|",
        *table(ALL),
    ]
    PAGE.write_text(head + "\n".join(lines) + "\n")
