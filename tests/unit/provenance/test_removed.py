"""Results that were removed as configured: what their records still say of what was made from them."""

import json
from pathlib import Path

import pytest
from helpers_chain import FIGURE, TABLE, TOKENS, command, jobs, make, root, verdicts  # noqa: F401
from snakemake.iocontainers import InputFiles, OutputFiles, Params
from test_recording import rule

from crossdiff.errors import UserError
from crossdiff.provenance.hashing import Hashes
from crossdiff.provenance.recording import recording
from crossdiff.provenance.records import read_record, record_path, write_record
from crossdiff.provenance.removed import earlier, input_changed, remove, removed
from crossdiff.provenance.trust import reason_to_doubt, removed_results, survey


def shard_of(root: Path):
    """What the table's record says of the tokens, its input."""
    return next(entry for entry in read_record(root / TABLE).inputs if entry.path == TOKENS)


def again(root: Path, text: str) -> None:
    """Write the removed tokens again, as the same job does, with these bytes."""
    before = read_record(root / TOKENS)
    (root / TOKENS).write_text(text)
    made = before.output(TOKENS)
    entry = made._replace(digest=Hashes(root, {}).now(TOKENS))
    run = {key: value for key, value in before.run.items() if key != "removed"}
    known = earlier(TOKENS, before)
    run["made_again"] = {"digests": sorted(known.digests), "modified": known.modified}
    write_record(root / TOKENS, before._replace(outputs=[entry], run=run))


def test_removed_result_leaves_a_record_that_says_so(root):
    changed = (root / TOKENS).stat().st_mtime_ns
    digest = read_record(root / TOKENS).output(TOKENS).digest
    assert removed(TOKENS, root) is None
    remove(root / TOKENS)
    assert not (root / TOKENS).exists()
    assert earlier(TOKENS, removed(TOKENS, root)) == ({digest}, changed)
    assert removed_results(["results/p"], root) == [TOKENS]


def test_lost_result_was_not_removed(root):
    (root / TOKENS).unlink()
    assert removed(TOKENS, root) is None and removed_results(["results/p"], root) == []
    assert verdicts(root)[TOKENS] == ["file missing"]


def test_result_without_a_record_is_not_removed(root):
    record_path(root / TOKENS).unlink()
    with pytest.raises(UserError, match="no record"):
        remove(root / TOKENS)
    assert (root / TOKENS).exists()


def test_audit_verifies_the_rest(root, capsys):
    remove(root / TOKENS)
    code, out, _ = command(capsys, FIGURE)
    assert code == 0 and not verdicts(root)
    assert f"├─ tokens: {TOKENS}  by tokenise  [removed as configured]" in out
    assert f"~ {TOKENS}: removed as configured (its record stays)" in out
    assert "4 of 5 files verified, 1 removed as configured; checked by" in out
    code, out, _ = command(capsys, "--all")
    assert code == 0
    assert out.splitlines()[0] == f"~ {TOKENS}: removed as configured (its record stays)"
    code, out, _ = command(capsys, FIGURE, "--json")
    [node] = [node for node in json.loads(out)["nodes"] if node["path"] == TOKENS]
    assert json.loads(out)["verified"] and node["verdicts"][0]["verdict"] == "removed as configured"


def test_audit_sees_what_differs_above_and_below(root):
    remove(root / TOKENS)
    (root / "text.txt").write_text("another text")
    (root / TABLE).write_text("by hand")
    assert verdicts(root) == {
        "text.txt": ["file changed"],
        TOKENS: ["input changed since"],
        TABLE: ["file changed"],
        FIGURE: ["input changed since"],
    }


def test_what_was_made_from_a_removed_result_is_trusted(root):
    remove(root / TOKENS)
    assert [result.doubt for result in survey(["results/p"], Hashes(root, {}), {})] == [None] * 4


def test_removed_result_is_in_doubt_if_its_source_has_changed(root):
    remove(root / TOKENS)
    (root / "text.txt").write_text("another text")
    doubts = {result.path: result.doubt for result in survey(["results/p"], Hashes(root, {}), {})}
    assert doubts[TOKENS] == "was made from another text.txt"


def test_what_was_made_from_an_earlier_result_is_in_doubt(root):
    """A crosscoder leaves the config, the model changes, the caches are made and removed. It comes back."""
    (root / "text.txt").write_text("another text")
    make(root, "tokenise", {"files": ["text.txt"]}, TOKENS, {"tokens.context": 8}, "other tokens")
    remove(root / TOKENS)
    assert input_changed(shard_of(root), Hashes(root, {}))
    doubt = reason_to_doubt(TABLE, read_record(root / TABLE), Hashes(root, {}))
    assert doubt == f"was made from another {TOKENS}"
    assert verdicts(root)[TABLE] == ["input changed since"]


def test_same_job_may_make_other_bits(root, capsys):
    """A GPU rounds differently, so results that were made from the first bits stay, and audit says so."""
    first, changed = shard_of(root), (root / TOKENS).stat().st_mtime_ns
    remove(root / TOKENS)
    again(root, "other bits")
    assert not input_changed(first, Hashes(root, {}))
    assert earlier(TOKENS, read_record(root / TOKENS)) == ({first.digest}, changed)
    code, out, _ = command(capsys, FIGURE)
    assert code == 0 and not verdicts(root)
    assert f"~ {TABLE}: input made again with other bits ({TOKENS})" in out
    remove(root / TOKENS)
    again(root, "and others")
    assert not input_changed(first, Hashes(root, {}))
    assert earlier(TOKENS, read_record(root / TOKENS)).modified == changed
    assert len(earlier(TOKENS, read_record(root / TOKENS)).digests) == 2
    (root / TOKENS).write_text("by hand")
    assert input_changed(first, Hashes(root, {}))
    assert verdicts(root)[TOKENS] == ["file changed"]


# The job that makes a removed result again.


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CROSSDIFF_CONFIG", "configs/tiny.yaml")
    Path("a.txt").write_text("a")
    return tmp_path


def run_job(text: str, context: int = 8, fails: bool = False) -> None:
    settings = {"settings": {"tokens.context": context}, "code": "of the plan"}
    job = rule(input=InputFiles(["a.txt"]), output=OutputFiles(["out.h5"]), params=Params(fromdict=settings))
    with recording(job):
        Path("out.h5").write_text(text)
        if fails:
            Path("out.h5").unlink()
            raise UserError("it fails")


def test_job_remembers_what_it_made_before(here):
    run_job("bits")
    first = read_record("out.h5")
    assert earlier("out.h5", first) is None
    remove("out.h5")
    run_job("other bits")
    second = read_record("out.h5")
    assert second.id == first.id and "removed" not in second.run
    assert earlier("out.h5", second).digests == {first.output("out.h5").digest}


def test_job_that_fails_or_is_killed_leaves_the_record_of_the_removed_result(here):
    run_job("bits")
    remove("out.h5")
    with pytest.raises(UserError, match="it fails"):
        run_job("bits", fails=True)
    assert removed("out.h5") is not None


def test_another_job_remembers_nothing(here):
    run_job("bits")
    remove("out.h5")
    run_job("bits", context=9)
    assert earlier("out.h5", read_record("out.h5")) is None
