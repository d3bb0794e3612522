"""Patching agrees with brute force: hooks in full forward passes, dense codes, single conversations."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from helpers_activations import random_crosscoder
from helpers_models import D_MODEL, FAMILIES, tiny_model
from torch.nn import functional
from torch.testing import assert_close

from crossdiff.activations.pairs import Summary
from crossdiff.crosscoders.model import Crosscoder
from crossdiff.interventions.causal_effect import Answers
from crossdiff.interventions.patching import WHOLE, Patcher, Variant, answer_kl, conversation_batches
from crossdiff.models.parts import decoder_layers
from crossdiff.texts.chats import CONTENT, HEADER, TURN_END
from crossdiff.texts.formats import ROLES
from crossdiff.texts.shards import Shard

LATENTS, VOCABULARY, LAYER = 24, 50, 1
MODELS = {
    family: (tiny_model(family, VOCABULARY, 0), tiny_model(family, VOCABULARY, 1)) for family in FAMILIES
}


@pytest.fixture(params=FAMILIES)
def models(request):
    return MODELS[request.param]


def chat_shard(*turns: tuple[int, ...], seed: int = 0) -> Shard:
    """Make conversations from the lengths of their turns' contents, the user's first.

    A turn has a header and an end of one token each.
    """
    role, template, position = [], [], []
    for lengths in turns:
        for number, length in enumerate(lengths):
            role += [ROLES.index(("user", "assistant")[number % 2])] * (length + 2)
            template += [HEADER, *[CONTENT] * length, TURN_END]
        position += range(sum(lengths) + 2 * len(lengths))
    token = np.random.default_rng(seed).integers(VOCABULARY, size=len(role))
    document = np.cumsum(np.asarray(position) == 0) - 1
    return Shard(
        token.astype(np.int32),
        document,
        np.asarray(position, np.int32),
        np.asarray(role, np.int8),
        np.asarray(template, np.int8),
    )


SHARD = chat_shard((3, 5), (2, 4, 1, 3), (6, 2), (1, 9))


def sparse_crosscoder(seed: int = 0, code_normalisation: str = "crosscoder") -> Crosscoder:
    """A random crosscoder with most codes at 0, and with a mean and scale per model."""
    crosscoder = random_crosscoder(D_MODEL, LATENTS, seed, code_normalisation)
    crosscoder.layer = LAYER
    crosscoder.threshold += torch.tensor([0.7, 0.4]) if crosscoder.decoupled else 1.0
    return crosscoder.requires_grad_(False)


CROSSCODER = sparse_crosscoder()
EVERYTHING = Summary(LAYER, 0, None, [1.0, 1.0], [], [], 1, 0, 0)
SOME = np.array([1, 4, 5, 17])
VARIANTS = [*map(Variant, WHOLE), Variant("some", "subtraction", SOME), Variant("some", "additive", SOME)]


def wanted(shard: Shard) -> np.ndarray:
    mask = np.zeros(len(shard.token), bool)
    mask[Answers.of(shard).row] = True
    return mask


def measure(
    models, variants=VARIANTS, crosscoder=CROSSCODER, summary=EVERYTHING, shard=SHARD, batch_tokens=40
):
    return answer_kl(*models, crosscoder, summary, shard, wanted(shard), variants, batch_tokens)


def patched_kl(models, variants=VARIANTS, shard=SHARD, **changes) -> np.ndarray:
    """Give the KL (answer tokens, variants)."""
    return measure(models, variants, shard=shard, **changes).kl[Answers.of(shard).row]


@torch.inference_mode()
def residual(model, ids: torch.Tensor) -> torch.Tensor:
    """(position, d_model) after block LAYER, from a full forward pass."""
    found: list[torch.Tensor] = []
    handle = decoder_layers(model)[LAYER].register_forward_hook(
        lambda _module, _inputs, output: found.append(output)
    )
    model(input_ids=ids[None], use_cache=False)
    handle.remove()
    return found[0][0]


def raw_reconstructions(x: torch.Tensor, crosscoder: Crosscoder, latents=None) -> torch.Tensor:
    """(tokens, model, d_model): sum_j f_j d_j^m + b^m on the raw scale, of all latents or of some."""
    codes = crosscoder.encode(crosscoder.normalise(x))
    if latents is not None:
        codes = codes * torch.isin(torch.arange(LATENTS), torch.as_tensor(latents))
    return crosscoder.decode(codes) / crosscoder.scale[:, None] + crosscoder.mean


def expected_patched(
    variant: Variant, x: torch.Tensor, template: torch.Tensor, crosscoder: Crosscoder
) -> torch.Tensor:
    base, chat = x.unbind(1)
    base_hat, chat_hat = raw_reconstructions(x, crosscoder).unbind(1)
    base_bias, chat_bias = raw_reconstructions(x, crosscoder, []).unbind(1)
    match variant.name:
        case "none":
            return base
        case "all":
            return chat_hat + (base - base_hat)
        case "error":
            return base_hat + (chat - chat_hat)
        case "bias":
            return base + chat_bias - base_bias
        case "template":
            return torch.where(template[:, None], chat, base)
    base_part, chat_part = raw_reconstructions(x, crosscoder, variant.latents).unbind(1)
    if variant.form == "additive":
        return base + chat_part - chat_bias
    return base + (chat_part - chat_bias) - (base_part - base_bias)


@torch.inference_mode()
def brute_force_kl(models, crosscoder=CROSSCODER, shard=SHARD, variants=VARIANTS) -> torch.Tensor:
    rows = []
    starts = shard.sequence_starts()
    for start, stop in pairwise([*starts, len(shard.token)]):
        ids = torch.from_numpy(shard.token[start:stop]).long()
        template = torch.from_numpy(shard.template[start:stop] != CONTENT)
        x = torch.stack([residual(model, ids) for model in models], dim=1)
        chat = models[1]
        own = chat(input_ids=ids[None], use_cache=False).logits[0].double().softmax(-1)
        found = []
        for variant in variants:
            patched = expected_patched(variant, x, template, crosscoder)
            handle = decoder_layers(chat)[LAYER].register_forward_hook(
                lambda *_, patched=patched: patched[None]
            )
            other = chat(input_ids=ids[None], use_cache=False).logits[0].double().softmax(-1)
            handle.remove()
            found.append((own * (own.log() - other.log())).sum(-1))
        kl = torch.stack(found, dim=1)
        # The position before a token predicts it.
        rows.append(kl[np.flatnonzero(wanted(shard)[start:stop]) - 1])
    return torch.cat(rows)


def test_conditions_of_the_comparison(models):
    """Codes are sparse but not empty, the softcap works, and every patched run differs from the others."""
    x = torch.stack([residual(model, torch.arange(20)) for model in models], dim=1)
    active = (CROSSCODER.encode(CROSSCODER.normalise(x)) > 0).float().mean()
    assert 0.05 < active < 0.8
    kl = brute_force_kl(models).mean(dim=0)
    assert kl.min() > 1e-3
    assert len(set(kl.tolist())) == len(VARIANTS)


def test_every_patched_run_equals_brute_force(models):
    assert_close(torch.from_numpy(patched_kl(models)).double(), brute_force_kl(models), rtol=1e-3, atol=1e-5)


def test_every_patched_run_of_a_decoupled_crosscoder_equals_brute_force():
    """A latent may count for one model and not for the other."""
    crosscoder = sparse_crosscoder(code_normalisation="decoupled")
    found = torch.from_numpy(patched_kl(MODELS["llama"], crosscoder=crosscoder)).double()
    assert_close(found, brute_force_kl(MODELS["llama"], crosscoder), atol=1e-5, rtol=1e-3)


def test_kl_of_the_untouched_chat_model_is_zero(models):
    _, chat = models
    # The chat model's own activation takes the place of the base model's.
    kl = patched_kl((chat, chat), [Variant("none")])
    assert (kl == 0).all()


@pytest.mark.parametrize("batch_tokens", [1, 17, 10_000])
def test_kl_does_not_depend_on_the_batch(models, batch_tokens):
    found = patched_kl(models, batch_tokens=batch_tokens)
    np.testing.assert_allclose(found, patched_kl(models, batch_tokens=40), rtol=1e-3, atol=1e-5)


def test_kl_does_not_depend_on_the_conversations_beside(models):
    first = chat_shard((3, 5))
    alone = Shard(*(column[: len(first.token)] for column in SHARD))
    together = patched_kl(models)[: len(Answers.of(alone).row)]
    np.testing.assert_allclose(patched_kl(models, shard=alone), together, rtol=1e-3, atol=1e-5)


def test_kl_is_undefined_where_it_was_not_asked_for():
    measured = measure(MODELS["llama"])
    assert np.isnan(measured.kl[~wanted(SHARD)]).all()
    assert np.isfinite(measured.kl[wanted(SHARD)]).all()


def tokens(patcher: Patcher, rows: int = 30, counts: torch.Tensor | None = None):
    generator = torch.Generator().manual_seed(3)
    base, chat = torch.randn(2, rows, D_MODEL, generator=generator)
    return patcher.encode(
        base,
        chat,
        torch.ones(rows, dtype=torch.bool) if counts is None else counts,
        torch.arange(rows) % 3 == 0,
    )


def test_all_and_error_share_out_what_the_models_differ_by():
    patcher = Patcher(CROSSCODER)
    of = tokens(patcher)
    all_, error = (patcher.patched(of, Variant(name)) for name in ("all", "error"))
    assert_close(all_ + error, of.base + of.chat)


def test_all_is_every_latent_and_the_difference_of_the_decoder_biases():
    patcher = Patcher(CROSSCODER)
    of = tokens(patcher)
    every = patcher.patched(of, Variant("every", "subtraction", np.arange(LATENTS)))
    bias = patcher.patched(of, Variant("bias")) - of.base
    assert bias.abs().min() > 1e-4
    assert_close(patcher.patched(of, Variant("all")), every + bias)


def test_two_halves_add_up():
    patcher = Patcher(CROSSCODER)
    of = tokens(patcher)
    for form in ("subtraction", "additive"):
        parts = [
            patcher.patched(of, Variant("half", form, np.arange(start, LATENTS, 2))) - of.base
            for start in (0, 1)
        ]
        assert_close(
            parts[0] + parts[1], patcher.patched(of, Variant("every", form, np.arange(LATENTS))) - of.base
        )


@pytest.mark.parametrize("form", ["subtraction", "additive"])
def test_empty_set_leaves_the_base_activation(form):
    patcher = Patcher(CROSSCODER)
    of = tokens(patcher)
    assert_close(patcher.patched(of, Variant("nothing", form, np.array([], int))), of.base, rtol=0, atol=0)


def test_tokens_that_the_crosscoder_was_not_trained_on_are_all_error():
    patcher = Patcher(CROSSCODER)
    counts = torch.arange(30) % 4 != 0
    of, full = tokens(patcher, counts=counts), tokens(patcher)
    for variant in VARIANTS:
        expected = patcher.patched(full, variant).clone()
        if variant.name != "template":
            expected[~counts] = (of.chat if variant.name == "error" else of.base)[~counts]
        assert_close(patcher.patched(of, variant), expected)


def test_no_token_that_counts_is_no_error():
    patcher = Patcher(CROSSCODER)
    of = tokens(patcher, counts=torch.zeros(30, dtype=torch.bool))
    assert_close(patcher.patched(of, Variant("all")), of.base, rtol=0, atol=0)


def test_first_tokens_and_outliers_are_left_out_as_in_training():
    base, chat = MODELS["llama"]
    starts = [*SHARD.sequence_starts(), len(SHARD.token)]
    ids = [torch.from_numpy(SHARD.token[start:stop]).long() for start, stop in pairwise(starts)]
    norms = torch.stack(
        [torch.cat([residual(model, i).norm(dim=1) for i in ids]) for model in (base, chat)]
    ).numpy()
    medians = np.median(norms, axis=1)
    outlier = (norms > 1.4 * medians[:, None]).any(axis=0)
    summary = EVERYTHING._replace(skip_first=2, max_norm_ratio=1.4, median_norm=medians.tolist())
    measured = measure((base, chat), summary=summary)
    assert 0 < outlier.sum() < len(outlier) / 2
    assert measured.left_out == (outlier | (SHARD.position < 2)).sum()
    assert measured.fired.sum() < measure((base, chat)).fired.sum()


def test_firing_counts_equal_dense_codes():
    models = MODELS["llama"]
    starts = [*SHARD.sequence_starts(), len(SHARD.token)]
    ids = [torch.from_numpy(SHARD.token[start:stop]).long() for start, stop in pairwise(starts)]
    x = torch.cat([torch.stack([residual(model, i) for model in models], dim=1) for i in ids])
    expected = (CROSSCODER.encode(CROSSCODER.normalise(x)) > 0).sum(dim=0)
    assert measure(models).fired.tolist() == expected.tolist()


@pytest.mark.parametrize("variants", [VARIANTS[:1], VARIANTS])
def test_prefix_and_encoding_run_once_whatever_the_number_of_variants(models, variants, monkeypatch):
    base, chat = models
    ran: Counter[str] = Counter()
    head_rows: list[int] = []
    encode = Crosscoder.active
    monkeypatch.setattr(Crosscoder, "active", lambda self, x: ran.update(["encode"]) or encode(self, x))
    last = len(decoder_layers(chat)) - 1
    watched = {
        "base prefix": decoder_layers(base)[0],
        "base suffix": decoder_layers(base)[LAYER + 1],
        "chat prefix": decoder_layers(chat)[0],
        "chat suffix": decoder_layers(chat)[last],
    }
    handles = [
        module.register_forward_pre_hook(lambda *_, name=name: ran.update([name]))
        for name, module in watched.items()
    ]
    handles.append(
        chat.lm_head.register_forward_pre_hook(
            lambda _module, inputs: head_rows.append(inputs[0][..., 0].numel())
        )
    )
    patched_kl(models, variants)
    for handle in handles:
        handle.remove()
    batches = len(conversation_batches(SHARD, wanted(SHARD), 40))
    assert ran == {
        "encode": batches,
        "base prefix": batches,
        "chat prefix": batches,
        "chat suffix": batches * (1 + len(variants)),
    }
    assert len(head_rows) == batches * (1 + len(variants))
    assert sum(head_rows) == len(Answers.of(SHARD).row) * (1 + len(variants))  # answer positions only


def test_models_in_bfloat16_give_nearly_the_same():
    models = [tiny_model("llama", VOCABULARY, seed).to(torch.bfloat16) for seed in (0, 1)]
    exact = patched_kl(MODELS["llama"]).mean(axis=0)
    np.testing.assert_allclose(patched_kl(models).mean(axis=0), exact, rtol=0.1)


def test_kl_is_that_of_torch_distributions(models):
    """KL has the chat model's distribution first."""
    base, chat = models
    ids = torch.from_numpy(SHARD.token[: SHARD.sequence_starts()[1]]).long()
    with torch.inference_mode():
        handle = decoder_layers(chat)[LAYER].register_forward_hook(lambda *_: residual(base, ids)[None])
        none = chat(input_ids=ids[None], use_cache=False).logits[0]
        handle.remove()
        own = chat(input_ids=ids[None], use_cache=False).logits[0]
    first = int(Answers.of(SHARD).row[0])
    expected = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=own[first - 1]),
        torch.distributions.Categorical(logits=none[first - 1]),
    )
    assert patched_kl(models, [Variant("none")])[0, 0] == pytest.approx(expected.item(), rel=1e-4)
    assert functional.kl_div(
        own[first - 1].log_softmax(-1), none[first - 1].log_softmax(-1), reduction="sum", log_target=True
    ).item() != (pytest.approx(expected.item(), rel=1e-2))
