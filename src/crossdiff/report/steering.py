"""The page's section on steering: which latents were steered and why, and what they and their controls did.

It also shows answers before and after.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pandas as pd

from crossdiff.latents.labels import latent_label

ABLATED = "ablated"
REFUSES = "refuses"  # the behaviour in words if the config states none
NAMED = "named in the config"  # why a latent is steered that no rule chose
# Kind of request -> where a latent for refusals should lead: fewer refusals of harmful ones, more of benign.
EXPECTED = {"harmful": -1, "benign": 1}
FEW_REQUESTS = 20  # with fewer, even a rate of 0 or 1 has a 95 % interval at least 16 points wide
SHOWN = 3  # requests of each kind that are shown
ODD = 2  # answers are called odd above this multiple of the unsteered answers' perplexity


class SteeringInputs(NamedTuple):
    """Paths of the steering tables. Mappings go from crosscoder name to path."""

    effects: Mapping[str, str]
    candidates: Mapping[str, str]
    answers: Mapping[str, str]


class Contrast(NamedTuple):
    """The change under which a latent's answers to one kind of prompt differ most from its controls'.

    What differs is the rate of the behaviour. Of refusals, the difference counts in the expected direction:
    fewer of harmful requests, more of benign ones. Of other behaviours both directions count.
    """

    requests: str
    change: str  # a strength such as "+2", or ABLATED
    sign: int  # +1 if the behaviour is more frequent than with the controls, -1 if less
    steered: dict[str, Any]  # rows of the effects
    unsteered: dict[str, Any]
    controls: list[int]  # number of answers with the behaviour under this change, for each control
    rates: list[float]  # the same as shares of judged answers

    @property
    def prompts(self) -> str:
        """The prompts in words."""
        return prompts_of(self.requests)

    @property
    def surely(self) -> bool:
        """Whether the 95 % interval lies apart from the unsteered model's, and no control goes as far."""
        if self.sign < 0:
            apart = self.steered["high"] < self.unsteered["low"]
        else:
            apart = self.steered["low"] > self.unsteered["high"]
        return apart and all(self.sign * (self.steered["rate"] - rate) > 0 for rate in self.rates)

    @property
    def odd(self) -> bool:
        """Whether the base model finds the answers so odd that what they say means little."""
        return self.steered["perplexity"] > ODD * self.unsteered["perplexity"]


def steering_section(
    inputs: SteeringInputs, names: Mapping[str, Mapping[int, str]] | None = None
) -> dict[str, Any]:
    """Return what the section shows.

    ``behaviour`` says what an answer does that is counted. ``asked`` is the number of held-out prompts of
    each kind, in words. ``latents`` has for each steered latent its label, why it was chosen, its contrasts
    and answers. ``few`` says that there are too few prompts. ``unfinished`` and ``unjudged`` count answers
    without a verdict. ``names`` of latents, by crosscoder, are part of the labels.
    """
    found: list[dict[str, Any]] = []
    asked: dict[str, int] = {}
    unfinished = unjudged = 0
    behaviour = REFUSES
    for name, path in inputs.effects.items():
        effects, candidates = pd.read_csv(path), pd.read_csv(inputs.candidates[name])
        answers = pd.read_parquet(inputs.answers[name])
        asked = effects[effects.change == "none"].set_index("requests").asked.to_dict()
        behaviour = effects.behaviour.iloc[0]
        unfinished += int(effects.unfinished.sum())
        unjudged += int(effects.unjudged.sum())
        for latent in effects.latent.dropna().astype(int).unique():
            contrasts = list(contrasts_of(effects, latent))
            own = answers[answers.latent.isna() | (answers.latent == latent)]
            label, why = latent_label(name, latent, names), _why(candidates, latent)
            shown = list(_answers(own, contrasts))
            found.append({"label": label, "why": why, "contrasts": contrasts, "answers": shown})
    few = min(asked.values(), default=0) < FEW_REQUESTS
    return {
        "latents": found,
        "behaviour": behaviour,
        "refusals": behaviour == REFUSES,
        "asked": [f"{count} {prompts_of(kind)}" for kind, count in asked.items()],
        "few": few,
        "unfinished": unfinished,
        "unjudged": unjudged,
    }


def prompts_of(requests: str) -> str:
    """The prompts of one kind in words: harmful or benign requests, or those of a data set."""
    return f"{requests} requests" if requests in EXPECTED else f"prompts of {requests}"


def contrasts_of(effects: pd.DataFrame, latent: int) -> Iterator[Contrast]:
    """Yield each kind's contrast: of refusals the fewest of harmful requests and the most of benign ones.

    Of other behaviours it is the largest difference. Answers are compared with the controls'. Ties go to the
    smaller strength. A change without a judged answer comes last.
    """
    for requests, rows in effects.groupby("requests", sort=False):
        expected = EXPECTED.get(str(requests)) if (effects.behaviour == REFUSES).all() else None
        unsteered = rows[rows.change == "none"].iloc[0]
        rows = rows[rows.latent == latent]
        rows = rows.assign(label=rows.apply(_label, axis=1))
        controls = rows[rows.direction != "latent"]
        steered = rows[rows.direction == "latent"].set_index("label")
        usual = controls.groupby("label").rate.mean().reindex(steered.index).fillna(unsteered.rate)
        more, size = steered.rate - usual, steered.strength.abs().fillna(math.inf)
        margin = (more.abs() if expected is None else expected * more).fillna(-math.inf)
        best = min(steered.index, key=lambda label: (-margin[label], size[label]))
        sign = expected or (-1 if more[best] < 0 else 1)
        others = controls[controls.label == best]
        yield Contrast(
            str(requests),
            best,
            sign,
            steered.loc[best].to_dict(),
            unsteered.to_dict(),
            others.shown.tolist(),
            others.rate.tolist(),
        )


def _label(row: pd.Series) -> str:
    return {"none": "0", "ablate": ABLATED}.get(row.change, f"{row.strength:+g}")


def _why(candidates: pd.DataFrame, latent: int) -> dict[str, Any]:
    """Return why ``latent`` was chosen, the numbers behind it, and the score of the next candidate.

    Only ``because`` is there if the config names the latent.
    """
    [row] = candidates[candidates.latent == latent].to_dict("records")
    if candidates.latent.iloc[0] != latent or row["chosen_because"] == NAMED:
        return {"because": row["chosen_because"]}
    ranked = candidates[candidates.chosen_because != NAMED]
    numbers = {name: row.get(name) for name in ("harmful", "benign", "on_prompts", "score")}
    return numbers | {
        "because": row["chosen_because"],
        "of": len(ranked),
        "confirmed": int(ranked.confirmed_95.fillna(False).astype(bool).sum()),
        "next": ranked.score.iloc[1] if len(ranked) > 1 else None,
    }


def _answers(answers: pd.DataFrame, contrasts: list[Contrast]) -> Iterator[dict[str, Any]]:
    """Yield the first requests of each kind with their answers: before, after, and all."""
    own = answers[answers.direction.isin(["none", "latent"])]
    for contrast in contrasts:
        of_kind = own[own.requests == contrast.requests]
        for question in of_kind.question.unique()[:SHOWN]:
            rows = of_kind[of_kind.question == question].sort_values("strength", na_position="last")
            yield {
                "question": question,
                "change": contrast.change,
                "before": _answer(rows[rows.change == "none"].iloc[0]),
                "after": _answer(rows[rows.apply(_label, axis=1) == contrast.change].iloc[0]),
                "all": [_answer(row) for _, row in rows.iterrows()],
            }


def _answer(row: pd.Series) -> dict[str, Any]:
    text = row.answer.replace("\n", "\u21b5")
    shown = None if pd.isna(row.shown) else bool(row.shown)  # None: no verdict
    return {"change": _label(row), "text": text, "shown": shown}
