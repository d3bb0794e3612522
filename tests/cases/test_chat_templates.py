"""What chat templates do to turns, tools, reasoning and dates. Each case has the text that must be marked."""

import time
from datetime import date

import pytest
from helpers_chats import (
    GOOD,
    PARTS_ONLY,
    PLAIN,
    SAID,
    STRICT,
    SYSTEM_LAST,
    THINKING,
    TOOLS,
    source,
    system,
    taken,
    tokenizer,
)
from helpers_texts import assistant, one_line, user

from crossdiff.config import Tokens
from crossdiff.errors import UserError
from crossdiff.models.chat_templates import with_arguments
from crossdiff.models.chat_tokenizer import load_chat_tokenizer
from crossdiff.models.tokenizers import write_chat_tokenizer
from crossdiff.texts.chats import chat_sequence
from crossdiff.texts.shards import read_shard
from crossdiff.texts.tokenising import sequences, tokenise_shard
from crossdiff.texts.unusable import Tally

# What templates do to turns.


def test_system_text_is_merged_into_the_next_user_turn_if_set(tmp_path):
    records = [{"messages": [system("Be kind."), *GOOD["messages"]]}]
    found, tally = taken(tmp_path, records, STRICT, system="merge")
    assert found == [[("user", "Be kind.\n\nHi there."), ("assistant", "Yo.")]]
    assert tally.notes == {"system text put into the next user turn": 1}


def test_developer_is_the_system_and_is_merged_where_it_stands(tmp_path):
    turns = [*GOOD["messages"], {"role": "developer", "content": "Shout."}, user("Go"), assistant("GO")]
    assert taken(tmp_path, [{"messages": turns}])[0] == [
        [*SAID, ("system", "Shout."), ("user", "Go"), ("assistant", "GO")]
    ]
    assert taken(tmp_path, [{"messages": turns}], STRICT, system="merge")[0] == [
        [*SAID, ("user", "Shout.\n\nGo"), ("assistant", "GO")]
    ]


def test_turns_of_one_role_in_a_row_are_merged_if_set(tmp_path):
    records = [{"messages": [user("Hi"), user("there."), assistant("Y"), assistant("o.")]}]
    found, tally = taken(tmp_path, records, STRICT, same_role="merge")
    assert found == [[("user", "Hi\n\nthere."), ("assistant", "Y\n\no.")]]
    assert tally.notes == {"turns of one role in a row made one": 1}


def test_system_text_in_the_last_user_turn_is_found_there(tmp_path):
    turns = [system("Be kind."), user("us"), assistant("a"), user("us"), assistant("yes")]
    found, tally = taken(tmp_path, [{"messages": turns[:4]}], SYSTEM_LAST)
    roles = [role for role, _ in found[0]]
    texts = [text.strip() for _, text in found[0]]
    assert roles == ["user", "assistant", "system", "user"] and texts == ["us", "a", "Be kind.", "us"]
    assert not tally.skipped


@pytest.mark.parametrize("trimmed", ["user", "assistant"])
def test_one_role_is_trimmed_and_the_other_is_not(tmp_path, trimmed):
    template = PLAIN.replace("m.content", f"(m.content | trim if m.role == '{trimmed}' else m.content)")
    found, tally = taken(tmp_path, [{"messages": [user("hi "), assistant(" hello\n")]}], template)
    texts = {"user": "hi " if trimmed == "assistant" else "hi", "assistant": " hello\n"}
    texts |= {trimmed: texts[trimmed].strip()}
    assert found == [list(texts.items())] and not tally.skipped


def test_reasoning_in_the_last_answer_is_content_whatever_white_space_it_gets(tmp_path):
    for answer in ("<think>\nfour\n</think>\n\n4", "<think>four</think>4"):
        found, tally = taken(tmp_path, [{"messages": [user("2+2?"), assistant(answer)]}], THINKING)
        [[asked, (role, text)]] = found
        assert asked == ("user", "2+2?") and role == "assistant"
        assert text == "four\n</think>\n\n4" and tally.notes == {}


def test_reasoning_that_is_left_out_of_earlier_answers_is_counted(tmp_path):
    turns = [user("2+2?"), assistant("<think>\nfour\n</think>\n\n4"), user("3+3?"), assistant("6")]
    found, tally = taken(tmp_path, [{"messages": turns}], THINKING)
    assert found[0][:3] == [("user", "2+2?"), ("assistant", "4"), ("user", "3+3?")]
    assert found[0][3][1].endswith("6") and tally.notes == {"reasoning that the chat template leaves out": 1}


REASONING = {
    "reasoning_content": assistant("4") | {"reasoning_content": "four"},
    "reasoning": assistant("4") | {"reasoning": "four"},
    "thinking": assistant("4") | {"thinking": "four"},
    "parts": assistant([{"type": "thinking", "thinking": "four"}, {"type": "text", "text": "4"}]),
}


@pytest.mark.parametrize("answer", REASONING.values(), ids=REASONING.keys())
def test_reasoning_in_a_field_is_handed_to_the_template(tmp_path, answer):
    record = {"messages": [user("2+2?"), answer]}
    found, tally = taken(tmp_path, [record], THINKING)
    assert found == [[("user", "2+2?"), ("assistant", "four\n</think>\n\n4")]] and tally.notes == {}
    found, tally = taken(tmp_path, [record], PLAIN)
    assert found == [[("user", "2+2?"), ("assistant", "4")]]
    assert tally.notes == {"reasoning that the chat template leaves out": 1}


REWRITTEN = {
    "upper case": (
        PLAIN.replace("m.content", "(m.content | upper)"),
        "rewrites",
        [("user", "HI THERE."), ("assistant", "YO.")],
    ),
    "cut": (PLAIN.replace("m.content", "m.content[:2]"), "rewrites", [("user", "Hi"), ("assistant", "Yo")]),
    "left out": (
        PLAIN.replace("'<s>' +", "'' if m.role == 'user' else '<s>' +"),
        "leaves out",
        [("assistant", "Yo.")],
    ),
}


@pytest.mark.parametrize(("template", "does", "kept"), REWRITTEN.values(), ids=REWRITTEN.keys())
def test_a_turn_that_the_template_rewrites_is_skipped_or_kept_as_set(tmp_path, template, does, kept):
    found, tally = taken(tmp_path, [GOOD], template)
    assert found == [] and tally.skipped == {f"the chat template {does} a turn (user)": 1}
    found, tally = taken(tmp_path, [GOOD], template, rewritten="keep")
    assert found == [kept] and tally.notes == {f"the chat template {does} a turn, kept": 1}


def test_template_that_reads_parts_alone_gets_parts(tmp_path):
    assert taken(tmp_path, [GOOD], PARTS_ONLY)[0] == [SAID]


def test_template_with_marks_for_training_renders_the_same(tmp_path):
    marked = PLAIN.replace("{{ '<s>'", "{% generation %}{{ '<s>'").replace(
        " }}{% endfor", " }}{% endgeneration %}{% endfor"
    )
    assert taken(tmp_path, [GOOD], marked)[0] == [SAID]
    assert with_arguments(marked, {}, date(2024, 7, 26)) == marked


@pytest.mark.parametrize("turns", [[user("Hi")], [assistant("Yo")], [user(" "), assistant("Yo")]], ids=repr)
def test_chats_that_do_not_end_in_an_answer_are_read(tmp_path, turns):
    found, tally = taken(tmp_path, [{"messages": turns}])
    assert found == [[(turn["role"], turn["content"]) for turn in turns]] and not tally.skipped


# Texts that UTF-8 can't hold, and long chats.


def test_lone_surrogates_become_the_replacement_character_and_are_counted(tmp_path):
    records = [{"messages": [user("caf\u00e9 \ud83d end"), assistant("\ud83d\ude42 fine")]}, GOOD]
    found, tally = taken(tmp_path, records)
    assert found == [[("user", "caf\u00e9 \ufffd end"), ("assistant", "\U0001f642 fine")], SAID]
    assert tally.notes == {"lone surrogates replaced": 1}


def test_long_chats_are_cut_and_counted_or_kept_in_windows(tmp_path):
    records = [{"messages": [user("us " * 30), assistant("yes")]}, GOOD]
    whole = chat_sequence(records[0]["messages"], tokenizer(PLAIN), "chat")
    renders, lengths = tokenizer(PLAIN), {}
    for long in ("cut", "windows"):
        tally = Tally("talk")
        found = sequences(source(tmp_path, records, long=long), "talk", "train", renders, 30, tally=tally)
        parts = [sequence for number, _, sequence in found if number == 0]
        lengths[long] = sum(len(part.token) for part in parts)
        assert all(len(part.token) <= 30 for part in parts) and tally.records == 2
        assert list(tally.notes.values()) == [1] and "longer than tokens.context" in next(iter(tally.notes))
    assert lengths == {"cut": 30, "windows": len(whole.token)}


# The template, its arguments and the date.


def written(tmp_path, template, **settings):
    """The tokenizer that a run writes for a chat model with this template."""
    origin = tokenizer(PLAIN)
    origin.chat_template = template
    origin.save_pretrained(tmp_path / "model")
    (tmp_path / "model/config.json").write_text('{"model_type": "llama"}')
    write_chat_tokenizer(tmp_path / "model", None, tmp_path / "pair", Tokens(**settings))
    return load_chat_tokenizer(tmp_path / "pair")


DATED = "{{ 'Today: ' + strftime_now('%d %b %Y %H:%M:%S') + '\\n' }}" + PLAIN
DATES = {
    "a format in the call": DATED,
    "a format in a variable": "{% set day = '%d %b %Y %H:%M:%S' %}{{ 'Today: ' + strftime_now(day) + '\\n' }}"
    + PLAIN,
    "in a macro, if it is defined": (
        '{% macro today() %}{{ strftime_now("%d %b %Y %H:%M:%S") if strftime_now is defined else "never" }}'
        "{% endmacro %}{{ 'Today: ' + today() + '\\n' }}" + PLAIN
    ),
}


@pytest.mark.parametrize("template", DATES.values(), ids=DATES.keys())
@pytest.mark.parametrize(("settings", "day"), [({}, "26 Jul 2024"), ({"date": "2031-02-01"}, "01 Feb 2031")])
def test_the_date_is_a_setting(tmp_path, template, settings, day):
    renders = written(tmp_path, template, **settings)
    texts = []
    for _ in range(2):
        texts.append(renders.apply_chat_template(GOOD["messages"], tokenize=False))
        time.sleep(1)
    expected = f"Today: {day} 00:00:00\n" + tokenizer(PLAIN).apply_chat_template(
        GOOD["messages"], tokenize=False
    )
    assert texts == [expected, expected]


def test_arguments_hold_wherever_a_chat_is_rendered(tmp_path):
    question = GOOD["messages"][:1]
    asked = {
        thinking: written(tmp_path, THINKING, template_arguments={"enable_thinking": thinking})
        for thinking in (True, False)
    }
    texts = {
        thinking: renders.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
        for thinking, renders in asked.items()
    }
    assert texts[False] == texts[True] + "<think>\n\n</think>\n\n"
    assert texts[True].endswith("<s>assistant\n")
    sequence = chat_sequence(question, asked[False], "chat", ask=True)
    assert asked[False].decode(sequence.token) == texts[False]


def test_arguments_may_be_text_and_numbers(tmp_path):
    template = "{{ level + ':' + (budget + 1) | string + '\\n' }}" + PLAIN
    renders = written(tmp_path, template, template_arguments={"level": 'a "b"\n', "budget": 5})
    assert renders.apply_chat_template(GOOD["messages"], tokenize=False).startswith('a "b"\n:6\n<s>user')


def test_template_that_asks_for_nothing_stays_as_it_is(tmp_path):
    assert written(tmp_path, PLAIN, date="2031-02-01").chat_template == PLAIN


def test_argument_that_the_template_does_not_know_is_refused(tmp_path):
    message = one_line(written, tmp_path, PLAIN, template_arguments={"enable_thinking": False})
    assert message.startswith("tokens.template_arguments.enable_thinking: the chat template does not use it")


def test_template_by_name(tmp_path):
    named = {"default": STRICT, "tool_use": TOOLS}
    assert written(tmp_path, named, chat_template="tool_use").chat_template == TOOLS
    message = one_line(written, tmp_path, named, chat_template="rag")
    assert message == (
        "tokens.chat_template: found rag, allowed: a file, or a template of the tokenizer (default, tool_use)"
    )


@pytest.mark.parametrize(
    "template", ["{% for m in messages %}", "{{ messages | shout }}"], ids=["open", "filter"]
)
def test_template_that_is_no_jinja_is_one_line_before_any_text_is_read(tmp_path, template):
    assert one_line(written, tmp_path, template).startswith("chat template: line 1: ")


def test_shards_of_two_runs_are_the_same_to_the_byte(tmp_path):
    renders = written(tmp_path, DATED)
    for name in ("a", "b"):
        data = source(tmp_path, [GOOD] * 5)
        tokenise_shard(
            data, "talk", "train", renders, 1000, 40, tmp_path / name, tmp_path / f"{name}.next.json"
        )
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert "26 Jul 2024" in renders.decode(read_shard(tmp_path / "a").token)


def test_pair_in_a_notebook_gets_one_line_for_a_chat_that_the_template_refuses():
    message = one_line(chat_sequence, [system("Be kind.")], tokenizer(STRICT), "the chat")
    assert message == "the chat: the chat template refuses this chat (System role not supported)"
    with pytest.raises(UserError):
        chat_sequence([], tokenizer("{{ messages[0].content }}"), "the chat")


# Files of templates.


def from_file(tmp_path, raw: bytes):
    """The tokenizer that a run writes with the template in a file."""
    tokenizer(PLAIN).save_pretrained(tmp_path / "model")
    (tmp_path / "model/config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "mine.jinja").write_bytes(raw)
    write_chat_tokenizer(tmp_path / "model", tmp_path / "mine.jinja", tmp_path / "pair")
    return load_chat_tokenizer(tmp_path / "pair")


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf", b"{#- none -#}\r\n"], ids=["plain", "mark", "CRLF"])
def test_byte_order_mark_and_line_ends_of_a_template_are_no_text(tmp_path, start):
    renders = from_file(tmp_path, start + PLAIN.encode())
    text = renders.apply_chat_template(GOOD["messages"], tokenize=False)
    assert text.lstrip("\n") == "<s>user\nHi there.</s>\n<s>assistant\nYo.</s>\n"
    assert "\ufeff" not in text and "\r" not in text


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b" \n", "found an empty file, allowed: a chat template in Jinja"),
        ("{# f\xfcr #}".encode("latin-1"), "can't be read ('utf-8' codec can't decode byte 0xfc"),
    ],
)
def test_file_that_holds_no_template_is_one_line(tmp_path, raw, said):
    assert one_line(from_file, tmp_path, raw).startswith(f"{tmp_path}/mine.jinja: {said}")
