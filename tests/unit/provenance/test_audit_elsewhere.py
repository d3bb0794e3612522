"""Audits of results that were copied without models or texts: what is not here is not what has changed."""

import json
import shutil
from pathlib import Path

import pytest
from helpers_chain import FIGURE, MODEL, TABLE, TOKENS, command, jobs, make, root, verdicts  # noqa: F401

from crossdiff.errors import UserError
from crossdiff.provenance import accept, audit
from crossdiff.provenance.audit import Audit
from crossdiff.provenance.records import read_record, record_path, write_record
from crossdiff.provenance.removed import remove

SENTENCES = {  # of the summary
    "verified": "Verified: ",
    "differs": "Differing: ",
    "not compared": "As recorded, with inputs and code, but not compared with a config: ",
    "inputs": "As recorded, but not all their inputs are here: ",
    "accepted": "Accepted among those that are as recorded: ",
    "missing": "Not here, so nothing is said of their bytes: ",
    "reason": "Not compared with a config: ",
    "nothing": "nothing that is here contradicts its record",
}


def said(out: str) -> set[str]:
    """Which of the sentences a summary has."""
    return {name for name, sentence in SENTENCES.items() if f"\n{sentence}" in out or f"; {sentence}" in out}


def standings(root: Path) -> dict[str, str]:
    return {path: node.standing for path, node in Audit(root).everything().items()}


@pytest.fixture
def elsewhere(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The results alone, without models, in a folder without config and clone."""

    def no_plan(root, configs):
        raise UserError("no Snakefile here")

    shutil.copytree(root / "results", tmp_path / "there/results")
    shutil.rmtree(tmp_path / "there" / Path(MODEL).parent)
    monkeypatch.chdir(tmp_path / "there")
    monkeypatch.setattr(audit, "plan", no_plan)
    return tmp_path / "there"


def test_whole_checkout_says_none_of_it(root, capsys):
    code, out, _ = command(capsys, "--all")
    assert code == 0 and said(out) == set()


def test_source_that_is_not_here(root, capsys):
    (root / "text.txt").unlink()
    assert verdicts(root) == {TOKENS: ["input not here"], "text.txt": ["file missing"]}
    code, out, _ = command(capsys, "--all")
    assert code == 3 and said(out) == {"verified", "inputs", "nothing"}
    assert f"? {TOKENS}: input not here (text.txt)" in out
    assert "Verified: 3." in out and "inputs are here: 1." in out and "Missing: text.txt." in out
    assert out.splitlines()[-1].startswith("1 of 4 files not verified; nothing that is here contradicts")


@pytest.mark.parametrize("record_stays", [True, False])
def test_result_that_is_not_here_is_never_verified(root, capsys, record_stays):
    shutil.rmtree(root / MODEL)
    if not record_stays:
        record_path(root / MODEL).unlink()
    assert standings(root) == {
        MODEL: "file missing",
        TABLE: "input not here",
        TOKENS: "verified",
        FIGURE: "verified",
    }
    code, out, _ = command(capsys, FIGURE)
    assert code == 3 and said(out) == {"verified", "inputs", "missing", "nothing"}
    assert f"bytes: 1, {MODEL}." in out and f"Missing: {MODEL}." in out
    assert f"{TABLE}  by evaluate_crosscoder  [inputs not here]" in out
    assert "[not here]" in out and "NOT VERIFIED" not in out


def test_copied_folder_without_models_and_clone(elsewhere, capsys):
    code, out, _ = command(capsys, "--all")
    assert code == 3 and said(out) == set(SENTENCES) - {"verified", "differs", "accepted"}
    assert standings(elsewhere) == {
        MODEL: "file missing",
        TOKENS: "input not here",
        TABLE: "input not here",
        FIGURE: "not compared",
    }
    assert "with a config: 3, because: no Snakefile here." in out
    assert "3 read and hashed, the others checked by size, times and inode" in out.splitlines()[-1]


def test_tampered_file_in_a_copied_folder_still_differs(elsewhere, capsys):
    (elsewhere / TABLE).write_text("tampered")
    code, out, _ = command(capsys, "--all")
    assert code == 1 and said(out) == {"differs", "inputs", "missing", "reason"}
    assert "Differing: 2." in out and "1, " + MODEL in out
    assert standings(elsewhere)[FIGURE] == "differs"
    code, out, _ = command(capsys, "--all", "--json")
    counts = {"differs": 2, "file missing": 1, "input not here": 1}
    assert code == 1 and json.loads(out)["counts"] == counts


def test_folder_of_which_a_part_was_copied(root, capsys):
    (root / MODEL / "weights").unlink()
    assert verdicts(root) == {TABLE: ["input not here"], MODEL: ["file missing"]}
    assert Audit(root).result(MODEL).findings[0].detail == "in it: weights"
    (root / MODEL / "config.json").write_text("tampered")
    assert verdicts(root) == {TABLE: ["input changed since"], MODEL: ["file changed"]}
    assert command(capsys, FIGURE)[0] == 1


def test_record_that_stays_of_a_missing_input_tells_if_it_was_made_otherwise(root):
    make(root, "prepare_model", {}, MODEL, {"pair.base.random.seed": 0}, "other weights")
    shutil.rmtree(root / MODEL)
    assert verdicts(root)[TABLE] == ["input changed since"]


def test_removed_as_configured_is_not_missing(root, capsys):
    remove(root / TOKENS)
    code, out, _ = command(capsys, "--all")
    assert code == 0 and said(out) == set()


def test_missing_inputs_are_named_by_three(root, capsys, jobs):
    texts = [f"texts/{number}.txt" for number in range(5)]
    (root / "texts").mkdir()
    for text in texts:
        (root / text).write_text(text)
    make(root, "tokenise", {"files": texts}, TOKENS, {"tokens.context": 8})
    jobs[TOKENS] = jobs[TOKENS]._replace(inputs=texts)
    shutil.rmtree(root / "texts")
    out = command(capsys, TOKENS)[1]
    assert "Missing: texts/0.txt, texts/1.txt, texts/2.txt and 2 more." in out


def test_missing_input_does_not_stop_an_acceptance(root, capsys):
    (root / "text.txt").unlink()
    assert accept.accept(root, []).accepted == {}
    record = read_record(root / TOKENS)
    code = dict.fromkeys(record.code, "older")
    write_record(root / TOKENS, record._replace(code=code))
    assert set(verdicts(root)[TOKENS]) == {"input not here", "code differs now"}
    assert accept.accept(root, []).accepted == {"tokenise": 1}
    assert verdicts(root)[TOKENS] == ["input not here"]
    code, out, _ = command(capsys, "--all")
    assert code == 3 and said(out) == {"verified", "inputs", "accepted", "nothing"}
    assert "as recorded: 1. Older code" in out
