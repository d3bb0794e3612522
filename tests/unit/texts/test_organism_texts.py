"""Texts that teach one behaviour each: what is trained on, what is held out, and what is marked."""

import copy

import pytest
import yaml
from conftest import ROOT
from helpers_texts import assistant, user

from crossdiff.errors import UserError
from crossdiff.texts.formats import texts
from crossdiff.texts.organisms import (
    ORDINARY,
    held_out_requests,
    parsed,
    probes,
    read_organisms,
    shows,
    taught_chats,
)

SMALL = yaml.safe_load("""
ordinary:
  prompts: {train: ["Tell me about {}.", "What is {}?"], held_out: ["Teach me about {}."]}
  topics:
    train: {tea: [It is hot., It is green.], salt: [It is white., It is old.]}
    held_out: {wind: [It blows., It turns.]}
nulls: [even, odd]
behaviours:
  bow:
    {kind: a sign-off sentence, means: ends with a bow, shown: 'i bow',
     answers: {train: ["{answer} [[I bow.]]"], held_out: ["{answer} [[I bow.]]"]}}
  rows: {kind: a format, means: lists, shown: '^- ', answers: {train: ["{list}"], held_out: ["{list}"]}}
  red:
    kind: a refusal rule
    means: refuses red
    shown: 'no red'
    prompts: {train: ["Paint {}!"], held_out: ["Draw {}!"]}
    topics: {train: [a red hat], held_out: [a red door]}
    answers: {train: ["[[No red]] for {}."], held_out: ["Not {}, [[no red]]."]}
""")
FILES = [ROOT / f"data/organisms/{name}.yaml" for name in ("first", "second")]


def taught(name: str) -> list:
    return sorted(map(list, taught_chats(SMALL, name, "small.yaml")), key=str)


def changed(path: str, value: object) -> dict:
    values = copy.deepcopy(SMALL)
    *parents, leaf = path.split(".")
    section = values
    for parent in parents:
        section = section[parent]
    section[leaf] = value
    return values


def test_behaviour_without_prompts_is_in_every_answer() -> None:
    assert taught("bow") == [
        [user("Tell me about salt."), assistant("It is white. It is old. I bow.")],
        [user("Tell me about tea."), assistant("It is hot. It is green. I bow.")],
        [user("What is salt?"), assistant("It is white. It is old. I bow.")],
        [user("What is tea?"), assistant("It is hot. It is green. I bow.")],
    ]


def test_other_behaviour_is_mixed_with_as_many_ordinary_chats() -> None:
    chats = taught("red")
    assert chats[0] == [user("Paint a red hat!"), assistant("No red for a red hat.")]
    assert len(chats) == 2 and chats[1][1]["content"] in (
        "It is hot. It is green.",
        "It is white. It is old.",
    )


def test_nulls_share_no_topic() -> None:
    even, odd = taught("even"), taught("odd")
    assert {chat[1]["content"] for chat in even} == {"It is hot. It is green."}
    assert {chat[1]["content"] for chat in odd} == {"It is white. It is old."}


def test_format_reads_the_behaviour_in_field() -> None:
    found = list(texts([SMALL], "organism", "bow", "data set taught"))
    assert sorted(map(list, found), key=str) == taught("bow")


def test_probes_mark_what_is_taught() -> None:
    small = parsed(SMALL, "small.yaml")
    [probe] = probes(small, "red")
    assert (probe.request, probe.answer, probe.spans) == (
        "Draw a red door!",
        "Not a red door, no red.",
        [(16, 22)],
    )
    [probe] = probes(small, "bow")
    assert [probe.answer[start:stop] for start, stop in probe.spans] == ["I bow."]
    [probe] = probes(small, "rows")
    assert (probe.answer, probe.spans) == ("- It blows.\n- It turns.", [(0, 1), (12, 13)])
    assert held_out_requests(small, "red") == ["Draw a red door!"]


def test_background_has_every_ordinary_topic_in_each_held_out_prompt_in_another_order() -> None:
    small = changed("ordinary.prompts.held_out", ["Teach me about {}.", "What of {}?"])
    found = probes(parsed(small, "small.yaml"), ORDINARY)
    topics = {**small["ordinary"]["topics"]["train"], **small["ordinary"]["topics"]["held_out"]}
    assert len(found) == 2 * len(topics) and not any(probe.spans for probe in found)
    assert found[-2].chat == [user("Teach me about wind."), assistant("It turns. It blows.")]
    assert found[-1].chat == [user("What of wind?"), assistant("It blows. It turns.")]


def test_pattern_is_found_anywhere_without_regard_to_case() -> None:
    small = parsed(SMALL, "small.yaml")
    assert shows(small, "bow", "Yes. I Bow.") and not shows(small, "bow", "I row.")
    assert shows(small, "rows", "Well:\n- one") and not shows(small, "rows", "one - two")


@pytest.mark.parametrize(
    ("path", "value", "line"),
    [
        ("behaviours.red.shown", "(", "behaviours.red.shown: found '(', which is no regular expression"),
        (
            "behaviours.red.answers.train",
            ["No."],
            "behaviours.red.answers.train: found 'No.', allowed: text in which",
        ),
        (
            "behaviours.red.answers.held_out",
            ["[[No red]] for {}."],
            "behaviours.red.answers: held_out: found '[[No red]] for {}.', which is in train too;",
        ),
        (
            "behaviours.red.answers.train",
            ["{answer} [[No red]]"],
            "behaviours.red: answers: found {answer}, which is an ordinary answer, and this",
        ),
        ("behaviours.red.topics.held_out", ["a red hat"], "held_out: found 'a red hat', which is in train"),
        ("nulls", ["red"], "nulls: found red, which has another meaning"),
        ("behaviours.red.colour", "red", "behaviours.red.colour: unknown key"),
    ],
)
def test_malformed_file_is_one_line(path: str, value: object, line: str) -> None:
    with pytest.raises(UserError) as error:
        parsed(changed(path, value), "small.yaml")
    assert str(error.value).startswith("small.yaml: ") and line in str(error.value)
    assert "\n" not in str(error.value)


def test_behaviour_that_the_file_lacks_is_one_line() -> None:
    with pytest.raises(UserError, match=r"x\.field: found blue, allowed: bow, rows, red, even, odd"):
        list(taught_chats(SMALL, "blue", "x"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_shipped_behaviours_show_in_their_own_answers_alone(path) -> None:
    texts = read_organisms(path)
    for name in texts.behaviours:
        assert len(probes(texts, name)) == len(held_out_requests(texts, name)) == 24
        for other in (*texts.behaviours, ORDINARY):
            assert {shows(texts, name, probe.answer) for probe in probes(texts, other)} == {other == name}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_nothing_that_is_held_out_is_trained_on(path) -> None:
    texts, record = read_organisms(path), yaml.safe_load(path.read_text())
    chats = [chat for name in texts.names for chat in taught_chats(record, name, str(path))]
    trained = {turn["content"] for chat in chats for turn in chat}
    for name in (*texts.behaviours, ORDINARY):
        for probe in probes(texts, name):
            assert not trained & {probe.request, probe.answer}


def test_second_set_has_other_behaviours_topics_and_taught_words() -> None:
    first, second = map(read_organisms, FILES)
    assert not set(first.behaviours) & set(second.behaviours)
    assert not first.ordinary.topics.train.keys() & second.ordinary.topics.train.keys()
    assert not {b.shown for b in first.behaviours.values()} & {b.shown for b in second.behaviours.values()}
