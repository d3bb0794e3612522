"""A wheel in a fresh environment begins, forecasts, runs and audits a run in an empty folder."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from helpers_folders import random_model
from helpers_wheel import build, environment

from crossdiff.provenance.code import code_parts
from crossdiff.provenance.records import read_record

Command = Callable[..., subprocess.CompletedProcess[str]]
SHARD = "results/tokens/chat-chat/texts.train/0000.parquet"


@pytest.fixture(scope="module")
def crossdiff(tmp_path_factory: pytest.TempPathFactory) -> Command:
    """The program of an environment with the wheel, in a folder that was empty before."""
    place = tmp_path_factory.mktemp("installed")
    programs, here = environment(place / "venv", build(place / "source")), place / "here"
    here.mkdir()
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def command(*words: str, program: str = "crossdiff") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(programs / program), *words],
            cwd=here,
            env=kept | {"HF_HUB_OFFLINE": "1"},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    imported = command("-c", "import crossdiff; print(crossdiff.__file__)", program="python").stdout.strip()
    assert imported.startswith(str(place / "venv"))
    return command


def folder_of(command: Command) -> Path:
    return Path(command("-c", "import os; print(os.getcwd())", program="python").stdout.strip())


def test_from_an_empty_folder_to_an_audited_result(crossdiff: Command) -> None:
    here = folder_of(crossdiff)
    missing = crossdiff("run")
    assert missing.returncode == 2 and "crossdiff init writes one" in missing.stdout
    for seed, name in enumerate(("base", "chat")):
        random_model(here / name, layers=3, seed=seed)
    texts = [{"text": f"The square of {number} is {number**2}. " * 9} for number in range(200)]
    (here / "texts.jsonl").write_text("".join(f"{json.dumps(text)}\n" for text in texts))

    begun = crossdiff("init", "--base", "base", "--chat", "chat", "--texts", "texts.jsonl")
    assert begun.returncode == 0, begun.stdout
    config = here / "config.yaml"
    assert "layer: 1 " in config.read_text()  # the middle of 3
    smaller = config.read_text().replace("tokens: 2000000", "tokens: 3000").replace("100000 ", "500 ")
    config.write_text(smaller)

    planned = crossdiff("plan", "--card", "h100")
    assert planned.returncode == 0, planned.stdout
    assert planned.stdout.splitlines()[-1].endswith("bin/crossdiff run")

    whole = crossdiff("run", "--", "--dry-run", "--quiet")
    assert whole.returncode == 0, whole.stdout  # every file that comes with the workflow is there

    made = crossdiff("run", SHARD, "--", "--cores", "2")
    assert made.returncode == 0, made.stdout
    assert len(pd.read_parquet(here / SHARD)) == 3000
    record = read_record(here / SHARD)
    assert record.code == code_parts(record.rule)  # as in a checkout
    assert record.run["git"] is None

    audited = crossdiff("audit", SHARD)
    assert audited.returncode == 0, audited.stdout
    assert "verified" in audited.stdout


def test_exit_code_is_that_of_snakemake(crossdiff: Command) -> None:
    refused = crossdiff("run", "results/no-such-file", "--", "-n")
    assert refused.returncode == 1
    assert "MissingRuleException" in refused.stdout
