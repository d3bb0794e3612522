"""Tools, calls and results in chats, and the text of each that must be marked."""

import json

import pytest
from helpers_chats import (
    GOOD,
    PLAIN,
    SAID,
    TOOLS,
    said,
    source,
    taken,
    tokenizer,
)
from helpers_texts import assistant, user

from crossdiff.texts.tokenising import sequences

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
