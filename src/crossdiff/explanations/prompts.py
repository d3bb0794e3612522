"""What a language model is asked, and what counts as an answer (paper.md e)."""

import json
from collections.abc import Sequence
from typing import Any

from crossdiff.explanations.answers import Question

EXPLANATION_TOKENS = 120  # of an answer at most
TOKENS_PER_VERDICT = 4
OPEN, CLOSE = "<<", ">>"

EXPLAIN = f"""You study one unit of a language model. You get excerpts of text.
Where the unit is active, the text stands between {OPEN} and {CLOSE}.
Say in one short, concrete phrase what the marked places have in common: what the unit responds to.
Answer with JSON and nothing else, in this form: {{"explanation": "..."}}"""

DETECT = """You get a description of what one unit of a language model responds to, and numbered excerpts of text.
For each excerpt decide whether the unit responds to something in it: 1 for yes, 0 for no.
Answer with JSON and nothing else: a list with one number for each excerpt, in their order."""

FUZZ = f"""You get a description of what one unit of a language model responds to, and numbered excerpts of text.
In each some places are marked: they stand between {OPEN} and {CLOSE}.
For each excerpt decide whether the marked places are what the unit responds to: 1 for yes, 0 for no.
Answer with JSON and nothing else: a list with one number for each excerpt, in their order."""


def explain(excerpts: Sequence[str]) -> Question:
    """Ask what marked excerpts have in common."""
    return Question(_messages(EXPLAIN, _numbered(excerpts)), EXPLANATION_TOKENS)


def judge(instruction: str, explanation: str, excerpts: Sequence[str]) -> Question:
    """Ask which excerpts an explanation fits; ``instruction`` is DETECT or FUZZ."""
    asked = f"Description: {explanation}\n\n{_numbered(excerpts)}\n\nThe list has {len(excerpts)} numbers."
    return Question(_messages(instruction, asked), TOKENS_PER_VERDICT * (len(excerpts) + 2))


def _messages(system: str, user: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def _numbered(excerpts: Sequence[str]) -> str:
    """One line each, with line breaks and quotes escaped."""
    return "\n".join(f"Excerpt {number}: {json.dumps(text, ensure_ascii=False)}" for number, text in enumerate(excerpts, 1))


def read_explanation(answer: str) -> str | None:
    """The explanation that an answer gives; None where it is not in the form that was asked for."""
    value = _json(answer)
    text = value.get("explanation") if isinstance(value, dict) else None
    return " ".join(text.split()) if isinstance(text, str) and text.strip() else None


def read_verdicts(answer: str, count: int) -> list[bool] | None:
    """``count`` verdicts; None where the answer is anything but a list of so many zeros and ones."""
    value = _json(answer)
    if not isinstance(value, list) or len(value) != count or any(type(one) is not int or one not in (0, 1) for one in value):
        return None
    return [one == 1 for one in value]


def _json(answer: str) -> Any:
    """What the answer holds, a Markdown fence around it left out; None where it is no JSON."""
    text = answer.strip()
    if text.startswith("```") and text.endswith("```"):
        text = text[3:-3].removeprefix("json")
    try:
        return json.loads(text)
    except ValueError:
        return None
