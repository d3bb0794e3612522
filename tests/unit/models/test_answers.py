"""Answers of a model: its own most likely tokens, after openings from validation chats only."""

import json
from copy import copy

import numpy as np
import pytest
import torch

from crossdiff.config import RandomModel, TextSource
from crossdiff.errors import UserError
from crossdiff.models.answers import answered, greedy, openings
from crossdiff.models.load import load_model
from crossdiff.models.prepare import make_random
from crossdiff.models.tokenizers import load_tokenizer
from crossdiff.texts.chats import CONTENT, HEADER, TURN_END
from crossdiff.texts.formats import ROLES
from crossdiff.texts.splits import document_id, in_split

TEMPLATE = "data/plain.jinja"
END, USER, ASSISTANT = 0, 1, 2  # ids of the special tokens


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    make_random(RandomModel(layers=2, d_model=32, chat_template=TEMPLATE), folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_tokenizer(folder)


@pytest.fixture
def model(folder):
    model = load_model(folder, torch.float32)
    model.generation_config.eos_token_id = END
    return model


def chats(tmp_path, *contents: list[str], roles=("user", "assistant")) -> TextSource:
    """Chats that begin with the first of ``roles`` and take turns."""
    path = tmp_path / "chats.jsonl"
    turns = [[{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)] for texts in contents]
    path.write_text("\n".join(json.dumps({"messages": chat}) for chat in turns))
    return TextSource(kind="chats", format="messages", files=[str(path)], validation_fraction=0.5)


def of_validation(source: TextSource) -> list[list[dict[str, str]]]:
    with open(source.files[0]) as file:  # noqa: PTH123
        chats = [json.loads(line)["messages"] for line in file]
    return [chat for chat in chats if in_split(document_id(chat), "validation", 0.5)]


def text(tokenizer, tokens) -> str:
    return tokenizer.decode(tokens.tolist())


@torch.inference_mode()
def step_by_step(model, prompt: np.ndarray, new_tokens: int) -> list[int]:
    ids = torch.from_numpy(prompt).long()
    for _ in range(new_tokens):
        ids = torch.cat([ids, model(input_ids=ids[None], use_cache=False).logits[0, -1].argmax()[None]])
        if ids[-1] == model.generation_config.eos_token_id:
            break
    return ids[len(prompt) :].tolist()


PROMPTS = [np.array([USER, *ids, END, ASSISTANT]) for ids in ([70], [80, 81, 82, 83], [90, 91], [100] * 9)]


@pytest.mark.parametrize("batch", [1, 3, 32])
def test_greedy_answers_equal_one_step_at_a_time(model, batch):
    expected = [step_by_step(model, prompt, 6) for prompt in PROMPTS]
    assert len({tuple(answer) for answer in expected}) == len(PROMPTS)
    assert [answer.tolist() for answer in greedy(model, PROMPTS, 6, batch)] == expected


def test_the_models_own_generation_settings_do_not_alter_its_most_likely_tokens(model):
    expected = [answer.tolist() for answer in greedy(model, PROMPTS, 12)]
    model.generation_config.update(
        repetition_penalty=5.0, min_new_tokens=11, no_repeat_ngram_size=1, do_sample=True, max_length=3
    )
    assert [answer.tolist() for answer in greedy(model, PROMPTS, 12)] == expected
    assert model.generation_config.repetition_penalty == 5.0  # the model itself is left as it is


def test_answer_ends_with_the_end_of_the_turn(model):
    third = step_by_step(model, PROMPTS[0], 6)[2]
    model.generation_config.eos_token_id = [END, third]
    answer = greedy(model, PROMPTS, 6)[0].tolist()
    assert answer[-1] == third
    assert third not in answer[:-1]
    assert len(answer) <= 3


def test_model_without_a_turn_end_goes_on(model):
    model.generation_config.eos_token_id = None
    assert [len(answer) for answer in greedy(model, PROMPTS, 5)] == [5] * 4


def test_openings_are_of_validation_chats_only(tmp_path, tokenizer):
    source = chats(tmp_path, *([f"question {n}", "answer"] for n in range(20)))
    expected = [chat[0]["content"] for chat in of_validation(source)]
    assert 3 < len(expected) < 17
    found = openings(source, "talk", tokenizer, len(expected), 100)
    assert [text(tokenizer, sequence.token) for _, sequence in found] == [
        f"<|user|>{q}<|end|><|assistant|>" for q in expected
    ]


def test_opening_is_a_chat_up_to_its_first_user_turn(tmp_path, tokenizer):
    source = chats(
        tmp_path, *([f"be kind {n}", "hi", "hello", "more"] for n in range(12)), roles=("system", "user")
    )
    [(_, first), *_] = openings(source, "talk", tokenizer, 2, 100)
    [system, user, *_] = of_validation(source)[0]
    assert (
        text(tokenizer, first.token)
        == f"<|system|>{system['content']}<|end|><|user|>{user['content']}<|end|><|assistant|>"
    )
    assert first.role.tolist()[-1] == ROLES.index("assistant")
    assert first.template.tolist()[-1] == HEADER
    assert first.template.tolist()[-2] == TURN_END


def test_equal_openings_are_asked_once(tmp_path, tokenizer):
    source = chats(tmp_path, *(["hi" if n % 2 else f"hi {n}", f"answer {n}"] for n in range(24)))
    expected = list(dict.fromkeys(chat[0]["content"] for chat in of_validation(source)))
    assert "hi" in expected and len(expected) < len(of_validation(source))
    found = openings(source, "talk", tokenizer, len(expected), 100)
    assert [text(tokenizer, s.token) for _, s in found] == [
        f"<|user|>{content}<|end|><|assistant|>" for content in expected
    ]
    assert len({document for document, _ in found}) == len(expected)


def test_chat_without_a_user_turn_is_left_out(tmp_path, tokenizer):
    source = chats(tmp_path, *([f"text {n}"] for n in range(20)), roles=("assistant", "user"))
    with pytest.raises(UserError, match="have 0 different openings"):
        openings(source, "talk", tokenizer, 1, 100)


def test_too_few_or_too_long_openings_are_refused_with_their_number(tmp_path, tokenizer):
    source = chats(tmp_path, *([f"{'long ' * (n % 2)}question {n:02}", "answer"] for n in range(20)))
    short = [chat for chat in of_validation(source) if len(chat[0]["content"]) < 13]
    longest = len("question 00") + 3
    assert (
        len(openings(source, "talk", tokenizer, len(short), longest))
        == len(short)
        < len(of_validation(source))
    )
    with pytest.raises(UserError) as caught:
        openings(source, "talk", tokenizer, 20, longest)
    assert str(caught.value) == (
        f"causal.conversations: found 20, the validation chats of talk have {len(short)} different openings "
        f"of {longest} tokens or less"
    )


def test_openings_that_the_template_refuses_are_told_with_the_reason(tmp_path, tokenizer):
    tokenizer = copy(tokenizer)
    tokenizer.chat_template = "{{ raise_exception('no system role') }}"
    source = chats(tmp_path, *([f"question {n}", "answer"] for n in range(20)))
    refused = len(of_validation(source))
    with pytest.raises(UserError) as caught:
        openings(source, "talk", tokenizer, 5, 100)
    assert str(caught.value) == (
        "causal.conversations: found 5, the validation chats of talk have 0 different openings of 100 tokens "
        f"or less; {refused} can't be used, most often: the chat template refuses this chat (no system role) "
        f"({refused} x)"
    )


def test_answered_openings_are_sequences_with_marked_answers(tmp_path, tokenizer, model):
    asked = openings(
        chats(tmp_path, *([f"question {n}", "answer"] for n in range(20))), "talk", tokenizer, 3, 100
    )
    stop = greedy(model, [asked[0][1].token], 8)[0][4]
    model.generation_config.eos_token_id = int(stop)
    shard = answered(model, asked, 8)
    starts = [*shard.sequence_starts(), len(shard.token)]
    assert len(starts) == 4
    for (document, prompt), answer, start, end in zip(
        asked, greedy(model, [p.token for _, p in asked], 8), starts, starts[1:], strict=False
    ):
        assert shard.token[start:end].tolist() == [*prompt.token, *answer]
        assert set(shard.document[start:end]) == {document}
        assert shard.role[start:end].tolist() == [*prompt.role, *[ROLES.index("assistant")] * len(answer)]
        parts = [CONTENT if token != stop else TURN_END for token in answer]
        assert shard.template[start:end].tolist() == [*prompt.template, *parts]
    first = slice(starts[0], starts[1])
    assert shard.template[first][-1] == TURN_END
    assert (shard.template[first] == TURN_END).sum() == 2  # the user's and the answer's


def test_answer_cut_at_its_longest_has_no_turn_end(tmp_path, tokenizer, model):
    model.generation_config.eos_token_id = None
    asked = openings(
        chats(tmp_path, *([f"question {n}", "answer"] for n in range(20))), "talk", tokenizer, 1, 100
    )
    shard = answered(model, asked, 5)
    assert shard.template[-5:].tolist() == [CONTENT] * 5
