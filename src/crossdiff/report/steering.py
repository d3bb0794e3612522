"""The page's section on steering: which latents and why, what they did beside their controls, and answers before and after."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pandas as pd

from crossdiff.latents.labels import latent_label

ABLATED = "ablated"
FEW_REQUESTS = 20  # below, even 0 or all of them leave a rate's 95 % interval 16 points wide
SHOWN = 3  # requests of each kind
ODD = 2  # times the perplexity of unsteered answers, from which on the steered ones are called odd


class SteeringInputs(NamedTuple):
    """Paths; mappings go from crosscoder name to path."""

    effects: Mapping[str, str]
    candidates: Mapping[str, str]
    answers: Mapping[str, str]


class Contrast(NamedTuple):
    """Where a latent's refusals of one kind of request differ most from its controls', in the direction that refusal predicts."""

    requests: str
    change: str  # a strength such as "+2", or ABLATED
    steered: dict[str, Any]  # rows of the effects
    unsteered: dict[str, Any]
    controls: list[int]  # requests that each control has refused under this change

    @property
    def surely(self) -> bool:
        """Whether the 95 % interval lies apart from that of the unsteered model, and no control goes as far."""
        if self.requests == "harmful":
            return self.steered["high"] < self.unsteered["low"] and all(
                refused > self.steered["refused"] for refused in self.controls
            )
        return self.steered["low"] > self.unsteered["high"] and all(
            refused < self.steered["refused"] for refused in self.controls
        )

    @property
    def odd(self) -> bool:
        """Whether the base model finds the answers so odd that what they refuse or not says little."""
        return self.steered["perplexity"] > ODD * self.unsteered["perplexity"]


def steering_section(
    inputs: SteeringInputs, names: Mapping[str, Mapping[int, str]] | None = None
) -> dict[str, Any]:
    """``asked``: held-out requests of each kind. ``latents``: per steered latent its label, why it was chosen, contrasts and answers.

    ``names`` of latents, by crosscoder, are part of the labels.
    """
    found, asked, unfinished = [], {}, 0
    for name, path in inputs.effects.items():
        effects, candidates = pd.read_csv(path), pd.read_csv(inputs.candidates[name])
        answers = pd.read_parquet(inputs.answers[name])
        asked = effects[effects.change == "none"].set_index("requests").asked.to_dict()
        unfinished += int(effects.unfinished.sum())
        for latent in effects.latent.dropna().astype(int).unique():
            contrasts = list(contrasts_of(effects, latent))
            found.append(
                {
                    "label": latent_label(name, latent, names),
                    "why": _why(candidates, latent),
                    "contrasts": contrasts,
                    "answers": list(
                        _answers(answers[answers.latent.isna() | (answers.latent == latent)], contrasts)
                    ),
                }
            )
    few = min(asked.values(), default=0) < FEW_REQUESTS
    return {"latents": found, "asked": asked, "few": few, "unfinished": unfinished}


def contrasts_of(effects: pd.DataFrame, latent: int) -> Iterator[Contrast]:
    """Harmful requests, fewest refusals against the controls'; benign ones, most. Ties go to the smaller strength."""
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
    """The criterion's numbers if ``latent`` was chosen by it, the runner-up's beside; None for one that the config names."""
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
    """The first requests of each kind: the unsteered answer, the one under the contrast's change, and all."""
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
