"""``crossdiff plan``, from the command line."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, TINY, Checkout, planned

from crossdiff.cli import main
from crossdiff.config import load
from crossdiff.provenance.planned_jobs import read_config
from crossdiff.workflow import calibrate
from crossdiff.workflow.cards import find_card, read_card
from crossdiff.workflow.forecast_run import forecast
from crossdiff.workflow.shapes import shape
from crossdiff.workflow.sizes import peak
from crossdiff.workflow.suggest import PER_LATENT

PAPER = str(ROOT / "configs/gemma2-2b.yaml")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder that holds what is known of models and cards, on a machine that is measured in no time."""
    shutil.copytree(ROOT / "data", tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(calibrate, "at_hand", lambda: find_card("h200", ROOT))


def paper(**changes: object) -> str:
    """The paper's config with other sections, None for one that is left out; gives its path."""
    values = yaml.safe_load(Path(PAPER).read_text()) | changes
    given = {key: value for key, value in values.items() if value is not None}
    Path("mine.yaml").write_text(yaml.safe_dump(given))
    return "mine.yaml"


def test_plan_warns_where_this_machine_will_not_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _path: type("Usage", (), {"free": 100e9}))
    assert main(["plan", "--configfile", PAPER]) == 1
    printed = capsys.readouterr().out
    assert "warning: disk: at its peak the run needs 788.7 GB more, 100.0 GB are free" in printed
    assert "With activations: {store: none} the same run needs 73.0 GB at its peak and 0.59 times" in printed
    assert "train_crosscoder" in printed
    assert "Run it" not in printed
    assert printed.splitlines()[-1].endswith(
        f"crossdiff plan --configfile {PAPER} --card h100, or another card of data/cards"
    )
    assert main(["plan", "--configfile", str(ROOT / "config.yaml")]) == 0
    assert (
        f"Run it: {Path(sys.executable).with_name('crossdiff')} run --configfile {ROOT}/config.yaml\n"
        in capsys.readouterr().out
    )


def test_another_machine_is_not_measured_by_this_ones_disk(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _path: type("Usage", (), {"free": 1}))
    assert main(["plan", "--configfile", PAPER, "--card", "h100"]) == 0
    assert "on NVIDIA H100" in capsys.readouterr().out


def test_card_too_small_is_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    record = json.loads(Path("data/cards/h100.json").read_text()) | {"memory": 10e9}
    Path("data/cards/small.json").write_text(json.dumps(record))
    assert main(["plan", "--configfile", PAPER, "--card", "small"]) == 1
    assert (
        "warning: GPU memory: train_crosscoder needs 14.5 GB on one GPU, NVIDIA H100 80GB HBM3 has 10.0 GB"
        in capsys.readouterr().out
    )


def table(printed: str) -> dict[str, list[str]]:
    """Rule -> its other columns, as printed."""
    rows = (line.split() for line in printed.splitlines())
    return {row[0]: row[1:] for row in rows if len(row) == 9 and row[1].isdecimal()}


def test_plan_on_several_gpus_counts_jobs_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    main(["plan", "--configfile", PAPER, "--card", "h100"])
    one = capsys.readouterr().out
    assert "Hours count one job after another." in one
    assert main(["plan", "--configfile", PAPER, "--card", "h100", "--gpus", "2"]) == 0
    two = capsys.readouterr().out
    assert "On 2 GPUs, jobs of one rule run side by side. Rules follow one another." in two
    of_one, of_two = (table(printed) for printed in (one, two))
    hours = {rule: [float(each[rule][-1]) for each in (of_one, of_two)] for rule in of_one}
    assert hours["harvest_activations"][1] == pytest.approx(hours["harvest_activations"][0] / 2, abs=0.01)
    # A scaling is as long as its reading, which all jobs share. Only its start, 6 s, is saved.
    assert hours["scale_latents"][1] == pytest.approx(hours["scale_latents"][0], abs=0.011)
    assert [table(two)[rule][-2] for rule in ("tokenise", "train_crosscoder")] == ["-", "1"]


def test_model_larger_than_a_card_takes_several(capsys: pytest.CaptureFixture[str]) -> None:
    pair = yaml.safe_load(Path(PAPER).read_text())["pair"]
    for role in ("base", "chat"):
        pair[role]["hub"]["name"] = "meta-llama/Llama-3.1-70B"
    crosscoders = {
        "batchtopk": {"loss": "batchtopk", "latents": 73_728, "k": 100, "batch": 2048, "tokens": 10**8}
    }
    mine = paper(pair=pair, crosscoders=crosscoders)
    assert main(["plan", "--configfile", mine, "--card", "h100"]) == 0
    rows = table(capsys.readouterr().out)
    # 141 GB of weights and 11.8 GB of a batch, in nine tenths of 80 GB.
    assert rows["harvest_activations"][-3:-1] == ["51.0", "3"]
    assert main(["plan", "--configfile", mine, "--card", "h100", "--gpus", "2"]) == 1
    assert "warning: GPUs: harvest_activations needs 3 for 152.9 GB, there are 2" in capsys.readouterr().out
    offloaded = paper(pair=pair, crosscoders=crosscoders, gpus={"offload": True})
    assert main(["plan", "--configfile", offloaded, "--card", "h100", "--gpus", "2"]) == 0
    printed = capsys.readouterr().out
    assert table(printed)["harvest_activations"][-3:-1] == ["72.0", "2"]
    assert "Main memory holds a part of the models in compare_models, harvest_activations, " in printed


def test_plan_tells_what_stays_from_the_peak(capsys: pytest.CaptureFixture[str]) -> None:
    activations = yaml.safe_load(Path(PAPER).read_text())["activations"] | {"keep": False}
    main(["plan", "--configfile", PAPER, "--card", "h100"])
    whole = table(capsys.readouterr().out)
    assert main(["plan", "--configfile", paper(activations=activations), "--card", "h100"]) == 0
    printed = capsys.readouterr().out
    rows = table(printed)
    assert [row[2:4] for row in (whole["harvest_activations"], rows["harvest_activations"])] == [
        ["677.64", "677.64"],
        ["0.00", "677.64"],
    ]
    assert "Caches, at most 677.6 GB at once, are removed once all that reads them is made." in printed
    [all_now, all_then] = [printed[printed.index("\nall ") :].split()[2:4], ["78.49", "788.75"]]
    assert all_now == all_then


@pytest.mark.parametrize("gpus", ["0", "-1", "two", "1.5"])
def test_number_of_gpus_is_refused_in_one_line(gpus: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["plan", f"--gpus={gpus}"])
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.endswith(f"argument --gpus: found {gpus}, allowed: an integer above 0")


def test_plan_refuses_what_a_run_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    """The messages are those that tests/dag/test_configs.py expects of a run; the table is still printed."""
    values = yaml.safe_load(Path(PAPER).read_text())
    values["pair"] |= {"layer": 26, "chat": {"folder": "/no/such/model"}}
    values["datasets"]["lmsys"] |= {"hub": None, "files": ["gone.jsonl"]}
    assert main(["plan", "--configfile", paper(**values), "--card", "h100"]) == 1
    printed = capsys.readouterr().out
    for line in (
        "pair.chat.folder: found /no/such/model, allowed: a Hugging Face folder with config.json",
        "config: datasets.lmsys.files: found gone.jsonl, which is not there",
        "pair.layer: found 26, the models have layers 0 to 25",
    ):
        assert line in printed.splitlines()
    assert "harvest_activations" in printed


def test_glob_that_matches_nothing_yet_is_refused_and_forecast(capsys: pytest.CaptureFixture[str]) -> None:
    values = yaml.safe_load(Path(PAPER).read_text())
    values["datasets"]["lmsys"] |= {"hub": None, "files": ["gone/*.jsonl"]}
    assert main(["plan", "--configfile", paper(**values), "--card", "h100"]) == 1
    printed = capsys.readouterr().out
    line = "config: datasets.lmsys.files: found gone/*.jsonl, no file has such a name"
    assert printed.splitlines().count(line) == 1
    assert "harvest_activations" in printed


def test_model_of_unknown_size_does_not_hide_what_else_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    pair = {
        "name": "mine",
        "layer": 1,
        "base": {"hub": {"name": "org/new", "revision": "main"}},
        "chat": {"folder": "/no/such/model"},
    }
    assert main(["plan", "--configfile", paper(pair=pair, causal=None), "--card", "h100"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert (
        first
        == "error: pair.chat.folder: found /no/such/model, allowed: a Hugging Face folder with config.json"
    )
    assert second.startswith("pair.base.hub: org/new@main: not in the hub's cache, and HF_HUB_OFFLINE is set")


def test_forecast_of_a_known_card_starts_without_torch() -> None:
    program = (
        "import sys; from crossdiff.cli import main\n"
        f"code = main(['plan', '--configfile', {PAPER!r}, '--card', 'h100', '--disk', '300GB'])\n"
        "assert code == 1 and not {'torch', 'transformers', 'pandas'} & set(sys.modules)"
    )
    subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
    )


@pytest.mark.parametrize("size", ["300", "GB", "0GB", "1.2.3GB"])
def test_size_is_refused_in_one_line(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["plan", "--disk", size])
    assert "argument --disk: found" in capsys.readouterr().err.splitlines()[-1]


def suggested(
    capsys: pytest.CaptureFixture[str], *options: str, config: str = PAPER
) -> tuple[str, float, float, dict[str, int]]:
    """Give what was said, and bytes, hours and training tokens of each config in the printed commands."""
    main(["plan", "--configfile", config, "--card", "h100", *options])
    printed = capsys.readouterr().out
    said, _, commands = printed[printed.index("What fits") :].partition("\n\n")
    *write, _run = commands.strip().splitlines()
    subprocess.run(["bash", "-ec", "\n".join(write)], check=True)
    [fitted] = Path().glob("*-fitted.yaml")
    run = load(read_config([Path(config), fitted]))
    needs = forecast(run, shape(run, ROOT)).values()
    numbers = {
        "data": sum(dataset.tokens for dataset in run.datasets.values()),
        "held_out": sum(dataset.validation_tokens for dataset in run.datasets.values()),
        "expansion": run.crosscoders["batchtopk"].expansion,
        "seen": run.crosscoders["batchtopk"].tokens,
    }
    return said, peak(needs), find_card("h100", ROOT).hours(*needs), numbers


def test_suggestion_for_a_disk_takes_most_of_it_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    said, disk, _, numbers = suggested(capsys, "--disk", "300GB")
    assert 0.85 * 300e9 < disk <= 0.9 * 300e9
    assert "the most that the disk holds" in said
    assert numbers["expansion"] == 32
    assert numbers["seen"] == 6 * numbers["data"]  # more passes in place of more data
    assert numbers["held_out"] == pytest.approx(numbers["data"] / 50, rel=0.02)


def test_suggestion_for_a_time_trains_fewer_latents_rather_than_too_little(
    capsys: pytest.CaptureFixture[str],
) -> None:
    said, _, hours, numbers = suggested(capsys, "--hours", "1")
    assert 0.9 < hours <= 1
    assert "the most that the hours allow" in said
    assert "with 32 there would be" in said
    assert numbers["expansion"] == 16
    assert numbers["seen"] >= 0.5 * PER_LATENT * 16 * 2304


def test_suggestion_where_there_is_plenty_is_the_papers_run(capsys: pytest.CaptureFixture[str]) -> None:
    _, disk, hours, numbers = suggested(capsys, "--disk", "2TB", "--hours", "48")
    assert numbers["expansion"] == 32
    assert numbers["data"] == pytest.approx(100e6, rel=0.02)
    assert numbers["seen"] == 2 * numbers["data"]
    assert (disk < 2e12, hours < 48) == (True, True)


def test_nothing_fits_a_disk_smaller_than_the_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--configfile", PAPER, "--card", "h100", "--disk", "10GB"]) == 1
    assert (
        "Nothing fits 10 GB on NVIDIA H100 80GB HBM3: 100,000 tokens and an expansion of 2 take more"
        in capsys.readouterr().out
    )


def test_memory_of_the_card_bounds_the_expansion(capsys: pytest.CaptureFixture[str]) -> None:
    record = json.loads(Path("data/cards/h100.json").read_text()) | {"memory": 25e9}
    Path("data/cards/small.json").write_text(json.dumps(record))
    pair = yaml.safe_load(Path(PAPER).read_text())["pair"]
    for role in ("base", "chat"):
        pair[role]["hub"]["name"] = "google/gemma-2-9b"
    main(["plan", "--configfile", paper(pair=pair, causal=None), "--card", "small", "--disk", "5TB"])
    assert "a larger one needs more memory than the card has" in capsys.readouterr().out


def test_printed_commands_run_as_printed(checkout: Checkout) -> None:
    """Each of them, in a shell, in the folder of the workflow; the run itself as a dry one."""
    first = checkout.crossdiff("plan", "--configfile", TINY, "--card", "h100", "--disk", "1GB", fresh=True)
    assert first.returncode == 0, first.stdout
    second = checkout.crossdiff("plan", "--configfile", TINY, "--card", "h100", fresh=True)
    assert second.returncode == 0, second.stdout
    written = first.stdout[first.stdout.index("cat > ") :].strip()
    runs = [written, second.stdout.strip().splitlines()[-1].removeprefix("Run it: ")]
    for command in runs:
        environment = os.environ | {"PYTHONPATH": str(checkout.folder / "src")}
        shell = subprocess.run(
            ["bash", "-ec", f"{command} --dry-run"],
            cwd=checkout.folder,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert shell.returncode == 0, shell.stdout + shell.stderr
        assert planned(shell.stdout + shell.stderr)["train_crosscoder"] == 4


def test_calibration_writes_a_record_that_plans(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a CPU, in small."""
    monkeypatch.setattr(calibrate, "device", lambda: __import__("torch").device("cpu"))
    monkeypatch.setitem(
        calibrate.SIZES, "cpu", calibrate.Sizes(64, 2**16, (64, 128, 1, 2, 8), (16, 64, 32, 4), 2**20)
    )
    monkeypatch.setattr(calibrate, "SECONDS", 0.01)
    monkeypatch.setattr(calibrate, "LONGER", 0.01)
    monkeypatch.setattr(calibrate, "_start", lambda: (2.5, "a start"))
    assert main(["plan", "--configfile", str(ROOT / "config.yaml"), "--calibrate", "here.json"]) in (0, 1)
    assert f"crossdiff plan --configfile {ROOT}/config.yaml --card here.json" in capsys.readouterr().out
    card = read_card(Path("here.json"))
    assert (card.record["architecture"], card.rate("start")) == ("cpu", 2.5)
    assert {step["loss"]: step["latents"] for step in card.record["steps"]} == {"batchtopk": 64, "l1": 64}
    assert 1e6 < card.rate("forward") < 1e13
    assert main(["plan", "--configfile", str(ROOT / "config.yaml"), "--card", "here.json"]) == 0
    assert "Not measured on this card: encode 40%, generate 30%;" in capsys.readouterr().out
