"""What a language model is asked about both models' answers, and what is read from its reply."""

import pandas as pd

from crossdiff.explanations.answers import KnownAnswers
from crossdiff.first_look.asking import ask, question

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


def test_reply_that_sees_nothing_gives_no_row(tmp_path) -> None:
    assert asked(tmp_path, "None.") == []


def test_nobody_is_asked_about_no_answers(tmp_path) -> None:
    assert asked(tmp_path, "B refuses.", ANSWERS[:0]) == []
    assert not list(tmp_path.iterdir())
