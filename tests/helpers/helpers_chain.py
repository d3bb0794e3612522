"""A small chain of results with records, written without Snakemake: tokens, a model, a table and a figure."""

from pathlib import Path

import pytest

from crossdiff import cli
from crossdiff.provenance import audit
from crossdiff.provenance.audit import Audit
from crossdiff.provenance.code import code_parts
from crossdiff.provenance.hashing import content
from crossdiff.provenance.planned_jobs import PlannedJob
from crossdiff.provenance.records import Record, RecordedFile, read_record, record_id, write_record

TOKENS, TABLE, FIGURE, MODEL = (
    f"results/p/{name}" for name in ("tokens/0000.parquet", "table.csv", "figure.svg", "models/base")
)
RUN = {
    "started": "2026-01-01T00:00:00+00:00",
    "finished": "2026-01-01T00:01:00+00:00",
    "host": "here",
    "device": "cpu",
    "threads": 1,
    "slurm_job": None,
    "git": {"commit": "c0ffee", "changed_files": []},
    "python": "3.11.7",
    "packages": {"torch": "2.13.0"},
    "seeds": {},
    "config": ["config.yaml"],
    "recording_seconds": 0.1,
}


def make(
    root: Path, rule: str, inputs: dict[str, list[str]], output: str, settings: dict, text: str = "", **run
) -> None:
    """Write an output and its record. The output is a folder if it is a model."""
    path = root / output
    if "models" in output:
        path.mkdir(parents=True, exist_ok=True)
        (path / "weights").write_text(text or output)
        (path / "config.json").write_text("{}")
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
    entries = [
        RecordedFile.of(name, file, content(root / file)._replace(files=None))
        for name, files in inputs.items()
        for file in files
    ]
    params = {"settings": settings, "code": "x"}
    identity = record_id(rule, {"pair": "p"}, params, entries, [output])
    if not path.is_dir():
        path.write_text(f"{text or output} crossdiff-record:{identity}")
    outputs = [RecordedFile.of("", output, content(path))._replace(path=output)]
    write_record(
        path, Record(identity, rule, {"pair": "p"}, params, code_parts(rule), entries, outputs, RUN | run)
    )


def results(root: Path, **changes) -> Path:
    """Write text -> tokens, model -> table -> figure. ``changes`` are settings of the model and the table."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "text.txt").write_text(changes.get("source", "a text"))
    make(root, "tokenise", {"files": ["text.txt"]}, TOKENS, {"tokens.context": 8})
    seed, top = changes.get("seed", 0), changes.get("top", 50)
    inputs = {"tokens": [TOKENS], "model": [MODEL]}
    make(root, "prepare_model", {}, MODEL, {"pair.base.random.seed": seed}, f"weights {seed}")
    make(root, "evaluate_crosscoder", inputs, TABLE, {"classes.top": top}, f"table {top}")
    figure = {"classes.top": top}
    make(root, "figure_planted", {"": [TABLE]}, FIGURE, figure, f"figure {top}", **changes.get("run", {}))
    return root


@pytest.fixture
def jobs() -> dict[str, PlannedJob]:
    """What Snakemake would make today, once a test has changed it."""
    return {}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: dict[str, PlannedJob]) -> Path:
    root = results(tmp_path / "here")
    for output in (TOKENS, TABLE, FIGURE, MODEL):
        jobs[output] = job_of(root, output)
    monkeypatch.chdir(root)
    monkeypatch.setattr(audit, "plan", lambda root, configs: jobs)
    return root


def job_of(root: Path, output: str) -> PlannedJob:
    record = read_record(root / output)
    return PlannedJob(record.rule, record.params, sorted(entry.path for entry in record.inputs), [])


def verdicts(root: Path, path: str = FIGURE, deep: bool = False) -> dict[str, list[str]]:
    """{path: verdicts} of everything in the chain that isn't verified."""
    nodes = Audit(root, deep=deep).chain(path)
    return {
        path: [finding.verdict for finding in node.findings] for path, node in nodes.items() if node.findings
    }


def command(capsys, *arguments: str) -> tuple[int, str, str]:
    code = cli.main(["audit", *arguments])
    printed = capsys.readouterr()
    return code, printed.out, printed.err
