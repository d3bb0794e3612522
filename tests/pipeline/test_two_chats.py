"""Two chat models of one base at two layers, through real Snakemake: what is shared, added and removed."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import ROOT, Checkout, once, planned
from files_table import OF_OTHER_LOSSES, outputs
from helpers_overview import OverviewPage

from crossdiff.provenance.records import read_record
from crossdiff.results.described import describe, file_of

PAIRS = "configs/tiny-pairs.yaml"
VALUES: dict[str, Any] = yaml.safe_load((ROOT / PAIRS).read_text())
MODELS = ("tiny-base", "tiny-chat", "tiny-other")
SHARDS = 2 + 3  # of readme and requests, both splits
THIRD = {
    "models.tiny-third": VALUES["models"]["tiny-other"]
    | {"finetune": VALUES["models"]["tiny-other"]["finetune"] | {"seed": 2}},
    "pairs.tiny-third": {"base": "tiny-base", "chat": "tiny-third", "layers": [0, 1]},
}
# Rules whose jobs belong to one pair, or to one chat model.
SHARED = ("prepare_model", "chat_tokenizer", "tokenise", "check_texts")

OVERVIEW = ("compare_pairs", "draw_layers", "write_overview")  # rules of the page over all pairs and layers


def run_pairs(checkout: Checkout) -> None:
    result = checkout.snakemake("--configfile", PAIRS)
    assert result.returncode == 0, result.stdout
    assert harvests(result.stdout) == len(MODELS) * SHARDS
    assert result.stdout.count("The report is at") == 4


def harvests(printed: str) -> int:
    """How many jobs harvest, by the table of jobs."""
    return sum(count for rule, count in planned(printed).items() if rule.startswith("harvest"))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    return once(tmp_path_factory, "pairs", run_pairs)


def plan(checkout: Checkout, config: str, *arguments: str) -> dict[str, int]:
    result = checkout.snakemake("--dry-run", "--configfile", config, *arguments)
    assert result.returncode == 0, result.stdout
    return planned(result.stdout)


def test_first_plan_says_who_shares_tokens(checkout: Checkout) -> None:
    printed = checkout.snakemake("--dry-run", "--configfile", PAIRS).stdout
    assert re.search(r"^tokenizer tiny-base-[0-9a-f]{8}: tiny-chat, tiny-other share", printed, re.M)
    jobs = planned(printed)
    assert harvests(printed) == len(MODELS) * SHARDS
    assert (jobs["tokenise"], jobs["prepare_model"], jobs["finetune_model"]) == (SHARDS, 1, 2)
    assert jobs["train_crosscoder"] == jobs["write_report"] == 4


def test_second_run_has_nothing_to_do(pairs: Checkout) -> None:
    assert not plan(pairs, PAIRS)


def test_audit_follows_what_pairs_share(pairs: Checkout) -> None:
    whole = pairs.crossdiff("audit", "--all", "--configfile", PAIRS)
    assert whole.returncode == 0 and "verified" in whole.stdout, whole.stdout
    bases = set()
    for pair in ("tiny", "tiny-second"):
        one = pairs.crossdiff("audit", f"results/{pair}/layer1/report/index.html", "--configfile", PAIRS)
        assert one.returncode == 0, one.stdout
        bases |= set(re.findall(r"results/activations/tiny-base/layer1/\S+?\.h5", one.stdout))
    assert bases  # both reports were made from these


def test_shared_cache_that_is_damaged_is_seen_from_every_pair(pairs: Checkout, tmp_path: Path) -> None:
    ours = pairs.copy(tmp_path / "ours")
    [cache, *_] = sorted(ours.folder.glob("results/activations/tiny-base/layer1/*/*/0000.h5"))
    content = bytearray(cache.read_bytes())
    content[len(content) // 2] ^= 1
    cache.write_bytes(content)
    for pair in ("tiny", "tiny-second"):
        found = ours.crossdiff("audit", f"results/{pair}/layer1/report/index.html", "--configfile", PAIRS)
        assert found.returncode == 1 and cache.name in found.stdout


def test_third_chat_model_adds_its_own_jobs_and_no_others(pairs: Checkout) -> None:
    jobs = plan(pairs, pairs.changed(PAIRS, THIRD, "third"))
    assert not set(SHARED) & jobs.keys()
    assert sum(count for rule, count in jobs.items() if rule.startswith("harvest")) == SHARDS
    assert (jobs["finetune_model"], jobs["check_model"], jobs["train_crosscoder"]) == (1, 2, 2)
    assert jobs["write_report"] == jobs["write_browser"] == jobs["summarise_activations"] == 2


@pytest.mark.parametrize(("gone", "model"), [("tiny", "tiny-chat"), ("tiny-second", "tiny-other")])
def test_pair_that_leaves_takes_nothing_with_it(pairs: Checkout, gone: str, model: str) -> None:
    without = pairs.changed(PAIRS, {f"pairs.{gone}": None, f"models.{model}": None}, "without")
    assert plan(pairs, without) == dict.fromkeys(("all", *OVERVIEW), 1) | {"typeset_overview": 2}


def test_third_layer_is_harvested_alone(pairs: Checkout) -> None:
    jobs = plan(pairs, pairs.changed(PAIRS, {"pairs.tiny.layers": [0, 1, 2]}, "deeper"))
    assert not {*SHARED, "finetune_model"} & jobs.keys()
    assert sum(count for rule, count in jobs.items() if rule.startswith("harvest")) == 2 * SHARDS
    assert jobs["train_crosscoder"] == jobs["write_report"] == 1


def test_config_with_one_of_the_pairs_alone_has_nothing_to_do(pairs: Checkout) -> None:
    """One pair's own config and the config with all pairs share what they make."""
    [tokens] = (pairs.folder / "results/tokens").iterdir()
    base, chat = (VALUES["models"][name] for name in ("tiny-base", "tiny-chat"))
    fine = {key: value for key, value in chat["finetune"].items() if key != "from"}
    values = {key: value for key, value in VALUES.items() if key not in ("models", "pairs")}
    values["pair"] = {
        "name": "tiny",
        "layer": 1,
        "base": base | {"name": "tiny-base"},
        "chat": {"name": "tiny-chat", "finetune": fine},
    }
    values["tokens"] = values["tokens"] | {"tokenizer": tokens.name}
    (pairs.folder / "configs/alone.yaml").write_text(yaml.safe_dump(values))
    assert not plan(pairs, "configs/alone.yaml")


# Each key of models and pairs, and the rules that run first when it changes.
FIRST: dict[str, tuple[dict[str, Any], set[str]]] = {
    "random": ({"models.tiny-base.random.seed": 5}, {"prepare_model"}),
    "from": ({"models.tiny-other.finetune.from": "tiny-chat"}, {"finetune_model"}),
    "seed": ({"models.tiny-chat.finetune.seed": 5}, {"finetune_model"}),
    "learning rate": ({"models.tiny-chat.finetune.learning_rate": 1e-3}, {"finetune_model"}),
    "template": ({"models.tiny-chat.finetune.chat_template": "data/markers.jinja"}, {"chat_tokenizer"}),
    "another base": ({"pairs.tiny.base": "tiny-other"}, {"check_pair"}),
    "another chat": ({"pairs.tiny.chat": "tiny-other"}, {"check_pair"}),
    "source": (
        {"models.tiny-other.finetune": None, "models.tiny-other.folder": "tests/data/model"},
        {"chat_tokenizer", "prepare_model"},
    ),
}


@pytest.mark.parametrize("name", FIRST)
def test_change_of_a_model_or_pair_runs_what_depends_on_it(pairs: Checkout, name: str) -> None:
    changes, first = FIRST[name]
    result = pairs.snakemake("--dry-run", "--configfile", pairs.changed(PAIRS, changes))
    if name == "source":  # that folder has no tokenizer and no model that can be read
        assert result.returncode in (0, 1)
    jobs = planned(result.stdout)
    early = [
        rule for rule in ("prepare_model", "chat_tokenizer", "finetune_model", "check_pair") if rule in jobs
    ]
    assert early and first & set(early[:2])
    # The other pair stays as it is, unless its base model changes.
    others = re.findall(r"^Job \d+: Training crosscoder .*, tiny-second, layer", result.stdout, re.M)
    assert bool(others) == (name in ("random", "from", "source"))


def test_reports_of_pairs_name_their_own_models(pairs: Checkout) -> None:
    for pair, other in (("tiny", "tiny-second"), ("tiny-second", "tiny")):
        page = (pairs.folder / f"results/{pair}/layer0/report/index.html").read_text()
        assert f"<h1>What did fine-tuning add? {pair}</h1>" in page
        assert f"results/{other}/" not in page


def test_page_over_all_pairs_has_the_numbers_of_every_report_and_leads_to_it(pairs: Checkout) -> None:
    folder = pairs.folder / "results"
    rows = pd.read_csv(folder / "overview/tables/pairs.csv").to_dict("records")
    names = [(pair, layer) for pair in ("tiny", "tiny-second") for layer in (0, 1)]
    assert [(row["pair"], row["layer"]) for row in rows] == names
    for row in rows:
        table = pd.read_csv(folder / row["pair"] / f"layer{row['layer']}/tables/crosscoders.csv")
        [own] = table.to_dict("records")
        np.testing.assert_equal({name: row[name] for name in own}, own)
    page = OverviewPage((folder / "overview/index.html").read_text())
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert len(links) == 4 * 2 + 2 and all((folder / "overview" / link).is_file() for link in links)
    assert pairs.crossdiff("audit", "results/overview/index.html", "--configfile", PAIRS).returncode == 0


def test_files_over_all_pairs_are_described(pairs: Checkout) -> None:
    own = [path for path in outputs(pairs.folder) if path.startswith("results/overview/")]
    assert len(own) == 9
    for path in own:
        assert read_record(pairs.folder / path).rule in file_of(path).rules
    for name in ("pairs", "overlap"):
        path = f"results/overview/tables/{name}.csv"
        assert set(pd.read_csv(pairs.folder / path, nrows=0)) == set(describe(path)) - OF_OTHER_LOSSES


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"overview": "another"}, {*OVERVIEW, "typeset_overview"}),
        (
            {"pairs.tiny.layers": [1], "pairs.tiny-second.layers": [1]},
            {"compare_pairs", "typeset_overview", "write_overview"},
        ),
        ({"pairs.tiny.layers": [1], "pairs.tiny-second": None}, set()),
    ],
)
def test_page_over_all_pairs_follows_pairs_layers_and_its_name(
    pairs: Checkout, changes: dict[str, Any], expected: set[str]
) -> None:
    assert plan(pairs, pairs.changed(PAIRS, changes)).keys() - {"all"} == expected


def test_layers_have_activations_of_their_own(pairs: Checkout) -> None:
    folder = pairs.folder / "results/tiny"
    tables = [pd.read_csv(folder / f"layer{layer}/tables/crosscoders.csv") for layer in (0, 1)]
    assert not tables[0].equals(tables[1])


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"pairs.tiny.layers": [0, 7]}, "pairs.tiny.layers: found 7, the models have layers 0 to 2"),
        ({"pairs.tiny.chat": "nobody"}, "pairs.tiny.chat: found nobody, allowed: tiny-base, tiny-chat"),
    ],
)
def test_bad_pairs_are_refused_before_any_job(checkout: Checkout, changes: dict[str, Any], line: str) -> None:
    result = checkout.snakemake("--configfile", checkout.changed(PAIRS, changes))
    assert result.returncode == 1 and line in result.stdout
    assert not (checkout.folder / "results").exists()


def test_two_pairs_of_one_name_are_refused(checkout: Checkout) -> None:
    text = (checkout.folder / PAIRS).read_text()
    (checkout.folder / "configs/twice.yaml").write_text(text.replace("  tiny-second: {", "  tiny: {"))
    result = checkout.snakemake("--dry-run", "--configfile", "configs/twice.yaml")
    assert result.returncode == 1
    assert "configs/twice.yaml: pairs.tiny is given more than once, in lines 20 and 21" in result.stdout
