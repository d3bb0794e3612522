"""Every newer loss through real Snakemake to the page: what does not apply is missing, and says why."""

import base64
import gzip
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TINY, Checkout
from files_table import untold
from helpers_latex import faults
from helpers_newer import OWN
from helpers_report import Page

import crossdiff
from crossdiff.report.latex import code

pytestmark = pytest.mark.slow
NO_BASE = "a difference SAE has no base decoder"
COMMON = {"latents": 96, "batch": 256, "tokens": 12_800, "learning_rate": 1.0e-3, "warmup_steps": 10}
NEWER = {name: {"loss": name, "log_every": 20} | COMMON | own for name, own in OWN.items()}
CHANGES = {
    "crosscoders": NEWER,
    "seeds": [0],
    "train_together": True,
    "causal.conversations": 2,
    "behaviour": None,
    "steering": None,
    "catalogue": None,
}


@pytest.fixture(scope="module")
def run(finished: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A run of all newer losses, from the models and activations of the finished one."""
    checkout = finished.copy(tmp_path_factory.mktemp("losses") / "checkout")
    result = checkout.snakemake("--configfile", checkout.changed(TINY, CHANGES, "losses"))
    assert result.returncode == 0, result.stdout
    return checkout


@pytest.fixture(scope="module")
def layer(run: Checkout) -> Path:
    return run.folder / "results/tiny/layer1"


@pytest.fixture(scope="module")
def page(layer: Path) -> Page:
    return Page((layer / "report/index.html").read_text())


def table(layer: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(layer / f"tables/{name}.csv").set_index("crosscoder")


def test_every_file_and_column_is_described(run: Checkout) -> None:
    # There is one seed, no steering, and neither loss of the paper.
    absent = {
        *("seed_agreement.csv does_not_apply", "stability.csv does_not_apply", "paper_batchtopk", "paper_l1"),
        *("steering_candidates.csv does_not_apply", "proved.json perplexity", "proved.json steering"),
        "on_prompts",
    }
    assert not untold(run.folder, set(OWN), absent)


def test_numbers_are_there_or_missing_with_a_reason(layer: Path) -> None:
    found = table(layer, "crosscoders")
    assert list(found.index) == sorted(OWN)
    assert found.does_not_apply.dropna().to_dict() == {"difference": NO_BASE}
    difference, others = found.loc["difference"], found.drop("difference")
    assert others[["fve_base", "fve_chat", "chat_only", "top_confirmed"]].notna().all(axis=None)
    assert others.fve_difference.isna().all() and difference.fve_difference < 1
    compared = ("base_only", "shared", "chat_only", "other", "chat_only_confirmed", "top_confirmed")
    assert difference[["fve_base", "fve_chat", *compared]].isna().all()
    assert difference.latents == 96 and difference.dead >= 0


def test_methods_cite_the_paper_of_every_loss(layer: Path) -> None:
    methods = " ".join((layer / "paper/methods.tex").read_text().split())
    assert not faults(methods)
    for loss in OWN:
        assert f"has the loss {code(loss)}~\\cite{{" in methods, loss
    assert "which paper the loss" not in methods


def test_classes_that_a_loss_sets_are_counted(layer: Path) -> None:
    found = table(layer, "crosscoders")
    for name in ("dedicated", "dedicated_l1"):
        betas = pd.read_parquet(layer / f"{name}/seed0/betas.parquet")
        live = betas[betas["class"] != "dead"]
        assert betas.groupby("part", sort=False).size().to_dict() == {"base": 12, "chat": 24, "shared": 60}
        assert (live["class"][live.part == "chat"] == "chat-only").all()
        assert found.chat_only_set[name] == (live.part == "chat").sum() <= found.chat_only[name]
        assert found.base_only_set[name] == (live.part == "base").sum()
        assert "set, not found" in found.note[name]
    tied = pd.read_parquet(layer / "designated/seed0/betas.parquet").query("norms_set")
    assert len(tied) == 36 and np.allclose(tied.relative_norm_difference, 0.5)
    assert found.chat_only_set[["delta", "bridge", "matryoshka", "jumprelu"]].isna().all()


def test_patching_the_difference_has_whole_runs_and_no_rankings(layer: Path) -> None:
    kl = pd.read_csv(layer / "difference/seed0/kl.csv")
    whole = kl[kl.variant.isin(["none", "all", "error", "template", "bias", "random_1"])]
    ranked = kl[kl.variant.str.contains("norm|scaling")]
    assert whole.kl.notna().all() and whole.does_not_apply.isna().all()
    assert len(ranked) == 3 * 4 * 2 and ranked[["kl", "latents", "reduction"]].isna().all(axis=None)
    assert (ranked.does_not_apply == NO_BASE).all()
    other = pd.read_csv(layer / "delta/seed0/kl.csv")
    assert other.kl.notna().all() and "does_not_apply" not in other


def test_tables_over_all_crosscoders_say_why(layer: Path) -> None:
    for name in ("twins", "density", "template_tokens", "explanations"):
        found = table(layer, name)
        assert set(found.index) == set(OWN)
        assert found.does_not_apply.dropna().index.unique().tolist() == ["difference"], name
    twins = table(layer, "twins").twins
    assert np.isnan(twins["difference"]) and twins.drop("difference").notna().all()


def test_page_says_what_does_not_apply_and_what_is_set(page: Page) -> None:
    assert f"classes, twins and latent scaling do not apply: {NO_BASE}." in page.text
    assert page.text.count(f"does not apply: {NO_BASE}") == 2 + 1 + 1  # numbers twice, chance, twins
    assert "(of the difference)" in page.text
    cautions = [caution for caution in page.cautions if "by construction" in caution]
    named = ["dedicated", "dedicated_l1", "designated", "designated_l1"]
    assert [caution.split(":")[0] for caution in cautions] == named
    assert re.search(
        r"The loss itself made \d+ of these chat-only: their class is set, not found\.", page.text
    )
    assert not re.search(r"\b(nan|None|NA)\b", page.text)


def test_browser_says_what_does_not_apply(layer: Path) -> None:
    found = {name: piece(layer / f"report/latents/files/{name}.seed0/table.js") for name in OWN}
    assert {name: one["does_not_apply"] for name, one in found.items()} == dict.fromkeys(OWN, "") | {
        "difference": NO_BASE
    }
    columns = found["difference"]["columns"]
    for name in ("norm_base", "relative_norm_difference", "nu_error", "decoder_cosine", "confirmed"):
        assert columns[name] == [None] * 96
    assert set(columns["class"]) <= {"", "dead"} and None not in columns["norm_chat"]
    assert sum(found["dedicated"]["columns"]["norms_set"]) == 36
    html = (layer / "report/latents/index.html").read_text()
    assert f"does not apply: {NO_BASE}" in html and "(set by the loss)" in html


def test_notebook_says_what_does_not_apply(layer: Path) -> None:
    crosscoder = crossdiff.load(layer / "difference/seed0")
    assert f"does not apply: {NO_BASE}" in repr(crosscoder)
    assert crosscoder.limits == {"base_decoder": NO_BASE}
    assert crosscoder.table().relative_norm_difference.isna().all()
    assert crosscoder.columns().set_index("column").meaning["does_not_apply"]
    x = torch.randn(5, 2, 32, generator=torch.Generator().manual_seed(0))
    codes = crosscoder.encode(x)
    module = crosscoder.module
    expected = module.decode(codes.values)[:, 1] / module.scale[1] + module.mean[1] - module.mean[0]
    assert torch.equal(crosscoder.decode(codes), expected)
    dedicated = crossdiff.load(layer / "dedicated/seed0")
    assert "does not apply" not in repr(dedicated) and "set, not found" in dedicated.limits["norms"]


def piece(path: Path) -> dict[str, Any]:
    """The content of a piece of the browser's data."""
    found = re.search(r'"([^"]+)"\);\n$', path.read_text())
    assert found
    return json.loads(gzip.decompress(base64.b64decode(found[1])))
