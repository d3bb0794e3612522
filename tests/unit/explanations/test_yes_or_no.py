"""A language model as a judge: what it is asked, and which replies are verdicts."""

from pathlib import Path

import pytest

from crossdiff.errors import UserError
from crossdiff.explanations.answers import KnownAnswers
from crossdiff.explanations.yes_or_no import question, verdict, verdicts


class Replying:
    """A language model that replies by what stands in the question."""

    name, workers = "replying", 2

    def __init__(self, replies: dict[str, str]) -> None:
        self.replies, self.asked = replies, 0

    def answer(self, messages: list[dict[str, str]], longest: int) -> str:
        self.asked += 1
        for part, reply in self.replies.items():
            if part in messages[-1]["content"]:
                return reply
        raise UserError("the model fails")


def test_question_has_the_request_the_answer_and_what_is_asked():
    asked = question("Is it rude?", "How are you?", "Go away.")
    assert [turn["role"] for turn in asked.messages] == ["system", "user"]
    assert asked.messages[1]["content"] == (
        "Request:\nHow are you?\n\nAnswer:\nGo away.\n\nQuestion: Is it rude?\nReply with yes or no."
    )


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ("yes", True),
        (" Yes.\n", True),
        ("**NO**", False),
        ('"no"', False),
        ("Yes and no", None),
        ("Not really", None),
        ("It is.", None),
        ("", None),
    ],
)
def test_only_yes_and_no_are_verdicts(reply, found):
    assert verdict(reply) is found


def test_equal_answers_are_asked_once_and_a_rerun_asks_nothing(tmp_path: Path):
    model = Replying({"Go away.": "Yes", "Fine.": "no", "Hm.": "perhaps"})
    pairs = [("How?", "Go away."), ("How?", "Fine."), ("How?", "Go away."), ("Why?", "Hm.")]
    for _ in range(2):
        assert verdicts(KnownAnswers(tmp_path, model), "Is it rude?", pairs) == [True, False, True, None]
        assert model.asked == 3
    assert verdicts(KnownAnswers(tmp_path, model), "Is it short?", pairs[:1]) == [True]
    assert model.asked == 4


def test_judge_that_fails_is_the_users_error_and_what_it_said_is_kept(tmp_path: Path):
    known = KnownAnswers(tmp_path, Replying({"Fine.": "no"}))
    assert verdicts(known, "?", [("How?", "Fine.")]) == [False]
    with pytest.raises(UserError, match=r"^the model fails$"):
        verdicts(known, "?", [("How?", "Fine."), ("How?", "Hm.")])
    assert len([*tmp_path.glob("*/*.json")]) == 1
