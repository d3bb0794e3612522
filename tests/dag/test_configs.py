"""Every shipped config gives the DAG that it describes. A bad one stops with one line before any job."""

from pathlib import Path

import pytest
import yaml
from conftest import ROOT, TINY, Checkout, planned

from crossdiff.config import load
from crossdiff.texts.formats import texts
from crossdiff.workflow.evaluations import evaluations

# configs/lora-8b.yaml names a user's own files. tests/pipeline/test_guide.py runs it. Configs of organisms
# have many pairs, and a target of their own (test_organisms_jobs.py).
CONFIGS = [
    path
    for path in sorted(ROOT.glob("configs/*.yaml"))
    if path.stem != "lora-8b" and not path.stem.startswith("organisms")
]


def test_default_config_plans_the_whole_pipeline(checkout: Checkout) -> None:
    result = checkout.snakemake("--dry-run")
    assert result.returncode == 0, result.stdout
    jobs = planned(result.stdout)
    assert jobs["fetch_package"] == 3
    assert jobs["finetune_model"] == 1
    assert jobs["harvest_activations"] == 2 * jobs["tokenise"] == 12
    assert jobs["train_crosscoder"] == 2
    assert jobs["generate_answers"] == jobs["measure_causal_effect"] == 2
    assert jobs["steer_latents"] == jobs["judge_steering"] == 2
    assert jobs["draw_figure"] == len(evaluations(load(yaml.safe_load((ROOT / "config.yaml").read_text()))))
    assert jobs["write_report"] == 1


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_shipped_config_is_complete_in_itself(checkout: Checkout, config: Path) -> None:
    result = checkout.snakemake("--dry-run", "--configfile", str(config))
    assert result.returncode == 0, result.stdout
    values = yaml.safe_load(config.read_text())
    jobs = planned(result.stdout)
    # Crosscoders and data sets of config.yaml would show here if it were merged in.
    loaded = load(values)
    trainings = len(loaded.trained) * len(values.get("seeds", [0]))
    assert jobs.get("train_crosscoder", 0) == len(loaded.comparisons) * trainings
    assert jobs.get("import_crosscoder", 0) == len(loaded.imported)
    shards = [
        -(-d[key] // values["tokens"]["shard"])
        for d in values["datasets"].values()
        for key in ("tokens", "validation_tokens")
    ]
    assert jobs["tokenise"] == sum(shards)
    # Records find a job's code by its rule's name.
    rules = {rule for rule in jobs if not rule.startswith("harvest_layers_")}  # crossdiff.workflow.harvests
    without = {rule for rule in rules if not (ROOT / f"workflow_scripts/{rule}.py").exists()}
    assert without <= {"all", "planted"}
    planted = values["pair"]["chat"].get("planted") if "pair" in values else None
    if planted is None:
        harvests = sum(count for rule, count in jobs.items() if rule.startswith("harvest_"))
        assert harvests == len(loaded.models) * sum(shards)
    else:
        assert jobs["plant_concepts"] == sum(shards)
        assert jobs.get("harvest_activations", 0) == (0 if planted.get("noise") else sum(shards))
        assert jobs["match_concepts"] == jobs["train_crosscoder"]


def test_planted_pair_needs_no_chat_model(checkout: Checkout) -> None:
    jobs = planned(checkout.snakemake("planted", "--dry-run", "--configfile", "configs/planted.yaml").stdout)
    assert jobs["score_crosscoders"] == jobs["figure_planted"] == jobs["write_leaderboard"] == 1
    assert jobs["prepare_model"] == 1  # the base
    assert jobs["compare_seeds"] == 1
    assert not {"finetune_model", "read_latents", "write_report"} & set(jobs)


def test_second_planted_set_has_the_same_crosscoders_and_other_concepts() -> None:
    first, second = (
        load(yaml.safe_load((ROOT / f"configs/{name}.yaml").read_text()))
        for name in ("planted", "planted-second")
    )
    for section in ("crosscoders", "scoring", "datasets"):
        assert getattr(first, section) == getattr(second, section)
    assert not set(first.seeds) & set(second.seeds)
    one, other = first.pair.chat.planted, second.pair.chat.planted
    assert one.concepts == other.concepts
    changed = "seed frequency strength strength_spread weakened_ratio decoupled_share rotation"
    for name in changed.split():
        assert getattr(one, name) != getattr(other, name)


def test_answers_of_the_data_set_need_no_generation(checkout: Checkout) -> None:
    config = checkout.changed("config.yaml", {"causal.answers": "dataset"})
    jobs = planned(checkout.snakemake("--dry-run", "--configfile", config).stdout)
    assert jobs["measure_causal_effect"] == 2
    assert "generate_answers" not in jobs


def test_causal_effect_is_measured_where_the_config_asks_for_it(checkout: Checkout) -> None:
    config = checkout.changed("config.yaml", {"causal": None})
    jobs = planned(checkout.snakemake("--dry-run", "--configfile", config).stdout)
    assert jobs["write_report"] == 1
    assert not {"generate_answers", "measure_causal_effect"} & set(jobs)


def test_latents_are_steered_where_the_config_asks_for_it(checkout: Checkout) -> None:
    config = checkout.changed("config.yaml", {"steering": None})
    jobs = planned(checkout.snakemake("--dry-run", "--configfile", config).stdout)
    assert jobs["write_report"] == 1
    assert "steer_latents" not in jobs


def test_papers_run_has_the_papers_settings() -> None:
    values = yaml.safe_load((ROOT / "configs/gemma2-2b.yaml").read_text())
    assert values["pair"]["layer"] == 13
    assert values["pair"]["base"]["hub"]["name"] == "google/gemma-2-2b"
    assert sum(dataset["tokens"] for dataset in values["datasets"].values()) == 100_000_000
    batchtopk, l1 = values["crosscoders"]["batchtopk"], values["crosscoders"]["l1"]
    assert (batchtopk["k"], l1["l1_coefficient"]) == (100, 0.041)
    assert batchtopk["expansion"] * 2304 == l1["expansion"] * 2304 == 73_728
    causal = load(values).causal
    assert (causal.conversations, causal.answers, causal.first_tokens, values["tokens"]["context"]) == (
        512,
        "generated",
        9,
        1024,
    )


@pytest.mark.parametrize(
    ("dataset", "record", "text"),
    [
        (
            "fineweb",
            {"text": "Some page.", "id": "<urn:uuid:1>", "url": "http://example.org", "language": "en"},
            "Some page.",
        ),
        (
            "lmsys",
            {
                "conversation_id": "1",
                "model": "m",
                "conversation": [
                    {"content": "Hi", "role": "user"},
                    {"content": "Hello", "role": "assistant"},
                ],
            },
            [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}],
        ),
    ],
)
def test_papers_data_columns_are_read(dataset: str, record: dict, text: object) -> None:
    source = load(yaml.safe_load((ROOT / "configs/gemma2-2b.yaml").read_text())).datasets[dataset]
    assert list(texts(iter([record]), source.format, source.field, dataset)) == [text]


def test_hub_model_without_network_is_one_clear_line(checkout: Checkout) -> None:
    folder = "results/models/gemma-2-2b"
    result = checkout.snakemake(folder, "--configfile", "configs/gemma2-2b.yaml")
    assert result.returncode == 1
    assert "error: hub model google/gemma-2-2b@" in result.stdout
    assert "Traceback" not in result.stdout
    assert not (checkout.folder / folder).exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("crosscoders={batchtopk: {kk: 3}}", "crosscoders.batchtopk.kk: unknown key; did you mean k?"),
        ("pair={layer: '12'}", "config: pair.layer: found '12' (text), allowed: a valid integer"),
    ],
)
def test_bad_config_stops_before_any_job(checkout: Checkout, change: str, message: str) -> None:
    result = checkout.snakemake("--configfile", "config.yaml", "--config", change)
    assert result.returncode == 1
    assert message in result.stdout
    assert not (checkout.folder / "results").exists()
    assert "Traceback" not in result.stdout


def test_model_folder_that_is_missing_stops_before_any_job(checkout: Checkout) -> None:
    config = checkout.changed(TINY, {"pair.base": {"folder": "/no/such/model"}})
    result = checkout.snakemake("--dry-run", "--configfile", config)
    assert result.returncode == 1
    assert (
        "pair.base.folder: found /no/such/model, allowed: a Hugging Face folder with config.json"
        in result.stdout
    )
    assert "Traceback" not in result.stdout


def test_missing_files_are_named_with_their_keys(checkout: Checkout) -> None:
    config = checkout.changed(
        TINY, {"behaviour.requests": "nowhere.yaml", "datasets.readme.files": ["README.txt", "gone.txt"]}
    )
    result = checkout.snakemake("--dry-run", "--configfile", config)
    assert result.returncode == 1
    assert result.stdout.splitlines()[-3:] == [
        "config: datasets.readme.files: found README.txt, which is not there",
        "config: datasets.readme.files: found gone.txt, which is not there",
        "config: behaviour.requests: found nowhere.yaml, which is not there",
    ]


def test_number_that_yaml_reads_as_text_is_named(checkout: Checkout) -> None:
    checkout.edit("config.yaml", "\n    learning_rate: 1.0e-3", "\n    learning_rate: 1e-3")
    result = checkout.snakemake("--dry-run")
    assert result.returncode == 1
    assert (
        "crosscoders.batchtopk.learning_rate: found '1e-3' (text), allowed: "
        "a valid number (YAML reads 1e-3 as text; write 1.0e-3)" in (result.stdout)
    )
