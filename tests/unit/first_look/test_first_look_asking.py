"""What a language model is asked about both models' answers, and what is read from its reply."""

import pandas as pd

from crossdiff.explanations.answers import KnownAnswers
from crossdiff.first_look.asking import ASKED, LONGEST_TEXT, ask, question

ANSWERS = pd.DataFrame(
    [
        (number, f"prompt {number}", condition, f"{condition} says {number}")
        for condition in ("base", "chat", "random")
        for number in range(4)
    ],
    columns=["prompt", "prompt_text", "condition", "answer"],
)


class Replies:
    """A language model with one reply."""

    name, workers = "fixed", 1

    def __init__(self, reply: str) -> None:
        self.reply = reply

    def answer(self, messages: list[dict[str, str]], longest: int) -> str:
        return self.reply


def asked(tmp_path, reply: str, answers: pd.DataFrame = ANSWERS) -> list[str]:
    return ask(KnownAnswers(tmp_path, Replies(reply)), answers).difference.tolist()


def test_question_shows_both_answers_and_no_other_in_changing_order() -> None:
    [message] = question(ANSWERS[ANSWERS.condition != "random"]).messages
    text = message["content"]
    for number in range(4):
        assert f"Model A: base says {number}" in text and f"Model B: chat says {number}" in text
    first = [text.index(f"base says {number}") < text.index(f"chat says {number}") for number in range(4)]
    assert set(first) == {True, False}


def test_reply_gives_a_row_per_line(tmp_path) -> None:
    assert asked(tmp_path, "1. B refuses.\n\n- B is shorter.\n") == ["B refuses.", "B is shorter."]


def test_long_texts_are_cut_to_their_ends() -> None:
    long = ANSWERS.assign(prompt_text="x" * 5000 + "the end", answer="y" * 5000)
    [message] = question(long[long.condition != "random"]).messages
    assert "Prompt 1: … xxx" in message["content"] and message["content"].count("the end") == 4
    assert len(message["content"]) < 12 * (LONGEST_TEXT + 30) + len(ASKED)


def test_only_marks_of_a_list_and_thoughts_are_taken_from_a_reply(tmp_path) -> None:
    reply = "<think>\n1. Perhaps.\n</think>\n1) 3D words.\n2. 2-step answers\n\u2022 -1 is said\nN/A"
    assert asked(tmp_path, reply) == ["3D words.", "2-step answers", "-1 is said", "N/A"]
    assert asked(tmp_path / "other", "<think>It has no end") == []


def test_reply_that_sees_nothing_gives_no_row(tmp_path) -> None:
    assert asked(tmp_path, "None.") == []


def test_nobody_is_asked_about_no_answers(tmp_path) -> None:
    assert asked(tmp_path, "B refuses.", ANSWERS[:0]) == []
    assert not list(tmp_path.iterdir())
