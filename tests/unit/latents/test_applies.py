"""What has no value for a loss is missing in every table, with a reason, and what a loss sets is marked."""

from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from helpers_dense import LATENTS, batch
from helpers_newer import new
from helpers_scaling import latent_scaling

from crossdiff.config import BASE, CHAT, Classes, Density, LatentScaling, SeedAgreement
from crossdiff.crosscoders.model import Crosscoder
from crossdiff.crosscoders.quality import reconstruction_quality
from crossdiff.explanations.comparison import cautions, compare
from crossdiff.explanations.selection import chosen
from crossdiff.latents.agreement import COLUMNS as AGREEMENT
from crossdiff.latents.agreement import seed_agreement
from crossdiff.latents.applies import DOES_NOT_APPLY, missing, reason, table_of
from crossdiff.latents.density import density_table
from crossdiff.latents.evaluation import VERDICTS, beta_table, comparison, evaluate, most_chat_leaning
from crossdiff.latents.overlap import PairTraining, overlap
from crossdiff.latents.scaling import WITHOUT_BASE
from crossdiff.latents.template_tokens import GROUPS, headlines

NO_BASE = "a difference SAE has no base decoder"
TOP = 5
NO_GROUPS = pd.DataFrame(columns=["latent", "group", "strength"])


@cache
def trained(loss: str, **changes: Any) -> tuple[Crosscoder, pd.DataFrame, dict[str, Any]]:
    """A random crosscoder of a loss, its beta table and its headline numbers. Latent 0 is dead."""
    _, crosscoder = new(loss, **changes)
    crosscoder.requires_grad_(False)
    if loss.startswith("designated"):
        crosscoder.decoder[:9, CHAT] = crosscoder.decoder[:9, BASE]
    scaling = latent_scaling(crosscoder, [batch(step) for step in range(5)])
    fired = pd.DataFrame({"latent": range(LATENTS), "validation_active_tokens": [0, *[7] * (LATENTS - 1)]})
    betas = beta_table(scaling, fired, Classes(), LatentScaling())
    parts = [crosscoder.normalise(batch(step)) for step in range(2)]
    quality, _ = reconstruction_quality(crosscoder, [(x, crosscoder.active(x), None) for x in parts])
    return crosscoder, betas, evaluate(betas, quality, Classes(top=TOP))


def test_reasons_and_missing_counts() -> None:
    assert missing("", {"a": 1}) == {"a": 1}
    assert missing("no", {"a": 1, "b": 2}, ["b"]) == {"a": None, "b": 2, DOES_NOT_APPLY: "no"}
    table = table_of([{"a": 1, "b": 0.5}, missing("no", {"a": 2, "b": 0.5})])
    assert (
        table.a.dtype == "Int64" and table.a[0] == 1 and table.isna().iloc[1].tolist() == [True, True, False]
    )
    assert list(table_of([{"a": 1}], ["a"]).columns) == ["a"]
    assert table_of([{"a": 1}], ["a"]).a.dtype == "int64"
    assert list(table_of([], ["a"]).columns) == ["a"]


def test_scaling_of_the_difference_has_no_number_that_compares_decoders() -> None:
    crosscoder, betas, _ = trained("difference")
    assert reason(betas) == NO_BASE and (betas[DOES_NOT_APPLY] == NO_BASE).all()
    assert betas[list(WITHOUT_BASE)].notna().all(axis=None)
    assert np.allclose(betas.norm_chat, crosscoder.decoder_norms()[:, CHAT])
    compared = [
        name
        for name in betas
        if name.startswith(("nu_", "mirrored_", "beta_", "control_", "improvement_"))
        or name in ("norm_base", "decoder_cosine", "relative_norm_difference")
    ]
    assert len(compared) > 40 and betas[compared].isna().all(axis=None)
    assert betas["class"][0] == "dead" and betas["class"][1:].isna().all()
    assert betas[list(VERDICTS)].isna().all(axis=None)


def test_headline_numbers_of_the_difference_are_missing_with_a_reason() -> None:
    crosscoder, _, found = trained("difference")
    x = crosscoder.normalise(torch.cat([batch(0), batch(1)]))
    error = x - crosscoder.decode(crosscoder.encode(x))
    fve = 1 - error[:, CHAT].var(dim=0).sum() / x[:, CHAT].var(dim=0).sum()
    assert found["fve_difference"] == pytest.approx(fve.item(), abs=1e-5)
    assert found["fve_base"] is None and found["fve_chat"] is None
    assert found[DOES_NOT_APPLY] == NO_BASE and found["limits"] == {"base_decoder": NO_BASE}
    assert found["classes"] == {
        "base-only": None,
        "shared": None,
        "chat-only": None,
        "other": None,
        "dead": 1,
    }
    assert found["latents"] == LATENTS and found["top"] == TOP
    kept = {"latents", "classes", "top", "tokens", "l0", "fve_difference", "limits", DOES_NOT_APPLY}
    assert all(value is None for name, value in found.items() if name not in kept)
    table = comparison([found, trained("matryoshka")[2]], [("difference", 0), ("matryoshka", 0)])
    assert table.chat_only.dtype == "Int64" and table.chat_only.isna().tolist() == [True, False]
    assert table[DOES_NOT_APPLY].tolist()[0] == NO_BASE and pd.isna(table[DOES_NOT_APPLY][1])


def test_latents_of_the_difference_are_ranked_by_their_share_in_it() -> None:
    crosscoder, betas, _ = trained("difference")
    codes = torch.cat([crosscoder.encode(crosscoder.normalise(batch(step))) for step in range(5)])
    strength = (codes * crosscoder.decoder_norms().sum(dim=1)).mean(dim=0)[1:]  # latent 0 is dead
    expected = (strength.argsort(descending=True) + 1)[:TOP].tolist()
    top = most_chat_leaning(betas, TOP)
    assert top.latent.tolist() == expected and list(top.columns) == list(betas.columns)


def test_tables_about_latents_say_why_classes_are_missing() -> None:
    _, betas, _ = trained("difference")
    density = density_table({("d", 0): betas}, Density(), TOP).set_index("set")
    assert (
        density.latents.tolist()[:2] == [LATENTS - 1, TOP] and density.loc["shared", :"rare"].isna()[2:].all()
    )
    assert density[DOES_NOT_APPLY].isna().tolist() == [True, True, False]

    counts = pd.DataFrame({"latent": range(LATENTS), "template_share": np.linspace(0, 1, LATENTS)})
    shares = headlines(betas, counts, dict.fromkeys(GROUPS, 10), TOP).set_index("set")
    assert shares.latents.isna().tolist() == [True, False, True] and shares.text_share.notna().all()
    assert shares[DOES_NOT_APPLY].tolist()[0] == NO_BASE == shares[DOES_NOT_APPLY].tolist()[2]

    scores = pd.DataFrame({"latent": range(LATENTS), "detection": 0.75})
    compared = compare(betas, scores, TOP).set_index("set")
    first = compared.loc["most chat-leaning"]
    assert (first.latents, first.scored, first.detection) == (TOP, TOP, 0.75) and pd.isna(first.difference)
    assert compared.loc[["shared", "low nu", "high nu"]].drop(columns=DOES_NOT_APPLY).isna().all(axis=None)
    assert not cautions(compared.reset_index().assign(explainer="patterns", crosscoder="d"))


def test_seeds_of_the_difference_are_compared_without_classes() -> None:
    crosscoder, betas, _ = trained("difference")
    row = seed_agreement((crosscoder.decoder, crosscoder.decoder), (betas, betas), TOP, SeedAgreement())
    assert row["matched"] == LATENTS - 1 and row["top_recurring"] == TOP
    assert row["chat_only_a"] is row["chat_only_b"] is row["chat_only_recurring"] is None
    assert set(row) == {*AGREEMENT[3:], DOES_NOT_APPLY}


def test_overlap_looks_for_the_strongest_latents_of_the_difference() -> None:
    crosscoder, betas, _ = trained("difference")
    trainings = [
        PairTraining(pair, crosscoder.decoder[:, CHAT], betas, "", pair) for pair in ("one", "other")
    ]
    row = overlap(trainings, TOP, SeedAgreement())[0]
    assert (row["sought"], row["matched"], row[DOES_NOT_APPLY]) == (TOP, TOP, NO_BASE)
    assert row["median_cosine"] == pytest.approx(1)
    assert row["confirmed"] is row["matched_confirmed"] is row["control"] is row["control_matched"] is None


def test_classes_that_a_loss_sets_are_marked_and_counted() -> None:
    _, betas, found = trained("dedicated")
    assert betas.part.tolist() == ["base"] * 3 + ["chat"] * 6 + ["shared"] * 15
    assert betas.norms_set.tolist() == [True] * 9 + [False] * 15
    assert betas.relative_norm_difference[:9].tolist() == [0.0] * 3 + [1.0] * 6
    assert (found["base_only_set"], found["chat_only_set"], found["shared_set"]) == (2, 6, 0)  # one is dead
    assert found["classes"]["chat-only"] >= 6 and DOES_NOT_APPLY not in found
    table = comparison([found], [("dedicated", 0)])
    assert table.chat_only_set[0] == 6 and "0 or 1 by construction" in table.note[0]

    _, betas, found = trained("designated_l1")
    assert betas.norms_set.tolist() == [True] * 9 + [False] * 15
    assert np.allclose(betas.relative_norm_difference[:9], 0.5)
    assert (found["base_only_set"], found["chat_only_set"], found["shared_set"]) == (0, 0, 8)


@pytest.mark.parametrize(
    ("loss", "changes", "notes"),
    [
        ("delta", {}, ["compare norm differences within a part"]),
        ("bridge", {"coupling": 0.0}, []),
        ("bridge", {"coupling": 0.5}, ["the loss couples the errors of both models (lambda 0.5)"]),
        ("bridge", {"coupling": -1.0}, ["only the difference of both decoder directions", "(lambda -1)"]),
        ("bridge", {"coupling": 1.0}, ["only the sum of both decoder directions", "(lambda 1)"]),
        ("matryoshka", {}, []),
        ("jumprelu", {}, []),
    ],
)
def test_notes_of_other_losses(loss: str, changes: dict[str, Any], notes: list[str]) -> None:
    _, betas, found = trained(loss, **changes)
    table = comparison([found], [(loss, 0)])
    assert ("note" in table) == bool(notes)
    assert all(note in table.note[0] for note in notes)
    assert DOES_NOT_APPLY not in betas and "norms_set" not in betas
    assert ("part" in betas) == (loss in ("delta", "matryoshka"))


def test_chosen_latents_of_the_difference_are_the_strongest() -> None:
    from crossdiff.config import ExplainedLatents

    _, betas, _ = trained("difference")
    wanted = ExplainedLatents(chat_leaning=3, shared=3, low_nu=2, high_nu=2)
    assert chosen(betas, NO_GROUPS, wanted, TOP) == sorted(most_chat_leaning(betas, 3).latent)
