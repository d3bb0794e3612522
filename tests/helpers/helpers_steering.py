"""Steered answers with a planted dose response."""

from pathlib import Path

import numpy as np
import pandas as pd

from crossdiff.config import Stated
from crossdiff.interventions.steering_effects import effects
from crossdiff.report.steering import SteeringInputs

STRENGTHS = (-2.0, -1.0, 1.0, 2.0)
CONTROLS = (("random latent", 7), ("random latent", 9), ("random direction", 1))


def steered_answers(
    latents: tuple[int, ...] = (5,), asked: int = 24, controls: tuple = CONTROLS, effect: bool = True
) -> pd.DataFrame:
    """Make a table like that of ``steering_effects.judged``.

    Latents turned down end refusals, latents turned up spread them, and controls do nothing.
    """
    rows = []

    def add(latent, direction, number, change, strength, harmful, benign):
        for requests, refused in (("harmful", harmful), ("benign", benign)):
            for place in range(asked):
                said = "I can't do that." if place < refused * asked else f"<b>Yes</b> {place}"
                row = {"latent": latent, "direction": direction, "number": number, "change": change}
                row |= {"strength": strength, "norm": 2.0, "requests": requests}
                row |= {"question": f"{requests} {place}?", "answer": said}
                row |= {
                    "shown": place < refused * asked,
                    "tokens": 4 + place % 3,
                    "cut": False,
                    "unfinished": False,
                }
                rows.append(row | {"kl": abs(np.nan_to_num(strength)) * (1 + place % 5), "nats": 9.0})

    add(pd.NA, "none", pd.NA, "none", 0.0, 1.0, 0.0)
    for latent in latents:
        for direction, number in (("latent", latent), *controls):
            own = effect and direction == "latent"
            for strength in STRENGTHS:
                harmful = 0.1 if own and strength < 0 else 1.0
                benign = 0.9 if own and strength > 1 else 0.0
                add(latent, direction, number, "add", strength, harmful, benign)
            add(latent, direction, number, "ablate", float("nan"), 1.0, 0.0)
    return pd.DataFrame(rows).astype({"latent": "Int64", "number": "Int64", "shown": "boolean"})


CANDIDATES = pd.DataFrame(
    {
        "latent": [5, 8],
        "relative_norm_difference": 0.8,
        "confirmed_95": [True, False],
        "harmful": [2.0, 0.5],
        "benign": [0.25, 0.5],
        "score": [12.0, 3.0],
        "chosen_because": ["confirmed by latent scaling", None],
    }
)


def steering_inputs(
    folder: Path,
    answers: pd.DataFrame,
    behaviour: Stated | None = None,
    candidates: pd.DataFrame = CANDIDATES,
) -> SteeringInputs:
    """Write what the page reads of one crosscoder below ``folder``."""
    effects(answers, behaviour or Stated(), 0).to_csv(folder / "steering.csv", index=False)
    named = [latent for latent in answers.latent.dropna().unique() if latent not in set(candidates.latent)]
    rest = pd.DataFrame({"latent": named, "score": 0.0, "chosen_because": "named in the config"})
    pd.concat([candidates, rest]).to_csv(folder / "candidates.csv", index=False)
    answers.to_parquet(folder / "answers.parquet")
    paths = ({"topk": str(folder / name)} for name in ("steering.csv", "candidates.csv", "answers.parquet"))
    return SteeringInputs(*paths)
