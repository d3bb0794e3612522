"""All tables of the first look, of two tiny models."""

import numpy as np
import pytest
from helpers_first_look import VOCABULARY, both_kinds
from helpers_models import tiny_model
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from crossdiff.config import FirstLook
from crossdiff.first_look import mean_differences
from crossdiff.first_look.mean_differences import Steered
from crossdiff.first_look.sample import Prompt
from crossdiff.first_look.topics import mined
from crossdiff.first_look.whole import FirstLookTables, first_look
from crossdiff.results.described import describe

SAMPLE = both_kinds()
PROMPTS = [Prompt("chats", np.array([1, 9, 2, 1])), Prompt("chats", np.array([1, 8, 7, 2, 1]))]
BASE, CHAT = (tiny_model("llama", VOCABULARY, seed) for seed in (0, 1))


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """Token number 7 is the word w7. The chat template has no end of a turn."""
    vocabulary = {f"w{number}": number for number in range(VOCABULARY)}
    found = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="w0")))
    found.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    return found


def look(pair, tokenizer, prompts: list[Prompt]) -> FirstLookTables:
    return first_look(*pair, tokenizer, SAMPLE, prompts, FirstLook(answer_tokens=3), 40)


def test_tables_of_two_models(tokenizer) -> None:
    found = look((BASE, CHAT), tokenizer, PROMPTS)
    assert found.summary["tokens"] == len(SAMPLE.shard.token) == 90
    assert found.summary["sequences"] == 12
    assert (found.summary["conversations"], found.summary["equal"]) == (2, False)
    assert found.layers.kl_patched.notna().all()
    assert found.summary["suggested_layer"] in (1, 2)
    assert set(found.contexts["set"]) == {"kl", *(f"topic {number}" for number in found.topics.topic)}
    assert set(found.mean_differences.kind) == {"text", "answer", "template"}
    conditions = ["base", "chat", "text", "answer", "template", "random"]
    assert found.answers.condition.tolist() == [name for name in conditions for _ in PROMPTS]
    assert not found.answers[found.answers.condition == "chat"].changed.any()
    assert found.answers.prompt_text[0] == "w1 w9 w2 w1"
    assert mined(BASE, CHAT, SAMPLE.shard, 40).tolist() == found.promoted.token.tolist() != []


def test_columns_are_those_that_are_described(tokenizer) -> None:
    for name, found in look((BASE, CHAT), tokenizer, PROMPTS)._asdict().items():
        ending = {"layers": "csv", "where": "csv", "promoted": "csv", "summary": "json"}.get(name, "parquet")
        assert set(found) == set(describe(f"results/tiny/first_look/{name}.{ending}"))


def test_two_copies_of_one_model_are_equal(tokenizer) -> None:
    found = look((CHAT, tiny_model("llama", VOCABULARY, 1)), tokenizer, PROMPTS)
    assert found.summary["equal"]
    assert (found.summary["kl"], found.summary["largest_difference"]) == (0, 0)
    assert found.contexts.empty and found.topics.empty and found.promoted.empty
    assert found.answers.condition.tolist() == ["base", "base", "chat", "chat"]
    assert not found.answers.changed.any()


def test_steered_answers_are_compared_with_those_of_their_own_batch(tokenizer, monkeypatch) -> None:
    """In another batch the chat model's own answer may round to another."""
    found = look((BASE, CHAT), tokenizer, PROMPTS).answers.set_index(["condition", "prompt"])
    own = [Steered("chat", [np.array([1]), np.array([2])]), Steered("text", [np.array([1]), np.array([3])])]
    monkeypatch.setattr(mean_differences, "steered_answers", lambda *_: own)
    again = look((BASE, CHAT), tokenizer, PROMPTS).answers.set_index(["condition", "prompt"])
    assert again.changed["text"].tolist() == [False, True]
    assert again.changed["base"].tolist() == found.changed["base"].tolist()


def test_texts_without_prompts_have_no_answers_and_nothing_patched(tokenizer) -> None:
    found = look((BASE, CHAT), tokenizer, [])
    assert found.answers.empty
    assert found.layers.kl_patched.isna().all()
    assert "no conversation was patched" in found.summary["reason"]
