"""``--profile slurm`` asks SLURM for the right things. A pretended sbatch takes every question and no job."""

import os
import re
import shlex
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import Checkout, planned

from crossdiff.errors import UserError
from crossdiff.provenance.code import SCRIPTS
from crossdiff.workflow import slurm

TINY = "configs/tiny.yaml"
LOCAL = re.compile(
    "all|chat_tokenizer|check_(model|pair|taught|texts|catalogue|difference)|evaluate_crosscoder|compare_(crosscoders|explanations|latents|methods|with_paper)|draw_(figure|first_look)|figure_planted|measure_density|judge_steering"
    "|typeset_tables|write_(report|browser|first_look|methods)"
)
ONCE = ("--retries", "0")  # a job that fails is not handed in again, which takes ten seconds each time
SBATCH = """#!/bin/bash
printf '%q ' "$@" >> "$SBATCH_LINES"; echo >> "$SBATCH_LINES"
[[ " $* " == *" --test-only "* ]]
"""


@pytest.fixture
def lines(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Give what ``submitted_lines`` gives."""
    return submitted_lines(checkout, monkeypatch)


def submitted_lines(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch, *arguments: str, config: str = TINY
) -> list[list[str]]:
    """Give the words of every line that a run hands to sbatch."""
    result, lines = run_with_sbatch(checkout, monkeypatch, *arguments, config=config)
    assert "SLURM sbatch failed" in result.stdout, result.stdout
    return lines


def run_with_sbatch(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch, *arguments: str, config: str
) -> tuple[subprocess.CompletedProcess[str], list[list[str]]]:
    """Run Snakemake up to its first failure. Give the run, and the words of every line for sbatch."""
    tools, log = checkout.folder / "tools", checkout.folder / "sbatch.log"
    tools.mkdir()
    (tools / "sbatch").write_text(SBATCH)
    for name in ("squeue", "scontrol", "sacct", "sinfo"):
        (tools / name).write_text("#!/bin/bash\n")
    for tool in tools.iterdir():
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SBATCH_LINES", str(log))
    result = checkout.snakemake(*arguments, "--profile", "slurm", "--configfile", config)
    assert result.returncode == 1
    return result, [shlex.split(line) for line in log.read_text().splitlines()]


def gres_of_rules(lines: list[list[str]]) -> dict[str, str | None]:
    """Give what each rule asks for by --gres, from the questions before the first job."""
    return {
        value(line, "--comment").removeprefix("rule_"): value(line, "--gres")
        for line in lines
        if "--test-only" in line
    }


def value(line: list[str], option: str) -> str | None:
    """Give the value of ``--option value`` or ``--option=value``."""
    for word, following in zip(line, [*line[1:], ""], strict=True):
        if word == option:
            return following
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
    return None


def test_every_line(lines: list[list[str]], checkout: Checkout) -> None:
    asked = {value(line, "--comment").removeprefix("rule_"): line for line in lines if "--test-only" in line}
    rules = set(planned(checkout.snakemake("--dry-run", "--configfile", TINY).stdout))
    assert set(asked) == {rule for rule in rules if not LOCAL.fullmatch(rule)}
    for rule, line in asked.items():
        on_gpu = rule == "finetune_model" or "from crossdiff.device" in (SCRIPTS / f"{rule}.py").read_text()
        assert (value(line, "-p"), value(line, "--gres")) == (
            ("gpu", "gpu:1") if on_gpu else ("cpu", None)
        ), rule
        assert int(value(line, "--mem")) >= 1000, rule
        assert int(value(line, "-t")) >= 10, rule
        assert "--requeue" in line
    submitted = [line for line in lines if "--test-only" not in line]
    assert {value(line, "--comment").split("_wildcards_")[0] for line in submitted} == {"rule_prepare_model"}
    assert len(submitted) == 3  # retries: 2
    for attempt, line in enumerate(submitted, 1):
        assert [int(value(line, option)) // attempt for option in ("--mem", "-t")] == [2000, 30]
        assert re.fullmatch(r"crossdiff_[0-9a-f-]{36}", value(line, "--job-name"))
        assert value(line, "--output") == str(
            checkout.folder / "logs/slurm/rule_prepare_model/tiny-base/%j.log"
        )
        assert value(line, "-D") == str(checkout.folder)
        assert f"--attempt {attempt} " in value(line, "--wrap")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("training", "profile", "gres"),
    [
        (1, "{<<: *gpu, gres: 'gpu:a100:4'}", "gpu:a100:4"),  # the profile asks for more
        (4, "{<<: *gpu, gres: 'gpu:a100:1'}", "gpu:a100:4"),
        (4, "{<<: *gpu, gres: 'gpu'}", "gpu:4"),
        (4, "{<<: *gpu, on_gpu: 2}", "gpu:1"),  # the user says how many, and so how they are asked for
    ],
)
def test_training_on_several_gpus_asks_for_them(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch, training: int, profile: str, gres: str
) -> None:
    path = checkout.folder / "slurm/config.yaml"
    changed, count = re.subn(r"train_crosscoder: \*gpu.*", f"train_crosscoder: {profile}", path.read_text())
    assert count == 1
    path.write_text(changed)
    config = checkout.changed(TINY, {"gpus.training": training})
    asked = gres_of_rules(submitted_lines(checkout, monkeypatch, *ONCE, config=config))
    assert (asked["train_crosscoder"], asked["scale_latents"]) == (gres, "gpu:1")


SIZES = {
    "meta-llama/Llama-3.1-8B": {"harvest_activations": 1, "measure_causal_effect": 1},
    "google/gemma-2-27b": {"harvest_activations": 1, "measure_causal_effect": 2},
    "meta-llama/Llama-3.1-70B": {"harvest_activations": 3, "measure_causal_effect": 5},
}


def pair_of(checkout: Checkout, model: str, **changes: object) -> str:
    """Write a config with the paper's settings for a pair of models of this size."""
    smaller = {f"datasets.{name}.tokens": 1_000_000 for name in ("fineweb", "lmsys")}
    names = {f"pair.{role}.hub.name": model for role in ("base", "chat")}
    return checkout.changed("configs/llama3.1-8b.yaml", smaller | names | changes)


@pytest.mark.slow
@pytest.mark.parametrize("model", SIZES)
def test_rules_ask_for_as_many_gpus_as_their_models_need(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    """The profile names cards of 80 GB. Rules that do not split what they hold ask for one."""
    asked = gres_of_rules(run_with_sbatch(checkout, monkeypatch, *ONCE, config=pair_of(checkout, model))[1])
    expected = SIZES[model] | {"train_crosscoder": 1, "scale_latents": 1}
    assert {rule: asked[rule] for rule in expected} == {rule: f"gpu:{n}" for rule, n in expected.items()}
    assert asked["tokenise"] is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "card", "gres"),
    [
        ({}, "gpu_memory_gb: 40", "gpu:5"),
        ({}, "# gpu_memory_gb: 80", "gpu:1"),  # the card is not known
        ({"gpus.memory": 30}, "gpu_memory_gb: 80", "gpu:6"),
        ({"gpus.offload": True}, "gpu_memory_gb: 80", "gpu:1"),
    ],
)
def test_gpus_follow_from_the_card_and_what_a_job_may_take(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], card: str, gres: str
) -> None:
    path = checkout.folder / "slurm/config.yaml"
    changed, count = re.subn(r"gpu_memory_gb: \d+", card, path.read_text())
    assert count == 1
    path.write_text(changed)
    config = pair_of(checkout, "meta-llama/Llama-3.1-70B", **changes)
    asked = gres_of_rules(run_with_sbatch(checkout, monkeypatch, *ONCE, config=config)[1])
    assert asked["harvest_activations"] == gres


def test_run_without_sbatch_ends_with_one_line(
    checkout: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in Path("/usr/bin").iterdir():
        if tool.name != "sbatch":
            (tools / tool.name).symlink_to(tool)
    monkeypatch.setenv("PATH", str(tools))
    result = checkout.snakemake("--profile", "slurm", "--configfile", TINY)
    assert result.returncode == 1
    assert "executor: found slurm, but there is no sbatch on the PATH" in result.stdout
    assert not (checkout.folder / "results").exists()


def workflow(executor: str) -> SimpleNamespace:
    return SimpleNamespace(
        executor_plugin=SimpleNamespace(name=executor),
        executor_settings=SimpleNamespace(status_command="squeue"),
    )


def test_no_sbatch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    slurm.check(workflow("local"))
    with pytest.raises(UserError, match="executor: found slurm, but there is no sbatch on the PATH"):
        slurm.check(workflow("slurm"))
    with pytest.raises(UserError, match="no squeue on the PATH"):
        slurm.clean(Path(__file__).parents[2])


@pytest.mark.parametrize(
    ("limit", "minutes"), [("1-02:00:30", 1560.5), ("1:00:00", 60), ("30:00", 30), ("infinite", float("inf"))]
)
def test_time_limits_of_partitions(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limit: str, minutes: float
) -> None:
    (tmp_path / "sinfo").write_text(f"#!/bin/bash\necho {limit}\n")
    (tmp_path / "sinfo").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert slurm._minutes.__wrapped__("any") == minutes


def test_slurm_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "squeue").write_text("#!/bin/bash\nexec /bin/sleep 60\n")
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(slurm, "SECONDS", 0.2)
    with pytest.raises(UserError, match="squeue: no answer"):
        slurm.clean(Path(__file__).parents[2])
