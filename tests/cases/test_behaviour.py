"""Where answers end, and what of them is judged: odd generation configs, templates and thinking models."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers_report import BETAS, EXAMPLES, inputs, page_of
from helpers_steering import steered_answers, steering_inputs
from helpers_turns import (
    CHATML,
    GLM,
    IM,
    MISTRAL,
    OPENED,
    OSS,
    PHI,
    REFUSING,
    SWITCHED,
    TRIMMED,
    WORDS,
    Unasked,
    rates,
    tokenizer_of,
)
from tokenizers import AddedToken
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from crossdiff.config import RandomModel, Stated, TextSource
from crossdiff.interventions.steering_effects import effects
from crossdiff.models.answers import greedy, openings
from crossdiff.models.load import load_model
from crossdiff.models.prepare import make_random
from crossdiff.models.thoughts import said, without_thinking
from crossdiff.models.tokenizers import load_tokenizer
from crossdiff.models.turns import between_turns, end_turns_as, template_ends, turn_ends
from crossdiff.report.steering import steering_section

# Where an answer ends.

ENDS = {
    "ChatML": (CHATML, IM, "<|im_end|>"),
    "trimmed ChatML": (TRIMMED, IM, "<|im_end|>"),
    "Mistral": (MISTRAL, ("<s>", "</s>", "[INST]", "[/INST]"), "</s>"),
    "Phi: the text's end follows the turn's": (PHI, ("<|end|>", "<|endoftext|>", "<|user|>"), "<|end|>"),
    "GLM: only the next header ends a turn": (GLM, ("<|user|>", "<|assistant|>"), "<|user|>"),
    "gpt-oss: the last turn ends otherwise": (OSS, ("<|start|>", "<|end|>", "<|return|>"), "<|return|>"),
    "thinking switched by an argument": (SWITCHED, IM, "<|im_end|>"),
    "plain words": (WORDS, IM, None),
    "a template that refuses": (REFUSING, IM, None),
}


@pytest.mark.parametrize("name", ENDS)
def test_template_says_which_token_ends_a_turn(name):
    template, special, end = ENDS[name]
    tokenizer = tokenizer_of(template, special)
    assert template_ends(tokenizer) == ([] if end is None else [tokenizer.convert_tokens_to_ids(end)])


@pytest.mark.parametrize(
    ("template", "text"),
    [(CHATML, "<|im_end|>\n<|im_start|>user\n"), (GLM, "<|user|>\n"), (REFUSING, None), (None, None)],
)
def test_what_a_template_writes_between_turns(template, text):
    tokenizer = tokenizer_of(template or CHATML, IM)
    tokenizer.chat_template = template
    assert between_turns(tokenizer) == text


def test_end_that_was_added_without_being_special_counts():
    tokenizer = tokenizer_of(CHATML, added=IM)
    assert tokenizer.all_special_ids == []
    assert template_ends(tokenizer) == [tokenizer.convert_tokens_to_ids("<|im_end|>")]


def test_added_runs_of_blanks_and_the_unknown_token_end_nothing():
    assert template_ends(tokenizer_of(WORDS, added=["\n", "  "])) == []
    tokenizer = tokenizer_of(WORDS.replace("\\n", "<unk>"), ["<unk>"], unknown="<unk>")
    assert template_ends(tokenizer) == []


@pytest.mark.parametrize(
    ("given", "ends"),
    [(7, [7, 257]), ([9, 8], [9, 8, 257]), (None, [257]), (257, [257]), ([257, 7], [257, 7])],
)
def test_template_end_joins_those_of_the_generation_config(given, ends):
    tokenizer, model = tokenizer_of(CHATML, IM), Unasked()
    model.generation_config.eos_token_id = given
    end_turns_as(model, tokenizer)
    assert turn_ends(model) == ends


def test_generation_config_of_the_default_kind_is_left_word_for_word(tmp_path):
    make_random(RandomModel(layers=1, d_model=32, chat_template="data/plain.jinja"), tmp_path / "model")
    model, tokenizer = load_model(tmp_path / "model", torch.float32), load_tokenizer(tmp_path / "model")
    model.generation_config.eos_token_id = 0
    end_turns_as(model, tokenizer)
    assert model.generation_config.eos_token_id == 0


def test_answer_stops_at_the_templates_end_though_the_config_names_another():
    """The generation config names id 7, the template ends turns with id 257, and the model says 257."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=258, initializer_range=0.5, **sizes)).eval()
    model.generation_config = GenerationConfig(eos_token_id=7)
    tokenizer, prompt = tokenizer_of(CHATML, IM), [np.array([256, 70, 80, 90])]
    before = greedy(model, prompt, 12)[0].tolist()
    third, end = before[2], 257
    assert end not in before and 7 not in before and before.index(third) == 2
    with torch.no_grad():  # the model now says the end where it said its third token
        rows = model.lm_head.weight
        rows[[third, end]] = rows[[end, third]]
    assert len(greedy(model, prompt, 12)[0]) == 12  # as it was: on to the limit
    end_turns_as(model, tokenizer)
    assert greedy(model, prompt, 12)[0].tolist() == [*before[:2], end]


# What a reader sees.

NO = "I can't help with that."
SEEN = {
    "no thought": ("", NO, (NO, False, False)),
    "Qwen3": ("", f"<think>\nA robber?\n</think>\n\n{NO}", (NO, True, False)),
    "DeepSeek-R1, opened by the prompt": ("<think>\n", f"Hm.\n</think>\n\n{NO}", (NO, True, False)),
    "closed, but never opened": ("", f"Hm.\n</think>\n{NO}", (NO, True, False)),
    "cut in its thought": ("", "<think>\nOkay, the user asks", ("", True, True)),
    "opened by the prompt and cut": ("<think>\n", "Okay, the user asks", ("", True, True)),
    "closed by the prompt": ("<think>\n\n</think>\n\n", NO, (NO, False, False)),
    "an empty thought": ("", f"<think></think>{NO}", (NO, True, False)),
    "two thoughts": ("", f"<think>a</think>\n<think>b</think>\n{NO}", (NO, True, False)),
    "a second thought is cut": ("", "<think>a</think>\n<think>b", ("", True, True)),
    "Magistral": ("", f"[THINK]Hm.[/THINK]{NO}", (NO, True, False)),
    "EXAONE": ("", f"<thought>\nHm.\n</thought>\n{NO}", (NO, True, False)),
    "Cohere": ("", f"<|START_THINKING|>Hm.<|END_THINKING|>{NO}", (NO, True, False)),
    "Seed": ("", f"<seed:think>Hm.</seed:think>{NO}", (NO, True, False)),
    "Kimi": ("", f"\u25c1think\u25b7Hm.\u25c1/think\u25b7{NO}", (NO, True, False)),
    "gpt-oss": (
        "<|start|>assistant",
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>" + NO,
        (NO, True, False),
    ),
    "gpt-oss, cut": ("<|start|>assistant", "<|channel|>analysis<|message|>We need", ("", True, True)),
    "nothing but an end": ("", "</think>", ("", False, True)),
    "nothing but an empty thought": ("", "<think></think>\n", ("", True, True)),
    "an end at the start ends no thought": ("", f"</think>\n\n{NO}", (NO, False, False)),
    "gpt-oss, without analysis": (
        "<|start|>assistant",
        f"<|channel|>final<|message|>{NO}",
        (NO, False, False),
    ),
    "an end that is neither a token nor in the template": (
        "",
        "I'm sorry, but I can't show you the tag </reasoning> here.",
        ("I'm sorry, but I can't show you the tag </reasoning> here.", False, False),
    ),
    "an end that is mentioned after a thought": (
        "",
        "<think>a</think>I can't show you </think> here.",
        ("I can't show you </think> here.", True, False),
    ),
    "an end that is mentioned after the prompt closed the thought": (
        "<think>\n\n</think>\n\n",
        "I can't show you </think> here.",
        ("I can't show you </think> here.", False, False),
    ),
    "a special token that was added later": (
        "",
        "<thinking>a</thinking>\nSure<|eom|>",
        ("Sure", True, False),
    ),
    "letters in several tokens around a thought": (
        "",
        "<think>\u00e9\U0001f642</think>\U0001f642 \u00e9<|eom|>!",
        ("\U0001f642 \u00e9!", True, False),
    ),
    "special tokens go": ("", f"<think>a</think><|im_start|>{NO}<|im_end|>", (NO, True, False)),
    "special tokens go without a thought": ("", f"{NO}<|im_end|>", (NO, False, False)),
    "a word that only looks alike": ("", f"<thinker> {NO}", (f"<thinker> {NO}", False, False)),
}


@pytest.mark.parametrize("name", SEEN)
def test_reader_sees_neither_thoughts_nor_special_tokens(name):
    opening, answer, expected = SEEN[name]
    special = [*IM, "<|START_THINKING|>", "<|END_THINKING|>", "<|message|>"]
    tokenizer = tokenizer_of(CHATML, special, added=["</think>"])
    tokenizer.add_tokens([AddedToken("<|eom|>", special=True)])
    texts = f"<|im_start|>user\nHow?<|im_end|>\n<|im_start|>assistant\n{opening}", answer
    prompt, ids = (np.array(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)
    assert said([prompt], [ids], tokenizer) == [expected]


def test_template_that_knows_the_end_of_thoughts_makes_it_one():
    for template, expected in ((CHATML, ("Hm.</think>No", False, False)), (SWITCHED, ("No", True, False))):
        tokenizer = tokenizer_of(template, IM)
        answer = np.array(tokenizer("Hm.</think>No")["input_ids"])
        assert said([np.array([256])], [answer], tokenizer) == [expected]


def test_empty_answer_is_no_thought():
    assert said([np.array([256])], [np.array([], int)], tokenizer_of(CHATML, IM)) == [("", False, False)]


def prompt_of(tokenizer) -> str:
    chat = [{"role": "user", "content": "Hi"}]
    return tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)


@pytest.mark.parametrize("argument", ["enable_thinking", "thinking"])
def test_thinking_is_switched_off_where_the_template_knows_how(argument):
    plain = tokenizer_of(SWITCHED.replace("enable_thinking", argument), IM)
    tokenizer, found = without_thinking(plain)
    assert found == argument
    assert prompt_of(tokenizer) == prompt_of(plain) + "<think>\n\n</think>\n\n"


def test_line_break_at_the_start_of_a_template_stays():
    plain = tokenizer_of("\n" + SWITCHED, IM)
    assert prompt_of(plain).startswith("\n")
    assert prompt_of(without_thinking(plain)[0]) == prompt_of(plain) + "<think>\n\n</think>\n\n"


@pytest.mark.parametrize("template", [CHATML, OPENED, REFUSING, CHATML + "{# enable_thinking #}"])
def test_template_that_does_not_know_how_is_left_alone(template):
    tokenizer = tokenizer_of(template, IM)
    assert without_thinking(tokenizer) == (tokenizer, None)


def test_value_that_the_template_itself_sets_wins():
    tokenizer = tokenizer_of("{% set enable_thinking = true %}" + SWITCHED, IM)
    assert without_thinking(tokenizer) == (tokenizer, None)


def test_refusals_behind_a_thought_are_refusals():
    table, _ = rates(CHATML, f"<think>\nHm.</think>\n{NO}", "<think>\nFine.</think>\nSure!")
    assert table.refused.tolist() == [2, 1]
    assert table.rate.tolist() == [0.5, 0.5]
    assert table.thinking.tolist() == ["stripped", "stripped"]
    assert table.unfinished.tolist() == [0, 0]


def test_answers_that_never_leave_their_thought_are_not_judged(caplog):
    table, _ = rates(CHATML, "<think>\nI can't", f"<think></think>{NO}")
    assert table.asked.tolist() == [4, 2]
    assert table.unfinished.tolist() == [2, 1]
    assert table.refused.tolist() == [2, 1]
    assert table.rate.tolist() == [1.0, 1.0]
    assert "chat: 2 of 4 answers are nothing but a thought and are not judged" in caplog.text


def test_model_that_only_thinks_has_no_rate_rather_than_none_refused():
    table, _ = rates(OPENED, "Okay, the user asks how")
    assert table.unfinished.tolist() == [4, 2]
    assert table[["rate", "low", "high"]].isna().all(axis=None)


def test_model_without_thoughts_is_counted_as_before():
    table, _ = rates(CHATML, NO, "Sure!")
    assert table.refused.tolist() == [2, 1]
    assert table.thinking.tolist() == ["none", "none"]


def test_switched_off_thinking_is_told_and_asked_for():
    table, prompts = rates(SWITCHED, NO)
    assert table.thinking.tolist() == ["off", "off"]
    assert len(prompts) == 6
    assert all(prompt.endswith("assistant\n<think>\n\n</think>\n\n") for prompt in prompts)


def test_model_that_thinks_though_told_not_to_is_told_as_stripped():
    table, _ = rates(SWITCHED, f"<think>Hm.</think>{NO}")
    assert table.thinking.tolist() == ["stripped", "stripped"]


def test_generated_conversations_do_not_think(tmp_path: Path):
    chats = [{"messages": [{"role": "user", "content": f"question {number}"}]} for number in range(20)]
    path = tmp_path / "chats.jsonl"
    path.write_text("\n".join(map(json.dumps, chats)))
    source = TextSource(kind="chats", format="messages", files=[str(path)], validation_fraction=0.5)
    tokenizer = tokenizer_of(SWITCHED, IM)
    [(_, prompt)] = openings(source, "talk", tokenizer, 1, 200)
    assert tokenizer.decode(prompt.token.tolist()).endswith("assistant\n<think>\n\n</think>\n\n")


# What the report says.


def test_steering_judges_only_answers_that_leave_their_thought(tmp_path: Path):
    answered = steered_answers()
    unsteered = (answered.change == "none") & (answered.requests == "harmful")
    answered.loc[answered[unsteered].index[:6], ["shown", "unfinished"]] = [pd.NA, True]
    row = effects(answered, Stated(), 0).query("change == 'none' and requests == 'harmful'").iloc[0]
    assert (row.asked, row.shown, row.unfinished, row.rate) == (24, 18, 6, 1.0)
    assert steering_section(steering_inputs(tmp_path, answered))["unfinished"] == 6


def page_with(tmp_path: Path, **columns) -> str:
    row = {"model": "chat", "requests": "harmful", "asked": 24, "refused": 0, "rate": 0.0}
    row |= {"low": 0.0, "high": 0.1, "unfinished": 0, "thinking": "none"}
    pd.DataFrame([row | columns]).to_csv(tmp_path / "refusals.csv", index=False)
    given = inputs(tmp_path, {"batchtopk": BETAS}, {"batchtopk": EXAMPLES})
    return page_of(given._replace(refusals=str(tmp_path / "refusals.csv"))).text


def test_report_says_that_answers_were_not_judged(tmp_path: Path):
    nan = float("nan")
    text = page_with(tmp_path, unfinished=24, rate=nan, low=nan, high=nan, thinking="stripped")
    assert "24 of 24 answers of chat to harmful requests never leave the model's thought" in text
    assert "\u2013 to \u2013" in text and "nan" not in text
    assert "Thoughts were left out of the answers of chat" in text


def test_report_says_that_thinking_was_switched_off(tmp_path: Path):
    assert "Thinking of chat was switched off by its chat template." in page_with(tmp_path, thinking="off")
    plain = page_with(tmp_path)
    assert "Thinking" not in plain and "Thoughts" not in plain and "Not judged" not in plain
