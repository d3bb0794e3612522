"""The dose-response figure: every point, interval and control, from any table."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers_steering import STRENGTHS, steered_answers

from crossdiff.config import Stated
from crossdiff.interventions.steering_effects import effects
from crossdiff.report.figures.drawing import BLUE, GREY, VERMILION, save
from crossdiff.report.figures.steering import CONTROLS, steering


def table(**kwargs) -> pd.DataFrame:
    """As a figure gets it: from a CSV file."""
    text = effects(steered_answers(**kwargs), Stated(), 0).to_csv(index=False)
    return pd.read_csv(io.StringIO(text))


CASES = {
    "one latent": {"topk": table()},
    "several": {"topk": table(latents=(5, 6)), "l1": table()},
    "no controls": {"topk": table(controls=())},
    "one request": {"topk": table(asked=1)},
    "no latent": {"topk": table(latents=())},
    "undefined": {"topk": table().assign(perplexity=np.nan, perplexity_low=np.nan, perplexity_high=np.nan)},
}


@pytest.mark.parametrize("case", CASES)
def test_figure_is_written_and_names_every_latent(tmp_path: Path, case: str):
    save(steering(CASES[case]), [str(tmp_path / "steering.svg"), str(tmp_path / "steering.png")])
    svg = (tmp_path / "steering.svg").read_text()
    for name, found in CASES[case].items():
        for latent in found.latent.dropna().unique():
            assert f"latent {latent:.0f} ({name})" in svg
    assert "nan" not in svg
    assert (tmp_path / "steering.png").read_bytes().startswith(b"\x89PNG")


def lines(ax, colour: str) -> list[list[float]]:
    return [
        list(line.get_ydata())
        for line in ax.lines
        if line.get_color() == colour and line.get_linestyle() not in ("None", "")
    ]


def test_lines_go_through_the_rates_with_the_unsteered_one_among_them():
    found = table()
    ax = steering({"topk": found}).axes[0]
    for requests, colour in (("harmful", VERMILION), ("benign", BLUE)):
        rows = found[
            (found.requests == requests) & found.direction.isin(["latent", "none"]) & found.strength.notna()
        ]
        assert lines(ax, colour)[0] == rows.sort_values("strength").rate.tolist()
        assert len(rows) == len(STRENGTHS) + 1


def test_every_control_is_a_grey_line_for_each_kind_of_request():
    found = table()
    for ax, value in zip(steering({"topk": found}).axes, ("rate", "kl", "perplexity"), strict=True):
        assert [len(lines(ax, grey)) for grey in CONTROLS.values()] == [2 * 2, 2 * 1]
        controls = found[
            (found.direction == "random latent")
            & (found.number == 9)
            & (found.requests == "harmful")
            & found.strength.notna()
        ]
        expected = pd.concat(
            [controls, found[(found.change == "none") & (found.requests == "harmful")]]
        ).sort_values("strength")
        assert expected[value].tolist() in lines(ax, GREY)


def test_whiskers_are_the_intervals():
    found = table()
    ax = steering({"topk": found}).axes[0]
    reaches = {
        tuple(np.round(segment[:, 1], 6)) for part in ax.collections for segment in part.get_segments()
    }
    own = found[found.direction.isin(["latent", "none"])]
    assert reaches == set(zip(own.low.round(6), own.high.round(6), strict=True))


def test_axis_names_strengths_and_stands_projecting_out_apart():
    ax = steering({"topk": table()}).axes[-1]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["-2", "-1", "0", "+1", "+2", "ablated"]
    ticks = ax.get_xticks()
    assert ticks[-1] - ticks[-2] > ticks[-2] - ticks[-3]


def test_legend_counts_requests_and_controls():
    (legend,) = steering({"topk": table()}).legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == [
        "24 harmful requests",
        "24 benign requests",
        "2 random latents of the same norm",
        "1 random direction of the same norm",
    ]


def test_kinds_are_told_apart_without_colour():
    ax = steering({"topk": table()}).axes[0]
    styles = {
        line.get_linestyle()
        for line in ax.lines
        if line.get_color() in (VERMILION, BLUE) and line.get_linestyle() != "None"
    }
    markers = {
        line.get_marker()
        for line in ax.lines
        if line.get_color() in (VERMILION, BLUE) and line.get_marker() in "os"
    }
    assert len(styles) == len(markers) == 2


def test_same_table_gives_the_same_bytes(tmp_path: Path):
    for run in ("first", "second"):
        save(steering({"topk": table()}), [str(tmp_path / f"{run}.svg")])
    assert (tmp_path / "first.svg").read_bytes() == (tmp_path / "second.svg").read_bytes()


def test_axis_names_a_stated_behaviour_as_it_is_written(tmp_path: Path):
    answers = steered_answers()
    answers = answers[answers.requests == "benign"].assign(requests="talk")
    found = pd.read_csv(io.StringIO(effects(answers, Stated(pattern=r"^\$5 or 6\$$"), 0).to_csv(index=False)))
    figure = steering({"topk": found})
    assert figure.axes[0].get_ylabel() == "share of answers that\nmatches /^\\$5 or 6\\$$/"
    assert figure.legends[0].get_texts()[0].get_text() == "24 prompts of talk"
    save(figure, [str(tmp_path / "steering.svg")])
    assert r"matches /^\$5 or 6\$$/" in (tmp_path / "steering.svg").read_text()
