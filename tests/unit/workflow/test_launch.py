"""``crossdiff run`` becomes the right Snakemake command. The program itself is not started here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from crossdiff.cli import main
from crossdiff.report.live import serve
from crossdiff.workflow import commands


class Started(Exception):
    """Stands for the process that Snakemake takes over."""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text("pair: {}\n")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch):
    """Return the words of the command that ``crossdiff run`` with these words becomes."""

    def become(program: str, words: list[str]) -> None:
        raise Started(program, words)

    def start(*words: str) -> list[str]:
        monkeypatch.setattr(os, "execv", become)
        with pytest.raises(Started) as error:
            main(["run", *words])
        program, command = error.value.args
        assert program == sys.executable and command[:3] == [program, "-m", "snakemake"]
        return command[3:]

    return start


HERE = ["--snakefile", str(ROOT / "Snakefile")]
OF_CONFIG = ["--configfile", "config.yaml"]


def test_run_of_everything(started) -> None:
    assert started() == [*HERE, *OF_CONFIG]


def test_targets_and_options_of_snakemake_stand_before_the_config(started) -> None:
    found = started("first_look", "tokens", "--", "-n", "--cores", "2")
    assert found == [*HERE, "first_look", "tokens", "-n", "--cores", "2", *OF_CONFIG]


def test_several_configs(started) -> None:
    Path("more.yaml").write_text("seeds: [1]\n")
    found = started("--configfile", "config.yaml", "--configfile", "more.yaml", "--", "-n")
    assert found == [*HERE, "-n", "--configfile", "config.yaml", "more.yaml"]


def test_config_that_comes_with_crossdiff(started) -> None:
    found = started("--configfile", "configs/gemma2-2b.yaml")
    assert found == [*HERE, "--configfile", str(ROOT / "configs/gemma2-2b.yaml")]
    Path("configs").mkdir()
    Path("configs/gemma2-2b.yaml").write_text("seeds: [1]\n")
    assert started("--configfile", "configs/gemma2-2b.yaml")[-1] == "configs/gemma2-2b.yaml"


def test_profile_is_the_one_here_or_the_one_that_comes_with_crossdiff(started) -> None:
    profile = ["--profile", str(ROOT / "slurm")]
    assert started("--profile", "slurm") == [*HERE, *profile, *OF_CONFIG]
    Path("slurm").mkdir()
    assert started("--profile", "slurm") == [*HERE, *profile, *OF_CONFIG]
    Path("slurm/config.yaml").write_text("")
    assert started("--profile", "slurm") == [*HERE, "--profile", "slurm", *OF_CONFIG]


def test_profile_that_snakemake_looks_up_itself(started) -> None:
    assert started("--profile", "my-own") == [*HERE, "--profile", "my-own", *OF_CONFIG]


def test_checkout_runs_its_own_snakefile(started, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert started() == ["--snakefile", "Snakefile", *OF_CONFIG]


@pytest.mark.parametrize("command", ["run", "plan"])
def test_folder_without_a_config_is_one_line(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("config.yaml").unlink()
    assert main([command]) == 2
    told = "error: config.yaml: not there; crossdiff init writes one, --configfile names another\n"
    assert capsys.readouterr().err == told
    for missing in ("gone.yaml", "configs/gone.yaml"):
        assert main([command, "--configfile", missing]) == 2
        assert capsys.readouterr().err == f"error: {missing}: can't be read (No such file or directory)\n"


def test_printed_commands_outside_of_a_checkout() -> None:
    program = str(Path(sys.executable).with_name("crossdiff"))
    assert commands.run([Path("config.yaml")], "first_look") == f"{program} run first_look"
    assert commands.run([Path("my runs/a.yaml"), Path("b.yaml")]) == (
        f"{program} run --configfile 'my runs/a.yaml' --configfile b.yaml"
    )


def test_explore_shows_our_page_in_a_folder_that_has_a_report(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("report").mkdir()
    fronts = []
    monkeypatch.setattr(serve, "serve", lambda _results, front, *_: fronts.append(front))
    assert main(["explore", "results/mine"]) == 0
    assert fronts == [ROOT / "report"]


def test_help_imports_nothing_that_takes_long() -> None:
    code = "import sys, crossdiff.cli as cli; cli.command_parser(); print('pydantic' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"
