"""Without a base decoder, figures and the page over all pairs say what does not apply."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers_overview import numbers, page_of, place, shared
from helpers_tables import scaling_table
from matplotlib.figure import Figure

from crossdiff.config import Classes, Density, LatentScaling
from crossdiff.interventions.causal_effect import without_rankings
from crossdiff.latents.applies import DOES_NOT_APPLY, missing, table_of
from crossdiff.latents.evaluation import beta_table
from crossdiff.latents.overlap import WITHOUT_BASE
from crossdiff.latents.template_tokens import GROUPS
from crossdiff.report.figures import crosscoders as figures
from crossdiff.report.figures.causal_effect import kl
from crossdiff.report.figures.density import density
from crossdiff.report.figures.explanations import explanations
from crossdiff.report.figures.overview import layers
from crossdiff.report.overview import cautions

WHY = "a difference SAE has no base decoder"
CLASSES, COUNT = Classes(top=3), 6


def betas(difference: bool) -> pd.DataFrame:
    values = [float("nan") if difference else 0.5 + 0.09 * number for number in range(COUNT)]
    table = scaling_table(values, values, values)
    table = table.assign(mean_activation=1.0, norm_chat=1.0, frequency=0.1, decoder_cosine=table.nu_error)
    if difference:
        table[DOES_NOT_APPLY] = WHY
    fired = pd.DataFrame({"latent": range(COUNT), "validation_active_tokens": 5})
    return beta_table(table, fired, CLASSES, LatentScaling())


BETAS = {"batchtopk": betas(False), "difference": betas(True)}


def texts(figure: Figure) -> str:
    axes = [text.get_text() for ax in figure.axes for text in [*ax.texts, ax.title]]
    legends = [
        text.get_text() for ax in figure.axes if ax.get_legend() for text in ax.get_legend().get_texts()
    ]
    return " ".join(" ".join([*axes, *legends]).split())


def test_norms_and_cosines() -> None:
    figure = figures.norm_difference(BETAS, Classes())
    assert texts(figure).count(f"does not apply: {WHY}") == 2
    assert texts(figure).count("chat-only") == 1 + 1  # a region and a line of the other crosscoder
    assert not figure.axes[1].patches and not figure.axes[3].patches


def test_sets_of_a_loss_are_counted_in_the_figure() -> None:
    table = BETAS["batchtopk"].assign(norms_set=[False] * 4 + [True] * 2)
    figure = figures.norm_difference({"dedicated": table}, Classes())
    shown = [text.get_text() for text in figure.axes[0].texts]
    assert shown == ["base-only\n0\n0 set", "shared\n2\n0 set", "chat-only\n1\n1 set"]


def test_latent_scaling_and_its_sweep() -> None:
    assert f"does not apply: {WHY}" in texts(figures.latent_scaling(BETAS, CLASSES, LatentScaling()))
    figure = figures.threshold_sweep(BETAS, CLASSES)
    assert "difference: does not apply" in texts(figure)
    assert len(figure.axes[0].lines[1].get_xdata()) == 0


def test_template_tokens_density_and_training() -> None:
    shares = pd.DataFrame({"latent": range(COUNT), "template_share": np.linspace(0, 1, COUNT)})
    read = dict.fromkeys(GROUPS, 10)
    only = {"difference": BETAS["difference"]}
    drawn = figures.template_tokens(only, {"difference": shares}, {"difference": read}, CLASSES)
    assert "shared: does not apply" in texts(drawn) and "chat-only: does not apply" in texts(drawn)
    assert "most chat-leaning (3)" in texts(drawn)
    assert "all live (6)" in texts(density(only, Density()))
    log = pd.DataFrame({"tokens": [1e6], "fve_difference": [0.7], "l0": [3.0], "dead": [0]})
    (shown,) = figures.training({"difference": log}).legends
    assert [text.get_text() for text in shown.get_texts()] == ["difference", "FVE: difference"]


def test_explanations() -> None:
    scores = pd.DataFrame({"latent": range(COUNT), "detection": 0.8})
    quantiles = pd.DataFrame({"latent": range(COUNT), "quantile": 1.0, "recall": 0.5})
    figure = explanations(
        {"difference": BETAS["difference"]},
        CLASSES,
        patterns={"difference": scores},
        patterns_quantiles={"difference": quantiles},
    )
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert [label.split("\n")[0] for label in labels] == ["most", "shared", "low nu", "high nu"]
    assert [label.endswith("does\nnot apply") for label in labels] == [False, True, True, True]


def test_ranked_halves_of_patching() -> None:
    row = {"form": None, "latents": None, "fired": None, "tokens": 8, "conversations": 2, "undefined": 0}
    ends = ("low", "high", "low_conversations", "high_conversations", "reduction_low", "reduction_high")
    rows = [
        {"variant": name, "group": group, "kl": value, "reduction": 0.1} | row | dict.fromkeys(ends, 0.1)
        for name, value in (("none", 1.0), ("all", 0.5))
        for group in ("all", "first 2")
    ]
    table = without_rankings(pd.DataFrame(rows), WHY)
    added = table[table[DOES_NOT_APPLY].notna()]
    assert len(added) == 2 * 2 * 4 and added.kl.isna().all() and added.undefined.isna().all()
    assert (added.tokens == 8).all() and (added.conversations == 2).all()
    assert texts(kl({"difference": table})).count("does not apply") == 4 * 2  # halves, forms


def of_difference(**changes: object) -> pd.DataFrame:
    kept = {"latents": 2304, "dead": 12, "l0": 31.25, "fve_difference": 0.5, "top": 50}
    row = numbers(crosscoders=["difference"], seeds=[0]).iloc[0].to_dict()
    names = {"crosscoder": "difference", "seed": 0}
    return table_of([names | missing(WHY, {**row, **kept, **changes}, [*kept, *names])])


def test_page_over_pairs(tmp_path: Path) -> None:
    compared = [place("one", 12), place("two", 12)]
    found = {"sought": 50, "matched": 30, "co_active": 9, "crosscoder": "difference"}
    row = shared("one", "two") | found
    kept = [*WITHOUT_BASE, "layer", "crosscoder", "seed"]
    both = pd.concat([numbers(seeds=[0]), of_difference()], ignore_index=True)
    page = page_of(tmp_path, compared, [both, both], [missing(WHY, row, kept)])
    assert (
        f"one 12 difference 0 does not apply 0.50 (of the difference) 31.2 2304 12 does not apply: {WHY}"
        in page.text
    )
    assert "one two difference 0 50 (all top ones) 30 does not apply 9 0.81 0.74" in page.text
    assert f"In 2 of 4 trainings nothing can be confirmed: {WHY}." in page.text
    assert "Nothing to look for" not in page.text
    assert "nan" not in page.text and "31.0" not in page.text


def test_layers_of_the_difference(tmp_path: Path) -> None:
    table = pd.concat([numbers(seeds=[0]), of_difference()], ignore_index=True)
    table = table.assign(pair="one", layer=12)
    assert texts(layers(table)).count(f"does not apply: {WHY}") == 3


@pytest.mark.parametrize("share", [0.5, 0.7])
def test_weak_difference_is_marked(share: float) -> None:
    table = of_difference(fve_difference=share).assign(pair="one", layer=12)
    weak = [line for line in cautions(table) if "less than 60 %" in line]
    assert len(weak) == (share < 0.6)


def test_what_a_loss_does_to_the_numbers_is_a_caution() -> None:
    table = numbers().assign(pair="one", layer=12, note=["their classes are set, not found", None])
    assert list(cautions(table)) == ["batchtopk: their classes are set, not found."]
