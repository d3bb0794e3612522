"""``crossdiff times``: every job behind a result counts once, in order of time."""

import json
from pathlib import Path

import pytest
from helpers_chain import FIGURE, TABLE, make, results

from crossdiff.cli import main
from crossdiff.provenance.records import read_record, record_path, write_record
from crossdiff.provenance.times import Stage, stages, write_scripts


def took(root: Path, path: str, started: str, finished: str, recording: float = 0.5) -> None:
    record = read_record(root / path)
    day = "2026-01-01T"
    run = record.run | {"started": f"{day}{started}+00:00", "finished": f"{day}{finished}+00:00"}
    write_record(root / path, record._replace(run=run | {"recording_seconds": recording}))


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    """Tokens in two shards, a model, a table and a figure."""
    results(tmp_path)
    second = "results/p/tokens/0001.parquet"
    make(tmp_path, "tokenise", {"files": ["text.txt"]}, second, {"tokens.context": 8})
    make(
        tmp_path,
        "evaluate_crosscoder",
        {"tokens": ["results/p/tokens/0000.parquet", second], "model": ["results/p/models/base"]},
        TABLE,
        {"classes.top": 50},
    )
    make(tmp_path, "figure_planted", {"": [TABLE]}, FIGURE, {"classes.top": 50})
    took(tmp_path, "results/p/models/base", "10:00:00", "10:00:40")
    took(tmp_path, "results/p/tokens/0000.parquet", "10:00:10", "10:00:15")
    took(tmp_path, second, "10:00:20", "10:00:27")
    took(tmp_path, TABLE, "11:00:00", "12:00:00")
    took(tmp_path, FIGURE, "12:00:01", "12:00:03")
    return tmp_path


def test_jobs_are_summed_by_rule_in_the_order_in_which_they_began(chain: Path) -> None:
    assert stages(FIGURE, chain) == [
        Stage("prepare_model", 1, 40, 40),
        Stage("tokenise", 2, 12, 7),
        Stage("evaluate_crosscoder", 1, 3600, 3600),
        Stage("figure_planted", 1, 2, 2),
    ]


def test_what_a_result_was_not_made_from_does_not_count(chain: Path) -> None:
    assert [one.rule for one in stages("results/p/models/base", chain)] == ["prepare_model"]


def test_a_job_with_several_results_counts_once(chain: Path) -> None:
    took(chain, "results/p/tokens/0001.parquet", "10:00:10", "10:00:15")
    assert stages(FIGURE, chain)[1] == Stage("tokenise", 1, 5, 5)


def test_command_prints_a_table(chain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["times", str(chain / FIGURE)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "rule                  jobs    seconds    longest",
        "prepare_model            1         40         40",
        "tokenise                 2         12          7",
        "evaluate_crosscoder      1      3,600      3,600",
        "figure_planted           1          2          2",
        "all                      5      3,654",
    ]


def test_missing_record_is_named(chain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record_path(chain / TABLE).unlink()
    assert main(["times", str(chain / FIGURE)]) == 2
    assert f"{TABLE}: no record" in capsys.readouterr().err


def test_script_gives_a_page_its_stages(chain: Path) -> None:
    script = chain / "logs/times.js"
    write_scripts([(FIGURE, "logs/times.js"), ("results/none.html", "logs/none.js")], chain)
    assert not (chain / "logs/none.js").exists()
    told = json.loads(script.read_text().removeprefix("crossdiffTimes(").removesuffix(");\n"))
    assert told["record"] == read_record(chain / FIGURE).id
    assert told["stages"] == [one._asdict() for one in stages(FIGURE, chain)]
    record_path(chain / TABLE).unlink()
    write_scripts([(FIGURE, "logs/times.js")], chain)
    assert not script.exists()
