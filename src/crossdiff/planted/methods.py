"""Compare methods on planted concepts: what each finds by kind and frequency, and what it costs."""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

from crossdiff.intervals import share_mean
from crossdiff.latents.applies import missing, reason, table_of
from crossdiff.latents.evaluation import FVE
from crossdiff.planted.kinds import KINDS
from crossdiff.provenance.records import read_record

RARE_BELOW = 0.006  # share of tokens; most concepts that were missed at first are rarer (docs/planted.md)
FREQUENCIES = ("all", "rare", "frequent")
NO_DIFFERENCE = "a shared concept is not in the difference"
Training = tuple[str, int]  # crosscoder, seed


def recall_table(
    concepts: pd.DataFrame,
    tables: Mapping[Training, pd.DataFrame],
    called: Mapping[Training, Any],
) -> pd.DataFrame:
    """Count the planted concepts that each crosscoder finds, by kind and frequency.

    ``concepts`` is the ground truth. ``tables`` are those of ``scoring.latent_table``, and ``called`` the
    latents that the decisive rule calls chat-only, (latents,) bool. There is one row per crosscoder, kind and
    one of FREQUENCIES, if such concepts are planted. Columns:

    - crosscoder, kind, frequency: rare means on fewer than RARE_BELOW of the tokens
    - planted: number of such concepts
    - found: share of them that a live latent stands for; mean over seeds with _low and _high (``share_mean``)
    - recall: the same for chat-only concepts and called latents
    - does_not_apply: why one of both is missing
    """
    rows = []
    for crosscoder in dict.fromkeys(name for name, _ in tables):
        of = [training for training in tables if training[0] == crosscoder]
        found = [set(tables[training].concept) for training in of]
        recalled = [set(tables[training].concept[called[training]]) for training in of]
        why = reason(tables[of[0]])
        for kind in KINDS:
            for frequency in FREQUENCIES:
                planted = _planted(concepts, kind, frequency)
                if not planted:
                    continue
                row = {
                    "crosscoder": crosscoder,
                    "kind": kind,
                    "frequency": frequency,
                    "planted": len(planted),
                }
                kept = [*row] if why and kind == "shared" else [*row, "found", "found_low", "found_high"]
                recalls = recalled if kind == "chat_only" else []
                row |= _share("found", found, planted) | _share("recall", recalls, planted)
                says = NO_DIFFERENCE if kind == "shared" else why if kind == "chat_only" else ""
                rows.append(missing(says if why else "", row, kept))
    return table_of(rows)


def _planted(concepts: pd.DataFrame, kind: str, frequency: str) -> set[int]:
    of_kind = concepts[concepts.kind == kind]
    is_rare = of_kind.frequency < RARE_BELOW
    return set(of_kind.concept[{"all": is_rare | True, "rare": is_rare, "frequent": ~is_rare}[frequency]])


def _share(name: str, found: Sequence[set[int]], planted: set[int]) -> dict[str, float]:
    """Average the share of the ``planted`` concepts among those found with each seed. NaN without seeds."""
    shares = [len(planted & concepts) / len(planted) for concepts in found]
    values = share_mean(shares) if shares else (math.nan,) * 3
    return dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))


def methods_table(
    losses: Mapping[str, str], quality: pd.DataFrame, seconds: Mapping[str, float], default: str | None
) -> pd.DataFrame:
    """Put what each method is and costs into a table, a row per crosscoder.

    ``losses`` is crosscoder -> loss, ``quality`` the table over all crosscoders and seeds. ``seconds`` are
    those of a training step, or empty if they are not known. ``default`` is the crosscoder that costs are
    relative to. Columns:

    - crosscoder, loss, seeds
    - l0, dead and those of FVE that ``quality`` has: means over seeds, on held-out tokens
    - seconds_per_step
    - cost: seconds_per_step over that of ``default``; NaN without it
    """
    numbers = ["l0", "dead", *(name for name in FVE if name in quality)]
    reference = seconds.get(default, math.nan) if default is not None else math.nan
    rows = []
    for crosscoder, loss in losses.items():
        of = quality[quality.crosscoder == crosscoder]
        step = seconds.get(crosscoder, math.nan)
        cost = {"seconds_per_step": step, "cost": step / reference}
        row = {"crosscoder": crosscoder, "loss": loss, "seeds": len(of)}
        rows.append(row | of[numbers].astype(float).mean().to_dict() | cost)
    return pd.DataFrame(rows)


def seconds_per_step(logs: Sequence[str]) -> float:
    """Return the seconds of a training step of one crosscoder: the median over its trainings.

    ``logs`` are their files training.csv. A training's seconds are those that its record says its job took,
    less those for hashing files. Of an interrupted training only the last attempt counts. The median over
    seeds is little moved by one of these. Raises UserError for a log without a record.
    """
    return median(_seconds(log) / pd.read_csv(log).step.iloc[-1] for log in logs)


def _seconds(log: str | Path) -> float:
    run = read_record(log).run
    started, finished = (datetime.fromisoformat(run[name]) for name in ("started", "finished"))
    return (finished - started).total_seconds() - run["recording_seconds"]
