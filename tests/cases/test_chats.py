"""Chats as people have them. Each case is a kind of record or template, with the text that must be marked."""

import json
import time
from datetime import date

import pytest
from helpers_chats import (
    PARTS_ONLY,
    PLAIN,
    STRICT,
    SYSTEM_LAST,
    THINKING,
    TOOLS,
    said,
    source,
    taken,
    tokenizer,
)
from helpers_texts import assistant, one_line, user

from crossdiff.config import Tokens
from crossdiff.errors import UserError
from crossdiff.models.chat_tokenizer import load_chat_tokenizer
from crossdiff.models.tokenizers import write_chat_tokenizer
from crossdiff.texts.chats import chat_sequence
from crossdiff.texts.shards import added, read_counts, read_shard, sequences, tokenise_shard
from crossdiff.texts.templates import with_arguments
from crossdiff.texts.unusable import Tally


def system(content):
    return {"role": "system", "content": content}


GOOD = {"messages": [user("Hi there."), assistant("Yo.")]}
SAID = [("user", "Hi there."), ("assistant", "Yo.")]

# What the record is read as. Each has the same two turns.
SHAPES = {
    "messages": GOOD,
    "role names in any case, with blanks": {
        "messages": [{"role": "User", "content": "Hi there."}, {"role": " ASSISTANT ", "content": "Yo."}]
    },
    "turns as JSON text": {"messages": json.dumps(GOOD["messages"])},
    "content parts": {
        "messages": [
            user([{"type": "text", "text": "Hi "}, {"type": "text", "text": "there."}]),
            assistant([{"type": "output_text", "text": "Yo."}]),
        ]
    },
    "parts that a table has filled up": {
        "messages": [user([{"type": "text", "text": "Hi there.", "image_url": None}]), assistant("Yo.")]
    },
    "keys that steer a training": {
        "messages": [
            user("Hi there.") | {"name": "ann"},
            assistant("Yo.") | {"weight": 0, "tool_calls": None},
        ]
    },
}


@pytest.mark.parametrize("record", SHAPES.values(), ids=SHAPES.keys())
def test_messages_in_many_shapes_are_one_chat(tmp_path, record):
    found, tally = taken(tmp_path, [record])
    assert (found, tally.records, tally.notes.total()) == ([SAID], 1, 0)


# (record, format, field) of other formats, and how `auto` calls them.
FORMATS = {
    "sharegpt": (
        {"conversations": [{"from": "human", "value": "Hi there."}, {"from": "gpt", "value": "Yo."}]},
        "sharegpt",
        None,
    ),
    "sharegpt in another column": (
        {"dialog": [{"from": "user", "value": "Hi there."}, {"from": "chatgpt", "value": "Yo."}]},
        "sharegpt",
        "dialog",
    ),
    "roles and contents in conversations": ({"conversations": GOOD["messages"]}, "messages", "conversations"),
    "instruction": ({"instruction": "Hi there.", "input": "", "output": "Yo."}, "instruction", None),
    "instruction without input": ({"instruction": "Hi there.", "output": "Yo."}, "instruction", None),
    "instruction next to the rendered text": (
        {"instruction": "Hi there.", "input": " ", "output": "Yo.", "text": "### Hi there. ### Yo."},
        "instruction",
        None,
    ),
    "prompt and completion": ({"prompt": "Hi there.", "completion": "Yo."}, "prompt_completion", None),
    "prompt and response": ({"prompt": "Hi there.", "response": "Yo."}, "prompt_completion", None),
    "question and answer": ({"question": "Hi there.", "answer": "Yo."}, "prompt_completion", None),
    "prompt and completion as turns": (
        {"prompt": GOOD["messages"][:1], "completion": GOOD["messages"][1:]},
        "prompt_completion",
        None,
    ),
    "messages next to their prompt": ({"prompt": "Hi there.", **GOOD}, "messages", None),
}


@pytest.mark.parametrize(("record", "format", "field"), FORMATS.values(), ids=FORMATS.keys())
def test_formats_are_read_by_name_and_recognised(tmp_path, record, format, field):
    assert taken(tmp_path, [record], format=format, field=field)[0] == [SAID]
    found, tally = taken(tmp_path, [record], format="auto")
    assert found == [SAID] and tally.notes == {f"read as {format}": 1}


def test_input_follows_the_instruction_and_history_comes_first(tmp_path):
    record = {"instruction": "Add.", "input": "1 and 2", "output": "3", "history": [["Hi", "Yo"]]}
    found, _ = taken(tmp_path, [record], format="instruction")
    assert found == [[("user", "Hi"), ("assistant", "Yo"), ("user", "Add.\n\n1 and 2"), ("assistant", "3")]]


@pytest.mark.parametrize("format", ["messages", "sharegpt", "instruction", "prompt_completion"])
def test_system_text_in_a_column_of_its_own_comes_first(tmp_path, format):
    records = {
        "messages": GOOD,
        "sharegpt": FORMATS["sharegpt"][0],
        "instruction": FORMATS["instruction"][0],
        "prompt_completion": FORMATS["prompt and completion"][0],
    }
    found, _ = taken(tmp_path, [records[format] | {"system": "Be kind."}], format=format)
    assert found == [[("system", "Be kind."), *SAID]]


AMBIGUOUS = {
    "two formats": (
        {"instruction": "a", "output": "b", "prompt": "a", "completion": "b"},
        "a record that can be instruction or prompt_completion",
    ),
    "no format": ({"title": "a", "body": "b"}, "a record that has no known format"),
    "a text alone": ({"text": "a"}, "a record that has no known format"),
    "no record": ("a", "a record that has no known format"),
}


@pytest.mark.parametrize(("record", "reason"), AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
def test_auto_takes_only_what_is_unambiguous(tmp_path, record, reason):
    found, tally = taken(tmp_path, [GOOD, record], format="auto")
    [skipped] = tally.skipped
    assert found == [SAID] and skipped.startswith(reason) and skipped.endswith("set format and field")


# Records that can't be used.

UNUSABLE = {
    "no turns": ({"messages": []}, "a chat without turns"),
    "turns that are null": ({"messages": None}, "a chat without turns"),
    "another field": ({"chat": []}, "no field 'messages'; found: chat"),
    "content null": ({"messages": [user("Hi"), assistant(None)]}, "a turn without content"),
    "content a number": ({"messages": [user(3)]}, "a content that is int, not text"),
    "no parts": ({"messages": [user([])]}, "a turn without content"),
    "a picture": (
        {"messages": [user([{"type": "image_url", "image_url": {"url": "x"}}])]},
        "a content part 'image_url', which is no text",
    ),
    "unknown role": (
        {"messages": [{"role": "narrator", "content": "It rains."}]},
        "a turn with role 'narrator'",
    ),
    "no role": ({"messages": [{"content": "It rains."}]}, "a turn without a role"),
    "a turn that is text": ({"messages": ["Hi"]}, "a turn that is no {role, content}"),
    "a call without a name": (
        {"messages": [user("Hi"), {"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]}]},
        "a tool call without a name",
    ),
    "system where the template has none": (
        {"messages": [system("Be kind."), user("Hi")]},
        "the chat template refuses this chat (System role not supported)",
    ),
    "two user turns in a row": (
        {"messages": [user("Hi"), user("Hi?"), assistant("Yo")]},
        "the chat template refuses this chat (Roles must alternate)",
    ),
}


@pytest.mark.parametrize(("record", "reason"), UNUSABLE.values(), ids=UNUSABLE.keys())
def test_what_cannot_be_used_is_skipped_and_counted_by_reason(tmp_path, record, reason, caplog):
    found, tally = taken(tmp_path, [GOOD, record, GOOD, record, record, record], STRICT)
    assert found == [SAID, SAID] and tally.records == 6 and tally.skipped == {reason: 4}
    assert len(tally.examples[reason]) == 3 and tally.examples[reason][0].startswith("record 1: ")
    assert caplog.text.count(reason) == 3


def test_a_template_that_fails_in_any_way_skips_the_chat(tmp_path):
    """Adding text to what is missing is a TypeError in Python, and no error of the template's own."""
    template = PLAIN.replace("m.content", "m.content + {'Hi there.': 'x'}[m.content]")
    found, tally = taken(tmp_path, [GOOD], template)
    [reason] = tally.skipped
    assert found == [] and reason.startswith("the chat template refuses this chat (")


def test_the_split_decides_where_an_unusable_record_is_counted(tmp_path):
    records = [{"messages": [], "id": number} for number in range(100)]
    data, counts = source(tmp_path, records, validation_fraction=0.3), {}
    for split in ("train", "validation"):
        tally = Tally("talk")
        assert list(sequences(data, "talk", split, tokenizer(PLAIN), 99, tally=tally)) == []
        counts[split] = tally.records
    assert counts["train"] + counts["validation"] == 100 and 15 < counts["validation"] < 45


# The share that may be skipped.

LENGTH = len(chat_sequence(GOOD["messages"], tokenizer(PLAIN), "chat").token)


def shard(tmp_path, records, tokens=20, name="0.parquet", previous=None, unusable=0.01, **more):
    tokenise_shard(
        source(tmp_path, records, **more),
        "talk",
        "train",
        tokenizer(PLAIN),
        1000,
        tokens,
        tmp_path / name,
        previous=previous,
        unusable=unusable,
    )
    return read_counts(tmp_path / name)


def test_share_above_the_limit_stops_with_three_reasons_and_an_example_each(tmp_path):
    bad = (
        [{"messages": []}] * 4 + [{"messages": [user(None)]}] * 3 + [{"messages": [user(1)]}] * 2 + [{"x": 1}]
    )
    message = one_line(shard, tmp_path, [*bad, *[GOOD] * 90], tokens=90 * LENGTH)
    assert message.startswith(
        "datasets.talk: 10 of 100 records can't be used (10.00%), tokens.unusable allows 1.00%: "
        '4 x a chat without turns (record 0: {"messages": []}); 3 x a turn without content (record 4: '
    )
    assert "2 x a content that is int, not text" in message and "no field" not in message
    assert not (tmp_path / "0.parquet").exists()


@pytest.mark.parametrize(("bad", "stops"), [(1, False), (2, True)])
def test_share_at_the_limit_is_allowed(tmp_path, bad, stops):
    records = [{"messages": []}] * bad + [GOOD] * (100 - bad)
    whole = (100 - bad) * LENGTH
    if stops:
        assert "2 of 100 records" in one_line(shard, tmp_path, records, tokens=whole)
    else:
        assert shard(tmp_path, records, tokens=whole)["skipped"] == {"a chat without turns": 1}


def test_when_the_records_run_out_the_reason_is_told_first(tmp_path):
    message = one_line(shard, tmp_path, [{"text": "Hi"}] * 5)
    assert (
        message.startswith("datasets.talk: 5 of 5 records can't be used (100.00%)") and "no field" in message
    )


def test_reading_stops_early_if_nothing_can_be_used(tmp_path):
    message = one_line(shard, tmp_path, [{"text": "Hi"}] * 5000)
    assert message.startswith("datasets.talk: 200 of 200 records can't be used")


def test_share_is_that_of_all_shards_so_far(tmp_path):
    """The second shard is short. Alone, its one bad record would be above the limit."""
    records = [GOOD] * 100 + [{"messages": []}] + [GOOD] * 3
    first = shard(tmp_path, records, tokens=100 * LENGTH)
    second = shard(tmp_path, records, 3 * LENGTH, "1.parquet", tmp_path / "0.parquet")
    assert (first["records"], second["records"], second["so_far"]) == (100, 4, [104, 1])
    total = added([tmp_path / "0.parquet", tmp_path / "1.parquet"])
    assert total == {"talk": {"records": 104, "skipped": {"a chat without turns": 1}, "notes": {}}}


def test_records_after_the_last_one_of_a_shard_are_not_counted(tmp_path):
    counts = shard(tmp_path, [GOOD, GOOD, *[{"messages": []}] * 50], tokens=12)
    assert counts["records"] <= 2 and counts["skipped"] == {}


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


# Tools.

CALL = {"type": "function", "id": "1", "function": {"name": "sum", "arguments": {"a": 1, "b": 2}}}
ARGUED = '<call>{"name": "sum", "arguments": {"a": 1, "b": 2}}</call>'


def called(**more):
    return {"role": "assistant", "content": "", "tool_calls": [CALL]} | more


CALLS = {
    "arguments as values": called(),
    "arguments as JSON text": called(
        tool_calls=[CALL | {"function": {"name": "sum", "arguments": '{"a": 1, "b": 2}'}}]
    ),
    "content null": called(content=None),
    "calls as JSON text": called(tool_calls=json.dumps([CALL])),
    "nulls of a table": called(
        tool_calls=[
            CALL | {"function": {"name": "sum", "arguments": {"a": 1, "b": 2, "city": None}}, "index": None}
        ]
    ),
    "a call without its wrapper": called(tool_calls=[CALL["function"]]),
    "the older name": {
        "role": "assistant",
        "content": None,
        "function_call": {"name": "sum", "arguments": '{"a": 1, "b": 2}'},
    },
}


@pytest.mark.parametrize("turn", CALLS.values(), ids=CALLS.keys())
def test_tool_calls_are_what_the_assistant_says(tmp_path, turn):
    turns = [user("1+2?"), turn, {"role": "tool", "content": "3", "tool_call_id": "1"}, assistant("It is 3.")]
    found, tally = taken(tmp_path, [{"messages": turns}], TOOLS)
    assert found == [[("user", "1+2?"), ("assistant", ARGUED), ("user", "3"), ("assistant", "It is 3.")]]
    assert not tally.skipped and not tally.notes


def test_calls_of_sharegpt_are_read(tmp_path):
    turns = [
        ("human", "1+2?"),
        ("function_call", json.dumps(CALL["function"])),
        ("observation", "3"),
        ("gpt", "3."),
    ]
    record = {"conversations": [{"from": name, "value": value} for name, value in turns]}
    found, _ = taken(tmp_path, [record], TOOLS, format="sharegpt")
    assert found == [[("user", "1+2?"), ("assistant", ARGUED), ("user", "3"), ("assistant", "3.")]]


def test_results_in_one_user_turn_are_found_one_by_one(tmp_path):
    tool = [{"role": "tool", "content": "3"}, {"role": "function", "content": "three"}]
    found, _ = taken(tmp_path, [{"messages": [user("1+2?"), called(), *tool]}], TOOLS)
    assert found[0][2:] == [("user", "3"), ("user", "three")]


def test_result_as_json_text_is_not_rewritten(tmp_path):
    template = PLAIN.replace("m.content", "(m.content | tojson if m.role == 'tool' else m.content)")
    turns = [user("1+2?"), assistant("Wait."), {"role": "tool", "content": 'the "3"'}]
    found, tally = taken(tmp_path, [{"messages": turns}], template)
    assert found[0][2] == ("user", 'the \\"3\\"') and not tally.notes


def test_template_that_wants_a_call_before_a_result(tmp_path):
    """The stand-in for the turn with the call must keep a call."""
    check = (
        "{% for m in messages %}{% if m.role == 'tool' and not messages[loop.index0 - 1].tool_calls %}"
        "{{ raise_exception('no call') }}{% endif %}{% endfor %}"
    )
    turns = [user("1+2?"), called(), {"role": "tool", "content": "3"}, assistant("It is 3.")]
    found, tally = taken(tmp_path, [{"messages": turns}], check + TOOLS)
    roles = [(role, text) for role, text in found[0]]
    assert roles[0] == ("user", "1+2?") and roles[2:] == [("user", "3"), ("assistant", "It is 3.")]
    assert roles[1][0] == "assistant" and roles[1][1].startswith("sum") and not tally.skipped


SCHEMA = {"type": "function", "function": {"name": "sum", "parameters": {"type": "object"}}}


@pytest.mark.parametrize("tools", [[SCHEMA], json.dumps([SCHEMA])], ids=["list", "JSON text"])
def test_tools_are_handed_to_the_template_and_counted_where_it_has_no_use_for_them(tmp_path, tools):
    record = GOOD | {"tools": tools}
    renders, text = tokenizer(TOOLS), json.dumps(SCHEMA)
    data = source(tmp_path, [record])
    [(_, _, sequence)] = sequences(data, "talk", "train", renders, 1000)
    assert text in renders.decode(sequence.token) and said(sequence, renders) == SAID
    found, tally = taken(tmp_path, [record], PLAIN)
    assert found == [SAID] and tally.notes == {"tools that the chat template leaves out": 1}


def test_calls_that_the_template_does_not_use_are_counted(tmp_path):
    found, tally = taken(tmp_path, [{"messages": [user("1+2?"), called(content="Wait.")]}], PLAIN)
    assert found == [[("user", "1+2?"), ("assistant", "Wait.")]]
    assert tally.notes == {"tool calls that the chat template leaves out": 1}


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
        tokenise_shard(data, "talk", "train", renders, 1000, 40, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert "26 Jul 2024" in renders.decode(read_shard(tmp_path / "a").token)


def test_pair_in_a_notebook_gets_one_line_for_a_chat_that_the_template_refuses():
    message = one_line(chat_sequence, [system("Be kind.")], tokenizer(STRICT), "the chat")
    assert message == "the chat: the chat template refuses this chat (System role not supported)"
    with pytest.raises(UserError):
        chat_sequence([], tokenizer("{{ messages[0].content }}"), "the chat")
