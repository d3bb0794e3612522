"""Which architectures count as tested."""

import json
from pathlib import Path

import pytest

from crossdiff.errors import UserError
from crossdiff.provenance.tested_cards import CARDS, proven_architectures


def write(folder: Path, name: str, architecture: str, kernels: dict[str, int] | None) -> None:
    (folder / f"{name}.json").write_text(
        json.dumps({"format": 1, "architecture": architecture, "kernels": kernels})
    )


def test_architectures_whose_kernel_tests_all_passed(tmp_path: Path) -> None:
    assert proven_architectures(tmp_path) == frozenset()
    write(tmp_path, "h100", "sm_90", {"tests": 57, "failed": 0})
    write(tmp_path, "a100", "sm_80", {"tests": 57, "failed": 1})
    write(tmp_path, "rtx-4090", "sm_89", None)
    write(tmp_path, "t4", "sm_75", {"tests": 0, "failed": 0})
    assert proven_architectures(tmp_path) == {"sm_90"}


def test_one_card_that_passed_is_enough(tmp_path: Path) -> None:
    write(tmp_path, "h100", "sm_90", {"tests": 57, "failed": 2})
    write(tmp_path, "h200", "sm_90", {"tests": 57, "failed": 0})
    assert proven_architectures(tmp_path) == {"sm_90"}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"kernels": {"failed": 0}, "architecture": "sm_90"}'])
def test_damaged_record_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "h100.json").write_text(text)
    with pytest.raises(
        UserError, match=r"h100\.json: can't be read as the record of a card \(.*\); make test-gpu writes one"
    ):
        proven_architectures(tmp_path)


def test_records_of_the_repository_can_be_read() -> None:
    records = [json.loads(path.read_text()) for path in CARDS.glob("*.json")]
    passed = [record for record in records if record["kernels"] and record["kernels"]["failed"] == 0]
    assert proven_architectures() == {record["architecture"] for record in passed} != set()
