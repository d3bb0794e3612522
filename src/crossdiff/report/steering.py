"""The page's section on steering: which latents were steered and why, and what they and their controls did.

It also shows answers before and after.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pandas as pd

from crossdiff.latents.labels import latent_label

ABLATED = "ablated"
FEW_REQUESTS = 20  # with fewer, even a rate of 0 or 1 has a 95 % interval at least 16 points wide
SHOWN = 3  # requests of each kind that are shown
ODD = 2  # answers are called odd above this multiple of the unsteered answers' perplexity


class SteeringInputs(NamedTuple):
    """Paths of the steering tables. Mappings go from crosscoder name to path."""

    effects: Mapping[str, str]
    candidates: Mapping[str, str]
    answers: Mapping[str, str]


class Contrast(NamedTuple):
    """The change under which a latent's refusals of one kind of request differ most from its controls'.

    The difference counts in the expected direction: fewer refusals of harmful requests, more of benign ones.
    """

    requests: str
    change: str  # a strength such as "+2", or ABLATED
    steered: dict[str, Any]  # rows of the effects
    unsteered: dict[str, Any]
    controls: list[int]  # number of requests refused under this change, for each control

    @property
    def surely(self) -> bool:
        """Whether the 95 % interval lies apart from the unsteered model's, and no control goes as far."""
        refused = self.steered["refused"]
        if self.requests == "harmful":
            return self.steered["high"] < self.unsteered["low"] and all(
                one > refused for one in self.controls
            )
        return self.steered["low"] > self.unsteered["high"] and all(one < refused for one in self.controls)

    @property
    def odd(self) -> bool:
        """Whether the base model finds the answers so odd that their refusals say little."""
        return self.steered["perplexity"] > ODD * self.unsteered["perplexity"]


def steering_section(
    inputs: SteeringInputs, names: Mapping[str, Mapping[int, str]] | None = None
) -> dict[str, Any]:
    """Return what the section shows.

    ``asked`` is the number of held-out requests of each kind. ``latents`` has for each steered latent its
    label, why it was chosen, its contrasts and answers. ``few`` says that there are too few requests.
    ``names`` of latents, by crosscoder, are part of the labels.
    """
    found: list[dict[str, Any]] = []
    asked: dict[str, int] = {}
    unfinished = 0
    for name, path in inputs.effects.items():
        effects, candidates = pd.read_csv(path), pd.read_csv(inputs.candidates[name])
        answers = pd.read_parquet(inputs.answers[name])
        asked = effects[effects.change == "none"].set_index("requests").asked.to_dict()
        unfinished += int(effects.unfinished.sum())
        for latent in effects.latent.dropna().astype(int).unique():
            contrasts = list(contrasts_of(effects, latent))
            own = answers[answers.latent.isna() | (answers.latent == latent)]
            label, why = latent_label(name, latent, names), _why(candidates, latent)
            shown = list(_answers(own, contrasts))
            found.append({"label": label, "why": why, "contrasts": contrasts, "answers": shown})
    few = min(asked.values(), default=0) < FEW_REQUESTS
    return {"latents": found, "asked": asked, "few": few, "unfinished": unfinished}


def contrasts_of(effects: pd.DataFrame, latent: int) -> Iterator[Contrast]:
    """Yield each kind's contrast: the fewest refusals of harmful requests, the most of benign ones.

    Refusals are compared with the controls'. Ties go to the smaller strength.
    """
    for requests, sign in (("harmful", -1), ("benign", 1)):
        rows = effects[effects.requests == requests]
        unsteered = rows[rows.change == "none"].iloc[0]
        rows = rows[rows.latent == latent]
        rows = rows.assign(label=rows.apply(_label, axis=1))
        controls = rows[rows.direction != "latent"]
        steered = rows[rows.direction == "latent"].set_index("label")
        usual = controls.groupby("label").rate.mean().reindex(steered.index).fillna(unsteered.rate)
        margin, size = sign * (steered.rate - usual), steered.strength.abs().fillna(math.inf)
        best = min(steered.index, key=lambda label: (-margin[label], size[label]))
        refused = controls[controls.label == best].refused.tolist()
        yield Contrast(requests, best, steered.loc[best].to_dict(), unsteered.to_dict(), refused)


def _label(row: pd.Series) -> str:
    return {"none": "0", "ablate": ABLATED}.get(row.change, f"{row.strength:+g}")


def _why(candidates: pd.DataFrame, latent: int) -> dict[str, Any] | None:
    """Return the numbers by which ``latent`` was chosen, and the runner-up's score.

    None means that the config names the latent.
    """
    if candidates.latent.iloc[0] != latent:
        return None
    first = candidates.iloc[0]
    return {
        "of": len(candidates),
        "harmful": first.harmful,
        "benign": first.benign,
        "score": first.score,
        "next": candidates.score.iloc[1] if len(candidates) > 1 else None,
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
    return {"change": _label(row), "text": row.answer.replace("\n", "\u21b5"), "refused": bool(row.refused)}
