"""The whole pipeline on the tiny config, through real Snakemake, offline."""

import json
import re
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import ROOT, TINY, Checkout, planned

from crossdiff.config import load
from crossdiff.texts.chats import is_answer
from crossdiff.texts.shards import read_shard
from crossdiff.workflow.forecast_run import forecast
from crossdiff.workflow.shapes import shape


@pytest.fixture(scope="module")
def results(finished: Checkout) -> Path:
    return finished.folder / "results/tiny"


def activations(results: Path, role: str) -> Path:
    """The folder of one model's caches."""
    return results.parent / f"activations/tiny-{role}/layer1/tiny-chat"


def test_second_run_has_nothing_to_do(finished: Checkout) -> None:
    result = finished.snakemake("--configfile", TINY)
    assert result.returncode == 0
    assert "Nothing to be done" in result.stdout


def test_no_temporary_files_stay(results: Path) -> None:
    assert not [path for path in results.parent.rglob(".*") if path.name != ".snakemake_timestamp"]


def test_splits_share_no_document(results: Path) -> None:
    for dataset in ("readme", "requests"):
        documents = [
            {
                d
                for path in sorted(results.parent.glob(f"tokens/tiny-chat/{dataset}.{split}/*.parquet"))
                for d in pd.read_parquet(path).document
            }
            for split in ("train", "validation")
        ]
        assert all(documents)
        assert not documents[0] & documents[1]


def test_caches_pair_up_with_their_tokens(results: Path) -> None:
    for tokens in results.parent.glob("tokens/tiny-chat/*/*.parquet"):
        rows = len(pd.read_parquet(tokens))
        for model in ("base", "chat"):
            with h5py.File(activations(results, model) / tokens.parent.name / f"{tokens.stem}.h5") as file:
                assert file["activations"].shape == (rows, 32)


def test_fine_tune_changes_the_activations(results: Path) -> None:
    norms = []
    for model in ("base", "chat"):
        with h5py.File(activations(results, model) / "requests.train/0000.h5") as file:
            norms.append(file["norm"][:])
    assert np.abs(norms[0] - norms[1]).max() > 0


def test_forecast_of_disk_is_about_right(results: Path) -> None:
    config = load(yaml.safe_load((ROOT / TINY).read_text()))
    needs = forecast(config, shape(config, results.parent.parent))
    for rule, pattern in (
        ("harvest_activations", "activations/*/*/*/*/*.h5"),
        ("train_crosscoder", "tiny/layer1/*/*/weights.safetensors"),
    ):
        found = sum(path.stat().st_size for path in results.parent.glob(pattern))
        # Activations of random weights compress less than those of a model that learned something.
        assert needs[rule].disk == pytest.approx(found, rel=0.15 if rule == "harvest_activations" else 0.1)


def test_beta_table_has_one_row_per_latent(results: Path) -> None:
    for crosscoder, latents in (("batchtopk", 128), ("l1", 96)):
        table = pd.read_parquet(results / f"layer1/{crosscoder}/seed1/betas.parquet")
        assert list(table.latent) == list(range(latents))
        assert {
            "nu_error",
            "nu_reconstruction",
            "beta_activation_base",
            "relative_norm_difference",
            "class",
        } <= set(table.columns)
        evaluation = json.loads((results / f"layer1/{crosscoder}/seed1/evaluation.json").read_text())
        assert evaluation["classes"] == {
            name: int((table["class"] == name).sum()) for name in evaluation["classes"]
        }


def test_every_crosscoder_and_seed_is_in_the_table(results: Path) -> None:
    table = pd.read_csv(results / "layer1/tables/crosscoders.csv")
    assert sorted(zip(table.crosscoder, table.seed, strict=True)) == [
        ("batchtopk", 0),
        ("batchtopk", 1),
        ("l1", 0),
        ("l1", 1),
    ]


@pytest.mark.parametrize(("crosscoder", "latents"), [("batchtopk", 128), ("l1", 96)])
def test_every_latent_is_read(results: Path, crosscoder: str, latents: int) -> None:
    folder = results / f"layer1/{crosscoder}/seed1"
    counts, scaling = pd.read_csv(folder / "template_tokens.csv"), pd.read_parquet(folder / "scaling.parquet")
    assert list(counts.latent) == list(range(latents))
    assert list(counts.activations) == list(scaling.active_tokens)  # the same tokens in both passes
    read = json.loads((folder / "tokens_read.json").read_text())
    kept = json.loads((results / "layer1/summary.json").read_text())
    assert sum(read.values()) == kept["tokens"] - kept["skipped_as_first"] - kept["skipped_by_norm"]
    examples = pd.read_parquet(folder / "examples.parquet")
    assert set(examples.latent) == set(scaling.latent[scaling.active_tokens > 0])
    strongest = examples[examples.strongest].groupby("latent").peak
    np.testing.assert_allclose(strongest.max(), scaling.max_activation[scaling.active_tokens > 0], rtol=1e-5)
    assert strongest.size().max() == 10
    sampled = examples[examples.sampled].groupby(["latent", "quantile"]).size()
    assert sampled.max() == 10
    assert set(examples["quantile"]) <= {0.25, 0.5, 0.75, 0.95, 1.0}


def test_latents_are_compared_across_crosscoders_and_seeds(results: Path) -> None:
    names = [("batchtopk", 0), ("batchtopk", 1), ("l1", 0), ("l1", 1)]
    twins, template, agreement = (
        pd.read_csv(results / f"layer1/tables/{name}.csv")
        for name in ("twins", "template_tokens", "seed_agreement")
    )
    assert list(zip(twins.crosscoder, twins.seed, strict=True)) == names
    for (crosscoder, seed), found in zip(names, twins.twins, strict=True):
        assert (
            pd.read_csv(results / f"layer1/{crosscoder}/seed{seed}/twins.csv").kind == "twin"
        ).sum() == found
    assert [tuple(row) for row in template[["crosscoder", "seed"]].drop_duplicates().to_numpy()] == names
    assert template.text_share.between(0.01, 0.1).all()
    assert agreement[["crosscoder", "seed_a", "seed_b"]].to_numpy().tolist() == [
        ["batchtopk", 0, 1],
        ["l1", 0, 1],
    ]
    assert agreement.mean_max_cosine.between(0.1, 1).all()
    stable = pd.read_csv(results / "layer1/tables/stability.csv")
    assert stable.crosscoder.tolist() == ["batchtopk", "batchtopk", "l1", "l1"]
    leaning = stable[stable.set == "most chat-leaning"]
    assert (leaning.latents > 0).all() and leaning.recurring.between(0, 1).all()


def test_one_seed_gives_an_empty_table_of_agreement(finished: Checkout, tmp_path: Path) -> None:
    ours = finished.copy(tmp_path / "ours")
    config = ours.changed(TINY, {"seeds": [0]})
    table = "results/tiny/layer1/tables/seed_agreement.csv"
    result = ours.snakemake(table, "--configfile", config)
    assert result.returncode == 0, result.stdout
    assert planned(result.stdout)["compare_seeds"] == 1
    lines = (ours.folder / table).read_text().splitlines()
    assert len(lines) == 1 and lines[0].startswith("crosscoder,seed_a,seed_b,")


def test_answers_are_token_shards_that_end_in_the_assistants_turn(results: Path) -> None:
    shard = read_shard(results / "answers/requests.parquet")
    last = np.append(shard.sequence_starts()[1:], len(shard.token)) - 1
    assert len(last) == 6
    assert is_answer(shard.role, shard.template)[last].all()
    asked = shard.token[: shard.sequence_starts()[1]][
        ~is_answer(shard.role, shard.template)[: shard.sequence_starts()[1]]
    ]
    tokens = pd.read_parquet(
        results.parent / "tokens/tiny-chat/requests.validation/0000.parquet"
    ).token.to_numpy()
    assert tokens[: len(asked)].tolist() == asked.tolist()  # the first validation chat, up to its answer


def test_kl_table_has_a_row_per_patched_run_and_group(results: Path) -> None:
    tables = {name: pd.read_csv(results / f"layer1/{name}/seed1/kl.csv") for name in ("batchtopk", "l1")}
    for table in tables.values():
        assert len(table) == 3 * (5 + 4 + 2 + 4)  # groups; without a set, ranked, random, additive
        assert set(table.group) == {"all", "first 9", "rest"}
        assert (table.undefined == 0).all()
        assert np.isfinite(table[table.tokens > 1].kl).all()
        assert (table.kl[table.group == "all"] > 0).all()
        tokens = table[table.variant == "none"].set_index("group").tokens
        assert tokens["all"] == tokens["first 9"] + tokens["rest"]
    for shared in ("none", "template"):  # no crosscoder takes part in these
        np.testing.assert_allclose(
            *(table.kl[table.variant == shared] for table in tables.values()), rtol=1e-4
        )
    assert not np.allclose(*(table.kl[table.variant == "all"] for table in tables.values()), rtol=1e-2)
    assert (results / "layer1/figures/kl.png").exists()


def test_report_is_one_page_that_says_it_is_meaningless(results: Path) -> None:
    page = (results / "layer1/report/index.html").read_text()
    assert "every number on this page is meaningless" in " ".join(page.split())
    assert not re.findall(r'(?:src|href)="https?:', page)
    for link in re.findall(r'href="(\.\./[^"]+)"', page):
        assert (results / "layer1/report" / link).exists(), link


def test_new_seed_runs_only_its_own_branch(finished: Checkout) -> None:
    result = finished.snakemake("--dry-run", "--configfile", finished.changed(TINY, {"seeds": [0, 1, 2]}))
    jobs = planned(result.stdout)
    assert jobs["train_crosscoder"] == jobs["scale_latents"] == jobs["evaluate_crosscoder"] == 2
    assert not {"finetune_model", "tokenise", "harvest_activations"} & set(jobs)


def test_more_tokens_keep_the_old_shards(finished: Checkout) -> None:
    result = finished.snakemake(
        "--dry-run", "--configfile", finished.changed(TINY, {"datasets.requests.tokens": 18000})
    )
    jobs = planned(result.stdout)
    assert jobs["tokenise"] == 1
    assert jobs["harvest_activations"] == 2
    assert "finetune_model" not in jobs


def test_layer_beyond_the_model_is_refused_before_anything_expensive(checkout: Checkout) -> None:
    result = checkout.snakemake("--configfile", checkout.changed(TINY, {"pair.layer": 3}))
    assert result.returncode == 1
    assert "pair.layer: found 3, the models have layers 0 to 2" in result.stdout
    assert not (checkout.folder / "results/models/tiny-chat").exists()


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([], "a chat without turns"),
        ([{"role": "critic", "content": "hello"}], "a turn with role 'critic'"),
    ],
)
def test_bad_chats_alone_are_refused_with_reason_and_example(
    checkout: Checkout, turns: list, reason: str
) -> None:
    (checkout.folder / "chats.jsonl").write_text(
        "".join(json.dumps({"messages": turns, "id": i}) + "\n" for i in range(200))
    )
    config = checkout.changed(
        TINY, {"datasets.requests.files": ["chats.jsonl"], "datasets.requests.format": "messages"}
    )
    shard = "results/tokens/tiny-chat/requests.train/0000.parquet"
    result = checkout.snakemake(shard, "--configfile", config)
    assert result.returncode == 1
    said = r"error: datasets\.requests: (\d+) of \1 records can't be used \(100\.00%\)"
    example = rf'\1 x {re.escape(reason)} \(record \d+: {{"messages": '
    assert re.search(f"{said}: {example}", result.stdout)
    assert not (checkout.folder / shard).exists()


def test_text_shorter_than_the_budget_is_refused_with_what_is_missing(checkout: Checkout) -> None:
    shard = "results/tokens/tiny-chat/readme.validation/0000.parquet"
    result = checkout.snakemake(
        shard, "--configfile", checkout.changed(TINY, {"datasets.readme.validation_tokens": 6000})
    )
    assert result.returncode == 1
    assert re.search(
        r"error: datasets\.readme: its validation texts end [\d,]+ tokens short of this shard's 6,000",
        result.stdout,
    )
