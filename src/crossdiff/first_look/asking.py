"""The baseline of asking a language model what a fine-tune changed, from both models' answers alone.

It sees no weights and no activations (arXiv 2602.10371 finds that this is hard to beat). Torch-free.
"""

import re

import numpy as np
import pandas as pd

from crossdiff.explanations.answers import KnownAnswers, Question

LONGEST = 400  # tokens of the reply
SEED = 0  # decides whose answer is shown first
MOST = 5  # differences that are asked for
LONGEST_TEXT = 800  # characters of a prompt or an answer in the question; small models have a short context
BULLET = re.compile(r"^(?:[-*\u2022]|\d+[.)])\s+")
THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
ASKED = (
    "Two language models answered the same prompts. Model B was made from model A by further training. "
    f"What did the training change? Give up to {MOST} differences that several answers show, the clearest "
    "first, one short sentence on a line each. Say nothing else. If the answers show none, write: none."
)


def question(answers: pd.DataFrame) -> Question:
    """The one question about all prompts, from the answers of the conditions ``base`` and ``chat``.

    In a random half of the prompts model A's answer stands first, so that the order says nothing.
    """
    order = np.random.default_rng(SEED)
    parts = [ASKED]
    for number, (_, rows) in enumerate(answers.groupby("prompt", sort=True), 1):
        said = rows.set_index("condition").answer
        lines = [f"Model A: {_cut(said['base'])}", f"Model B: {_cut(said['chat'])}"]
        if order.integers(2):
            lines.reverse()
        parts.append("\n".join([f"Prompt {number}: {_cut(rows.prompt_text.iloc[0])}", *lines]))
    return Question([{"role": "user", "content": "\n\n".join(parts)}], LONGEST)


def _cut(text: str) -> str:
    """The text, or the end of a long one: that of a prompt is what is answered."""
    return text if len(text) <= LONGEST_TEXT else f"… {text[-LONGEST_TEXT:]}"


def ask(model: KnownAnswers, answers: pd.DataFrame) -> pd.DataFrame:
    """Ask a language model about both models' answers. The column ``difference`` has a row per reply line.

    Empty if it sees none, or if there are no answers. Raises UserError if the model fails.
    """
    both = answers[answers.condition.isin(["base", "chat"])]
    if both.empty:
        return pd.DataFrame({"difference": pd.Series([], dtype=str)})
    [reply] = model.answers([question(both)])
    lines = [BULLET.sub("", line.strip()).strip() for line in THOUGHT.sub("", reply).splitlines()]
    found = [line for line in lines if line and line.lower().rstrip(".") != "none"]
    return pd.DataFrame({"difference": pd.Series(found[:MOST], dtype=str)})
