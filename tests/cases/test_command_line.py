"""Configs, commands and disks as users have them: each is right, or one line that says what to do."""

import errno
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from conftest import ROOT, TINY, Checkout, planned
from helpers_chain import FIGURE, jobs, root  # noqa: F401
from helpers_config import SHIPPED, SMALL, changed, refusal, refusal_of
from safetensors import SafetensorError
from safetensors.torch import save_file

from crossdiff.activations.cache import cache_writer
from crossdiff.cli import main
from crossdiff.config import load
from crossdiff.config.yaml_files import parse_yaml, read_yaml
from crossdiff.errors import UserError
from crossdiff.models.pair import check_pair
from crossdiff.models.refusals import read_requests
from crossdiff.provenance.json_cache import JsonCache
from crossdiff.provenance.planned_jobs import read_config
from crossdiff.provenance.storage import atomic_path, write_csv, write_json
from crossdiff.texts.first_record import check_fields
from crossdiff.workflow import commands
from crossdiff.workflow.run import check_times
from crossdiff.workflow.shipped import find_shipped, shipped

FORECAST = ("plan", "--card", "h100", "--configfile")


def line_of(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    [line] = str(caught.value).splitlines()
    return line


# A key that stands twice.

TWICE = {
    "at the top": ("seeds: [0]\nseeds: [1]\n", "seeds", "1 and 2"),
    "in a section": ("a:\n  l1: {}\n  topk: {}\n  l1: {}\n", "a.l1", "2 and 4"),
    "three times": ("k: 1\nk: 2\nk: 3\n", "k", "1, 2 and 3"),
    "in braces": ("a: {k: 1,\n    k: 2}\n", "a.k", "1 and 2"),
    "in a list": ("a:\n- k: 1\n- k: 1\n  k: 2\n", "a[1].k", "3 and 4"),
    "with and without quotes": ('k: 1\n"k": 2\n', "k", "1 and 2"),
    "two words for one value": ("a:\n  yes: 1\n  on: 2\n", "a.yes", "2 and 3"),
    "next to a merge": ("b: &b {k: 1}\na:\n  <<: *b\n  k: 2\n  k: 3\n", "a.k", "4 and 5"),
}


@pytest.mark.parametrize("name", TWICE)
def test_key_that_stands_twice_is_refused_with_its_lines(name):
    text, key, lines = TWICE[name]
    assert (
        line_of(lambda: parse_yaml(text, "mine.yaml"))
        == f"mine.yaml: {key} is given more than once, in lines {lines}; keep one"
    )


def test_key_that_stands_twice_in_json_is_refused_too(tmp_path: Path):
    (tmp_path / "mine.json").write_text('{\n\t"seeds": [0],\n\t"seeds": [1]\n}')
    assert "seeds is given more than once, in lines 2 and 3" in line_of(
        lambda: read_yaml(tmp_path / "mine.json")
    )


@pytest.mark.parametrize(
    "text",
    [
        "b: &b {k: 1, m: 2}\na: {<<: *b, k: 3}\nc: {<<: *b}\n",
        "b: &b {k: 1}\nd: &d {<<: *b, k: 2}\ne: {<<: [*d, *b], k: 3}\n",
        "a: &a [1, {k: 1}]\nb: *a\nc: *a\n",
        "a: {k: 1}\nb: {k: 1}\n1: x\n'1': y\n",
        "a: &a {self: *a}\nb: 1\n",
        "# nothing\n",
    ],
)
def test_anchors_merges_and_equal_keys_of_other_sections_are_fine(text):
    found, expected = parse_yaml(text, "mine.yaml"), yaml.safe_load(text)
    assert repr(found) == repr(expected)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_configs_are_read_word_for_word(path):
    assert read_config([path]) == yaml.safe_load(path.read_text())


def test_byte_order_mark_before_a_config_is_not_part_of_its_first_key(tmp_path: Path):
    (tmp_path / "mine.yaml").write_bytes(b"\xef\xbb\xbfseeds: [0]\n")
    assert read_config([tmp_path / "mine.yaml"]) == {"seeds": [0]}


def test_config_in_another_encoding_is_one_line(tmp_path: Path):
    (tmp_path / "mine.yaml").write_bytes("seeds: [0] # f\xfcr".encode("latin-1"))
    assert "mine.yaml: can't be read ('utf-8' codec" in line_of(lambda: read_config([tmp_path / "mine.yaml"]))


def test_request_that_stands_twice_is_not_lost(tmp_path: Path):
    (tmp_path / "requests.yaml").write_text("phrasings: [a]\nphrasings: [b]\n")
    assert "phrasings is given more than once, in lines 1 and 2" in line_of(
        lambda: read_requests(tmp_path / "requests.yaml")
    )


@pytest.mark.parametrize("option", [True, False], ids=["--configfile", "config.yaml"])
def test_snakemake_does_not_take_the_last_of_two(checkout: Checkout, option: bool):
    text = (checkout.folder / TINY).read_text()
    place = checkout.folder / ("mine.yaml" if option else "config.yaml")
    place.write_text(text + "seeds: [3]\n")
    lines = [
        number for number, line in enumerate(place.read_text().splitlines(), 1) if line.startswith("seeds")
    ]
    result = checkout.snakemake("-n", *(["--configfile", "mine.yaml"] if option else []))
    assert result.returncode == 1
    assert f"{place.name}: seeds is given more than once, in lines {lines[0]} and {lines[1]}" in result.stdout
    assert main_in(checkout, "plan", "--configfile", place.name) == 2


def main_in(checkout: Checkout, *arguments: str) -> int:
    return checkout.crossdiff(*arguments).returncode


# Sections that are left empty.


@pytest.mark.parametrize(
    "key", ["steering", "tokens", "activations", "classes", "examples", "report", "latent_scaling.bootstrap"]
)
def test_empty_section_stands_for_its_defaults(key):
    assert load(changed(key, None)) == load(changed(key, {}))


def test_empty_steering_steers():
    config = load(changed("steering", None))
    assert config.steering is not None and config.steering.strengths == [-2.0, -1.0, 1.0, 2.0, 3.0]
    assert load(SMALL).steering is None


def test_empty_normalisation_of_a_crosscoder_stands_for_its_defaults():
    key = "crosscoders.topk.normalisation"
    assert load(changed(key, None)) == load(changed(key, {})) != load(SMALL)


@pytest.mark.parametrize(
    ("key", "missing"),
    [
        ("behaviour", "requests"),
        ("causal", "datasets"),
        ("explanations", "model"),
        ("pair.base.package", None),
    ],
)
def test_empty_section_that_needs_a_key_is_one_line(key, missing):
    line = refusal_of(key, None)
    expected = f"{key}.{missing}: missing" if missing else "pair.base: found none, give exactly one of "
    assert line.startswith(expected)


def test_empty_section_of_alternatives_is_not_given():
    values = changed("datasets.pages.hub", None)
    assert load(values) == load(SMALL)


def test_empty_number_stays_nothing():
    assert load(changed("activations.max_norm_ratio", None)).activations.max_norm_ratio is None


# Names and words that YAML reads as something else.


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("no", 'found the name False, which YAML reads as true/false; write it in quotes: "no" or "off"'),
        ("on", 'found the name True, which YAML reads as true/false; write it in quotes: "yes" or "on"'),
        ("1", 'found the name 1, which YAML reads as integer; write it in quotes: "1"'),
        ("1.5", 'found the name 1.5, which YAML reads as number; write it in quotes: "1.5"'),
        ("null", 'found the name None, which YAML reads as nothing; write it in quotes: "None"'),
    ],
)
def test_name_that_is_no_text_is_to_be_quoted(written, read):
    [name] = yaml.safe_load(f"{written}: 1")
    values = changed("crosscoders", {**SMALL["crosscoders"], name: SMALL["crosscoders"]["l1"]})
    assert refusal(values) == [f"crosscoders: {read}"]
    [line] = [
        line for line in refusal(changed("pair.chat.finetune.data", {name: 1000})) if "the name" in line
    ]
    assert line == f"pair.chat.finetune.data: {read}"


def test_quoted_name_is_a_name():
    values = changed("crosscoders", {"no": SMALL["crosscoders"]["l1"], "1": SMALL["crosscoders"]["l1"]})
    assert sorted(load(values).crosscoders) == ["1", "no"]


@pytest.mark.parametrize(("key", "place"), [("on", "top level"), ("off", "tokens")])
def test_key_that_is_no_text_is_to_be_quoted(key, place):
    [read] = yaml.safe_load(f"{key}: 1")
    values = {**SMALL, read: 1} if place == "top level" else changed("tokens", {read: 1})
    [line] = refusal(values)
    assert line.startswith(
        f"{place}: found the key {read}, which YAML reads as true/false; write it in quotes"
    )


@pytest.mark.parametrize(
    ("key", "written", "quoted"),
    [
        ("pair.name", "no", '"no" or "off"'),
        ("pair.base.package.version", "1.10", '"1.1"'),
        ("datasets.talk.hub.revision", "1234567", '"1234567"'),
        ("datasets.talk.hub.revision", "2024-01-31", '"2024-01-31"'),
    ],
)
def test_value_that_should_be_text_is_to_be_quoted(key, written, quoted):
    line = refusal_of(key, yaml.safe_load(written))
    assert line.startswith(f"{key}: found ") and line.endswith(
        f"allowed: text (write it in quotes: {quoted})"
    )


# Sizes that can't be met.


def test_batch_above_all_token_budgets_is_told_when_the_config_is_read():
    values = changed("crosscoders.l1.batch", 8001, changed("crosscoders.l1.tokens", 90000))
    assert refusal(values) == [
        "crosscoders.l1.batch: found 8001, must be at most the 8000 training tokens of all data sets; "
        "lower it, or raise datasets.pages.tokens, datasets.talk.tokens"
    ]
    assert load(changed("crosscoders.l1.batch", 8000, values)).crosscoders["l1"].batch == 8000


@pytest.mark.parametrize("key", ["k", "k_max"])
def test_more_active_latents_than_latents_are_refused(key):
    topk = {**SMALL["crosscoders"]["topk"], "latents": 96, "k_annealing_steps": 10, "k_max": 9, key: 97}
    del topk["expansion"]
    assert (
        refusal_of("crosscoders.topk", topk)
        == f"crosscoders.topk: {key}: found 97, must be at most latents 96"
    )


@pytest.mark.parametrize(
    ("k", "k_max", "least"), [(8, None, 2), (9, None, 3), (1000, None, 250), (8, 1000, 250)]
)
def test_width_that_k_needs(k, k_max, least):
    topk = SMALL["crosscoders"]["topk"] | {"k": k, "k_max": k_max, "k_annealing_steps": 10 if k_max else 0}
    config = load(changed("crosscoders.topk", topk))
    assert config.least_width == least
    config.check_width(least)
    assert line_of(lambda: config.check_width(least - 1)).startswith("config: crosscoders.topk.k: found more")


def test_pair_that_is_too_narrow_is_refused_before_it_is_harvested():
    facts = {"d_model": 32, "layers": 3, "family": "llama", "vocabulary": 260}
    check_pair(facts, facts, 32)
    assert line_of(lambda: check_pair(facts, facts, 250)) == (
        "crosscoders: d_model is 32, some k needs 250 or more (k / expansion); "
        "lower k and k_max, or raise expansion"
    )


def test_k_that_is_too_large_is_told_by_plan_and_by_a_dry_run(checkout: Checkout):
    config = checkout.changed(TINY, {"crosscoders.batchtopk.k": 1000})
    said = (
        "crosscoders.batchtopk.k: found more active latents than there are: expansion 4 x d_model 32 is 128"
    )
    for result in (checkout.snakemake("-n", "--configfile", config), checkout.crossdiff(*FORECAST, config)):
        assert result.returncode == 1
        assert said in result.stdout


# The first record.


def dataset(path: Path, **keys: object):
    given = {"kind": "documents", "format": "text", "files": [str(path)]} | keys
    return {
        "pages": load(changed("datasets.pages", {**SMALL["datasets"]["pages"], **given})).datasets["pages"]
    }


def test_wrong_field_is_told_from_the_first_record(tmp_path: Path):
    path = tmp_path / "p.jsonl"
    path.write_text('\n{"body": "a", "id": 1}\n{"text": "b"}\n')
    assert line_of(lambda: check_fields(dataset(path))) == (
        f"datasets.pages.field: the first record of {path} has no 'text'; "
        "found: body, id; name one of these fields"
    )
    check_fields(dataset(path, field="body"))


def test_columns_of_parquet_are_looked_at(tmp_path: Path):
    pq.write_table(pa.table({"messages": [[{"role": "user"}]]}), path := tmp_path / "p.parquet")
    check_fields(dataset(path, kind="chats", format="messages"))
    assert "has no 'turns'; found: messages" in line_of(
        lambda: check_fields(dataset(path, kind="chats", format="messages", field="turns"))
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.jsonl", b'\xef\xbb\xbf{"text": "a"}'),
        ("p.jsonl", b'"a text alone"'),
        ("p.jsonl", b"{broken"),
        ("p.jsonl", b""),
        ("p.txt", b"text"),
        ("p.parquet", b"no parquet"),
        ("missing.jsonl", None),
    ],
)
def test_what_the_first_record_cannot_tell_is_left_to_the_job(
    tmp_path: Path, name: str, content: bytes | None
):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    check_fields(dataset(tmp_path / name))


def test_dry_run_tells_a_wrong_field(checkout: Checkout):
    config = checkout.changed(TINY, {"datasets.readme.field": "body"})
    result = checkout.snakemake("-n", "--configfile", config)
    assert result.returncode == 1
    assert (
        "datasets.readme.field: the first record of tests/data/documents.jsonl has no 'body'" in result.stdout
    )


# Commands that are printed.


def test_printed_snakemake_command_has_its_target_before_the_config():
    words = shlex.split(commands.snakemake([Path("my runs/a.yaml"), Path("b.yaml")], "results/x"))
    assert words[1:] == ["results/x", "--configfile", "my runs/a.yaml", "b.yaml"]


def test_no_page_or_message_puts_a_target_behind_the_config():
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    texts = [
        ROOT / name for name in files.splitlines() if name.endswith((".md", ".py", ".smk", ".yaml", "file"))
    ]
    behind = re.compile(r"snakemake[^\n`]* --configfile \S+\.yaml (?!-)[a-z]")
    found = [
        f"{path}: {part}" for path in texts for part in behind.findall(path.read_text("utf-8", "replace"))
    ]
    assert found == []
    assert behind.search(".venv/bin/snakemake --configfile mine.yaml activations")


def test_closed_pipe_is_quiet(root: Path):  # noqa: F811
    program = (
        f"{shlex.quote(sys.executable)} -c 'from crossdiff.cli import main; main()' audit {FIGURE} | head -1"
    )
    result = subprocess.run(program, shell=True, cwd=root, capture_output=True, text=True)
    assert result.stderr == ""
    assert result.stdout.startswith(f"{FIGURE}  by figure_planted")


def test_folder_with_an_empty_results_folder_has_nothing_to_audit(tmp_path, monkeypatch, capsys):
    (tmp_path / "results").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(["audit", "--all"]) == 2
    assert "results: no results here" in capsys.readouterr().err


# Other folders.


def test_shipped_files_are_found_from_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert shipped("data/paper.yaml") == ROOT / "data/paper.yaml"
    (tmp_path / "data").mkdir()
    (tmp_path / "data/paper.yaml").write_text("")
    assert shipped("data/paper.yaml") == Path("data/paper.yaml")


def test_paths_of_a_config_are_those_here_before_those_next_to_the_snakefile(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.jsonl").write_text("")
    elsewhere = os.path.relpath(ROOT / "data/plain.jinja")
    values = {
        "pair": {"name": "data", "chat": {"finetune": {"chat_template": "data/plain.jinja"}}},
        "datasets": {"requests": {"files": ["mine.jsonl", "data/plain.jinja", "gone.txt"]}},
        "catalogue": None,
    }
    find_shipped(values, ROOT)
    assert values["pair"] == {"name": "data", "chat": {"finetune": {"chat_template": elsewhere}}}
    assert values["datasets"]["requests"]["files"] == ["mine.jsonl", elsewhere, "gone.txt"]


def test_run_of_tokens_in_a_folder_with_blanks_and_other_letters(checkout: Checkout, tmp_path: Path):
    """The Snakefile lies elsewhere; folder, config and text have names that a shell would take apart."""
    here = Checkout(checkout.folder)
    here.folder = tmp_path / "mein L\xe4ufe (2)"
    (here.folder / "\u0442\u0435\u043a\u0441\u0442").mkdir(parents=True)
    text = "\u0442\u0435\u043a\u0441\u0442/my doc's 1.jsonl"
    (here.folder / text).write_text("\n".join(json.dumps({"text": f"Text {n}. " * 20}) for n in range(40)))
    values = yaml.safe_load((ROOT / TINY).read_text())
    values["datasets"]["readme"] |= {"files": [text], "tokens": 500, "validation_tokens": 50}
    (here.folder / "mein Lauf.yaml").write_text(yaml.safe_dump(values, allow_unicode=True))
    shard = "results/tokens/tiny-chat/readme.train/0000.parquet"
    environment = {"PYTHONPATH": str(checkout.folder / "src")}
    places = (
        "-s",
        str(checkout.folder / "Snakefile"),
        "-d",
        str(here.folder),
        "--configfile",
        "mein Lauf.yaml",
    )
    dry = here.run("-m", "snakemake", "-n", *places, **environment)
    assert dry.returncode == 0, dry.stdout
    assert planned(dry.stdout)["write_report"] == 1
    result = here.run("-m", "snakemake", shard, *places, **environment)
    assert result.returncode == 0, result.stdout
    assert len(pd.read_parquet(here.folder / shard)) == 500
    audited = here.run("-c", "from crossdiff.cli import main; main()", "audit", shard, **environment)
    assert "All 5 files verified" in audited.stdout, audited.stdout


# Clocks.


def test_source_from_the_future_is_told_before_a_job_runs(tmp_path: Path):
    (tmp_path / "my pages.txt").write_text("a")
    values = changed("datasets.pages.files", [str(tmp_path / "my pages.txt")])
    config = load(values)
    check_times(config, tmp_path)
    os.utime(tmp_path / "my pages.txt", (time.time() + 3600,) * 2)
    line = line_of(lambda: check_times(config, tmp_path))
    assert "changed in the future (" in line
    subprocess.run(shlex.split(line.partition("then: ")[2]), check=True)  # what it says helps
    check_times(config, tmp_path)


def test_results_from_the_future_are_told_with_their_number(tmp_path: Path):
    config = load(changed("datasets.pages.files", [str(tmp_path / "none.txt")]))
    folder = tmp_path / "results/small/layer1"
    folder.mkdir(parents=True)
    for name in ("a.csv", "b.csv"):
        (folder / name).write_text("")
        os.utime(folder / name, (time.time() + 3600,) * 2)
    line = line_of(lambda: check_times(config, tmp_path))
    assert " and 1 more: changed in the future" in line and line.endswith(
        "find . -newermt now -exec touch {} +"
    )


def test_clocks_may_differ_by_seconds(tmp_path: Path):
    (tmp_path / "pages.txt").write_text("a")
    os.utime(tmp_path / "pages.txt", (time.time() + 20,) * 2)
    check_times(load(changed("datasets.pages.files", [str(tmp_path / "pages.txt")])), tmp_path)


# Disks.

RUST = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
HDF5 = RuntimeError(
    "Can't decrement id ref count (unable to close file, errno = 28, error message = 'No space')"
)


@pytest.mark.parametrize(
    "error", [RUST, HDF5, OSError(errno.ENOSPC, "No space")], ids=["safetensors", "hdf5", "system"]
)
def test_full_disk_is_one_line_whoever_wrote(tmp_path: Path, error: Exception):
    def write() -> None:
        with atomic_path(tmp_path / "weights.safetensors") as temporary:
            temporary.write_text("half")
            raise error

    assert re.fullmatch(
        rf"{tmp_path}/weights\.safetensors: the disk is full \([\d,]+ MB left\); free some space and run "
        "again; what is finished stays",
        line_of(write),
    )
    assert list(tmp_path.iterdir()) == []


def test_full_disk_that_another_error_hides_is_told(tmp_path: Path):
    def write() -> None:
        with atomic_path(tmp_path / "a.json"):
            try:
                raise OSError(errno.ENOSPC, "No space left on device")
            except OSError as error:
                raise RuntimeError("can't close the file") from error

    assert "the disk is full" in line_of(write)


def test_used_up_quota_is_told_as_such(tmp_path: Path):
    def write() -> None:
        with atomic_path(tmp_path / "a.json"):
            raise OSError(errno.EDQUOT, "Disk quota exceeded")

    assert "a.json: the disk quota is used up; free some of your space" in line_of(write)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_folder_that_cannot_be_written_is_one_line(tmp_path, monkeypatch, number):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(Path, "mkdir", refuse)
    assert line_of(lambda: write_json(tmp_path / "results/a.json", {})) == (
        f"{tmp_path}/results/a.json: the folder {tmp_path} can't be written to; make it writable and run "
        "again; what is finished stays"
    )


def test_unreadable_input_is_not_taken_for_a_folder_that_cannot_be_written(tmp_path: Path):
    with pytest.raises(PermissionError), atomic_path(tmp_path / "a.json"):
        raise PermissionError(errno.EACCES, "Permission denied", "/elsewhere/input")


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EACCES])
def test_cache_that_only_saves_time_is_left_unwritten(tmp_path, monkeypatch, number):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    cache = JsonCache(tmp_path / "cache.json")
    cache["a"] = 1
    monkeypatch.setattr(Path, "write_text", refuse)
    cache.save()
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MB. Needs root."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("no disk can be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def _tensors(path: Path, count: int) -> None:
    with atomic_path(path) as temporary:
        save_file({"x": torch.zeros(count)}, temporary)


def _hdf5(path: Path, count: int) -> None:
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file.create_dataset("x", data=np.random.default_rng(0).random(count // 2))


def _cache(path: Path, count: int) -> None:
    rows = np.arange(count // 64, dtype=np.int32)
    with cache_writer(path, len(rows), 64, 1, rows) as writer:
        writer.write(rows, torch.randn(len(rows), 64).bfloat16())


def _table(path: Path, count: int) -> None:
    write_csv(path, pd.DataFrame({"x": np.random.default_rng(0).random(count)}))


@pytest.mark.slow
@pytest.mark.parametrize("write", [_tensors, _hdf5, _cache, _table])
def test_full_disk_leaves_nothing_and_all_goes_on_after_the_mend(small_disk: Path, write):
    write(small_disk / "before", 1000)
    before = (small_disk / "before").read_bytes()
    assert "the disk is full" in line_of(lambda: write(small_disk / "new", 4_000_000))
    assert "the disk is full" in line_of(lambda: write(small_disk / "before", 4_000_000))
    assert [path.name for path in small_disk.iterdir()] == ["before"]
    assert (small_disk / "before").read_bytes() == before
    write(small_disk / "new", 1000)
    assert (small_disk / "new").stat().st_size > 1000


@pytest.mark.slow
def test_read_only_disk_is_one_line(small_disk: Path):
    (small_disk / "results").mkdir()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    line = line_of(lambda: write_json(small_disk / "results/a/b.json", {}))
    assert f"the folder {small_disk}/results can't be written to" in line
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    write_json(small_disk / "results/a/b.json", {})
