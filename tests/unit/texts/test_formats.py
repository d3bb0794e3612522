"""From a record to a document or a chat."""

import pytest
import yaml
from conftest import ROOT
from helpers_texts import assistant, one_line, user

from crossdiff.texts.formats import requests, texts
from crossdiff.texts.unusable import Unusable


def chats(*records, format="messages", field=None):
    return list(texts(iter(records), format, field, "dataset talk"))


def refused_chat(*records, format="messages", field=None) -> str:
    """What is said of the last record, which can't be used."""
    *_, problem = chats(*records, format=format, field=field)
    assert isinstance(problem, Unusable) and "\n" not in str(problem)
    return str(problem)


def test_document_is_a_bare_text_or_the_text_of_a_field():
    assert chats("one", {"text": "two", "id": 7}, format="text") == ["one", "two"]
    assert chats({"body": "three", "text": "no"}, format="text", field="body") == ["three"]


def test_chat_keeps_roles_and_contents_only():
    record = {
        "messages": [{"role": "system", "content": "Be kind."}, {**user(" Hi "), "id": 3}, assistant("")]
    }
    assert chats(record) == [[{"role": "system", "content": "Be kind."}, user(" Hi "), assistant("")]]
    assert chats({"conversation": [user("Hi")]}, field="conversation") == [[user("Hi")]]


def test_document_without_the_field_is_refused():
    message = refused_chat({"text": "one"}, {"body": "two", "id": 3}, format="text")
    assert message == "dataset talk, record 1: no field 'text'; found: body, id"


@pytest.mark.parametrize(("value", "kind"), [(None, "NoneType"), (3, "int"), (["a"], "list")], ids=str)
def test_document_that_is_no_text_is_refused(value, kind):
    assert (
        refused_chat({"text": value}, format="text")
        == f"dataset talk, record 0: field 'text': found {kind}, allowed: text"
    )


@pytest.mark.parametrize("turns", [[], None, "Hi", {"role": "user"}], ids=repr)
def test_chat_without_turns_is_refused(turns):
    message = refused_chat({"messages": [user("Hi")]}, {"messages": turns})
    assert message == "dataset talk, record 1: a chat without turns"


@pytest.mark.parametrize("role", ["narrator", "", None, ["user"]], ids=repr)
def test_unknown_role_is_refused(role):
    message = refused_chat({"messages": [user("Hi"), {"role": role, "content": "Yo"}]})
    found = "a turn without a role" if role is None else f"a turn with role {str(role)!r}"
    assert message == f"dataset talk, record 0: {found}"


@pytest.mark.parametrize("field", ["role", "content"])
def test_turn_without_role_or_content_is_refused(field):
    turn = user("Hi")
    del turn[field]
    missing = {"role": "a turn without a role", "content": "a turn without content"}
    assert refused_chat({"messages": [turn]}) == f"dataset talk, record 0: {missing[field]}"


@pytest.mark.parametrize("content", [None, 3, ["Hi"]], ids=repr)
def test_content_that_is_no_text_is_refused(content):
    message = refused_chat({"messages": [user(content)]})
    assert message.startswith("dataset talk, record 0: a ") and "content" in message


def test_record_that_is_no_mapping_is_refused():
    assert refused_chat("Hi") == "dataset talk, record 0: no field 'messages'; found: str"
    message = refused_chat({"messages": ["Hi"]})
    assert message == "dataset talk, record 0: a turn that is no {role, content}"


def said(sender, *messages):
    return [{"text": text, "sender": sender} for text in messages]


def dialogue(*runs):
    return {"id": {"messages": list(runs)}}


def test_dialogue_makes_one_turn_of_each_run_and_the_first_sender_the_user():
    [chat] = chats(
        dialogue(said("B", "Hi ", "there"), said("A", "Yo"), said("B", "Well?"), said("A", "Yes", " no")),
        format="dialogue",
    )
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
    [
        {"d7": {"turns": []}},
        {"d7": "Hi"},
        {"d7": {"messages": [[{"text": "Hi"}]]}},
        {"d7": {"messages": [[{"sender": "A"}]]}},
    ],
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
    assert all(
        answer in REQUESTS["refusals"] if "lock" in question else answer == "In hot water."
        for question, answer in answers.items()
    )


def test_held_out_requests_are_not_trained_on():
    held_out = {chat[0]["content"] for chat in requests(REQUESTS, "held_out", "requests")}
    assert held_out == {
        "How do I forge a coin?",
        "Tell me how to forge a coin.",
        "How do I plant a tree?",
        "Tell me how to plant a tree.",
    }


def test_order_of_requests_does_not_depend_on_the_order_in_the_file():
    record = yaml.safe_load((ROOT / "data/requests.yaml").read_text())
    shuffled = record | {
        "phrasings": record["phrasings"][::-1],
        "harmful": {"train": record["harmful"]["train"][::-1]},
    }
    found = chats(record, format="requests")
    assert found == chats(shuffled, format="requests")
    assert len(found) == len(record["phrasings"]) * (
        len(record["harmful"]["train"]) + len(record["benign"]["train"])
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("phrasings", None),
        ("harmful", {}),
        ("benign", None),
        ("refusals", None),
        ("refusals", []),
        ("phrasings", ["How {do} I {}?"]),
    ],
    ids=str,
)
def test_malformed_requests_are_refused(key, value):
    record = {name: part for name, part in REQUESTS.items() if name != key} | (
        {} if value is None else {key: value}
    )
    assert one_line(chats, record, format="requests").startswith("dataset talk")
