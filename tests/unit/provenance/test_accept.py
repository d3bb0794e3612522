"""Results of older code are accepted on a small chain of results, without Snakemake."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers_chain import FIGURE, MODEL, TABLE, TOKENS, job_of, jobs, results  # noqa: F401
from helpers_chain import root as fresh  # noqa: F401

from crossdiff import cli
from crossdiff.errors import UserError
from crossdiff.provenance import accept, audit
from crossdiff.provenance.audit import Audit
from crossdiff.provenance.code import code_parts, parts_digest
from crossdiff.provenance.history import first_difference
from crossdiff.provenance.records import Record, embedded_id, read_record, record_path, write_record


@pytest.fixture
def root(fresh: Path) -> Path:
    """A chain of results. Older code made its table and figure."""
    for output in (TABLE, FIGURE):
        age(fresh, output)
    return fresh


def age(root: Path, output: str) -> Record:
    """Make a record one of older code; give the record."""
    record = read_record(root / output)
    record = record._replace(
        code=record.code | {"src/crossdiff/gone.py": "x"}, params=record.params | {"code": "older"}
    )
    write_record(root / output, record)
    return record


def records(root: Path) -> dict[str, bytes]:
    return {path.as_posix(): path.read_bytes() for path in root.rglob("*.record.json")}


def command(capsys, *arguments: str) -> tuple[int, str, str]:
    code = cli.main(arguments)
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_record_names_the_code_of_today_and_keeps_the_older_one(root):
    before = read_record(root / FIGURE)
    accept.accept(root, [])
    after = read_record(root / FIGURE)
    assert after.code == code_parts("figure_planted")
    assert after.params == before.params | {"code": parts_digest(after.code)}
    [entry] = after.accepted
    assert (entry.code, entry.digest) == (before.code, "older")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", entry.when)
    assert after._replace(code=before.code, params=before.params, accepted=()) == before
    assert after.id == embedded_id(root / FIGURE)


def test_results_of_todays_code_keep_their_records(root):
    before = records(root)
    accept.accept(root, [])
    changed = {path for path, text in records(root).items() if text != before[path]}
    assert changed == {record_path(root / output).as_posix() for output in (TABLE, FIGURE)}


def test_accepted_is_not_verified(root, capsys):
    assert command(capsys, "accept")[:2] == (
        0,
        "accepted: 2 results (1 of evaluate_crosscoder, 1 of figure_planted)\n",
    )
    code, out, _ = command(capsys, "audit", FIGURE)
    assert code == 0
    assert f"{FIGURE}  by figure_planted  [accepted]\n  ~ {FIGURE}: accepted (on 20" in out
    assert "made by older code older, commit c0ffee)" in out
    assert f"└─ {TABLE}  by evaluate_crosscoder  [accepted]" in out
    assert f"tokens: {TOKENS}  by tokenise  [verified]" in out
    assert "3 of 5 files verified, 2 accepted: older code made them; checked by" in out
    code, out, _ = command(capsys, "audit", "--all")
    assert code == 0
    assert out.startswith(f"~ 2 files, {FIGURE} first: accepted (on 20")


def test_json_says_accepted(root, capsys):
    accept.accept(root, [])
    code, out, _ = command(capsys, "audit", FIGURE, "--json")
    found = json.loads(out)
    assert code == 0 and not found["verified"] and found["accepted"]
    assert [node["verdicts"][0]["verdict"] for node in found["nodes"]] == [
        "accepted",
        "accepted",
        "verified",
        "verified",
        "verified",
    ]
    assert found["nodes"][0]["record"]["accepted"][0]["digest"] == "older"
    found = json.loads(command(capsys, "audit", TOKENS, "--json")[1])
    assert found["verified"] and not found["accepted"]


def test_what_is_worse_than_accepted_still_shows(root, capsys):
    accept.accept(root, [])
    (root / FIGURE).write_text("tampered")
    code, out, _ = command(capsys, "audit", FIGURE)
    assert code == 1
    assert f"{FIGURE}  by figure_planted  [NOT VERIFIED]" in out
    assert "1 of 5 files not verified, 1 accepted" in out
    assert not json.loads(command(capsys, "audit", FIGURE, "--json")[1])["accepted"]


def test_accepted_twice_keeps_both(root):
    accept.accept(root, [])
    first = read_record(root / FIGURE)
    again = age(root, FIGURE)
    assert [finding.verdict for finding in Audit(root).result(FIGURE).findings] == ["code differs now"]
    accept.accept(root, [])
    found = read_record(root / FIGURE)
    assert [entry.code for entry in found.accepted] == [first.made_by, again.code]
    assert found.made_by == first.made_by


def test_named_rules_only_and_the_others_are_said(root, capsys):
    code, out, _ = command(capsys, "accept", "figure_planted")
    assert code == 0
    assert out.splitlines() == [
        "accepted: 1 results (1 of figure_planted)",
        "older code also made the inputs of these results: 1 results (1 of evaluate_crosscoder)",
        "  accept these inputs too, or the next run makes them again and then the accepted results",
    ]
    assert read_record(root / FIGURE).accepted and not read_record(root / TABLE).accepted


def test_named_rule_from_which_others_were_made(root, capsys):
    assert command(capsys, "accept", "evaluate_crosscoder")[1].splitlines() == [
        "accepted: 1 results (1 of evaluate_crosscoder)",
        "not accepted because their code has changed, so the next run makes them again: "
        "1 results (1 of figure_planted)",
    ]


def test_what_accepted_results_were_made_from_is_followed_to_the_start(root, capsys):
    age(root, TOKENS)
    accept.accept(root, ["evaluate_crosscoder"])
    out = command(capsys, "accept", "figure_planted")[1]
    assert "older code also made the inputs of these results: 1 results (1 of tokenise)" in out


def test_nothing_to_accept(root, capsys):
    accept.accept(root, [])
    assert command(capsys, "accept")[:2] == (0, "nothing to accept: the records name today's code\n")
    assert command(capsys, "accept", "tokenise")[0] == 0


# Refused: one line, and nothing is written.


def refused(root: Path, capsys, *arguments: str) -> str:
    before = records(root)
    code, out, err = command(capsys, "accept", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert records(root) == before
    return err


def test_other_settings(root, capsys, jobs):
    jobs[TABLE] = jobs[TABLE]._replace(params={"settings": {"classes.top": 60}})
    assert f"error: {TABLE}: config differs now (classes.top was 50, is 60); only code may differ" in refused(
        root, capsys
    )
    assert command(capsys, "accept", "figure_planted")[0] == 0


def test_other_settings_of_a_result_of_todays_code(root, capsys, jobs):
    jobs[TOKENS] = jobs[TOKENS]._replace(params={"settings": {"tokens.context": 9}})
    assert f"error: {TOKENS}: config differs now (tokens.context was 8, is 9)" in refused(root, capsys)


def test_other_inputs(root, capsys, jobs):
    jobs[FIGURE] = jobs[FIGURE]._replace(inputs=[TABLE, MODEL])
    assert f"error: {FIGURE}: config differs now (it would also be made from {MODEL})" in refused(
        root, capsys
    )


def test_changed_result_is_named_before_what_was_made_from_it(root, capsys):
    (root / TABLE).write_text("tampered")
    assert (
        f"error: {TABLE}: file changed (its bytes are not those of the record), "
        "the first of 2 results that differ" in refused(root, capsys)
    )
    assert f"error: {FIGURE}: input changed since ({TABLE})" in refused(root, capsys, "figure_planted")


def test_change_in_place_is_seen_by_reading_deeply(root, capsys):
    record = read_record(root / TABLE)
    (root / TABLE).write_text("tampered")
    stamp = audit.content(root / TABLE).stamp
    write_record(root / TABLE, record._replace(outputs=[record.outputs[0]._replace(stamp=stamp)]))
    assert "file changed" in refused(root, capsys, "evaluate_crosscoder", "--deep")


def test_config_that_cannot_be_planned(root, capsys, monkeypatch):
    def no_plan(root, configs):
        raise UserError(f"{configs[0]}: can't be read")

    monkeypatch.setattr(audit, "plan", no_plan)
    assert "not compared (config.yaml: can't be read)" in refused(root, capsys)
    assert "not compared (mine.yaml: can't be read)" in refused(
        root, capsys, "--configfile", "mine.yaml", "tokenise"
    )


def test_code_that_is_gone(root, capsys, jobs):
    record = read_record(root / FIGURE)
    write_record(root / FIGURE, record._replace(params=record.params | {"modules": ["uninstalled"]}))
    jobs[FIGURE] = job_of(root, FIGURE)
    assert f"{FIGURE}: the script of figure_planted, or a module that its config names, is gone" in refused(
        root, capsys
    )


def test_unknown_rule(root, capsys):
    allowed = "evaluate_crosscoder, figure_planted, prepare_model, tokenise"
    assert (
        f"error: figures: no rule of this name made any of the results here, allowed: {allowed}"
        in refused(root, capsys, "figures")
    )


def test_snakemake_runs_here(root, capsys):
    lock = root / ".snakemake/locks/0.output.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.write_text("results/p\n")
    assert f"error: {lock}: Snakemake runs in this folder; wait until it ends" in refused(root, capsys)


def test_record_that_cannot_be_written(root, capsys, monkeypatch):
    def read_only(output, record):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(accept, "write_record", read_only)
    assert f"{FIGURE}: its record can't be written (Permission denied)" in refused(root, capsys)


# Left as they are.


def test_orphans_and_results_without_a_record_are_left_and_counted(root, capsys, jobs):
    del jobs[TABLE]
    (root / "results/p/notes.txt").write_text("mine")
    code, out, _ = command(capsys, "accept")
    assert code == 0
    assert out.splitlines() == [
        "accepted: 1 results (1 of figure_planted)",
        "left as they are: orphans, which no job of their config makes (1)",
        "left as they are: results whose record is missing or can't be read (1)",
    ]
    assert not read_record(root / TABLE).accepted


def test_input_that_is_gone_does_not_stop_it(root):
    for output in (TOKENS, MODEL):
        record_path(root / output).unlink()
    (root / TOKENS).unlink()
    assert accept.accept(root, ["evaluate_crosscoder"]).accepted == {"evaluate_crosscoder": 1}


# Histories.


def test_history_goes_by_the_code_that_made_a_result(root, tmp_path):
    other = results(tmp_path / "other")
    accept.accept(root, [])
    for output in (TABLE, FIGURE):
        record = read_record(other / output)
        write_record(other / output, record._replace(outputs=[record.outputs[0]._replace(digest="0" * 64)]))
    found = first_difference(*((place, FIGURE, read_record(place / FIGURE)) for place in (root, other)))
    assert found == f"{FIGURE} (figure_planted): other code, src/crossdiff/gone.py"


# The command line.


@pytest.mark.parametrize(
    "arguments", [("--configfile", "mine.yaml", FIGURE), (FIGURE, "--configfile", "mine.yaml")]
)
def test_order_of_flags_does_not_matter(root, capsys, monkeypatch, jobs, arguments):
    asked = []
    monkeypatch.setattr(audit, "plan", lambda root, configs: asked.append(configs) or jobs)
    assert command(capsys, "audit", *arguments)[0] == 1
    assert asked == [[Path("mine.yaml")]]


def test_several_configs_are_named_one_by_one(root, capsys, monkeypatch, jobs):
    asked = []
    monkeypatch.setattr(audit, "plan", lambda root, configs: asked.append(configs) or jobs)
    assert command(capsys, "accept", "--configfile", "a.yaml", "--configfile", "b.yaml", "tokenise")[0] == 0
    assert asked == [[Path("a.yaml"), Path("b.yaml")]]


@pytest.mark.parametrize("arguments", [("audit", "--all"), ("accept",)])
def test_folder_without_results(tmp_path, capsys, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    code, out, err = command(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err == f"error: {tmp_path}/results: no results here; run this in the checkout that has them\n"


@pytest.mark.parametrize("arguments", [("audit", "results/p/figure.svg"), ("audit", "--all", "--json")])
def test_closed_pipe_ends_quietly(root, arguments):
    program = "import sys; from crossdiff.cli import main; sys.exit(main())"
    with subprocess.Popen(
        [sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == cli.READER_GONE
