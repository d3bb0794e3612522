"""Chats as people have them. Each case is a kind of record or template, with the text that must be marked."""

import json

import pytest
from helpers_chats import (
    GOOD,
    PLAIN,
    SAID,
    STRICT,
    source,
    system,
    taken,
    tokenizer,
)
from helpers_texts import assistant, one_line, user

from crossdiff.texts.chats import chat_sequence
from crossdiff.texts.counts import added, read_counts
from crossdiff.texts.tokenising import sequences, tokenise_shard
from crossdiff.texts.unusable import Tally

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
    "messages next to an empty list": ({"conversations": [], **GOOD}, "messages", None),
    "columns that a table has filled up": (
        {"prompt": "Hi there.", "completion": None, "response": "Yo.", "messages": None, "output": None},
        "prompt_completion",
        None,
    ),
    "an instruction that a table has filled up": (
        {"instruction": "Hi there.", "output": None, "response": "Yo.", "input": None, "prompt": None},
        "instruction",
        None,
    ),
    "turns that a table has filled up": (
        {
            "conversations": [
                {"role": None, "content": None, "from": "human", "value": "Hi there."},
                {"role": None, "content": None, "from": "gpt", "value": "Yo."},
            ]
        },
        "sharegpt",
        None,
    ),
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


@pytest.mark.parametrize("history", [[1], [["Hi"]], "Hi", {"Hi": "Yo"}], ids=repr)
def test_history_that_is_no_list_of_pairs_is_skipped(tmp_path, history):
    record = {"instruction": "Hi there.", "output": "Yo.", "history": history}
    found, tally = taken(tmp_path, [record], format="instruction")
    assert found == [] and tally.skipped == {"field 'history': not a list of [question, answer]": 1}


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
        "a record that can be instruction (instruction) or prompt_completion (prompt, completion)",
    ),
    "turns in two fields": (
        {"messages": GOOD["messages"], "conversations": [user("Other."), assistant("No.")]},
        "a record that can be messages (messages) or messages (conversations)",
    ),
    "two answers": (
        {"prompt": "a", "completion": "b", "response": "c"},
        "a record that can be prompt_completion (prompt, completion) or prompt_completion (prompt, response)",
    ),
    "two questions": (
        {"query": "a", "response": "b", "question": "c"},
        "a record that can be prompt_completion (question, response) or prompt_completion (query, response)",
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
        (tmp_path / name).with_suffix(".next.json"),
        previous=previous and previous.with_suffix(".next.json"),
        unusable=unusable,
    )
    return read_counts((tmp_path / name).with_suffix(".next.json"))


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


# At 1 %, two standard errors are 2 sqrt(100 * 0.01 * 0.99) = 1.99 records of 100, and 1.43 records of 52.
@pytest.mark.parametrize(
    ("bad", "of", "limit", "stops"),
    [
        (2, 100, 0.01, False),
        (3, 100, 0.01, True),
        (1, 52, 0.01, False),
        (2, 52, 0.01, True),
        (1, 5, 0.01, True),
        (1, 400, 0.0, True),
        (16, 1000, 0.01, False),
        (17, 1000, 0.01, True),
    ],
)
def test_share_above_the_limit_by_chance_is_allowed(tmp_path, bad, of, limit, stops):
    records, whole = [{"messages": []}] * bad + [GOOD] * (of - bad), (of - bad) * LENGTH
    if stops:
        message = one_line(shard, tmp_path, records, tokens=whole, unusable=limit)
        assert message.startswith(f"datasets.talk: {bad} of {of:,} records can't be used")
    else:
        found = shard(tmp_path, records, tokens=whole, unusable=limit)
        assert found["skipped"] == {"a chat without turns": bad}


@pytest.mark.parametrize("limit", [0.01, 1.0])
@pytest.mark.parametrize("records", [1, 5, 500])
def test_data_set_of_odd_records_alone_stops_with_the_reason_whatever_is_allowed(tmp_path, limit, records):
    message = one_line(shard, tmp_path, [{"messages": []}] * records, unusable=limit)
    seen = min(records, 200)
    assert message == (
        f"datasets.talk: {seen} of {seen} records can't be used (100.00%): {seen} x a chat without turns "
        '(record 0: {"messages": []}); mend the records, read them with another format or field'
    )


def test_text_that_runs_out_after_skipped_records_tells_their_reason(tmp_path):
    message = one_line(shard, tmp_path, [GOOD, *[{"messages": []}] * 4], tokens=9000, unusable=1.0)
    assert message.endswith(
        "lower tokens or add text; 4 of 5 records can't be used: "
        '4 x a chat without turns (record 1: {"messages": []})'
    )


def test_limit_that_is_lowered_later_names_the_reasons_of_all_shards(tmp_path):
    records = [{"messages": []}] * 20 + [{"messages": [user(None)]}] * 10 + [GOOD] * 100
    shard(tmp_path, records, tokens=50 * LENGTH, unusable=0.5)
    message = one_line(
        shard, tmp_path, records, 20 * LENGTH, "1.parquet", tmp_path / "0.parquet", unusable=0.1
    )
    assert message.startswith(
        "datasets.talk: 30 of 100 records can't be used (30.00%), tokens.unusable allows 10.00%: "
        '20 x a chat without turns (record 0: {"messages": []}); 10 x a turn without content (record 20: '
    )


def test_place_without_reasons_is_one_line(tmp_path):
    shard(tmp_path, [GOOD] * 50)
    place = tmp_path / "0.next.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | {"so_far": [50, 0]}))
    message = one_line(shard, tmp_path, [GOOD] * 50, 20, "1.parquet", tmp_path / "0.parquet")
    assert message.startswith(f"{place}: not the place of a next shard")


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
    assert (first["records"], second["records"]) == (100, 4)
    assert json.loads((tmp_path / "1.next.json").read_text())["so_far"] == {
        "records": 104,
        "skipped": {"a chat without turns": 1},
        "examples": {"a chat without turns": 'record 100: {"messages": []}'},
    }
    total = added([tmp_path / "0.next.json", tmp_path / "1.next.json"])
    assert total == {"talk": {"records": 104, "skipped": {"a chat without turns": 1}, "notes": {}}}


def test_records_after_the_last_one_of_a_shard_are_not_counted(tmp_path):
    counts = shard(tmp_path, [GOOD, GOOD, *[{"messages": []}] * 50], tokens=12)
    assert counts["records"] <= 2 and counts["skipped"] == {}
