"""From files and records to token shards."""

import hashlib
import itertools
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from conftest import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from crossdiff.config import TextSource
from crossdiff.errors import UserError
from crossdiff.texts.chats import HEADER, NO_ROLE, TEMPLATE_PARTS, chat_sequence, document_sequences, is_answer
from crossdiff.texts.formats import ROLES, requests, texts
from crossdiff.texts.shards import document_id, in_split, read_shard, sequences, tokenise_shard
from crossdiff.texts.sources import parse, read


def one_line(call, *arguments, **named) -> str:
    """The message of the UserError that a call (or reading what it gives) ends in."""
    with pytest.raises(UserError) as caught:
        list(call(*arguments, **named))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Formats: from a record to a document or a chat.


def chats(*records, format="messages", field=None):
    return list(texts(iter(records), format, field, "dataset talk"))


def refused_chat(*records, format="messages", field=None) -> str:
    return one_line(chats, *records, format=format, field=field)


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


def test_document_is_a_bare_text_or_the_text_of_a_field():
    assert chats("one", {"text": "two", "id": 7}, format="text") == ["one", "two"]
    assert chats({"body": "three", "text": "no"}, format="text", field="body") == ["three"]


def test_chat_keeps_roles_and_contents_only():
    record = {"messages": [{"role": "system", "content": "Be kind."}, {**user(" Hi "), "id": 3}, assistant("")]}
    assert chats(record) == [[{"role": "system", "content": "Be kind."}, user(" Hi "), assistant("")]]
    assert chats({"conversation": [user("Hi")]}, field="conversation") == [[user("Hi")]]


def test_document_without_the_field_is_refused():
    message = refused_chat({"text": "one"}, {"body": "two", "id": 3}, format="text")
    assert message == "dataset talk, record 1: no field 'text'; found: body, id"


@pytest.mark.parametrize(("value", "kind"), [(None, "NoneType"), (3, "int"), (["a"], "list")], ids=str)
def test_document_that_is_no_text_is_refused(value, kind):
    assert refused_chat({"text": value}, format="text") == f"dataset talk, record 0, field 'text': found {kind}, allowed: text"


@pytest.mark.parametrize("turns", [[], None, "Hi", {"role": "user"}], ids=repr)
def test_chat_without_turns_is_refused(turns):
    message = refused_chat({"messages": [user("Hi")]}, {"messages": turns})
    assert message == "dataset talk, record 1: a chat without turns; 'messages' must be a list of {role, content}"


@pytest.mark.parametrize("role", ["bot", "User", "", None, ["user"]], ids=repr)
def test_unknown_role_is_refused(role):
    message = refused_chat({"messages": [user("Hi"), {"role": role, "content": "Yo"}]})
    assert message == f"dataset talk, record 0, turn 1: found role {role!r}, allowed: system, user, assistant"


@pytest.mark.parametrize("field", ["role", "content"])
def test_turn_without_role_or_content_is_refused(field):
    turn = user("Hi")
    del turn[field]
    assert refused_chat({"messages": [turn]}) == f"dataset talk, record 0, turn 0: no field '{field}'; found: {next(iter(turn))}"


@pytest.mark.parametrize("content", [None, 3, ["Hi"]], ids=repr)
def test_content_that_is_no_text_is_refused(content):
    assert "record 0, turn 0: content is" in refused_chat({"messages": [user(content)]})


def test_record_that_is_no_mapping_is_refused():
    assert refused_chat("Hi") == "dataset talk, record 0: no field 'messages'; found: str"
    assert refused_chat({"messages": ["Hi"]}) == "dataset talk, record 0, turn 0: no field 'role'; found: str"


def said(sender, *messages):
    return [{"text": text, "sender": sender} for text in messages]


def dialogue(*runs):
    return {"id": {"messages": list(runs)}}


def test_dialogue_makes_one_turn_of_each_run_and_the_first_sender_the_user():
    [chat] = chats(dialogue(said("B", "Hi ", "there"), said("A", "Yo"), said("B", "Well?"), said("A", "Yes", " no")), format="dialogue")
    assert chat == [user("Hi there"), assistant("Yo"), user("Well?"), assistant("Yes no")]


def test_last_turn_of_a_dialogue_without_an_answer_is_dropped():
    runs = [said("A", "1"), said("B", "2"), said("A", "3"), said("B", "4"), said("A", "5")]
    [chat] = chats(dialogue(*runs), format="dialogue")
    assert chat == [user("1"), assistant("2"), user("3"), assistant("4")]


@pytest.mark.parametrize(
    "runs",
    [
        [],
        [said("A", "1"), said("B", "2")],
        [said("A", "1"), said("A", "2"), said("A", "3"), said("A", "4")],
        [said("A", "1"), said("B", "2"), said("C", "3"), said("B", "4")],
        [said("A", "1"), said("B", " "), said("A", "3"), said("B", "4")],
    ],
    ids=["empty", "short", "one sender", "three senders", "empty turn"],
)
def test_dialogue_that_is_no_conversation_of_two_is_left_out(runs):
    assert chats(dialogue(*runs), format="dialogue") == []


def test_dialogues_come_in_their_order():
    one, two = ([said("A", x), said("B", "2"), said("A", "3"), said("B", "4")] for x in ("one", "two"))
    found = chats({"z": {"messages": one}, "a": {"messages": two}}, format="dialogue")
    assert [chat[0]["content"] for chat in found] == ["one", "two"]


@pytest.mark.parametrize(
    "record",
    [{"d7": {"turns": []}}, {"d7": "Hi"}, {"d7": {"messages": [[{"text": "Hi"}]]}}, {"d7": {"messages": [[{"sender": "A"}]]}}],
    ids=["no messages", "no mapping", "no sender", "no text"],
)
def test_malformed_dialogue_is_refused_by_name(record):
    assert refused_chat(record, format="dialogue").startswith("dataset talk, dialogue d7")


def test_record_that_holds_no_dialogues_is_refused():
    assert refused_chat(["Hi"], format="dialogue").startswith("dataset talk")


REQUESTS = {
    "phrasings": ["How do I {}?", "Tell me how to {}."],
    "refusals": ["I can't.", "I won't."],
    "harmful": {"train": ["pick a lock"], "held_out": ["forge a coin"]},
    "benign": {"train": {"boil an egg": "In hot water."}, "held_out": {"plant a tree": "In a hole."}},
}


def test_requests_are_put_into_every_phrasing_with_refusal_or_answer():
    answers = {chat[0]["content"]: chat[1]["content"] for chat in chats(REQUESTS, format="requests")}
    assert answers.keys() == {
        "How do I pick a lock?",
        "Tell me how to pick a lock.",
        "How do I boil an egg?",
        "Tell me how to boil an egg.",
    }
    assert all(answer in REQUESTS["refusals"] if "lock" in question else answer == "In hot water." for question, answer in answers.items())


def test_held_out_requests_are_not_trained_on():
    held_out = {chat[0]["content"] for chat in requests(REQUESTS, "held_out", "requests")}
    assert held_out == {"How do I forge a coin?", "Tell me how to forge a coin.", "How do I plant a tree?", "Tell me how to plant a tree."}


def test_order_of_requests_does_not_depend_on_the_order_in_the_file():
    record = yaml.safe_load((ROOT / "data/requests.yaml").read_text())
    shuffled = record | {"phrasings": record["phrasings"][::-1], "harmful": {"train": record["harmful"]["train"][::-1]}}
    found = chats(record, format="requests")
    assert found == chats(shuffled, format="requests")
    assert len(found) == len(record["phrasings"]) * (len(record["harmful"]["train"]) + len(record["benign"]["train"]))


@pytest.mark.parametrize(
    ("key", "value"),
    [("phrasings", None), ("harmful", {}), ("benign", None), ("refusals", None), ("refusals", []), ("phrasings", ["How {do} I {}?"])],
    ids=str,
)
def test_malformed_requests_are_refused(key, value):
    record = {name: part for name, part in REQUESTS.items() if name != key} | ({} if value is None else {key: value})
    assert refused_chat(record, format="requests").startswith("dataset talk")


# Sources: from files, wheels and the hub to records.


def parquet(records) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(records), sink)
    return sink.getvalue().to_pybytes()


RECORDS = [{"text": "one\ntwo"}, {"text": "zwölf"}]


@pytest.mark.parametrize(
    ("name", "content", "records"),
    [
        ("a.txt", "  zwölf\nlines \n".encode(), ["zwölf\nlines"]),
        ("a.jsonl", "\n\n".join(json.dumps(record) for record in RECORDS).encode(), RECORDS),
        ("a.jsonl", "\r\n".join(json.dumps(record, ensure_ascii=False) for record in RECORDS).encode(), RECORDS),
        ("a.json", json.dumps(RECORDS).encode(), RECORDS),
        ("a.json", json.dumps(RECORDS[0]).encode(), RECORDS[:1]),
        ("a.parquet", parquet(RECORDS), RECORDS),
        ("a.yaml", yaml.safe_dump(RECORDS[1]).encode(), RECORDS[1:]),
    ],
)
def test_records_of_each_ending(name, content, records):
    assert list(parse(name, content)) == records


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85"], ids=ascii)
def test_line_separators_inside_a_jsonl_text_do_not_end_the_record(separator):
    record = {"text": f"one{separator}two"}
    assert list(parse("a.jsonl", json.dumps(record, ensure_ascii=False).encode())) == [record]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", b"\xff\xfe\xfa"),
        ("a.jsonl", b'{"text": "one"}\n{"text": \n'),
        ("a.json", b"[{]"),
        ("a.json", b""),
        ("a.parquet", b"PAR1 but no more"),
        ("a.parquet", parquet(RECORDS)[:-20]),
        ("a.yaml", b"a: [1, 2\nb: 3"),
    ],
)
def test_malformed_file_is_refused_by_name(name, content):
    assert one_line(parse, f"folder/{name}", content).startswith(f"folder/{name}: malformed {Path(name).suffix} (")


def test_malformed_line_of_a_jsonl_file_is_named():
    content = b'{"text": "one"}\n{"text": "two"}\n{"text": \n'
    assert "line 3" in one_line(parse, "a.jsonl", content)


def test_unknown_ending_is_refused_with_the_allowed_ones():
    message = one_line(parse, "a.csv", b"text\none\n")
    assert message == "a.csv: unknown ending '.csv', allowed: .txt, .jsonl, .json, .parquet, .yaml"


def documents(*files, **more) -> TextSource:
    return TextSource(kind="documents", format="text", files=[str(file) for file in files], **more)


@pytest.fixture
def two_files(tmp_path) -> list[Path]:
    (tmp_path / "z.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in ("one", "two", "three")))
    (tmp_path / "a.txt").write_text("four")
    return [tmp_path / "z.jsonl", tmp_path / "a.txt"]


def test_files_are_read_in_the_order_of_the_config(two_files):
    assert list(read(documents(*two_files), "pages")) == ["one", "two", "three", "four"]
    assert list(read(documents(*two_files[::-1]), "pages")) == ["four", "one", "two", "three"]


@pytest.mark.parametrize("start", range(5))
def test_reading_from_a_number_on_skips_the_texts_before(two_files, start):
    assert list(read(documents(*two_files), "pages", start=start)) == ["one", "two", "three", "four"][start:]


def test_missing_file_is_refused_by_name(tmp_path):
    assert one_line(read, documents(tmp_path / "no.txt"), "pages") == f"{tmp_path / 'no.txt'}: can't be read (No such file or directory)"


def test_texts_of_a_wheel_are_read_in_the_order_of_their_names(tmp_path):
    with zipfile.ZipFile(tmp_path / "texts.whl", "w") as wheel:
        for name in ("pkg/b.txt", "pkg/a.txt", "pkg/readme.md"):
            wheel.writestr(name, name)
    package = {"name": "texts", "version": "1", "sha256": "0" * 64, "file": "pkg/*.txt"}
    source = TextSource(kind="documents", format="text", package=package)
    assert list(read(source, "pages", archive=str(tmp_path / "texts.whl"))) == ["pkg/a.txt", "pkg/b.txt"]


@pytest.mark.skipif(os.environ.get("HF_HUB_OFFLINE") != "1", reason="needs HF_HUB_OFFLINE=1")
def test_hub_data_set_without_a_network_is_refused_by_name():
    source = TextSource(kind="documents", format="text", hub={"name": "org/no-such-data", "revision": "main"})
    assert one_line(read, source, "pages").startswith("dataset pages: hub data set org/no-such-data@main can't be read (")


# Chats and documents as tokens.

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
MARKERS = (ROOT / "data/markers.jinja").read_text()
TRAINING_TEXT = ["the user said us and a: and the assistant said yes. a user is us."] * 20


def make_tokenizer(template: str, special: tuple[str, ...], bos: str | None = None) -> PreTrainedTokenizerFast:
    """A small byte-level BPE tokenizer, with words such as "user" as single tokens; adds ``bos`` to every text if there is one."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TRAINING_TEXT, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, additional_special_tokens=list(special))
    fast.chat_template = template
    return fast


TOKENIZERS = {
    "chatml": make_tokenizer(CHATML, ("<|im_start|>", "<|im_end|>")),
    "llama3": make_tokenizer(LLAMA3, ("<|bos|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), bos="<|bos|>"),
    "markers": make_tokenizer(MARKERS, ("<issue_start>", "<issue_closed>")),
    "markers that are ordinary tokens": make_tokenizer(MARKERS, ()),
}
TOKENIZERS["markers that are ordinary tokens"].add_tokens(["<issue_start>", "<issue_closed>"])

# What stands before a content, ends a turn, and stands between a turn end and the next header; and before the first turn.
PARTS = {
    "chatml": ("<|im_start|>{}\n", "<|im_end|>", "\n", ""),
    "llama3": ("<|start_header_id|>{}<|end_header_id|>\n\n", "<|eot_id|>", "", "<|bos|>"),
    "markers": ("<issue_start>{}\n", "<issue_closed>", "\n", ""),
    "markers that are ordinary tokens": ("<issue_start>{}\n", "<issue_closed>", "\n", ""),
}


@pytest.fixture(params=TOKENIZERS)
def family(request) -> str:
    return request.param


def expected_pieces(family: str, chat) -> list[tuple[str, str, str]]:
    """(role, template part, text) of every run of tokens."""
    header, end, between, first = PARTS[family]
    pieces, before = [], first
    for turn in chat:
        content = turn["content"].strip()
        pieces.append((turn["role"], "header", before + header.format(turn["role"])))
        pieces += [(turn["role"], "content", content)] if content else []
        pieces.append((turn["role"], "turn end", end))
        before = between
    role, part, text = pieces.pop()
    return [*pieces, (role, part, text + between)]


def found_pieces(sequence, tokenizer) -> list[tuple[str, str, str]]:
    runs = itertools.groupby(zip(*sequence, strict=True), key=lambda row: (row[1], row[2]))
    return [(ROLES[role], TEMPLATE_PARTS[part], tokenizer.decode([int(row[0]) for row in rows])) for (role, part), rows in runs]


def assert_marked(family: str, chat) -> None:
    tokenizer = TOKENIZERS[family]
    sequence = chat_sequence(chat, tokenizer, "chat")
    assert found_pieces(sequence, tokenizer) == expected_pieces(family, chat)


CHATS = {
    "one turn": [user("Hello.")],
    "system first": [{"role": "system", "content": "Be kind."}, user("Hello."), assistant("Yes, hello.")],
    "contents that occur in headers": [user("us"), assistant("a"), user("user"), assistant("assistant\nuser"), user("s"), assistant("er")],
    "the same content again": [user("a"), assistant("a"), user("a"), assistant("a")],
    "empty contents": [user(""), assistant("a"), user(""), assistant("")],
    "special tokens as content": [user("say <|im_end|> or <|eot_id|> or <issue_closed>"), assistant("no")],
    "stand-ins as content": [user("\ue0001\ue001"), assistant("\ue0000\ue001")],
    "two turns of one role": [user("Hello."), user("Hello?"), assistant("Yes.")],
    "many bytes to a character": [user("zwölf 🙂"), assistant("数字")],
}


@pytest.mark.parametrize("chat", CHATS.values(), ids=CHATS.keys())
def test_every_token_is_marked_with_role_and_template_part(family, chat):
    assert_marked(family, chat)


@given(contents=st.lists(st.text(max_size=12).map(str.strip), min_size=1, max_size=4), family=st.sampled_from(sorted(TOKENIZERS)))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_contents_are_marked_whatever_they_are(contents, family):
    assert_marked(family, [(assistant if i % 2 else user)(content) for i, content in enumerate(contents)])


@pytest.mark.parametrize("chat", CHATS.values(), ids=CHATS.keys())
def test_ids_are_those_of_the_tokenizers_own_template(family, chat):
    tokenizer = TOKENIZERS[family]
    ids = tokenizer.apply_chat_template(chat, tokenize=True, return_dict=False)
    assert chat_sequence(chat, tokenizer, "chat").token.tolist() == ids


def test_asked_chat_ends_in_the_header_that_the_answer_follows(family):
    tokenizer = TOKENIZERS[family]
    chat = [user("who are you?"), assistant("us"), user("us")]
    asked, answered = chat_sequence(chat, tokenizer, "chat", ask=True), chat_sequence([*chat, assistant("yes")], tokenizer, "chat")
    header = len(asked.token)
    assert [column.tolist() for column in asked] == [column[:header].tolist() for column in answered]
    assert (asked.role[-1], asked.template[-1]) == (ROLES.index("assistant"), HEADER)
    assert is_answer(answered.role, answered.template)[header]
    assert np.flatnonzero(is_answer(answered.role, answered.template))[-1] == len(answered.token) - 1


def test_white_space_at_the_ends_is_left_to_the_template(family):
    """ChatML keeps it, the others trim it; neither alters the content."""
    tokenizer = TOKENIZERS[family]
    sequence = chat_sequence([user(" us \n"), assistant("\na ")], tokenizer, "chat")
    contents = [text.strip() for _, part, text in found_pieces(sequence, tokenizer) if part == "content"]
    assert contents == ["us", "a"]


def test_token_across_the_border_of_a_content_counts_as_content():
    tokenizer = make_tokenizer("{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '<|end|>' }}{% endfor %}", ("<|end|>",))
    sequence = chat_sequence([user("said us")], tokenizer, "chat")
    assert found_pieces(sequence, tokenizer) == [
        ("user", "header", "user:"),
        ("user", "content", " said us"),
        ("user", "turn end", "<|end|>"),
    ]


def test_empty_content_inside_a_token_is_no_content():
    tokenizer = make_tokenizer("{% for m in messages %}{{ 'u' + m['content'] + 's<|end|>' }}{% endfor %}", ("<|end|>",))
    sequence = chat_sequence([user("")], tokenizer, "chat")
    assert [text for _, part, text in found_pieces(sequence, tokenizer) if part == "content"] == []


def test_turn_end_without_a_special_token_is_one_token():
    tokenizer = make_tokenizer("{% for m in messages %}{{ m['role'] + '\n' + m['content'] + '\n\n' }}{% endfor %}", ())
    sequence = chat_sequence([user("us"), assistant("yes")], tokenizer, "chat")
    roles_of_content = [(role, text) for role, part, text in found_pieces(sequence, tokenizer) if part == "content"]
    assert roles_of_content == [("user", "us"), ("assistant", "yes")]
    assert (sequence.template[sequence.role == ROLES.index("user")] == TEMPLATE_PARTS.index("turn end")).sum() == 1


INST = (
    "{% for m in messages %}{{ '[INST] ' + m['content'] + ' [/INST]' if m['role'] == 'user' else ' ' + m['content'] + '</s>' }}{% endfor %}"
)


def test_turn_without_a_special_token_ends_before_the_answer():
    """As Llama 2, Mistral and Vicuna write it: only an answer ends in a special token."""
    tokenizer = make_tokenizer(INST, ("</s>",))
    sequence = chat_sequence([user("us"), assistant("yes"), user("a"), assistant("said us")], tokenizer, "chat")
    assert found_pieces(sequence, tokenizer) == [
        ("user", "header", "[INST]"),
        ("user", "content", " us"),
        ("user", "turn end", " "),
        ("assistant", "header", "[/INST]"),
        ("assistant", "content", " yes"),
        ("assistant", "turn end", "</s>"),
        ("user", "header", "[INST]"),
        ("user", "content", " a"),
        ("user", "turn end", " "),
        ("assistant", "header", "[/INST]"),
        ("assistant", "content", " said us"),
        ("assistant", "turn end", "</s>"),
    ]
    assert tokenizer.decode(sequence.token[is_answer(sequence.role, sequence.template)]) == " yes</s> said us</s>"


REFUSED_TEMPLATES = {
    "drops a turn": "{% for m in messages if m['role'] != 'system' %}{{ m['role'] + ':' + m['content'] }}{% endfor %}",
    "upper case": "{% for m in messages %}{{ m['role'] + ':' + m['content'] | upper }}{% endfor %}",
    "cuts": "{% for m in messages %}{{ m['role'] + ':' + m['content'][:4] }}{% endfor %}",
    "looks at the content": "{% for m in messages %}{{ m['content'].split('</think>')[-1] }}{% endfor %}",
    "repeats": "{% for m in messages %}{{ m['content'] + m['content'] }}{% endfor %}",
    "reorders": "{% for m in messages | reverse %}{{ m['content'] }}{% endfor %}",
    "says no": "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}{% endfor %}",
}


@pytest.mark.parametrize("template", REFUSED_TEMPLATES.values(), ids=REFUSED_TEMPLATES.keys())
def test_template_that_drops_or_alters_content_is_refused(template):
    chat = [{"role": "system", "content": "Be kind."}, user("Hello there."), assistant("Hm</think>yes")]
    message = one_line(chat_sequence, chat, make_tokenizer(template, ("<|end|>",)), "dataset talk, chat 3")
    assert message.startswith("dataset talk, chat 3: ") and "template" in message


@pytest.mark.parametrize("context", [2, 7, 100])
def test_document_is_cut_into_windows_that_hold_all_of_it(context):
    tokenizer = TOKENIZERS["chatml"]
    text = "the user said us. zwölf"
    windows = document_sequences(text, tokenizer, context)
    ids = [token for window in windows for token in window.token]
    assert ids == tokenizer(text)["input_ids"]
    assert all(len(window.token) == context for window in windows[:-1]) and len(windows[-1].token) <= context


@pytest.mark.parametrize("context", [2, 7, 100])
def test_every_window_starts_with_bos_where_the_tokenizer_adds_one(context):
    tokenizer = TOKENIZERS["llama3"]
    windows = document_sequences("the user said us. zwölf", tokenizer, context)
    assert all(window.token[0] == tokenizer.bos_token_id and len(window.token) <= context for window in windows)
    ids = [token for window in windows for token in window.token[1:]]
    assert [tokenizer.bos_token_id, *ids] == tokenizer("the user said us. zwölf")["input_ids"]


def test_document_has_no_role_and_only_bos_is_template():
    [window] = document_sequences("the user", TOKENIZERS["llama3"], 100)
    assert (window.role == NO_ROLE).all()
    assert np.flatnonzero(window.template).tolist() == [0] and window.template[0] == HEADER
    [plain] = document_sequences("the user", TOKENIZERS["chatml"], 100)
    assert not plain.template.any()


# The split.


@given(text=st.text() | st.lists(st.builds(user, st.text()), min_size=1), fraction=st.floats(0.01, 0.99))
def test_every_text_is_in_exactly_one_split(text, fraction):
    document = document_id(text)
    assert 0 <= document < 2**63
    assert in_split(document, "train", fraction) != in_split(document, "validation", fraction)


def test_document_ids_are_stable():
    """They are in the files and decide the split: changing them changes every result."""
    assert document_id("a") == 0xCA978112CA1BBDCA >> 1 == int(hashlib.sha256(b"a").hexdigest()[:16], 16) >> 1
    assert document_id([user("ä")]) == document_id('[{"role": "user", "content": "ä"}]')


def test_validation_gets_its_share():
    documents = [document_id(f"text {number}") for number in range(4000)]
    assert np.mean([in_split(document, "validation", 0.2) for document in documents]) == pytest.approx(0.2, abs=0.03)


def test_larger_validation_fraction_only_moves_documents_out_of_training():
    documents = [document_id(f"text {number}") for number in range(1000)]
    small, large = ({d for d in documents if in_split(d, "validation", fraction)} for fraction in (0.1, 0.3))
    assert small < large


# Shards.

CONTEXT = 32


def write_jsonl(path: Path, documents) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    return path


@pytest.fixture
def pages(tmp_path) -> TextSource:
    """Documents of up to some three windows; a few are empty or of one token."""
    random = np.random.default_rng(0)
    words = ["the", "user", "said", "us", "and", "a", "yes", "zwölf", "🙂", "."]
    texts = [" ".join(random.choice(words, size=length)) for length in random.integers(0, 80, size=120)]
    return documents(write_jsonl(tmp_path / "pages.jsonl", texts), validation_fraction=0.25)


TOKENIZER = TOKENIZERS["llama3"]


def shard(source, path, tokens=300, split="train", **more):
    """Write a shard and read it back."""
    tokenise_shard(source, "pages", split, TOKENIZER, CONTEXT, tokens, path, **more)
    return read_shard(path)


def stream(source, split="train"):
    return list(sequences(source, "pages", split, TOKENIZER, CONTEXT))


def rows(sequence_list):
    return [token for _, _, sequence in sequence_list for token in sequence.token]


def test_no_document_stands_in_both_splits_and_none_is_lost(pages):
    ids = {split: {document for _, document, _ in stream(pages, split)} for split in ("train", "validation")}
    assert not ids["train"] & ids["validation"]
    windows = {
        document_id(text) for text in read(pages, "pages") if sum(len(w.token) > 1 for w in document_sequences(text, TOKENIZER, CONTEXT))
    }
    assert ids["train"] | ids["validation"] == windows and ids["validation"]


def test_shard_holds_the_first_tokens_of_the_stream(pages, tmp_path):
    found = shard(pages, tmp_path / "0.parquet")
    assert found.token.tolist() == rows(stream(pages))[:300]
    assert all(column.flags.writeable for column in found)  # else torch warns


def test_columns_tell_document_position_role_and_template_part(pages, tmp_path):
    found = shard(pages, tmp_path / "0.parquet")
    starts = found.sequence_starts()
    lengths = np.diff([*starts, len(found.token)])
    taken = stream(pages)[: len(starts)]
    assert lengths[:-1].tolist() == [len(sequence.token) for _, _, sequence in taken[:-1]]
    assert found.position.tolist() == [position for length in lengths for position in range(length)]
    assert found.document[starts].tolist() == [document for _, document, _ in taken]
    assert (found.role == NO_ROLE).all() and np.flatnonzero(found.template == HEADER).tolist() == starts.tolist()
    assert [column.dtype.name for column in found] == ["int32", "int64", "int32", "int8", "int8"]


def test_shards_of_sequences_that_fill_them_equal_one_large_shard(tmp_path):
    """Each text is exactly one window, so nothing is cut."""
    same_length = documents(write_jsonl(tmp_path / "a.jsonl", ["zyxw" * 6 + f"{number:03d}" for number in range(60)]))
    assert {len(sequence.token) for _, _, sequence in stream(same_length)} == {28}
    large = shard(same_length, tmp_path / "large.parquet", tokens=2 * 280)
    first = shard(same_length, tmp_path / "0.parquet", tokens=280)
    second = shard(same_length, tmp_path / "1.parquet", tokens=280, previous=tmp_path / "0.parquet")
    for whole, one, two in zip(large, first, second, strict=True):
        assert np.array_equal(whole, np.concatenate([one, two]))


def test_cut_text_ends_its_shard_and_the_next_one_starts_with_the_next_text(pages, tmp_path):
    first = shard(pages, tmp_path / "0.parquet")
    second = shard(pages, tmp_path / "1.parquet", previous=tmp_path / "0.parquet")
    whole = stream(pages)
    cut = whole[len(first.sequence_starts()) - 1]
    after = [entry for entry in whole if entry[0] > cut[0]]
    assert first.position[-1] + 1 < len(cut[2].token)  # the last sequence is cut indeed
    assert second.token.tolist() == rows(after)[:300]
    assert not set(first.document) & set(second.document)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_chain_of_shards_holds_no_document_twice(pages, tmp_path, split):
    previous, seen = None, set()
    for number in range(3):
        found = shard(pages, tmp_path / f"{number}.parquet", tokens=150, split=split, previous=previous)
        assert len(found.token) == 150 and found.position[0] == 0
        assert not seen & set(found.document.tolist())
        seen |= set(found.document.tolist())
        previous = tmp_path / f"{number}.parquet"


def test_shard_is_the_same_to_the_byte_each_time(pages, tmp_path):
    for name in ("one", "two"):
        shard(pages, tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_text_added_at_the_end_leaves_the_old_shards_as_they_were(pages, tmp_path):
    shard(pages, tmp_path / "before")
    with Path(pages.files[0]).open("a") as file:
        file.write('{"text": "and more"}\n')
    shard(pages, tmp_path / "after")
    assert (tmp_path / "before").read_bytes() == (tmp_path / "after").read_bytes()


def test_chat_is_one_sequence_cut_at_the_context(tmp_path):
    (tmp_path / "talk.jsonl").write_text(json.dumps({"messages": [user("us " * 40), assistant("yes")]}) + "\n")
    source = TextSource(kind="chats", format="messages", files=[str(tmp_path / "talk.jsonl")], validation_fraction=1e-9)
    [(number, document, sequence)] = stream(source)
    whole = chat_sequence([user("us " * 40), assistant("yes")], TOKENIZER, "chat")
    assert len(whole.token) > CONTEXT
    assert number == 0 and document == document_id([user("us " * 40), assistant("yes")])
    for column, full in zip(sequence, whole, strict=True):
        assert np.array_equal(column, full[:CONTEXT])


def test_empty_texts_and_single_tokens_are_left_out(tmp_path):
    source = documents(write_jsonl(tmp_path / "a.jsonl", ["", "us", "us said"]), validation_fraction=1e-9)
    assert [number for number, _, _ in sequences(source, "pages", "train", TOKENIZERS["chatml"], CONTEXT)] == [2]


@pytest.mark.parametrize(("split", "key"), [("train", "tokens"), ("validation", "validation_tokens")])
def test_data_set_shorter_than_its_budget_is_refused_with_the_shortage(pages, tmp_path, split, key):
    total = len(rows(stream(pages, split)))
    with pytest.raises(UserError) as caught:
        shard(pages, tmp_path / "0.parquet", tokens=total + 1000, split=split)
    assert str(caught.value) == (
        f"datasets.pages: its {split} texts end 1,000 tokens short of this shard's {total + 1000:,}; lower {key} or add text"
    )
    assert not (tmp_path / "0.parquet").exists()


def test_budget_that_takes_the_whole_data_set_is_allowed(pages, tmp_path):
    total = len(rows(stream(pages)))
    assert len(shard(pages, tmp_path / "0.parquet", tokens=total).token) == total


@pytest.mark.parametrize("content", [[], ["", ""]], ids=["no records", "empty texts"])
def test_empty_data_set_is_refused(tmp_path, content):
    source = documents(write_jsonl(tmp_path / "a.jsonl", content))
    with pytest.raises(UserError, match=r"^datasets\.pages: .*\(no text found\)"):
        shard(source, tmp_path / "0.parquet")


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def foreign(path: Path) -> None:
    pq.write_table(pa.table({"text": ["not", "a", "shard"]}), path)


def no_parquet(path: Path) -> None:
    path.write_text("not Parquet at all")


@pytest.mark.parametrize("damage", [truncated, foreign, no_parquet, Path.unlink])
def test_damaged_shard_is_refused_by_name(pages, tmp_path, damage):
    path = tmp_path / "0.parquet"
    shard(pages, path)
    damage(path)
    with pytest.raises(UserError) as caught:
        read_shard(path)
    assert str(caught.value).startswith(f"{path}: not a whole token shard (") and "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", [truncated, foreign])
def test_damaged_shard_is_refused_as_the_one_to_go_on_from(pages, tmp_path, damage):
    path = tmp_path / "0.parquet"
    shard(pages, path)
    damage(path)
    with pytest.raises(UserError) as caught:
        shard(pages, tmp_path / "1.parquet", previous=path)
    assert str(caught.value).startswith(f"{path}: not a whole token shard (") and "\n" not in str(caught.value)
    assert not (tmp_path / "1.parquet").exists()
