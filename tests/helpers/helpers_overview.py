"""Made-up tables of several pairs and layers, and the page over them."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
from conftest import ROOT
from helpers_report import Page

from crossdiff.latents.overlap import COLUMNS, pairs_table
from crossdiff.provenance.recorded_settings import RecordedSettings
from crossdiff.provenance.storage import write_csv
from crossdiff.report.figures.drawing import write
from crossdiff.report.figures.overview import layers
from crossdiff.report.overview import Compared, render
from crossdiff.report.template import ShownFigure

TEMPLATE = ROOT / "report" / "overview.html.jinja"
COSINE = 0.7
SETTINGS = {
    "classes.chat_only_above": 0.9,
    "classes.top": 50,
    "latent_scaling.nu_error_below": 0.2,
    "latent_scaling.nu_reconstruction_below": 0.5,
    "datasets.talk.kind": "chats",
    "datasets.talk.tokens": 60_000,
    "datasets.pages.kind": "documents",
    "datasets.pages.tokens": 40_000,
}


class OverviewPage(Page):
    """The parsed page, and the texts that it marks as too small to conclude."""

    def __init__(self, html: str) -> None:
        self.marked: list[str] = []
        self._is_marked = False
        super().__init__(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        super().handle_starttag(tag, attributes)
        self._is_marked = ("class", "weak") in attributes

    def handle_endtag(self, tag: str) -> None:
        super().handle_endtag(tag)
        self._is_marked = False

    def handle_data(self, data: str) -> None:
        super().handle_data(data)
        if self._is_marked:
            self.marked.append(data)


def place(pair: str, layer: int, base: str = "base", tokenizer: str = "shared") -> Compared:
    return Compared(pair, layer, base, f"{pair}-chat", tokenizer)


def numbers(
    confirmed: int = 20,
    crosscoders: Sequence[str] = ("batchtopk",),
    seeds: Sequence[int] = (0, 1),
    **changes: Any,
) -> pd.DataFrame:
    """Headline numbers of one pair and layer, as far as page and figure read them."""
    quality = {"fve_base": 0.85, "fve_chat": 0.8, "l0": 31.25, "latents": 2304, "dead": 12}
    classes = {"chat_only": 31, "chat_only_confirmed": confirmed - 5, "top": 50}
    classes |= {"top_confirmed": confirmed - 3, "others_confirmed": confirmed}
    ratios = {"top_median_nu_error": 0.34, "top_median_nu_reconstruction": 0.56}
    row = quality | classes | ratios | changes
    return pd.DataFrame(
        [{"crosscoder": name, "seed": seed} | row for name, seed in product(crosscoders, seeds)]
    )


def shared(pair: str, other: str, layer: int = 12, **changes: Any) -> dict[str, Any]:
    """A row of the overlap: 20 confirmed latents, 12 found again, 9 of those fire together."""
    names = {"layer": layer, "crosscoder": "batchtopk", "seed": 0, "pair": pair, "other_pair": other}
    matched = {"confirmed": 20, "matched": 12, "matched_confirmed": 7, "median_cosine": 0.81}
    together = {"co_active": 9, "median_co_activation": 0.74}
    control = {"control": 50, "control_matched": 44, "control_co_active": 41}
    return names | matched | together | control | changes


def html(
    folder: Path,
    compared: Sequence[Compared],
    tables: Sequence[pd.DataFrame],
    rows: Sequence[dict[str, Any]] = (),
    recorded: Sequence[dict[str, Any]] | None = None,
) -> str:
    """Write the tables, and the figure where there are several layers. Give the page."""
    folder.mkdir(exist_ok=True)
    table = pairs_table(tables, [one._asdict() for one in compared])
    write_csv(folder / "pairs.csv", table)
    write_csv(
        folder / "overlap.csv",
        pd.DataFrame(rows, columns=list(dict.fromkeys([*COLUMNS, *(key for row in rows for key in row)]))),
    )
    figures = []
    if len({one.layer for one in compared}) > 1:
        drawing = [str(folder / f"layers.{end}") for end in ("svg", "png")]
        write(layers, drawing, str(folder / "layers.json"), table)
        figures = [ShownFigure.of(drawing[0], str(folder / "layers.json"))]
    return render(
        compared,
        [RecordedSettings(settings) for settings in recorded or [SETTINGS] * len(compared)],
        str(folder / "pairs.csv"),
        str(folder / "overlap.csv"),
        COSINE,
        figures,
        TEMPLATE,
    )


def page_of(*arguments: Any, **others: Any) -> OverviewPage:
    return OverviewPage(html(*arguments, **others))
