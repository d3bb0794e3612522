"""Explanation of latents by a language model, and scores of its explanations (docs/method.md 13).

The scores are detection and fuzzing.
"""

import logging
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from crossdiff.explanations import prompts
from crossdiff.explanations.answers import KnownAnswers
from crossdiff.explanations.excerpts import Excerpt, Excerpts
from crossdiff.explanations.scores import FEWEST, balanced_accuracy
from crossdiff.intervals import wilson

log = logging.getLogger(__name__)


SCORES = [f"{score}{end}" for score in ("detection", "fuzzing") for end in ("", "_low", "_high")]
# said is 1 or 0, and NaN if the answer was malformed.
VERDICTS = ("latent", "instruction", "request", "right", "quantile", "said")


class Judge:
    """Asks a language model about latents.

    What the model has answered before is not asked again.
    """

    def __init__(self, model: KnownAnswers, per_request: int) -> None:
        self.model, self.per_request = model, per_request

    def explain(self, excerpts: Mapping[int, Excerpts], latents: int) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Explain latents and score the explanations. Gives tables like those of patterns.PatternExplainer.

        ``latents`` is the number of all latents. Those that ``excerpts`` lacks have no explanation and no
        score. These columns differ from those of patterns:

        - kind: explained, malformed (the explanation was no JSON), too few (contexts) or not chosen
        - requests: number of questions about the latent
        - malformed: number of answers without the form that was asked for; their excerpts are not scored
        """
        usable = {
            latent: found
            for latent, found in excerpts.items()
            if min(len(found.shown), _positives(found)) >= FEWEST
        }
        answers = self.model.answers([prompts.explain(found.shown) for found in usable.values()])
        explanations = {
            latent: prompts.read_explanation(answer) for latent, answer in zip(usable, answers, strict=True)
        }
        given = {latent: text for latent, text in explanations.items() if text is not None}
        log.info("%d of %d latents explained", len(given), len(excerpts))
        verdicts = self._verdicts(given, usable)
        rows = [
            _row(latent, excerpts.get(latent), latent in usable, explanations.get(latent))
            for latent in range(latents)
        ]
        table = pd.DataFrame(rows).merge(_scores(verdicts), on="latent", how="left")
        table["malformed"] = table.malformed.fillna(0).astype(int) + (table.kind == "malformed")
        table["requests"] = table.requests.fillna(0).astype(int) + table.latent.isin(list(usable))
        counts = table.requests.sum(), self.model.asked, table.malformed.sum()
        log.info("%d questions, %d of them new, %d malformed answers", *counts)
        return table, _quantiles(verdicts)

    def _verdicts(self, explanations: Mapping[int, str], excerpts: Mapping[int, Excerpts]) -> pd.DataFrame:
        """Ask for verdicts. Gives one row per judged excerpt, with the columns VERDICTS."""
        asked: list[tuple[int, str, Sequence[Excerpt]]] = []
        for latent in explanations:
            shown = excerpts[latent]
            for instruction, found in ((prompts.DETECT, shown.detection), (prompts.FUZZ, shown.fuzzing)):
                asked += [
                    (latent, instruction, found[first : first + self.per_request])
                    for first in range(0, len(found), self.per_request)
                ]
        questions = [
            prompts.judge(instruction, explanations[latent], [one.text for one in group])
            for latent, instruction, group in asked
        ]
        rows = []
        answered = zip(asked, self.model.answers(questions), strict=True)
        for request, ((latent, instruction, group), answer) in enumerate(answered):
            said: Sequence[float] = prompts.read_verdicts(answer, len(group)) or [np.nan] * len(group)
            rows += [
                (latent, instruction, request, one.right, one.quantile, float(yes))
                for one, yes in zip(group, said, strict=True)
            ]
        return pd.DataFrame(rows, columns=VERDICTS).astype({"latent": int, "right": bool, "said": float})


def _positives(found: Excerpts) -> int:
    return sum(one.right for one in found.detection)


def _row(latent: int, found: Excerpts | None, usable: bool, explanation: str | None) -> dict[str, object]:
    if found is None:
        return {"latent": latent, "explanation": "", "kind": "not chosen", "contexts": 0}
    shown, positives = len(found.shown), _positives(found)
    counts: dict[str, object] = {"latent": latent, "contexts": shown + positives}
    if not usable:
        text = f"too few contexts ({shown} to explain by, {positives} to score on)"
        return counts | {"explanation": text, "kind": "too few"}
    if explanation is None:
        return counts | {"explanation": "malformed answer", "kind": "malformed"}
    return counts | {"explanation": explanation, "kind": "explained"}


def _scores(verdicts: pd.DataFrame) -> pd.DataFrame:
    """The scores of each latent, from its verdicts. Columns:

    - latent
    - scored: number of judged contexts in which it fires
    - malformed, requests: numbers of answers
    - detection, fuzzing: scores with their 95 % intervals
    """
    rows = []
    for latent, part in verdicts.groupby("latent"):
        row = {
            "latent": latent,
            "scored": int((part.right & part.said.notna() & (part.instruction == prompts.DETECT)).sum()),
            "malformed": part[part.said.isna()].request.nunique(),
            "requests": part.request.nunique(),
        }
        for name, instruction in (("detection", prompts.DETECT), ("fuzzing", prompts.FUZZ)):
            judged = part[(part.instruction == instruction) & part.said.notna()]
            right, said = judged.right.to_numpy(), judged.said.to_numpy() == 1
            refused = np.sum(~right & ~said), np.sum(~right)
            score = balanced_accuracy(np.sum(right & said), np.sum(right), [refused])
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), map(float, score), strict=True))
        rows.append(row)
    columns = ["latent", "scored", "malformed", "requests", *SCORES]
    return pd.DataFrame(rows, columns=columns).astype({"latent": int})


def _quantiles(verdicts: pd.DataFrame) -> pd.DataFrame:
    """The recall of detection for each latent and quantile, with its 95 % interval (Wilson).

    ``contexts`` is the number of judged contexts in which the latent fires.
    """
    table = verdicts[(verdicts.instruction == prompts.DETECT) & verdicts.right & verdicts.said.notna()]
    table = table.groupby(["latent", "quantile"]).said.agg(contexts="size", hits="sum").reset_index()
    hits, contexts = table.hits.to_numpy(), table.contexts.to_numpy()
    table["recall"], table["recall_low"], table["recall_high"] = wilson(hits, contexts)
    return table.drop(columns="hits")
