"""A base model that reads other tokens in place of some, in every job that runs it."""

import numpy as np
import pytest
import torch
from helpers_activations import random_crosscoder, write_tokens
from helpers_config import SMALL, changed
from helpers_folders import random_model
from helpers_models import D_MODEL, FAMILIES, tiny_model
from helpers_texts import one_line
from torch.testing import assert_close

from crossdiff.activations.cache import read_rows
from crossdiff.activations.harvest import harvest_shard
from crossdiff.activations.pairs import PairedShard, Summary, read_summary, summarise, write_summary
from crossdiff.config import Activations
from crossdiff.interventions.patching import Variant, answer_kl
from crossdiff.interventions.proof import prove
from crossdiff.models.answers import answer_nats, greedy
from crossdiff.models.forward import head_logits, resume_from_layer, run_to_layer
from crossdiff.models.load import load_model
from crossdiff.models.replacements import as_read, check_ids, with_replacements
from crossdiff.results.home import PairNames
from crossdiff.results.pair import Pair
from crossdiff.texts.shards import Shard
from crossdiff.workflow.run import Run

LAYER, VOCABULARY = 1, 50


@pytest.fixture(params=FAMILIES)
def models(request):
    """A model that reads 7 and 9 as other tokens, and one whose rows of the embedding were copied instead."""
    replaced, copied = (tiny_model(request.param, VOCABULARY, 0) for _ in range(2))
    with torch.no_grad():
        table = copied.get_input_embeddings().weight
        head = copied.get_output_embeddings().weight
        if head is table:  # what is read is replaced, not what is said
            copied.lm_head.weight = torch.nn.Parameter(head.clone())
        table[7], table[9] = table[30].clone(), table[31].clone()
    return with_replacements(replaced, {9: 31, 7: 30}), copied


def ids(rows: int = 3, width: int = 12, seed: int = 0) -> torch.Tensor:
    found = torch.randint(VOCABULARY, (rows, width), generator=torch.Generator().manual_seed(seed))
    found[:, 2:8] = torch.tensor([7, 9, 8, 30, 9, 7])
    return found


def test_replaced_tokens_are_read_as_if_their_rows_were_the_others(models):
    replaced, copied = models
    plain = tiny_model("llama" if replaced.config.model_type == "llama" else "gemma2", VOCABULARY, 0)
    asked = ids()
    for layer in (0, LAYER):
        assert_close(run_to_layer(replaced, asked, layer), run_to_layer(copied, asked, layer))
        assert not torch.allclose(run_to_layer(replaced, asked, layer), run_to_layer(plain, asked, layer))
    with torch.no_grad():
        assert_close(replaced(asked).logits, copied(input_ids=asked).logits)
        assert_close(replaced(input_ids=asked).logits, copied(asked).logits)
    hidden = run_to_layer(copied, asked, LAYER)
    last = resume_from_layer(replaced, hidden, asked, LAYER)
    assert_close(last, resume_from_layer(copied, hidden, asked, LAYER))
    assert_close(head_logits(replaced, last[0]), head_logits(copied, last[0]))


def test_answers_are_those_of_the_model_with_copied_rows(models):
    prompts = [row.numpy() for row in ids()]
    one, other = (greedy(model, prompts, 8) for model in models)
    assert [row.tolist() for row in one] == [row.tolist() for row in other]


def test_probability_of_a_replaced_token_is_that_of_the_token_read(models):
    """The base may not have the chat's tokens among those that it can say."""
    replaced, _ = models
    prompts, answers = [ids(1)[0].numpy()] * 2, [np.array([5, 7, 12]), np.array([5, 30, 12])]
    one, other = answer_nats(replaced, prompts, answers)
    assert one == pytest.approx(other)


def test_token_beyond_the_embedding_can_be_read_and_said_as_another():
    model = with_replacements(tiny_model("llama", VOCABULARY, 0), {60: 30})
    beyond, within = np.array([5, 60, 12]), np.array([5, 30, 12])
    assert_close(
        run_to_layer(model, torch.tensor([[5, 60, 12]]), LAYER),
        run_to_layer(model, torch.tensor([[5, 30, 12]]), LAYER),
    )
    one, other = answer_nats(model, [beyond, within], [beyond, within])
    assert one == pytest.approx(other) and np.isfinite(one)
    assert as_read(model, beyond).tolist() == [5, 30, 12]
    check_ids(model, beyond)
    assert one_line(check_ids, model, np.array([5, 61])) == (
        "1 of 2 tokens (such as id 61) have no row in the model's embedding, which has 50; "
        "for the base model, set tokens.base_replacements, such as {61: 0}"
    )


def test_model_without_replacements_stays_as_it_is():
    model = tiny_model("llama", VOCABULARY, 0)
    assert with_replacements(model, {}) is model and not model.base_model._forward_pre_hooks
    assert as_read(model, np.array([7])).tolist() == [7]


# The jobs.


def shard_of(tokens: torch.Tensor) -> Shard:
    rows, width = tokens.shape
    zeros = np.zeros(tokens.numel(), np.int8)
    return Shard(
        tokens.flatten().numpy().astype(np.int32),
        np.repeat(np.arange(rows), width),
        np.tile(np.arange(width), rows).astype(np.int32),
        zeros,
        zeros,
    )


def test_cache_of_a_base_with_replacements_belongs_to_the_chats_tokens(models, tmp_path):
    shard, other = shard_of(ids()), shard_of(ids(seed=1))
    replaced, copied = models
    for name, model in (("base", replaced), ("chat", copied)):
        harvest_shard(model, shard, {LAYER: tmp_path / f"{name}.h5"}, 64)
    base, chat = (read_rows(tmp_path / f"{name}.h5", 0, 36) for name in ("base", "chat"))
    assert torch.equal(base, chat)
    caches = (tmp_path / "base.h5", tmp_path / "chat.h5")
    paired = PairedShard(write_tokens(tmp_path / "tokens.parquet", shard), *caches)
    assert (paired.tokens.token == shard.token).all()
    message = one_line(PairedShard, write_tokens(tmp_path / "other.parquet", other), *caches)
    assert "belong to other tokens" in message
    summary = summarise([paired], Activations(), {8, 9, 49}, {9, 7})
    assert summary.unknown_to_base == np.isin(shard.token, [8, 9, 49]).sum()
    assert summary.replaced_for_base == np.isin(shard.token, [7, 9]).sum() >= 12
    assert summarise([paired], Activations(), None).unknown_to_base is None
    write_summary(tmp_path / "summary.json", summary)
    assert read_summary(tmp_path / "summary.json") == summary


def test_text_with_a_token_beyond_the_embedding_is_refused_in_harvest_and_patching(tmp_path):
    model, shard = tiny_model("llama", VOCABULARY, 0), shard_of(ids())
    shard.token[5] = VOCABULARY
    assert "(such as id 50) have no row" in one_line(
        harvest_shard, model, shard, {LAYER: tmp_path / "x.h5"}, 64
    )
    assert not (tmp_path / "x.h5").exists()
    summary = Summary(LAYER, 0, None, [1.0, 1.0], [], [], 1, 0, 0)
    crosscoder = random_crosscoder(D_MODEL, 24, 0)
    wanted = shard.position > 0
    arguments = (model, model, crosscoder, summary, shard, wanted, [Variant("none")], 64)
    assert "(such as id 50) have no row" in one_line(answer_kl, *arguments)


def test_patching_starts_from_what_the_base_reads(models):
    replaced, copied = models
    chat = tiny_model("llama" if replaced.config.model_type == "llama" else "gemma2", VOCABULARY, 1)
    crosscoder = random_crosscoder(D_MODEL, 24, 0)
    crosscoder.layer = LAYER
    shard = shard_of(ids())
    summary = Summary(LAYER, 0, None, [1.0, 1.0], [], [], 1, 0, 0)
    variants = [Variant("none"), Variant("all"), Variant("error")]
    one, other = (
        answer_kl(base, chat, crosscoder, summary, shard, shard.position > 0, variants, 64).kl
        for base in (replaced, copied)
    )
    assert_close(one, other, equal_nan=True)
    plain = answer_kl(
        tiny_model(chat.config.model_type, VOCABULARY, 0),
        chat,
        crosscoder,
        summary,
        shard,
        shard.position > 0,
        variants,
        64,
    ).kl
    assert not np.allclose(one[1:12], plain[1:12])


def test_base_that_lacks_rows_for_some_tokens_is_proved_without_them():
    model = tiny_model("llama", VOCABULARY, 0)
    texts = [np.array([5, 60, 7, 9, 11, 60, 12, 13]), np.array([7, 60, 3, 8, 2, 9])]
    plain = [text[text != 60] for text in texts]
    parts = ["harvest", "head", "perplexity"]
    assert prove(model, "base", texts, LAYER, parts) == prove(model, "base", plain, LAYER, parts)


def test_pair_in_a_notebook_replaces_what_the_base_reads(tmp_path, monkeypatch):
    folder = random_model(tmp_path / "models")
    monkeypatch.setattr(Pair, "_model", lambda _self, _name: load_model(folder, torch.float32))
    pair = Pair.__new__(Pair)
    pair.names, pair._replacements = PairNames("base", "chat"), {259: 4}
    asked = [torch.tensor([[5, number, 6]]) for number in (259, 4)]
    assert torch.equal(*(run_to_layer(pair.base, ids, 1) for ids in asked))
    assert not torch.equal(*(run_to_layer(pair.chat, ids, 1) for ids in asked))


def test_only_the_bases_jobs_get_replacements():
    run = Run(changed("tokens", SMALL["tokens"] | {"base_replacements": {9: 1, 5: 2}}))
    assert run.replacements("small-base") == [[5, 2], [9, 1]]
    assert run.replacements("small-chat") == []
    assert Run(SMALL).replacements("small-base") == []


def test_model_of_bfloat16_reads_replacements_too(tmp_path):
    base = random_model(tmp_path / "base")
    model = with_replacements(load_model(base, torch.bfloat16), {259: 4})
    one, other = (run_to_layer(model, torch.tensor([[5, number, 6]]), 1) for number in (259, 4))
    assert torch.equal(one, other)
