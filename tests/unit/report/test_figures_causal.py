"""The KL figure: right bars, intervals and notes, from any table."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes

from crossdiff.interventions.causal_effect import Answers, kl_table, patched_sets, variants
from crossdiff.report.figures.causal_effect import LABELS, kl
from crossdiff.report.figures.drawing import save

NAN = float("nan")


def table(
    latents: int = 8, tokens: int = 60, conversations: int = 6, random_sets: int = 2, scale: float = 1.0
) -> pd.DataFrame:
    """A KL table of random numbers, of a crosscoder with so many latents."""
    betas = pd.DataFrame(
        {
            "latent": range(latents),
            "relative_norm_difference": 0.9,
            "nu_error": 0.1,
            "nu_reconstruction": 0.1,
            "class": "other",
        }
    )
    measured = variants(patched_sets(betas, 8, random_sets, 0))
    place = np.arange(tokens)
    values = scale * np.random.default_rng(0).gamma(1, size=(tokens, len(measured)))
    return kl_table(
        values,
        Answers(place, place % conversations, place // conversations),
        measured,
        np.ones(latents),
        9,
        0,
    )


def saved_again(found: pd.DataFrame, path: Path) -> pd.DataFrame:
    """As a figure gets it: from a CSV file."""
    found.to_csv(path, index=False)
    return pd.read_csv(path)


def labels(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.figure.axes[0].get_yticklabels()]  # the panels share them


def bars(ax: Axes, label: str) -> list[float]:
    """Lengths of the bars in a row: all tokens, the first ones."""
    y = labels(ax).index(label)
    found = [bar for bar in ax.patches if abs(bar.get_y() + bar.get_height() / 2 - y) < 0.4]
    return [bar.get_width() for bar in sorted(found, key=lambda bar: bar.get_y())]


def note(ax: Axes, label: str) -> list[str]:
    y = labels(ax).index(label)
    return [text.get_text() for text in ax.texts if getattr(text, "xy", (None, None))[1] == y]


CASES = {
    "one crosscoder": {"batchtopk": table()},
    "three": {"batchtopk": table(), "l1": table(scale=9.0), "l1-strong": table(random_sets=0)},
    "empty sets": {"batchtopk": table(latents=0), "l1": table()},
    "one conversation": {"batchtopk": table(conversations=1)},
    "only first tokens": {"batchtopk": table(tokens=12)},
    "everything undefined": {"batchtopk": table(scale=NAN)},
    "base equals chat": {"batchtopk": table(scale=0.0)},
}


@pytest.mark.parametrize("case", CASES)
def test_figure_is_written_and_names_every_crosscoder(tmp_path, case):
    tables = {name: saved_again(found, tmp_path / f"{name}.csv") for name, found in CASES[case].items()}
    save(kl(tables), [str(tmp_path / "kl.svg"), str(tmp_path / "kl.png")])
    svg = (tmp_path / "kl.svg").read_text()
    assert [name for name in tables if name not in svg] == []
    assert "nan" not in svg
    assert (tmp_path / "kl.png").read_bytes().startswith(b"\x89PNG")


def test_bars_are_the_means_of_all_and_of_the_first_tokens():
    found = table()
    (ax,) = kl({"batchtopk": found}).axes
    for variant in ("none", "all", "best_scaling"):
        rows = found[(found.variant == variant) & (found.form != "additive")]
        np.testing.assert_allclose(bars(ax, LABELS[variant]), rows.kl[rows.group != "rest"])
    additive = found[(found.variant == "best_scaling") & (found.form == "additive")]
    np.testing.assert_allclose(
        bars(ax, "best half, latent scaling, additive"), additive.kl[additive.group != "rest"]
    )


def test_every_patched_run_of_the_table_has_a_row():
    (ax,) = kl({"batchtopk": table(random_sets=1)}).axes
    ranked = ("best_norm", "worst_norm", "best_scaling", "worst_scaling")
    assert labels(ax) == [*LABELS.values(), *(f"{LABELS[name]}, additive" for name in ranked)]


def test_whiskers_are_the_bootstrap_over_conversations():
    found = table()
    (ax,) = kl({"batchtopk": found}).axes
    drawn = {
        tuple(line.get_xdata())
        for line in ax.lines
        if len(line.get_xdata()) == 2 and line.get_linestyle() == "-"
    }
    single = found[(found.group != "rest") & ~found.variant.str.startswith("random")]
    assert drawn == set(zip(single.low_conversations, single.high_conversations, strict=True))


def test_random_halves_share_a_row_as_a_mean_with_a_dot_each():
    found = table(random_sets=3)
    (ax,) = kl({"batchtopk": found}).axes
    random = found[found.variant.str.startswith("random") & (found.group == "all")]
    assert bars(ax, "random half")[0] == pytest.approx(random.kl.mean())
    dots = [sorted(line.get_xdata()) for line in ax.lines if line.get_marker() == "."]
    assert len(dots) == 2
    assert sorted(random.kl) in dots


def test_change_against_none_stands_beside_each_bar():
    found = table()
    (ax,) = kl({"batchtopk": found}).axes
    row = found[(found.variant == "all") & (found.group == "all")].iloc[0]
    change, low, high = (round(-100 * row[f"reduction{end}"]) for end in ("", "_high", "_low"))
    expected = f"{change:+d} % ({low:+d} to {high:+d})"
    assert expected in [text.get_text() for text in ax.texts]


def test_empty_set_is_named_and_has_no_bar():
    empty, full = kl({"batchtopk": table(latents=0), "l1": table()}).axes
    for label in ("best half, decoder norm", "random half", "worst half, latent scaling, additive"):
        assert (note(empty, label), bars(empty, label)) == (["empty set"], [])
        assert (note(full, label), len(bars(full, label))) == (["4 latents"], 2)


def test_set_that_never_fired_is_named():
    (ax,) = kl(
        {"batchtopk": table().assign(fired=lambda t: t.fired.where(t.variant != "worst_norm", 0))}
    ).axes
    assert note(ax, "worst half, decoder norm") == ["4 latents, none fired"]
    assert note(ax, "best half, decoder norm") == ["4 latents"]


def test_undefined_mean_is_named_with_its_tokens_and_has_no_bar():
    found = table()
    bad = found.variant == "error"
    found.loc[bad, ["kl", "low_conversations", "high_conversations", "reduction"]] = NAN
    found.loc[bad, "undefined"] = 7
    (ax,) = kl({"batchtopk": found}).axes
    assert note(ax, LABELS["error"]) == ["undefined at 7 tokens"]
    assert bars(ax, LABELS["error"]) == []


def test_groups_are_told_apart_without_colour():
    figure = kl({"batchtopk": table()})
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "all (60 answer tokens)",
        "first 9 (54 answer tokens)",
    ]
    assert len({handle.get_hatch() for handle in legend.get_patches()}) == 2


def test_same_table_gives_the_same_bytes(tmp_path):
    for run in ("first", "second"):
        save(kl({"batchtopk": table()}), [str(tmp_path / f"{run}.svg")])
    assert (tmp_path / "first.svg").read_bytes() == (tmp_path / "second.svg").read_bytes()
