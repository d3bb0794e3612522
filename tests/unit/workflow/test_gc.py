"""What ``crossdiff gc`` lists, deletes and leaves alone, on a small chain of results without Snakemake."""

import contextlib
import errno
import json
import os
import shutil
import time
from pathlib import Path

import pytest
from helpers_chain import FIGURE, MODEL, TABLE, TOKENS, job_of, jobs, make, verdicts  # noqa: F401
from helpers_chain import root as chain  # noqa: F401

from crossdiff import cli
from crossdiff.crosscoders import handover
from crossdiff.errors import UserError
from crossdiff.provenance import unneeded
from crossdiff.provenance.audit import Audit
from crossdiff.provenance.planned_jobs import PlannedJob
from crossdiff.provenance.records import record_path
from crossdiff.provenance.scratch import CACHES, own_folder
from crossdiff.provenance.storage import temporary_path
from crossdiff.provenance.unneeded import WAITING
from crossdiff.workflow import gc

OLD = "results/old"  # a pair that no config has any more
OLD_TABLE, OLD_CACHE = f"{OLD}/layer1/table.csv", f"{CACHES}/old-chat/layer1/t/a.train/0000.h5"
OLD_MODEL = "results/models/old-chat"
CONFIGS = [Path("config.yaml")]
OLD_RESULTS = [OLD_CACHE, OLD_MODEL, OLD_TABLE]


@pytest.fixture
def root(chain: Path, monkeypatch: pytest.MonkeyPatch, jobs: dict[str, PlannedJob]) -> Path:  # noqa: F811
    """A chain that config.yaml needs, and results of a pair that it does not have any more."""
    make(chain, "prepare_model", {}, OLD_MODEL, {}, "weights" * 100)
    make(chain, "harvest_activations", {"model": [OLD_MODEL]}, OLD_CACHE, {}, "x" * 9000)
    make(chain, "evaluate_crosscoder", {"cache": [OLD_CACHE]}, OLD_TABLE, {}, "table", config=["old.yaml"])
    (chain / "config.yaml").touch()
    monkeypatch.setattr(gc, "plan", lambda root, configs, fresh: jobs)
    return chain


def command(
    capsys: pytest.CaptureFixture[str], *options: str, config: str = "config.yaml"
) -> tuple[int, str, str]:
    code = cli.main(["gc", config, *options])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def files(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in (root / "results").rglob("*")}


def collected(root: Path) -> list[str]:
    return [result.path for result in gc.collect(root, CONFIGS).found.unneeded]


def left(root: Path) -> dict[str, str]:
    return dict(gc.collect(root, CONFIGS).found.left)


# What is listed.


def test_unneeded_results_are_grouped_by_the_highest_folder_the_largest_first(root, capsys):
    before = files(root)
    code, out, _ = command(capsys)
    assert code == 0
    groups = [line.split()[-1] for line in out.splitlines()[1:4]]
    assert groups == [f"{CACHES}/old-chat", OLD_MODEL, OLD]
    size = sum(
        (root / OLD_CACHE).with_name(name).stat().st_size for name in ("0000.h5", "0000.h5.record.json")
    )
    assert f"{size / 1e3:.1f} kB      1 result   {CACHES}/old-chat" in out
    assert "3 results  in all" in out
    assert out.splitlines()[-1] == "Nothing is deleted yet. To delete what no config needs, add --delete."
    assert files(root) == before


def test_folder_that_holds_needed_results_too_is_no_group_as_a_whole(root):
    make(root, "draw_figure", {}, "results/p/figures/old.svg", {})
    make(root, "draw_figure", {}, "results/p/old.svg", {})
    groups = {result.path: result.group for result in gc.collect(root, CONFIGS).found.unneeded}
    assert groups["results/p/figures/old.svg"] == "results/p/figures"
    assert groups["results/p/old.svg"] == "results/p"


def test_what_any_config_needs_is_needed(root, monkeypatch, jobs):  # noqa: F811
    (root / "more").mkdir()
    (root / "more/old.yaml").touch()
    old = {output: job_of(root, output) for output in OLD_RESULTS}
    plans = {"config.yaml": jobs, "more/old.yaml": old}
    monkeypatch.setattr(gc, "plan", lambda root, configs, fresh: plans[str(configs[0])])
    assert collected(root) == OLD_RESULTS
    assert gc.collect(root, [Path("config.yaml"), Path("more")]).found.unneeded == []
    alone = gc.collect(root, [root / "more"]).found.unneeded
    assert {result.path for result in alone} == {TOKENS, TABLE, FIGURE, MODEL}


def test_result_that_a_job_only_reads_is_needed(root, jobs):  # noqa: F811
    jobs[TABLE] = jobs[TABLE]._replace(inputs=[f"{OLD_MODEL}/weights"])
    assert collected(root) == [OLD_CACHE, OLD_TABLE]


def test_needed_folder_without_its_record_stays_with_all_that_is_in_it(root):
    record_path(root / MODEL).unlink()
    (root / MODEL / ".weights.0123abcd").touch()
    assert collected(root) == OLD_RESULTS
    assert left(root) == {}


def test_configs_that_made_unneeded_results_are_named_if_they_are_there(root, capsys):
    assert "Some were made with" not in command(capsys)[1]
    (root / "old.yaml").touch()
    assert (
        "Some were made with old.yaml: name these too if you still need their results." in command(capsys)[1]
    )


def test_merged_configs_are_planned_as_one(root, monkeypatch):
    asked = []
    monkeypatch.setattr(gc, "plan", lambda root, configs, fresh: asked.append(configs) or {})
    (root / "a+b.yaml").touch()
    gc.collect(root, [Path("a.yaml+dir/b.yaml"), Path("a+b.yaml")])
    assert asked == [[Path("a.yaml"), Path("dir/b.yaml")], [Path("a+b.yaml")]]


# What is deleted.


def test_deletion_takes_results_with_records_and_the_folders_that_are_empty_then(root, capsys):
    kept = {path for path in files(root) if not path.startswith(("results/old", CACHES, OLD_MODEL))}
    assert command(capsys, "--delete")[1].endswith("What no config needs is deleted.\n")
    assert files(root) == kept - {"results/models"}
    assert verdicts(root) == {}
    assert command(capsys) == (0, "Every result is needed.\n", "")


def test_record_whose_result_is_gone_is_deleted(root):
    (root / OLD_TABLE).unlink()
    gc.delete(root, gc.collect(root, CONFIGS).found)
    assert not (root / OLD).exists()


@pytest.mark.parametrize("step", range(5))
@pytest.mark.parametrize("output", [OLD_TABLE, OLD_MODEL])
def test_kill_at_any_step_leaves_what_audit_names_and_the_next_call_deletes(root, monkeypatch, output, step):
    class Killed(BaseException):
        pass

    steps = iter(range(100))

    def dies_at_its_step(do):
        def begin(*arguments, **options):
            if next(steps) == step:
                raise Killed
            return do(*arguments, **options)

        return begin

    [result] = [result for result in gc.collect(root, CONFIGS).found.unneeded if result.path == output]
    with monkeypatch.context() as patch:
        for place, name in ((Path, "unlink"), (Path, "rename"), (Path, "rmdir"), (shutil, "rmtree")):
            patch.setattr(place, name, dies_at_its_step(getattr(place, name)))
        with contextlib.suppress(Killed):
            unneeded.delete(root, [result], lambda: None)
    verdict = [finding.verdict for finding in Audit(root).result(output).findings]
    whole = (root / output).exists()
    assert verdict in ([["orphan"]] if whole else [["file missing", "orphan"], ["file missing"]])
    gc.delete(root, gc.collect(root, CONFIGS).found)
    assert [path for path in files(root) if "old" in path and (root / path).is_file()] == []


def test_what_killed_jobs_left_is_deleted(root):
    for final in (root / TABLE, root / OLD_TABLE, root / MODEL):
        temporary_path(final).write_text("half")
    folder = temporary_path(root / MODEL)
    folder.mkdir()
    (folder / "weights").write_text("half")
    (folder.with_name(folder.name + ".old")).mkdir()
    assert len(collected(root)) == len(OLD_RESULTS) + 5
    gc.delete(root, gc.collect(root, CONFIGS).found)
    assert [path for path in files(root) if Path(path).name.startswith(".")] == []
    assert verdicts(root) == {}


def test_checkpoint_stays_while_a_plan_has_its_training(root, jobs):  # noqa: F811
    for folder in ("results/p", f"{OLD}/layer1"):
        for name in (".checkpoint.safetensors", ".checkpoint.lock", "..checkpoint.lock.0f"):
            (root / folder / name).touch()
        (root / folder / WAITING).mkdir()  # of train_together
        (root / folder / WAITING / "whose.json").touch()
    assert WAITING == handover.FOLDER
    gc.delete(root, gc.collect(root, CONFIGS).found)
    assert not (root / OLD).exists()
    assert (root / "results/p" / WAITING / "whose.json").exists()
    assert (root / "results/p/.checkpoint.safetensors").exists()
    assert (root / "results/p/..checkpoint.lock.0f").exists()
    assert left(root) == {}


# What is left alone.


def test_files_that_may_not_be_crossdiffs_are_told_and_stay(root, capsys):
    (root / "results/p/notes.txt").write_text("mine")
    (root / f"{OLD}/notes.txt").write_text("mine")
    (root / OLD_TABLE).write_text("edited")
    (root / OLD_CACHE).rename(root / f"{OLD}/cache.h5")
    shutil.copy(record_path(root / OLD_CACHE), record_path(root / f"{OLD}/cache.h5"))
    (root / f"{OLD_MODEL}.record.json").write_text("damaged")
    answers = root / "results/.answers/ab"
    answers.mkdir(parents=True)
    (root / "results/.DS_Store").touch()
    assert left(root) == {
        "results/p/notes.txt": "has no record",
        f"{OLD}/notes.txt": "has no record",
        OLD_TABLE: "was changed after it was made",
        f"{OLD}/cache.h5": f"has the record of another file ({OLD_CACHE})",
        OLD_MODEL: "has a record damaged",
        "results/.answers": "holds answers of language models, which all runs share",
        "results/.DS_Store": "is hidden",
    }
    _, out, _ = command(capsys, "--delete")
    assert "Left alone, because it may not be Crossdiff's (7):" in out
    assert f"  {OLD}/notes.txt has no record" in out
    assert set(left(root)) <= files(root)
    assert not record_path(root / OLD_CACHE).exists()


def test_links_are_not_followed(root, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("0000.h5", "0000.h5.record.json"):
        shutil.copy(root / Path(OLD_CACHE).with_name(name), elsewhere / name)
    shutil.rmtree(root / CACHES)
    (root / CACHES).symlink_to(elsewhere)  # the user's own link
    (root / "results/tokens").symlink_to(elsewhere)
    shutil.move(root / OLD_MODEL, elsewhere / "model")
    (root / OLD_MODEL).symlink_to(elsewhere / "model")
    before = sorted(elsewhere.rglob("*"))
    found = gc.collect(root, CONFIGS).found
    assert dict(found.left) == {CACHES: "is a link to a folder", "results/tokens": "is a link to a folder"}
    assert [result.path for result in found.unneeded] == [OLD_MODEL, OLD_TABLE]
    gc.delete(root, found)
    assert not (root / OLD_MODEL).is_symlink()
    assert sorted(elsewhere.rglob("*")) == before


def test_caches_of_this_checkout_on_another_file_system_are_deleted_there(root, tmp_path):
    own = own_folder(str(tmp_path / "scratch"), root)
    own.parent.mkdir()
    shutil.move(root / CACHES, own)
    (root / CACHES).symlink_to(own)
    (own.parent / "others-0123abcd").mkdir()
    assert collected(root) == OLD_RESULTS
    gc.delete(root, gc.collect(root, CONFIGS).found)
    assert list(own.iterdir()) == [] and (root / CACHES).is_symlink()
    assert (own.parent / "others-0123abcd").exists()


# What is refused.


def test_run_that_holds_the_lock_is_one_line(root, capsys):
    lock = root / ".snakemake/locks/0.output.lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    before = files(root)
    code, out, err = command(capsys, "--delete")
    todo = "wait until it ends, or give the command of a killed run Snakemake's option --unlock"
    assert (code, out) == (2, "")
    assert err == f"error: {lock}: Snakemake runs in this folder; {todo}\n"
    assert files(root) == before


def test_run_that_begins_during_the_deletion_stops_it(root):
    found = gc.collect(root, CONFIGS).found
    lock = root / ".snakemake/locks/0.output.lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    with pytest.raises(UserError, match="Snakemake runs in this folder"):
        gc.delete(root, found)
    assert all((root / path).exists() for path in OLD_RESULTS)


def test_job_that_outlived_its_snakemake_is_one_line(root, capsys):
    job = {"rule": "train_crosscoder", "wildcards": {}, "log": "", "started": time.time(), "slurm_job": None}
    path = root / ".snakemake/crossdiff/running/there.1.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(job | {"host": "there", "pid": 1}))
    code, out, err = command(capsys)
    assert (code, out) == (2, "")
    assert "error: train_crosscoder: a job of this rule runs in this folder (process 1 on there); wait" in err


def test_config_that_cannot_be_planned_is_one_line(root, monkeypatch, capsys):
    def no_plan(root: Path, configs: list[Path], fresh: bool) -> dict[str, PlannedJob]:
        raise UserError(f"{configs[0]}: Snakemake can't plan this run (x)")

    monkeypatch.setattr(gc, "plan", no_plan)
    before = files(root)
    code, out, err = command(capsys, "--delete")
    assert (code, out) == (2, "")
    said = "can't plan this run (x); what it needs is unknown, so nothing is deleted: mend it, or name the"
    assert err == f"error: config.yaml: Snakemake {said} configs without it if it has no results here\n"
    assert files(root) == before


def test_folder_without_configs_is_one_line(root, capsys):
    (root / "empty").mkdir()
    said = "error: empty: found no config in this folder, allowed: *.yaml or *.yml\n"
    assert command(capsys, config="empty") == (2, "", said)


def test_folder_without_results_is_one_line(root, capsys):
    shutil.rmtree(root / "results")
    assert command(capsys)[2].endswith("results: no results here; run this in the checkout that has them\n")


def test_result_that_cannot_be_deleted_is_one_line(root, capsys, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "unlink", refuse)
    assert command(capsys, "--delete")[2] == (
        f"error: {OLD_CACHE}: can't be deleted (Permission denied); make it writable, then call it again; "
        "what came before it is deleted\n"
    )
