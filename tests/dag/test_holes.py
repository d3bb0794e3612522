"""Plain Snakemake misses these changes and this workflow sees them: each test shows both."""

import os
import re
import shutil
import subprocess
from datetime import date
from pathlib import Path

import pytest
import yaml
from conftest import TINY, Checkout, planned

from crossdiff.provenance.hashing import content
from crossdiff.provenance.records import read_record, record_path, write_record

TINY_RESULTS = "results/tiny"
FIGURE = f"{TINY_RESULTS}/layer1/figures/training.svg"
CACHE = "results/activations/tiny-base/layer1/tiny-chat/requests.train/0000.h5"
WEIGHTS = f"{TINY_RESULTS}/layer1/l1/seed0/weights.safetensors"


def rules(pending: dict[str, str], checkout: Checkout) -> set[str]:
    """Give the rules of pending outputs that have a record."""
    return {
        read_record(checkout.folder / path).rule
        for path in pending
        if record_path(checkout.folder / path).exists()
    }


def plain(checkout: Checkout) -> Checkout:
    """Make a copy of a checkout in which Snakemake plans without looking at the records."""
    copy = checkout.copy(checkout.folder.parent / "plain")
    snakefile = copy.folder / "Snakefile"
    text = snakefile.read_text()
    [start] = re.findall(r"^made_again\.stop_at_caches\(.*planned_jobs\.start\(.*\)\n", text, re.M)
    snakefile.write_text(text.replace(start, ""))
    return copy


def printed_by(checkout: Checkout, *arguments: str) -> str:
    """Run Snakemake, which must not fail; give what it prints."""
    result = checkout.snakemake(*arguments)
    assert result.returncode == 0, result.stdout
    return result.stdout


def unseen(path: Path, text: bytes) -> None:
    """Change the content and keep the modification time."""
    status = path.stat()
    path.write_bytes(text)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def flip(path: Path) -> None:
    """Change one byte in the middle of a file; size and modification time stay."""
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    unseen(path, bytes(raw))


# Values of params. The plain workflow has one rule, written as most are.


def plain_plan(folder: Path, params: str, before: dict, after: dict) -> dict[str, int]:
    """What a plain rule with these params would run after a change of the config."""
    (folder / "Snakefile").write_text(
        "import numpy, pathlib\nconfigfile: 'config.yaml'\nrule train:\n    output: 'out'\n"
        f"    params: {params}\n    shell: 'touch {{output}}'\n"
    )
    for values, arguments in ((before, ("--cores", "1")), (after, ("--dry-run",))):
        (folder / "config.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
        printed = printed_by(Checkout(folder), *arguments)
    return planned(printed)


def our_plan(finished: Checkout, changes: dict) -> dict[str, int]:
    return planned(printed_by(finished, "--dry-run", "--configfile", finished.changed(TINY, changes)))


def test_plain_rule_sees_a_change_at_all(tmp_path):
    assert plain_plan(tmp_path, "lr=config['lr']", {"lr": 1}, {"lr": 2}) == {"train": 1}


def test_swapped_values(finished, tmp_path):
    missed = plain_plan(
        tmp_path, "lr=config['lr'], l1=config['l1']", {"lr": 0.1, "l1": 0.2}, {"lr": 0.2, "l1": 0.1}
    )
    assert missed == {}
    swapped = {"latent_scaling": {"nu_error_below": 0.5, "nu_reconstruction_below": 0.2}}
    assert our_plan(finished, swapped)["evaluate_crosscoder"] == 4


@pytest.mark.parametrize(
    ("params", "before", "after"),
    [
        ("since=config['x']", date(2026, 1, 1), date(2027, 1, 1)),
        ("path=pathlib.Path(config['x'])", "a", "b"),
        ("number=numpy.int64(config['x'])", 1, 2),
    ],
    ids=["date", "path", "numpy"],
)
def test_values_that_plain_snakemake_ignores(finished, tmp_path, params, before, after):
    assert plain_plan(tmp_path, params, {"x": before}, {"x": after}) == {}
    config = finished.changed(
        TINY, {"pair.base.random.seed": before if isinstance(before, date) else str(before)}
    )
    printed = finished.snakemake("--dry-run", "--configfile", config).stdout
    assert "config: pair.base.random.seed: found" in printed  # every value of the config has a plain type


def test_reordered_keys(finished, tmp_path):
    first, second = {"train": {"lr": 1, "l1": 2}}, {"train": {"l1": 2, "lr": 1}}
    assert "train" in plain_plan(tmp_path, "train=config['train']", first, second)

    def reverse(values):
        return (
            {key: reverse(value) for key, value in reversed(values.items())}
            if isinstance(values, dict)
            else values
        )

    values = yaml.safe_load((finished.folder / TINY).read_text())
    (finished.folder / "configs/reversed.yaml").write_text(yaml.safe_dump(reverse(values), sort_keys=False))
    assert planned(printed_by(finished, "--dry-run", "--configfile", "configs/reversed.yaml")) == {}


# Snakemake's memory.

OTHER_K = {"crosscoders.batchtopk.k": 9}
RETRAINED = {"train_crosscoder", "scale_latents", "measure_reconstruction", "read_latents"}
RETRAINED |= {"evaluate_crosscoder", "compare_crosscoders", "write_report"}


@pytest.mark.parametrize("how", ["lost metadata", "copied to another checkout"])
def test_results_without_snakemakes_memory(finished, tmp_path, how):
    if how == "lost metadata":
        ours = finished.copy(tmp_path / "ours")
        shutil.rmtree(ours.folder / ".snakemake/metadata")
    else:
        ours = Checkout(tmp_path / "ours")
        shutil.copytree(finished.folder / "results", ours.folder / "results")
    missed = plain(ours)
    assert missed.pending(missed.changed(TINY, OTHER_K)) == {}
    found = ours.pending(ours.changed(TINY, OTHER_K))
    assert rules(found, ours) >= RETRAINED
    compared = ("directions.parquet", "recurrences.parquet")  # with the latents of all trainings
    kept = [path for path in found if "/l1/" in path or "/activations/" in path or "/models/" in path]
    assert not [path for path in kept if Path(path).name not in compared]
    assert ours.pending() == {}  # with the old config nothing is made again


def test_memory_in_a_database_is_restored_too(ours):
    arguments = ("--persistence-backend", "db", "--dry-run", "--configfile")
    assert planned(ours.snakemake(*arguments, TINY).stdout) == {}
    jobs = planned(ours.snakemake(*arguments, ours.changed(TINY, OTHER_K)).stdout)
    assert jobs["train_crosscoder"] == 2
    assert "harvest_activations" not in jobs


def test_results_replaced_by_those_of_other_settings(ours):
    record = read_record(ours.folder / WEIGHTS)
    settings = record.settings | {"crosscoders.l1.l1_coefficient": 0.06}
    for entry in record.outputs:
        write_record(ours.folder / entry.path, record._replace(params=record.params | {"settings": settings}))
    assert plain(ours).pending() == {}
    assert {path for path in ours.pending() if "/l1/seed0/" in path} >= {WEIGHTS}


# Files that are not what they were.


@pytest.mark.parametrize(
    "path", [FIGURE, CACHE, "results/models/tiny-base/model.safetensors"], ids=["figure", "cache", "model"]
)
def test_tampered_output(ours, path):
    flip(ours.folder / path)
    assert plain(ours).pending() == {}
    output = path.removesuffix("/model.safetensors")
    found = ours.pending()
    assert found[output] == "params changed"
    assert "results/tokens/tiny-chat/readme.train/0000.parquet" not in found or "models" in path


def test_replaced_output(ours):
    shutil.copy2(ours.folder / CACHE.replace("base", "chat"), ours.folder / CACHE)
    assert plain(ours).pending() == {}
    assert CACHE in ours.pending()


def test_source_edited_with_an_old_modification_time(ours):
    path = ours.folder / "data/requests.yaml"
    unseen(path, path.read_bytes().replace(b"a", b"e"))
    assert plain(ours).pending() == {}
    assert {"finetune_model", "tokenise", "measure_refusals"} <= rules(ours.pending(), ours)


def test_restored_file_is_believed_again(ours):
    flip(ours.folder / CACHE)
    assert CACHE in ours.pending()
    flip(ours.folder / CACHE)
    assert ours.pending() == {}


@pytest.mark.parametrize("text", [None, "damaged"], ids=["missing", "damaged"])
@pytest.mark.parametrize("output", [FIGURE, "results/models/tiny-chat"], ids=["file", "folder"])
def test_result_without_a_record_is_made_anew(ours, output, text):
    path = record_path(ours.folder / output)
    path.unlink() if text is None else path.write_text(text)
    assert plain(ours).pending() == {}
    assert ours.pending()[output] == "params changed"


def test_reason_is_printed(ours):
    flip(ours.folder / FIGURE)
    result = ours.snakemake("--dry-run", "--configfile", TINY)
    assert f"{FIGURE} was changed after it was made" in result.stdout


def test_result_is_made_anew_and_then_believed(ours):
    flip(ours.folder / FIGURE)
    (ours.folder / f"{FIGURE}.record.json").unlink()
    result = ours.snakemake(FIGURE, "--configfile", TINY)
    assert result.returncode == 0, result.stdout
    assert not ours.pending()  # the bytes are the same, so the report is not made again
    assert read_record(ours.folder / FIGURE).outputs[0].digest == content(ours.folder / FIGURE).digest


def test_input_changed_during_a_job(finished, tmp_path):
    (tmp_path / "mini").mkdir()
    (tmp_path / "mini/Snakefile").write_text(
        "rule all:\n    input: 'in'\n    output: 'out'\n    shell: 'cp in out; echo changed > in'\n"
    )
    (tmp_path / "mini/in").write_text("as read")
    printed_by(Checkout(tmp_path / "mini"), "--cores", "1")
    assert planned(printed_by(Checkout(tmp_path / "mini"), "--dry-run")) == {}  # stale, and never noticed

    ours = finished.copy(tmp_path / "ours")
    change = "    from pathlib import Path\n    Path(template).write_text(Path(template).read_text() + ' ')\n"
    ours.edit("workflow_scripts/chat_tokenizer.py", "\n\nif __name__", f"{change}\n\nif __name__")
    tokenizer = "results/tokenizers/tiny-chat"
    result = ours.snakemake(tokenizer, "--configfile", TINY)
    assert result.returncode == 1
    assert (
        "error: data/plain.jinja: changed while the job ran, so what was read can't be known; run again"
        in result.stdout
    )
    assert not (ours.folder / tokenizer).exists()
    assert not record_path(ours.folder / tokenizer).exists()


def test_orphans_of_a_removed_crosscoder(ours):
    values = yaml.safe_load((ours.folder / TINY).read_text())
    del values["crosscoders"]["l1"], values["steering"]["latents"]
    (ours.folder / TINY).write_text(yaml.safe_dump(values))
    missed = plain(ours).snakemake("--dry-run", "--configfile", TINY)
    assert "/l1/" not in missed.stdout  # not a word
    result = ours.snakemake("--dry-run", "--configfile", TINY)
    assert (
        f"results belong to no job of this config, such as {TINY_RESULTS}/layer1/l1/seed0/" in result.stdout
    )
    audit = ours.crossdiff("audit", "--all")
    assert audit.returncode == 1
    assert f"! {WEIGHTS}: orphan (no job of this config makes it)" in audit.stdout
    assert "/batchtopk/seed0/weights.safetensors: orphan" not in audit.stdout


# Code.


def test_touch_and_a_branch_switch_rerun_nothing(ours):
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@t"]
    (ours.folder / ".gitignore").write_text("results/\n.snakemake/\nlogs/\ntrace/\n__pycache__/\n")
    for arguments in (
        ["init", "-q", "-b", "main"],
        ["add", "-A"],
        ["commit", "-qm", "1"],
        ["switch", "-qc", "other"],
    ):
        subprocess.run([*git, *arguments], cwd=ours.folder, check=True)
    for path in [
        *(ours.folder / "src").rglob("*.py"),
        *ours.folder.glob("*/*.py"),
        *(path for path in ours.folder.glob("data/*") if path.is_file()),
    ]:
        path.write_text(path.read_text() + "\n")
    for arguments in (["commit", "-qam", "2"], ["switch", "-q", "main"]):
        subprocess.run([*git, *arguments], cwd=ours.folder, check=True)
    assert ours.pending() == {}
    for path in [
        *ours.folder.rglob("*.py"),
        *ours.folder.rglob("*.smk"),
        ours.folder / "Snakefile",
        *(path for path in ours.folder.glob("data/*") if path.is_file()),
    ]:
        path.touch()
    assert ours.pending() == {}


def test_edit_of_a_module_with_an_old_modification_time(ours):
    path = ours.folder / "src/crossdiff/latents/evaluation.py"
    unseen(path, path.read_bytes() + b"\n# a comment\n")
    assert ours.pending() == {}
    unseen(path, path.read_bytes() + b"\nNEW = 1\n")
    users = {
        record.rule for record in all_records(ours) if "src/crossdiff/latents/evaluation.py" in record.code
    }
    assert {"evaluate_crosscoder", "compare_crosscoders", "write_report"} <= users
    found = rules(ours.pending(), ours)
    assert users <= found
    assert (
        not {"train_crosscoder", "scale_latents", "harvest_activations", "finetune_model", "tokenise"} & found
    )


def all_records(checkout: Checkout) -> list:
    paths = (
        path.with_name(path.name.removesuffix(".record.json"))
        for path in (checkout.folder / "results").rglob("*.record.json")
    )
    return [read_record(path) for path in paths]


def test_code_that_ran_is_code_that_counts(finished):
    """No job of the run loaded a module that its digest does not cover."""
    import json

    for path in (finished.folder / "trace").glob("*.json"):
        job = json.loads(path.read_text())
        covered = {
            file for record in all_records(finished) if record.rule == job["rule"] for file in record.code
        }
        loaded = set(job["modules"])
        # The trace itself loads these.
        traced = {
            file
            for file in loaded
            if re.match(r"src/crossdiff/(workflow/|provenance/recording\.py|config/)", file)
        }
        assert loaded - covered <= traced, job["rule"]
