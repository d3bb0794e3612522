"""The questions to a language model, and how its answers are read (docs/method.md 13)."""

import itertools
import json
from collections.abc import Sequence
from typing import Any

from crossdiff.explanations.answers import Question

EXPLANATION_TOKENS = 120  # most tokens of an answer that explains
TOKENS_PER_VERDICT = 4  # most tokens of an answer that judges, for each excerpt and two more
OPEN, CLOSE = "<<", ">>"  # around marked places

EXPLAIN = f"""\
You study one unit of a language model. You get excerpts of text.
Where the unit is active, the text stands between {OPEN} and {CLOSE}.
Say in one short, concrete phrase what the marked places have in common: what the unit responds to.
Answer with JSON and nothing else, in this form: {{"explanation": "..."}}"""

DETECT = """\
You get a description of what one unit of a language model responds to, and numbered excerpts of text.
For each excerpt decide whether the unit responds to something in it: 1 for yes, 0 for no.
Answer with JSON and nothing else: a list with one number for each excerpt, in their order."""

FUZZ = f"""\
You get a description of what one unit of a language model responds to, and numbered excerpts of text.
In each some places are marked: they stand between {OPEN} and {CLOSE}.
For each excerpt decide whether the marked places are what the unit responds to: 1 for yes, 0 for no.
Answer with JSON and nothing else: a list with one number for each excerpt, in their order."""

# Every question starts with this example and its answer. The example has as many excerpts as the question,
# because small models follow a form that they have just seen.
EXAMPLE = "bodies of water"
EXAMPLES = {
    f"We walked along the {OPEN}river{CLOSE} until dark.": 1,
    f"She bought a {OPEN}new{CLOSE} coat.": 0,
    f"They sailed across the {OPEN}sea{CLOSE} in a day.": 1,
    f"The bus was {OPEN}late{CLOSE} again.": 0,
    f"He {OPEN}likes{CLOSE} his tea strong.": 0,
    f"Rain fell on the {OPEN}pond{CLOSE}.": 1,
}


def explain(excerpts: Sequence[str]) -> Question:
    """Ask what marked excerpts have in common."""
    fitting = _numbered([text for text, fits in EXAMPLES.items() if fits])
    example = fitting, json.dumps({"explanation": EXAMPLE})
    return Question(_messages(EXPLAIN, example, _numbered(excerpts)), EXPLANATION_TOKENS)


def judge(instruction: str, explanation: str, excerpts: Sequence[str]) -> Question:
    """Ask which excerpts an explanation fits. ``instruction`` is DETECT or FUZZ."""
    chosen = list(itertools.islice(itertools.cycle(EXAMPLES.items()), len(excerpts)))
    texts, verdicts = [text for text, _ in chosen], [fits for _, fits in chosen]
    if instruction == DETECT:
        texts = [text.replace(OPEN, "").replace(CLOSE, "") for text in texts]
    example = _described(EXAMPLE, texts), json.dumps(verdicts)
    messages = _messages(instruction, example, _described(explanation, excerpts))
    return Question(messages, TOKENS_PER_VERDICT * (len(excerpts) + 2))


def _messages(system: str, example: tuple[str, str], user: str) -> list[dict[str, str]]:
    asked, answered = example
    turns = ("system", system), ("user", asked), ("assistant", answered), ("user", user)
    return [{"role": role, "content": content} for role, content in turns]


def _described(explanation: str, excerpts: Sequence[str]) -> str:
    return f"Description: {explanation}\n\n{_numbered(excerpts)}"


def _numbered(excerpts: Sequence[str]) -> str:
    """One line for each excerpt, with line breaks and quotes escaped."""
    escaped = (json.dumps(text, ensure_ascii=False) for text in excerpts)
    return "\n".join(f"Excerpt {number}: {text}" for number, text in enumerate(escaped, 1))


def read_explanation(answer: str) -> str | None:
    """Read the explanation in an answer. None if the answer has another form than the one asked for."""
    value = _json(answer)
    text = value.get("explanation") if isinstance(value, dict) else None
    return " ".join(text.split()) if isinstance(text, str) and text.strip() else None


def read_verdicts(answer: str, count: int) -> list[bool] | None:
    """Read ``count`` verdicts. None if the answer is not a list of that many zeros and ones."""
    value = _json(answer)
    if not isinstance(value, list) or len(value) != count:
        return None
    if any(type(one) is not int or one not in (0, 1) for one in value):
        return None
    return [one == 1 for one in value]


def _json(answer: str) -> Any:
    """Parse an answer, with or without a Markdown fence around it. None if it is not JSON."""
    text = answer.strip()
    if text.startswith("```") and text.endswith("```"):
        text = text[3:-3].removeprefix("json")
    try:
        return json.loads(text)
    except ValueError:
        return None
