"""The page over all pairs and layers: what was compared, the numbers, and what pairs have in common."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from crossdiff.errors import UserError
from crossdiff.latents.applies import DOES_NOT_APPLY
from crossdiff.latents.evaluation import NU_RANGE
from crossdiff.provenance.recorded_settings import RecordedSettings
from crossdiff.provenance.storage import record_mark
from crossdiff.report.limits import FEW_LATENTS, LOW_CONTROL, LOW_FVE, MANY_DEAD, UNEQUAL_L0
from crossdiff.report.template import ShownFigure, page_template

THRESHOLDS = (
    "classes.chat_only_above",
    "classes.top",
    "latent_scaling.nu_error_below",
    "latent_scaling.nu_reconstruction_below",
)


class Compared(NamedTuple):
    """A pair at a layer."""

    pair: str
    layer: int
    base: str
    chat: str
    tokenizer: str


def render(
    compared: Sequence[Compared],
    recorded: Sequence[RecordedSettings],
    pairs: str,
    overlap: str,
    cosine_above: float,
    figures: Sequence[ShownFigure],
    template: str | Path,
) -> str:
    """Return the page as HTML. The template engine escapes all text from data.

    ``recorded`` are the settings in the records of each pair and layer, in the order of ``compared``.
    ``cosine_above`` is the threshold of the table ``overlap``. Raises UserError if the results of two pairs
    or layers were made with different thresholds.
    """
    numbers, found = pd.read_csv(pairs), pd.read_csv(overlap)
    found = found.assign(disagree=disagree(found))
    return page_template(template).render(
        record=" ".join(record_mark().values()),
        thresholds=thresholds(recorded),
        cosine_above=cosine_above,
        lowest_nu=NU_RANGE[0],
        pairs=_pairs(compared),
        bases=_groups(compared, "base"),
        tokenizers=_groups(compared, "tokenizer"),
        layers=sorted({one.layer for one in compared}),
        datasets=_datasets(recorded[0]),
        is_test=any(part.has_model("random") for part in recorded),
        is_planted=any(part.given("pair.chat.planted") for part in recorded),
        numbers=numbers.join(weak(numbers)).to_dict("records"),
        by_layer=_by_layer(numbers),
        overlap=[(layer, rows.to_dict("records")) for layer, rows in found.groupby("layer")],
        nothing_confirmed=(found.confirmed == 0).all(),
        alone=alone(compared),
        cautions=list(cautions(numbers)),
        disagreeing=int(found.disagree.sum()),
        figures=figures,
    )


def thresholds(recorded: Sequence[RecordedSettings]) -> dict[str, Any]:
    """Key -> value of THRESHOLDS. Raises UserError if two pairs or layers have different ones."""
    for part in recorded[1:]:
        for key in THRESHOLDS:
            if part[key] != recorded[0][key]:
                raise UserError(
                    f"{key}: found {recorded[0][key]!r} and {part[key]!r} among results of this page; "
                    "run the workflow again"
                )
    return {key: recorded[0][key] for key in THRESHOLDS}


def alone(compared: Sequence[Compared]) -> list[Compared]:
    """The pairs that no other one can be compared with: no other pair has their layer and their base."""
    places = [(one.layer, one.base) for one in compared]
    return [one for one, place in zip(compared, places, strict=True) if places.count(place) == 1]


def weak(numbers: pd.DataFrame) -> pd.DataFrame:
    """What is too small in each training: a yes or no per row of ``numbers`` and kind of weakness."""
    return pd.DataFrame(
        {
            "few": numbers.others_confirmed < FEW_LATENTS,
            "low_base": numbers.fve_base < LOW_FVE,
            "low_chat": numbers.reindex(columns=["fve_chat", "fve_difference"]).lt(LOW_FVE).any(axis=1),
            "many_dead": numbers.dead / numbers.latents > MANY_DEAD,
        }
    )


def cautions(numbers: pd.DataFrame) -> Iterator[str]:
    """Yield a sentence for everything that the trainings are too few, or too weak, to conclude.

    What does not apply to some trainings, and what their losses do to the numbers, comes last.
    """
    if numbers.seed.nunique() == 1:
        yield (
            "Every crosscoder was trained from one seed. Another seed gives other numbers, so a small "
            "difference between two pairs or layers says little."
        )
    found = weak(numbers)
    said = {
        f"fewer than {FEW_LATENTS} latents are confirmed. These are too few to compare pairs or layers": (
            found.few
        ),
        "the crosscoder explains less than 60 % of the variance. The rest may hold the difference": (
            found.low_base | found.low_chat
        ),
        "more than a quarter of the latents never fire on held-out text": found.many_dead,
    }
    for what, rows in said.items():
        if rows.any():
            yield f"In {rows.sum()} of {len(rows)} trainings {what}."
    l0 = numbers.groupby(["pair", "layer", "seed"]).l0
    unequal = l0.max() > UNEQUAL_L0 * l0.min()
    if unequal.any():
        yield (
            f"In {unequal.sum()} of {len(unequal)} cases the crosscoders of one pair, layer and seed have "
            "unequal numbers of active latents per token (L0). What differs between these need not come from "
            "their losses."
        )
    if DOES_NOT_APPLY in numbers:
        for why, rows in numbers.groupby(DOES_NOT_APPLY):
            yield f"In {len(rows)} of {len(numbers)} trainings nothing can be confirmed: {why}."
    if "note" in numbers:
        for (crosscoder, note), _ in numbers.groupby(["crosscoder", "note"], sort=False):
            yield f"{crosscoder}: {note}."


def disagree(found: pd.DataFrame) -> pd.Series:
    """The rows of ``overlap`` whose crosscoders agree on too little to miss a latent."""
    return found.control_matched < LOW_CONTROL * found.control


def _pairs(compared: Sequence[Compared]) -> list[dict[str, Any]]:
    """A row per pair, with its layers."""
    rows: dict[str, dict[str, Any]] = {}
    for one in compared:
        row = rows.setdefault(one.pair, one._asdict() | {"layers": []})
        row["layers"].append(one.layer)
    return list(rows.values())


def _groups(compared: Sequence[Compared], field: str) -> dict[str, list[str]]:
    """Value of ``field`` -> the pairs that have it."""
    groups: dict[str, list[str]] = {}
    for row in _pairs(compared):
        groups.setdefault(row[field], []).append(row["pair"])
    return groups


def _datasets(recorded: RecordedSettings) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "kind": recorded[f"datasets.{name}.kind"],
            "tokens": recorded[f"datasets.{name}.tokens"],
        }
        for name in recorded.names("datasets")
    ]


def _by_layer(numbers: pd.DataFrame) -> list[dict[str, Any]]:
    """For every pair with several layers and each crosscoder: confirmed latents by layer, mean over seeds.

    ``most`` are the layers with the most. It is empty where all have as many, or fewer than FEW_LATENTS.
    """
    rows = []
    for (pair, crosscoder), part in numbers.dropna(subset="others_confirmed").groupby(
        ["pair", "crosscoder"], sort=False
    ):
        means = part.groupby("layer").others_confirmed.mean()
        if len(means) > 1:
            clear = means.max() >= FEW_LATENTS and means.nunique() > 1
            most = means.index[means == means.max()].tolist() if clear else []
            rows.append({"pair": pair, "crosscoder": crosscoder, "means": means.to_dict(), "most": most})
    return rows
