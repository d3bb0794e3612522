"""What steering does to answers: which of them show the behaviour, and effects by condition. Torch-free."""

import re
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from crossdiff.config import Stated
from crossdiff.intervals import RESAMPLES, central_95, draw_counts, wilson
from crossdiff.texts.behaviours import has_word, is_refusal

CONDITION = ["latent", "direction", "number", "change", "strength", "norm"]

# The verdict on each (request, answer): None if it is neither yes nor no.
Judge = Callable[[Sequence[tuple[str, str]]], Sequence[bool | None]]


def judged(answers: pd.DataFrame, behaviour: Stated, judge: Judge | None = None) -> pd.DataFrame:
    """The answers of ``steering_run.steer`` with a column ``shown``: whether each shows the ``behaviour``.

    It is missing for answers that are nothing but a thought, and where the verdict is neither yes nor no.
    ``judge`` is asked if the behaviour has a question.
    """
    finished = answers[~answers.unfinished.astype(bool)]
    found: Sequence[bool | None]
    if behaviour.judge is not None:
        assert judge is not None
        found = judge(list(zip(finished.question, finished.answer, strict=True)))
    else:
        found = [_shows(answer, behaviour) for answer in finished.answer]
    shown = pd.Series(pd.array(found, dtype="boolean"), finished.index).reindex(answers.index)
    place = answers.columns.get_loc("answer")
    assert isinstance(place, int)
    table = answers.copy()
    table.insert(place + 1, "shown", shown)
    return table


def _shows(answer: str, behaviour: Stated) -> bool:
    if behaviour.pattern is not None:
        return bool(re.search(behaviour.pattern, answer))
    return is_refusal(answer) if behaviour.words is None else has_word(answer, behaviour.words)


def effects(answers: pd.DataFrame, behaviour: Stated, seed: int) -> pd.DataFrame:
    """Summarise judged answers, one row per condition and kind of request.

    Columns, after those of the condition:

    - behaviour: what an answer that is counted does, in words
    - requests: harmful or benign, or the data set of the prompts
    - asked, shown: numbers of requests, and of answers with the behaviour
    - unfinished: number of answers that are nothing but a thought
    - unjudged: number of others on which the judge said neither yes nor no
    - rate, low, high: shown / (asked - unfinished - unjudged), and its 95 % interval (Wilson)
    - cut: number of answers that reached the longest length
    - kl: mean over requests, in nats
    - length: mean number of tokens
    - perplexity: under the base model, exp(all nats / all tokens); NaN if no answer has a token
    - {kl, length, perplexity}_low and _high: 95 % intervals by a bootstrap over requests, seeded with
      ``seed``
    """
    rows = []
    for condition, group in answers.groupby([*CONDITION, "requests"], sort=False, dropna=False):
        judged, unfinished = group.shown.notna(), int(group.unfinished.sum())
        count = int(group.shown.fillna(False).sum())
        rate, low, high = map(float, wilson(count, int(judged.sum())))
        row = dict(zip([*CONDITION, "requests"], condition, strict=True))
        row |= {"behaviour": behaviour.said, "asked": len(group), "shown": count}
        row |= {"rate": rate, "low": low, "high": high, "unfinished": unfinished}
        row |= {"unjudged": int((~judged).sum()) - unfinished, "cut": int(group.cut.sum())}
        rows.append(row | _bootstrapped(group, seed))
    return pd.DataFrame(rows).astype({"latent": "Int64", "number": "Int64"})


def _bootstrapped(group: pd.DataFrame, seed: int) -> dict[str, float]:
    """Means over requests, and their 95 % intervals by a bootstrap.

    Requests are drawn with replacement, and all conditions get the same draws.
    """
    count = len(group)
    # The first row gives the estimate itself.
    weights = np.vstack([np.ones(count), draw_counts(count, RESAMPLES, seed)])
    kl, tokens, nats = (weights @ group[name].to_numpy(float) for name in ("kl", "tokens", "nats"))
    with np.errstate(divide="ignore", invalid="ignore"):
        found = {
            "kl": kl / count,
            "length": tokens / count,
            "perplexity": np.exp(nats / np.where(tokens > 0, tokens, np.nan)),
        }
    row: dict[str, float] = {}
    for name, values in found.items():
        low, high = central_95(values[1:])  # NaN if a draw holds no token
        row |= {name: float(values[0]), f"{name}_low": float(low), f"{name}_high": float(high)}
    return row
