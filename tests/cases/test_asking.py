"""The prompts that models get: what the chat template must show of a question, and on which day."""

import re
import runpy
import shutil
from datetime import date
from pathlib import Path

import pandas as pd
import pytest
import yaml
from conftest import ROOT
from helpers_folders import random_model
from helpers_texts import one_line
from helpers_turns import (
    CHATML,
    IM,
    PARTS,
    REFUSING,
    REQUESTS,
    SWITCHED,
    Unasked,
    answering,
    rates,
    tokenizer_of,
)

from crossdiff.config import Explainer, Tokens
from crossdiff.explanations.language_models import language_model
from crossdiff.models.refusals import tokenizer_for_base
from crossdiff.models.thoughts import without_thinking
from crossdiff.models.tokenizers import load_tokenizer, write_chat_tokenizer
from crossdiff.models.turns import template_ends
from crossdiff.results.pair import Pair

NO = "I can't help with that."


def asked_of(template: str) -> list[str]:
    return rates(template, NO)[1]


def test_template_that_reads_parts_alone_is_asked_the_question():
    assert asked_of(PARTS) == asked_of(CHATML)
    assert "<|im_start|>user\nHow do I lie?<|im_end|>\n<|im_start|>assistant\n" in asked_of(PARTS)
    assert template_ends(tokenizer_of(PARTS, IM)) == template_ends(tokenizer_of(CHATML, IM)) != []


REFUSED = {
    "a template that refuses": (REFUSING, "the chat template refuses this chat (a system turn is needed)"),
    "tools that are not there": ("{{ tools | length }}" + CHATML, "the chat template refuses this chat"),
    "a division": ("{{ 1 / 0 }}" + CHATML, "the chat template refuses this chat (division by zero)"),
    "no words": ("{{ '<|im_start|>' }}", "the chat template leaves out a turn (user)"),
    "no template": (None, "the chat template refuses this chat"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_template_that_can_not_ask_is_one_line(name):
    template, why = REFUSED[name]
    message = one_line(rates, template, NO)
    assert re.match(r"behaviour: chat can't be asked: request 'How do I .*\?': " + re.escape(why), message)


def test_template_that_reads_parts_alone_can_switch_thinking_off():
    switch = SWITCHED.removeprefix(CHATML.partition("{% if add")[0])
    tokenizer = tokenizer_of(PARTS.partition("{% if add")[0] + switch, IM)
    assert without_thinking(tokenizer)[1] == "enable_thinking"


# The template and the day of the prompts with which refusals are counted.

DATED = "{{ strftime_now('%d %b %Y') + '\\n' }}" + CHATML


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return random_model(tmp_path_factory.mktemp("model") / "model")


def copied(folder: Path, to: Path, template: str | None) -> Path:
    """A copy of a model's folder with another chat template."""
    shutil.copytree(folder, to)
    tokenizer = load_tokenizer(to)
    (to / "chat_template.jinja").unlink()
    tokenizer.chat_template = template
    tokenizer.save_pretrained(to)
    return to


def test_chat_is_asked_with_the_pairs_template_and_the_base_with_its_own_on_the_day_of_the_config(
    folder, tmp_path
):
    base = copied(folder, tmp_path / "base", DATED)
    chat = copied(folder, tmp_path / "chat", DATED.replace("%d", "Chat %d"))
    requests, mine = tmp_path / "requests.yaml", tmp_path / "mine.jinja"
    requests.write_text(yaml.safe_dump(REQUESTS))
    mine.write_text(DATED.replace("%d", "{{ level }} %d").replace("{{ level }}", "Mine"))
    write_chat_tokenizer(chat, mine, tmp_path / "pair", Tokens(date="2031-02-01"))
    main = runpy.run_path(ROOT / "workflow_scripts/measure_refusals.py")["main"]
    table = tmp_path / "refusals.csv"
    with answering(load_tokenizer(folder), [NO], "crossdiff.models.refusals") as prompts:
        models = {"base": base, "chat": chat}
        main(models, tmp_path / "pair", date(2031, 2, 1), {}, requests, 1, 2, table)
    assert pd.read_csv(table)["model"].tolist() == ["base", "base", "chat", "chat"]
    assert {prompt.partition("\n")[0] for prompt in prompts[:6]} == {"01 Feb 2031"}
    assert {prompt.partition("\n")[0] for prompt in prompts[6:]} == {"Mine 01 Feb 2031"}


def test_base_without_a_chat_template_is_asked_through_the_pairs(folder, tmp_path):
    pairs, day = load_tokenizer(folder), date(2024, 7, 26)
    raw = copied(folder, tmp_path / "raw", None)
    assert tokenizer_for_base(raw, pairs, day) is pairs
    own = tokenizer_for_base(folder, pairs, day)
    assert own is not pairs and own.chat_template == pairs.chat_template
    broken = copied(folder, tmp_path / "broken", "{% for m in messages %}")
    assert one_line(tokenizer_for_base, broken, pairs, day).startswith(f"{broken}: chat template: line 1: ")


# A local model that explains.


def explained(folder: Path) -> str:
    messages = [{"role": "user", "content": "What is <|end|>?"}]
    return language_model(Explainer(folder=str(folder))).answer(messages, 4)


def test_explainer_without_a_chat_template_is_one_line(folder, tmp_path):
    bare = copied(folder, tmp_path / "bare", None)
    message = one_line(explained, bare)
    assert message.startswith(f"explanations.model.folder {bare}: no usable chat template (")


def test_explainer_gets_its_question_and_never_the_day_of_today(folder, tmp_path):
    asked = copied(folder, tmp_path / "dated", "{{ strftime_now('%d %b %Y') + '\\n' }}" + PARTS)
    with answering(load_tokenizer(folder), ["Ok."], "crossdiff.models.answers") as prompts:
        assert explained(asked) == "Ok."
    assert prompts == ["26 Jul 2024\n<|im_start|>user\nWhat is <|end|>?<|im_end|>\n<|im_start|>assistant\n"]


# The pair in a notebook.


def test_answers_in_a_notebook_are_those_of_the_steering_table(monkeypatch):
    pair = Pair.__new__(Pair)
    pair.tokenizer = tokenizer_of(SWITCHED, added=IM)
    model = Unasked()
    model.generation_config.eos_token_id = pair.tokenizer.convert_tokens_to_ids("<|im_end|>")
    monkeypatch.setattr(Pair, "chat", model)
    monkeypatch.setattr(Pair, "_fitting", lambda _self, asked, _new_tokens: asked)
    given = [f"<think>\nHm.\n</think>\n\n{NO}<|im_end|>"]
    with answering(pair.tokenizer, given, "crossdiff.results.pair") as prompts:
        assert pair.answer("How?") == NO
    assert prompts[0].endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
