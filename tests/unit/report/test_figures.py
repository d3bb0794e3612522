"""The figures: each draws from any tables, tells the right numbers, and is the same file each time."""

from collections.abc import Callable, Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from crossdiff.config import Classes, LatentScaling
from crossdiff.latents.evaluation import classify
from crossdiff.latents.template_tokens import GROUPS
from crossdiff.report.figures import crosscoders as figures
from crossdiff.report.figures.drawing import label_rows, save, stacks

CLASSES = Classes(top=5)


def table(difference: list[float], nu: list[float], fired: int = 1) -> pd.DataFrame:
    """A beta table with ratios ``nu``; nu_error is a tenth lower. Cosines fall as the difference grows."""
    difference, nu = np.asarray(difference, np.float32), np.asarray(nu, np.float64)
    return pd.DataFrame(
        {
            "latent": range(len(nu)),
            "relative_norm_difference": difference,
            "decoder_cosine": 1 - difference,
            "nu_error": nu - 0.1,
            "nu_reconstruction": nu,
            "confirmed": (nu < 0.25) & (nu > 0),
            "class": classify(difference, np.full(len(nu), fired), CLASSES),
        }
    )


NAN = float("nan")
FULL = table([0.02, 0.45, 0.5, 0.55, 0.7, 0.93, 0.95, 0.99], [1.5, 1.0, 1.05, 0.9, 0.6, 0.4, 0.2, 0.15])
NO_CHAT_ONLY = table([0.5, 0.5, 0.6, 0.7], [1.0, 0.9, 1.1, 0.8])
ALL_DEAD = table([0.5, 0.95, 0.99], [NAN, NAN, NAN], fired=0)
ALL_UNDEFINED = table([0.5, 0.95, 0.99], [NAN, NAN, NAN])
OUT_OF_RANGE = table([0.5, 0.95, 0.99], [7.0, -3.0, 0.1])

TABLES = {
    "one crosscoder": {"batchtopk": FULL},
    "two": {"batchtopk": FULL, "l1": OUT_OF_RANGE},
    "three": {"batchtopk": FULL, "l1": FULL, "l1-strong": NO_CHAT_ONLY},
    "no chat-only latent": {"batchtopk": NO_CHAT_ONLY},
    "all dead": {"batchtopk": ALL_DEAD},
    "all ratios undefined": {"batchtopk": ALL_UNDEFINED},
    "all dead beside a good one": {"batchtopk": ALL_DEAD, "l1": FULL},
}


def training_log(rows: int) -> pd.DataFrame:
    share = np.linspace(0.1, 1, rows)
    return pd.DataFrame(
        {
            "tokens": share * 3e6,
            "fve_base": share - 0.2,
            "fve_chat": share - 0.1,
            "l0": 300 * (1.1 - share),
            "dead": 20 * share,
        }
    )


TRAINING_LOGS = {
    "one crosscoder": {"batchtopk": training_log(20)},
    "three": {"batchtopk": training_log(20), "l1": training_log(5), "l1-strong": training_log(20)},
    "one row": {"batchtopk": training_log(1)},
    "diverged": {"batchtopk": training_log(5).assign(fve_base=-40.0)},
    "silent": {"batchtopk": training_log(5).assign(l0=0.0)},
}


def template_shares(betas: pd.DataFrame) -> pd.DataFrame:
    """Latents that lean far to the chat model fire on template tokens; the first one is silent in chats."""
    shares = betas.relative_norm_difference.where(betas.latent > 0)
    return pd.DataFrame({"latent": betas.latent, "template_share": shares})


TOKENS_READ = dict.fromkeys(GROUPS, 0) | {"header": 10, "turn_end": 10, "later": 80}


def template_tokens(betas: Mapping[str, pd.DataFrame]) -> Figure:
    tables = {name: template_shares(table) for name, table in betas.items()}
    return figures.template_tokens(betas, tables, dict.fromkeys(betas, TOKENS_READ), CLASSES)


BETA_FIGURES: dict[str, Callable[[Mapping[str, pd.DataFrame]], Figure]] = {
    "norm_difference": lambda betas: figures.norm_difference(betas, CLASSES),
    "latent_scaling": lambda betas: figures.latent_scaling(betas, CLASSES, LatentScaling()),
    "threshold_sweep": lambda betas: figures.threshold_sweep(betas, CLASSES),
    "template_tokens": template_tokens,
}
CASES = [
    pytest.param(draw, betas, id=f"{name}: {case}")
    for name, draw in BETA_FIGURES.items()
    for case, betas in TABLES.items()
]
CASES += [
    pytest.param(figures.training, logs, id=f"training: {case}") for case, logs in TRAINING_LOGS.items()
]


def texts(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts]


def legend(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


@pytest.mark.parametrize(("draw", "data"), CASES)
def test_figure_is_written_in_three_formats_and_names_every_crosscoder(
    tmp_path: Path, draw: Callable, data: Mapping
) -> None:
    save(draw(data), [str(tmp_path / f"figure.{ending}") for ending in ("svg", "pdf", "png")])
    svg = (tmp_path / "figure.svg").read_text()
    assert "</svg>" in svg
    assert [name for name in data if name not in svg] == []
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    pdf = (tmp_path / "figure.pdf").read_bytes()
    assert pdf.startswith(b"%PDF") and b"/FontFile2" in pdf and b"/Type3" not in pdf  # fonts are embedded
    with Image.open(tmp_path / "figure.png") as png:
        assert round(png.info["dpi"][0]) == 300
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("name", [*BETA_FIGURES, "training"])
def test_same_data_give_the_same_bytes(tmp_path: Path, name: str) -> None:
    for run in ("first", "second"):
        figure = (
            figures.training(TRAINING_LOGS["three"])
            if name == "training"
            else BETA_FIGURES[name](TABLES["two"])
        )
        save(figure, [str(tmp_path / f"{run}.{ending}") for ending in ("svg", "pdf", "png")])
    for ending in ("svg", "pdf", "png"):
        assert (tmp_path / f"first.{ending}").read_bytes() == (tmp_path / f"second.{ending}").read_bytes()


def test_saved_figures_are_closed(tmp_path: Path) -> None:
    save(figures.training(TRAINING_LOGS["three"]), [str(tmp_path / "figure.svg")])
    assert plt.get_fignums() == []


def test_norm_difference_counts_classes_and_draws_live_latents() -> None:
    with_dead = pd.concat([FULL, ALL_DEAD])
    ax, _ = figures.norm_difference({"batchtopk": with_dead}, CLASSES).axes
    assert texts(ax) == ["base-only\n1", "shared\n3", "chat-only\n3"]
    assert ax.get_title(loc="left") == "batchtopk: 8 live of 11 latents"
    bars = [patch for patch in ax.patches if patch.get_width() < 0.03]  # the spans of the classes are wider
    assert sum(bar.get_height() for bar in bars) == 8


def test_norm_difference_panels_share_an_axis_that_holds_the_highest_bar() -> None:
    many = table([0.5] * 400, [1.0] * 400)
    for betas in ({"few": FULL, "many": many}, {"many": many, "few": FULL}):
        axes = figures.norm_difference(betas, CLASSES).axes[:2]
        assert [ax.get_ylim()[1] > 400 for ax in axes] == [True, True]


@pytest.mark.parametrize("names", [("dead", "good"), ("good", "dead")])
def test_norm_difference_has_a_log_axis_beside_a_crosscoder_without_live_latents(
    names: tuple[str, str],
) -> None:
    tables = {"dead": ALL_DEAD, "good": FULL}
    axes = figures.norm_difference({name: tables[name] for name in names}, CLASSES).axes[:2]
    assert [ax.get_yscale() for ax in axes] == ["log", "log"]


def test_decoder_cosines_are_drawn_per_class_of_live_latents() -> None:
    _, ax = figures.norm_difference({"batchtopk": pd.concat([FULL, ALL_DEAD])}, CLASSES).axes
    assert sorted(legend(ax)) == ["base-only (1)", "chat-only (3)", "other (1)", "shared (3)"]
    outlines = [patch for patch in ax.patches if patch.get_label() == "shared (3)"]
    heights = outlines[0].get_xy()[:, 1]
    assert sum(heights[1:-1:2]) == pytest.approx(1)
    assert len({patch.get_linestyle() for patch in ax.patches}) == 4


def test_template_tokens_shows_the_share_of_latents_at_or_above_every_share() -> None:
    betas = table([0.45, 0.5, 0.55, 0.95, 0.95], [0.5] * 5)
    shares = pd.DataFrame({"latent": range(5), "template_share": [NAN, 0.2, 0.4, 0.6, 1.0]})
    (ax,) = figures.template_tokens(
        {"batchtopk": betas}, {"batchtopk": shares}, {"batchtopk": TOKENS_READ}, Classes(top=3)
    ).axes
    lines = {line.get_label(): line for line in ax.lines}
    assert legend(ax) == [
        "shared (2): 0 % mostly, 50 % at least a third",
        "most chat-leaning (3): 67 % mostly, 100 % at least a third",
        "chat-only (2): 100 % mostly, 100 % at least a third",
        "all tokens of chats: 20 % are template",
    ]
    x, y = lines["most chat-leaning (3): 67 % mostly, 100 % at least a third"].get_data()

    def at(share: float) -> float:
        """The height of the curve, which falls just after each step."""
        return y[np.searchsorted(x, share)]

    assert [at(share) for share in (0.0, 0.3, 0.4, 0.41, 0.5, 0.6, 0.61, 1.0)] == pytest.approx(
        [1, 1, 1, 2 / 3, 2 / 3, 2 / 3, 1 / 3, 1 / 3]
    )
    assert len({line.get_linestyle() for label, line in lines.items() if "mostly" in label}) == 3


def test_template_tokens_says_that_a_set_is_empty() -> None:
    (ax,) = template_tokens({"batchtopk": NO_CHAT_ONLY}).axes
    assert "chat-only (0)" in legend(ax)
    (ax,) = template_tokens({"batchtopk": ALL_DEAD}).axes
    assert legend(ax)[:3] == ["shared (0)", "most chat-leaning (0)", "chat-only (0)"]


def scatters(figure: Figure) -> dict[str, np.ndarray]:
    """{legend entry: points (nu reconstruction, nu error)}."""
    main = next(ax for ax in figure.axes if ax.get_legend())
    return {points.get_label(): np.asarray(points.get_offsets()) for points in main.collections}


def test_latent_scaling_draws_the_ratios_of_each_group() -> None:
    found = scatters(figures.latent_scaling({"batchtopk": FULL}, CLASSES, LatentScaling()))
    assert list(found) == ["shared (3)", "5 most chat-leaning (5)", "chat-only (3)", "confirmed (2)"]
    for label, latents in zip(found, ([1, 2, 3], [7, 6, 5, 4, 3], [5, 6, 7], [6, 7]), strict=True):
        expected = FULL.loc[latents, ["nu_reconstruction", "nu_error"]].to_numpy()
        np.testing.assert_allclose(sorted(found[label].tolist()), sorted(expected.tolist()))


def test_every_confirmed_latent_has_a_ring_whatever_its_rank_but_base_only_ones() -> None:
    betas = table([0.02, 0.65, 0.92, 0.93, 0.94, 0.95, 0.96], [0.1, 0.2, 0.9, 0.9, 0.9, 0.9, 0.9])
    found = scatters(figures.latent_scaling({"batchtopk": betas}, CLASSES, LatentScaling()))
    np.testing.assert_allclose(found["confirmed (1)"], [[0.2, 0.1]])


def test_named_latents_are_labelled_where_they_stand() -> None:
    names = {"batchtopk": {2: "refusals", 10_000: "of no latent"}}
    figure = figures.latent_scaling({"batchtopk": FULL, "l1": FULL}, CLASSES, LatentScaling(), names)
    row = FULL[FULL.latent == 2].iloc[0]
    labels = {text.get_text(): text.xy for axes in figure.axes for text in axes.texts}
    assert labels == {"refusals (2)": (row.nu_reconstruction, row.nu_error)}


def left_out(betas: pd.DataFrame) -> int:
    """The number in the title of the latent scaling figure."""
    figure = figures.latent_scaling({"batchtopk": betas}, CLASSES, LatentScaling())
    (title,) = [ax.get_title(loc="left") for ax in figure.axes if ax.get_title(loc="left")]
    return int(title.removeprefix("batchtopk (").split()[0])


def test_latent_scaling_counts_each_latent_left_out_once() -> None:
    assert left_out(FULL) == 0
    assert left_out(ALL_UNDEFINED) == 3
    assert left_out(OUT_OF_RANGE) == 2


def test_latent_scaling_shows_every_latent_that_it_does_not_count_as_left_out() -> None:
    betas = table([0.5, 0.95, 0.99], [1.0, 1.7, 1.9])  # in the plotted range of -0.1 to 2
    figure = figures.latent_scaling({"batchtopk": betas}, CLASSES, LatentScaling())
    main = next(ax for ax in figure.axes if ax.get_legend())
    assert left_out(betas) == 0
    assert main.get_xlim()[1] >= 1.9
    assert main.get_ylim()[1] >= 1.8


def test_threshold_sweep_counts_top_latents_with_both_ratios_below() -> None:
    # The first latent is not among the top five.
    betas = table([0.5, 0.91, 0.92, 0.93, 0.94, 0.95], [0.0, 0.1, 0.3, 0.05, 0.9, -0.2])
    betas.loc[3, "nu_error"] = NAN  # one undefined ratio is enough
    (ax,) = figures.threshold_sweep({"batchtopk": betas}, CLASSES).axes
    (line,) = ax.lines
    counted = {
        threshold: line.get_ydata()[np.argmin(np.abs(line.get_xdata() - threshold))]
        for threshold in (0.05, 0.2, 0.305, 0.4, 1.2)
    }
    # The larger |nu| counts: 0.1, 0.3, undefined, 0.9, 0.3.
    assert counted == {0.05: 0, 0.2: 1, 0.305: 3, 0.4: 3, 1.2: 4}
    assert legend(ax) == ["batchtopk (of 5)"]


def test_crosscoders_differ_in_line_style_and_not_only_in_colour() -> None:
    (ax,) = figures.threshold_sweep(TABLES["three"], CLASSES).axes
    assert len({line.get_linestyle() for line in ax.lines}) == 3


def test_five_crosscoders_have_five_looks() -> None:
    (ax,) = figures.threshold_sweep({f"crosscoder-{number}": FULL for number in range(5)}, CLASSES).axes
    assert len({(line.get_color(), line.get_linestyle()) for line in ax.lines}) == 5


def test_training_curves_tell_crosscoders_apart_without_colour() -> None:
    _, l0, dead = figures.training(TRAINING_LOGS["three"]).axes
    for ax in (l0, dead):
        assert len({(line.get_linestyle(), line.get_marker()) for line in ax.lines}) == 3


def test_training_curves_are_those_of_the_log() -> None:
    log = training_log(5)
    fve, l0, dead = figures.training({"batchtopk": log}).axes
    (shown,) = fve.figure.legends
    assert [text.get_text() for text in shown.get_texts()] == ["batchtopk", "FVE: base", "FVE: chat"]
    for line, column in zip(
        [*fve.lines, *l0.lines, *dead.lines], ("fve_base", "fve_chat", "l0", "dead"), strict=True
    ):
        np.testing.assert_allclose(line.get_xdata(), log.tokens / 1e6)
        np.testing.assert_allclose(line.get_ydata(), log[column])


def test_many_crosscoders_stand_in_several_rows() -> None:
    figure, (upper, lower) = stacks([str(number) for number in range(7)], (2.0, 1.0), 3.0)
    places = [ax.get_subplotspec() for ax in upper]
    rows, columns = [place.rowspan.start for place in places], [place.colspan.start for place in places]
    assert rows == [0, 0, 0, 2, 2, 2, 4] and columns == [0, 1, 2, 0, 1, 2, 0]
    assert [ax.get_subplotspec().rowspan.start for ax in lower] == [1, 1, 1, 3, 3, 3, 5]
    assert figure.get_size_inches().tolist() == [9, 9] and len(figure.axes) == 14
    upper[6].set_ylim(0, 5)
    assert upper[0].get_ylim() == (0, 5) != lower[0].get_ylim()
    label_rows(upper, "latents")
    assert [ax.get_ylabel() for ax in upper] == ["latents", "", "", "latents", "", "", "latents"]
    plt.close(figure)
