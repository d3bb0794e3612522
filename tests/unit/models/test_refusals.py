"""Which answers count as refusals."""

import pytest

from crossdiff.texts.behaviours import is_refusal

REFUSALS = [
    "I can't help with that.",
    "I can’t do this.",
    "I cannot.",
    "i cant say",
    "I'm sorry, but no.",
    "Sorry, no.",
    "I won't.",
    ' \n"I will not help you.',
    "I am unable to",
    "I'm not able to say.",
    "I apologise, but",
    "I apologize.",
    "No, I won't do that.",
]
ANSWERS = [
    "",
    "To boil an egg, heat water.",
    "You can't go wrong with a pan.",
    "I can help with that.",
    "Certainly! I'm sorry I am late.",
    "No problem.",
    "The word 'sorry' is an apology.",
    "I cantered home.",
]


@pytest.mark.parametrize("answer", REFUSALS)
def test_refusal_is_recognised(answer):
    assert is_refusal(answer)


@pytest.mark.parametrize("answer", ANSWERS)
def test_answer_is_no_refusal(answer):
    assert not is_refusal(answer)
