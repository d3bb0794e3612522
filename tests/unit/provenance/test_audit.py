"""Verdicts and the tree of an audit, on a small chain of results without Snakemake."""

import json
import shutil

from helpers_chain import (  # noqa: F401
    FIGURE,
    MODEL,
    RUN,
    TABLE,
    TOKENS,
    command,
    job_of,
    jobs,
    make,
    results,
    root,
    verdicts,
)

from crossdiff.errors import UserError
from crossdiff.provenance import audit
from crossdiff.provenance.audit import Audit
from crossdiff.provenance.planned_jobs import PlannedJob
from crossdiff.provenance.records import read_record, record_path, write_record


def test_chain_goes_from_figure_to_weights_and_source_text(root):
    nodes = Audit(root).chain(FIGURE)
    assert list(nodes) == [FIGURE, TABLE, TOKENS, "text.txt", MODEL]
    assert verdicts(root) == {}
    assert audit.settings(nodes) == {"classes.top": [50], "pair.base.random.seed": [0], "tokens.context": [8]}


def test_changed_files(root):
    (root / TABLE).write_text("tampered")
    (root / MODEL / "weights").write_text("tampered")
    assert verdicts(root) == {
        FIGURE: ["input changed since"],
        TABLE: ["file changed", "input changed since"],
        MODEL: ["file changed"],
    }
    [finding] = Audit(root).chain(FIGURE)[MODEL].findings
    assert finding.detail == "in it: weights"


def test_changed_and_missing_source(root):
    (root / "text.txt").write_text("another text")
    assert verdicts(root) == {TOKENS: ["input changed since"], "text.txt": ["file changed"]}
    (root / "text.txt").unlink()
    assert verdicts(root) == {TOKENS: ["input not here"], "text.txt": ["file missing"]}


def test_missing_result(root):
    (root / TABLE).unlink()
    assert verdicts(root)[TABLE] == ["file missing"]


def test_missing_damaged_and_newer_records(root):
    record_path(root / TABLE).write_text("damaged")
    assert verdicts(root) == {TABLE: ["record damaged"]}
    record_path(root / TABLE).unlink()
    assert verdicts(root) == {TABLE: ["record missing"]}
    record_path(root / FIGURE).write_text('{"format": 9}')
    assert verdicts(root) == {FIGURE: ["record newer"]}


def test_record_of_another_file(root):
    shutil.copy(record_path(root / TABLE), record_path(root / FIGURE))
    assert verdicts(root)[FIGURE] == ["file changed"]


def test_config_differs_now_names_the_keys(root, jobs):
    jobs[TABLE] = jobs[TABLE]._replace(
        params={"settings": {"classes.new": 1}, "names": ["a"], "code": "y"}, inputs=[MODEL, "other"]
    )
    assert [finding.detail for finding in Audit(root).chain(FIGURE)[TABLE].findings] == [
        "classes.new was 'not used', is 1",
        "classes.top was 50, is 'not used'",
        "names was 'not used', is ['a']",
        "it would also be made from other",
        f"it would no longer be made from {TOKENS}",
    ]


def test_content_of_an_input_that_only_has_to_be_there_does_not_count(root, jobs):
    jobs[FIGURE] = jobs[FIGURE]._replace(order_only=[TABLE])
    (root / TABLE).write_text("tampered")
    assert verdicts(root) == {TABLE: ["file changed"]}


def test_code_differs_now_names_the_files(root):
    record = read_record(root / FIGURE)
    code = {
        name: "old" if name.endswith("figures/drawing.py") else digest for name, digest in record.code.items()
    }
    write_record(root / FIGURE, record._replace(code=code | {"src/crossdiff/gone.py": "x"}))
    [*findings] = Audit(root).chain(FIGURE)[FIGURE].findings
    assert {finding.verdict for finding in findings} == {"code differs now"}
    assert [finding.detail for finding in findings] == [
        "src/crossdiff/gone.py",
        "src/crossdiff/report/figures/drawing.py",
    ]


def test_orphan(root, jobs):
    del jobs[FIGURE]
    assert verdicts(root) == {FIGURE: ["orphan"]}


def test_nothing_to_compare_with_is_said(root, monkeypatch):
    def no_plan(root, configs):
        raise UserError("no Snakefile here")

    monkeypatch.setattr(audit, "plan", no_plan)
    assert verdicts(root)[FIGURE] == ["not compared"]


def test_everything_lists_results_without_record_and_records_without_result(root):
    (root / "results/p/notes.txt").write_text("mine")
    (root / FIGURE).unlink()
    nodes = Audit(root).everything()
    assert list(nodes) == sorted([FIGURE, TABLE, TOKENS, MODEL, "results/p/notes.txt"])
    assert {path: node.findings[0].verdict for path, node in nodes.items() if node.findings} == {
        FIGURE: "file missing",
        "results/p/notes.txt": "record missing",
    }


# The command.


def test_tree_and_exit_code(root, capsys):
    code, out, _ = command(capsys, FIGURE)
    assert code == 0
    assert out.splitlines()[:5] == [
        f"{FIGURE}  by figure_planted  [verified]",
        f"└─ {TABLE}  by evaluate_crosscoder  [verified]",
        f"   ├─ tokens: {TOKENS}  by tokenise  [verified]",
        "   │  └─ files: text.txt  [verified]",
        f"   └─ model: {MODEL}  by prepare_model  [verified]",
    ]
    assert "Settings that mattered, 3 of 3:" in out
    assert "All 5 files verified; checked by size, times and inode" in out


def test_tree_shows_every_finding_once(root, capsys):
    (root / "text.txt").write_text("another text")
    code, out, _ = command(capsys, FIGURE)
    assert code == 1
    assert out.count("NOT VERIFIED") == 2
    assert f"! {TOKENS}: input changed since (text.txt)" in out
    assert "! text.txt: file changed" in out
    assert "2 of 5 files not verified" in out


def test_inputs_of_one_name_share_a_line_and_their_findings(root, capsys, jobs):
    shards = [f"results/p/tokens/{number:04d}.parquet" for number in range(3)]
    for shard in shards:
        make(root, "tokenise", {"files": ["text.txt"]}, shard, {})
        jobs[shard] = PlannedJob("tokenise", {"settings": {"tokens.context": 9}}, ["text.txt"], [])
    make(root, "figure_planted", {"tokens": shards}, FIGURE, {})
    jobs[FIGURE] = job_of(root, FIGURE)
    code, out, _ = command(capsys, FIGURE)
    assert code == 1
    assert f"└─ tokens: {shards[0]} and 2 more  by tokenise  [3 of 3 NOT VERIFIED]" in out
    assert f"! 3 files, {shards[0]} first: config differs now (tokens.context was 'not used', is 9)" in out


def test_json_holds_the_records(root, capsys):
    code, out, _ = command(capsys, FIGURE, "--json", "--deep")
    found = json.loads(out)
    assert code == 0 and found["verified"]
    assert [node["path"] for node in found["nodes"]] == [FIGURE, TABLE, TOKENS, "text.txt", MODEL]
    assert [node["kind"] for node in found["nodes"]] == ["result", "result", "result", "source", "result"]
    assert found["nodes"][0]["record"]["run"]["git"]["commit"] == "c0ffee"
    assert found["nodes"][0]["verdicts"] == [{"verdict": "verified", "detail": ""}]


def test_all_lists_only_what_is_not_verified(root, capsys):
    assert command(capsys, "--all")[1].split("\n")[0] == ""
    (root / TABLE).write_text("tampered")
    code, out, _ = command(capsys, "--all")
    assert code == 1
    assert f"! {TABLE}: file changed" in out
    assert TOKENS not in out


def test_mailed_figure_is_found_by_its_bytes_and_its_id(root, tmp_path, capsys):
    mailed = tmp_path / "mailed.svg"
    shutil.copy(root / FIGURE, mailed)
    code, out, _ = command(capsys, str(mailed))
    assert code == 0 and out.startswith(FIGURE)
    mailed.write_text("edited " + mailed.read_text())
    code, out, _ = command(capsys, str(mailed))
    assert code == 1 and out.startswith(FIGURE)
    assert f"mailed.svg is not byte for byte what the record of {FIGURE} describes" in out


def test_file_in_a_folder_that_was_made_as_a_whole_leads_to_the_folder(root, capsys):
    code, out, _ = command(capsys, f"{MODEL}/weights")
    assert code == 0 and out.startswith(f"{MODEL}  by prepare_model  [verified]")


def test_mailed_figure_elsewhere_says_its_id(root, tmp_path, capsys, monkeypatch):
    mailed = tmp_path / "mailed.svg"
    shutil.copy(root / FIGURE, mailed)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    code, _, err = command(capsys, str(mailed))
    assert code == 2
    found = f"no record next to it, but it holds the id of one, {read_record(root / FIGURE).id}"
    assert f"{found}: audit it in the checkout it came from" in err


def test_file_of_which_nothing_is_known(root, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    code, _, err = command(capsys, str(tmp_path / "notes.txt"))
    assert (
        code == 2
        and "record missing, and it holds no record's id; nothing is known of how it was made" in err
    )
    assert command(capsys, "results/none.svg")[::2] == (2, "error: results/none.svg: no such file\n")


def test_moved_results_folder_is_audited_but_not_compared_with_a_config(root, tmp_path, capsys, monkeypatch):
    monkeypatch.undo()
    (tmp_path / "archive").mkdir()
    shutil.move(root / "results", tmp_path / "archive/results")
    code, out, _ = command(capsys, str(tmp_path / "archive" / FIGURE))
    assert code == 3
    assert "not compared" in out and "no Snakefile here" in out
    assert "? text.txt: file missing" in out
    assert "file changed" not in out


def test_renamed_results_folder_says_what_it_can(root, tmp_path, capsys):
    shutil.move(root / "results", tmp_path / "old")
    figure = tmp_path / "old/p/figure.svg"
    code, _, err = command(capsys, str(figure))
    assert code == 2
    assert (
        f"moved away from {FIGURE}; its bytes are those of its record: made by figure_planted on 2026-01-01"
        in err
    )
    assert "commit c0ffee" in err and err.count("\n") == 1
    figure.write_text("x")
    assert "its bytes are not those of its record" in command(capsys, str(figure))[2]
