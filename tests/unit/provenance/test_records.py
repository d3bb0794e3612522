"""Records: read back as written, refused when damaged, found again from what is embedded in a result."""

import hashlib
import json
from pathlib import Path

import h5py
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open

from crossdiff.activations.cache import write_cache
from crossdiff.crosscoders.model import Crosscoder
from crossdiff.provenance import storage
from crossdiff.provenance.records import (
    Acceptance,
    Record,
    RecordedFile,
    RecordError,
    embedded_id,
    read_record,
    record_id,
    record_path,
    write_record,
)
from crossdiff.report.figures.drawing import save

ID = "0123456789abcdef" * 2
RECORD = Record(
    id=ID,
    rule="figure_planted",
    wildcards={"pair": "tiny"},
    params={
        "settings": {
            "classes.top": 50,
            "classes.shared_between": [0.4, 0.6],
            "activations.max_norm_ratio": None,
        },
        "code": "abc",
    },
    code={"workflow_scripts/figure_planted.py": "def"},
    inputs=[RecordedFile("", "results/tiny/training.csv", "1" * 64, 10, "10.1.2.3")],
    outputs=[
        RecordedFile("", "results/tiny/figures/a.svg", "2" * 64, 20, "20.1.2.3"),
        RecordedFile("folder", "b", "3" * 64, 5, "x", {"c": "4" * 64}),
    ],
    run={"started": "2026-01-01T00:00:00+00:00", "config": ["config.yaml"]},
)


@pytest.fixture
def figure(tmp_path: Path) -> Path:
    write_record(tmp_path / "a.svg", RECORD)
    return tmp_path / "a.svg"


@pytest.fixture
def in_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "current_job", storage.CurrentJob(ID, frozenset(), {}, {}))


def test_record_is_read_as_written(figure):
    assert read_record(figure) == RECORD
    assert record_path(figure).name == "a.svg.record.json"
    assert RECORD.output("b").files == {"c": "4" * 64}
    assert RECORD.output("a.svg") is None


def test_record_is_readable_json_for_others(figure):
    values = json.loads(record_path(figure).read_text())
    assert values["format"] == 3
    assert values["params"]["settings"]["classes.top"] == 50


def test_accepted_record_is_read_as_written_and_still_knows_the_code_that_made_the_result(figure):
    older = Acceptance("2026-02-01T00:00:00+00:00", RECORD.code, "abc")
    newest = Acceptance("2026-03-01T00:00:00+00:00", {"workflow_scripts/figure_planted.py": "ghi"}, "jkl")
    accepted = RECORD._replace(code={"workflow_scripts/figure_planted.py": "mno"}, accepted=(older, newest))
    write_record(figure, accepted)
    assert read_record(figure) == accepted
    assert accepted.made_by == RECORD.code == RECORD.made_by


@pytest.mark.parametrize("version", [1, 2])
def test_record_of_an_older_format_is_read(figure, version):
    values = json.loads(record_path(figure).read_text())
    del values["checksum"]
    if version == 1:
        del values["accepted"]
    for entry in values["inputs"] + values["outputs"]:
        entry["sha256"] = entry.pop("digest")
    body = json.dumps(values | {"format": version}, indent=1).encode().removesuffix(b"\n}")
    checksum = hashlib.sha256(body).hexdigest()
    record_path(figure).write_bytes(body + f',\n"checksum": "{checksum}"\n}}\n'.encode())
    assert read_record(figure) == RECORD


def test_missing_record_is_one_clear_line(tmp_path):
    with pytest.raises(
        RecordError, match=r"a\.svg: no record; nothing is known of how it was made"
    ) as caught:
        read_record(tmp_path / "a.svg")
    assert caught.value.verdict == "record missing"


def test_record_of_a_newer_format_says_what_it_can(figure):
    path = record_path(figure)
    path.write_text(path.read_text().replace('"format": 3', '"format": 7'))
    with pytest.raises(
        RecordError, match="format 7, this version reads up to 3; made by figure_planted; update Crossdiff"
    ) as caught:
        read_record(figure)
    assert caught.value.verdict == "record newer"


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"format": 1}', "not json", '{"format": "x"}', '{"format": 1, "checksum": "0"}']
)
def test_damaged_record_is_one_clear_line(figure, text):
    record_path(figure).write_text(text)
    with pytest.raises(RecordError, match="damaged") as caught:
        read_record(figure)
    assert caught.value.verdict == "record damaged"
    assert "\n" not in str(caught.value)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_flipped_byte_of_a_record_is_seen(figure, data):
    write_record(figure, RECORD)
    path = record_path(figure)
    raw = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(raw)
    with pytest.raises(RecordError):
        read_record(figure)


# The id: what the result depends on, and nothing else.

PARTS = {
    "rule": RECORD.rule,
    "wildcards": RECORD.wildcards,
    "params": RECORD.params,
    "inputs": RECORD.inputs,
    "outputs": ["a", "b"],
}


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("rule", "other"),
        ("wildcards", {"pair": "other"}),
        ("params", {"settings": {"classes.top": 51}}),
        ("inputs", [RECORD.inputs[0]._replace(digest="5" * 64)]),
        ("inputs", [RECORD.inputs[0]._replace(name="log")]),
        ("inputs", []),
        ("outputs", ["b", "a"]),
    ],
)
def test_id_depends_on_every_part(part, value):
    assert record_id(**PARTS | {part: value}) != record_id(**PARTS)


def test_id_does_not_depend_on_time_place_or_order_of_keys():
    moved = [entry._replace(stamp="other", size=11) for entry in RECORD.inputs]
    params = {"code": "abc", "settings": dict(reversed(RECORD.params["settings"].items()))}
    assert record_id(**PARTS | {"inputs": moved, "params": params}) == record_id(**PARTS)


# Ids in results.


def draw(path: Path) -> None:
    figure, ax = plt.subplots()
    ax.plot([1, 2])
    save(figure, [str(path)])


def write_weights(path: Path) -> None:
    Crosscoder(4, 8, 0).save(path, path.with_suffix(".json"), {})


WRITERS = {
    "figure.svg": draw,
    "figure.png": draw,
    "figure.pdf": draw,
    "cache.h5": lambda path: write_cache(
        path, torch.ones(5000, 16, dtype=torch.bfloat16), 1, np.arange(5000)
    ),
    "table.parquet": lambda path: storage.write_parquet(path, pd.DataFrame({"x": range(1000)})),
    "weights.safetensors": write_weights,
}


@pytest.mark.parametrize("name", WRITERS)
def test_written_result_carries_the_id(tmp_path, in_job, name):
    WRITERS[name](tmp_path / name)
    assert embedded_id(tmp_path / name) == ID


@pytest.mark.parametrize("name", WRITERS)
def test_result_written_outside_a_job_carries_none(tmp_path, name):
    WRITERS[name](tmp_path / name)
    assert embedded_id(tmp_path / name) is None


def test_results_stay_readable(tmp_path, in_job):
    for name, write in WRITERS.items():
        write(tmp_path / name)
    mark = f"crossdiff-record:{ID}"
    with h5py.File(tmp_path / "cache.h5") as file:
        assert file.attrs["crossdiff-record"] == mark
    with safe_open(tmp_path / "weights.safetensors", "pt") as file:
        assert file.metadata() == {"crossdiff-record": mark}
    assert Image.open(tmp_path / "figure.png").text["crossdiff-record"] == mark
    table = pd.read_parquet(tmp_path / "table.parquet")
    assert list(table.x) == list(range(1000))
    assert table.attrs == {"crossdiff-record": mark}


def test_writing_a_table_leaves_it_as_it_was(tmp_path, in_job):
    table = pd.DataFrame({"x": [1]})
    storage.write_parquet(tmp_path / "t.parquet", table)
    assert table.attrs == {}
