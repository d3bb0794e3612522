"""The leaderboard page shows scores on planted concepts and verdicts on the paper's claims."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from crossdiff.planted.methods import FREQUENCIES, RARE_BELOW
from crossdiff.planted.scoring import CALLED, DECISIVE, DEFAULT_LOSS, RATIOS, STATISTICS
from crossdiff.provenance.recorded_settings import RecordedSettings
from crossdiff.provenance.storage import read_json, record_mark
from crossdiff.report.limits import unequal_l0
from crossdiff.report.template import ShownFigure, page_template


def render(
    recorded: RecordedSettings,
    concepts: str,
    summary: str,
    tables: Sequence[str],
    figures: Sequence[ShownFigure],
    template: str,
) -> str:
    """Return the page as HTML. ``recorded`` are the settings in the records of the files that it shows."""
    read = {Path(path).stem: pd.read_csv(path) for path in tables}
    methods = read["planted_methods"]
    found: dict[str, dict[tuple[str, str], dict[str, Any]]] = {}
    for row in read["planted_recall"].to_dict("records"):
        found.setdefault(row["crosscoder"], {})[row["kind"], row["frequency"]] = row
    return page_template(template).render(
        record=" ".join(record_mark().values()),
        recorded=recorded,
        planted=pd.read_csv(concepts).kind.value_counts().to_dict(),
        summary=read_json(summary),
        tables={name: table.to_dict("records") for name, table in read.items()},
        found=found,
        unequal=unequal_l0(dict(zip(methods.crosscoder, methods.l0, strict=True))),
        frequencies=FREQUENCIES[1:],
        rare_below=RARE_BELOW,
        decisive=DECISIVE,
        default_loss=DEFAULT_LOSS,
        called=CALLED,
        statistics=STATISTICS,
        ratios=RATIOS,
        figures=figures,
    )
