"""Records of cards, and hours by them."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from crossdiff.errors import UserError
from crossdiff.workflow.cards import CARDS, USUAL, Card, card_name, find_card, read_card, write_card
from crossdiff.workflow.sizes import PROCESS, Need, Work


def record(steps: list[dict[str, Any]] | None = None, **measured: float) -> dict[str, Any]:
    """Make the record of a card of 1e15 FLOP/s and 1e12 bytes/s, with 10 cores."""
    values = {"product": 1e15, "copy": 1e12} | measured
    return {
        "card": "a card",
        "architecture": "sm_90",
        "cores": 10,
        "measured": {key: {"value": value} for key, value in values.items()},
        "steps": steps or [],
    }


def need(work: Work, **taken: float) -> Need:
    return Need(1, 0, 0, PROCESS, 1, work.flop, (work,), **taken)


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA H200", "h200"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA A100-SXM4-80GB", "a100-sxm4"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("Tesla T4", "t4"),
        ("cpu", "cpu"),
    ],
)
def test_name_of_a_record(device: str, name: str) -> None:
    assert card_name(device) == name


@pytest.mark.parametrize("path", sorted((ROOT / CARDS).glob("*.json")), ids=lambda path: path.stem)
def test_records_that_ship_are_whole_and_bear_their_cards_names(path: Path) -> None:
    found = read_card(path)
    assert card_name(found.record["card"]) == path.stem
    assert all(entry.get("of") for entry in found.record["measured"].values() if entry["value"] is not None)


def test_seconds_by_what_was_measured() -> None:
    """A job takes a second to start, and each rule has its own rate."""
    card = Card("a", record(start=1, load=1e9, forward=5e14, encode=1e14, harvest=0.8, scaling=3))
    assert card.seconds(need(Work("forward", 1e16))) == pytest.approx(1 + 20)
    assert card.seconds(need(Work("forward", 1e16), loads=4e9)) == pytest.approx(1 + 4 + 20)
    assert card.seconds(need(Work("encode", 1e15))) == pytest.approx(1 + 10)
    assert card.seconds(need(Work("scale", 1e15))) == pytest.approx(1 + 30)
    assert card.seconds(need(Work("forward", 1e16), written=1)) == pytest.approx(1 + 20 / 0.8)
    assert card.seconds(Need(7, 0, 0, PROCESS, 0, 0)) == 7
    assert card.hours(Need(3600, 0, 0, PROCESS, 0, 0)) == 1


def test_step_scales_from_the_measured_one_of_its_loss_that_is_next_in_size() -> None:
    shape = {"d_model": 1000, "batch": 1000}
    small, large = shape | {"latents": 10_000}, shape | {"latents": 100_000}
    bound = 2 * 1000 * 2000 * 100_000 / 1e15 + 34 * 4 * 1000 * 100_000 / 1e12
    steps = [
        small | {"loss": "l1", "seconds": 1.0},
        small | {"loss": "batchtopk", "seconds": 0.1},
        large | {"loss": "batchtopk", "seconds": 4 * bound},
        large | {"loss": "batchtopk", "seconds": 99.0, "dead": 0.1},
    ]
    card = Card("a", record(steps, start=1e-9))
    work = Work("batchtopk", 200 * 2 * 1000 * 2000 * 100_000, 200 * 34 * 4 * 1000 * 100_000, 1000 * 90_000)
    assert card.seconds(need(work)) == pytest.approx(200 * 4 * bound)


def test_data_bounds_what_the_device_would_do_faster() -> None:
    card = Card(
        "a", record(start=1, cache_write=1e8, cache_read=2e8, pairs=1e7, disk_write=1e12, disk_read=1e12)
    )
    quick = Work("encode", 1.0)
    assert card.seconds(need(quick, written=1e10)) == pytest.approx(1 + 10)
    assert card.seconds(need(quick, read=1e10)) == pytest.approx(1 + 5)
    assert card.seconds(need(quick, pairs=1e10)) == pytest.approx(1 + 100)
    slow_disk = Card("a", record(start=1, cache_write=1e8, disk_write=1e7))
    assert slow_disk.seconds(need(quick, written=1e10)) == pytest.approx(1 + 1000)


def test_what_was_not_measured_is_told() -> None:
    needs = {"a": need(Work("forward", 1)), "b": need(Work("l1", 1, 1, 1)), "c": need(Work("scale", 1))}
    lines = Card("a", record(**{key: 1.0 for key in USUAL if key != "start"}, forward=5e14)).told(needs)
    assert lines == [
        "Hours are for work on a card (1e+15 FLOP/s in products, 1e+12 bytes/s copied) with 10 CPU cores.",
        "Not measured on this card: encode 20%, l1 40%; "
        "the forecast assumes these shares of the rates above.",
        "Not measured, so usual values are taken: start 6.",
    ]


def test_record_is_written_as_it_is_read(tmp_path: Path) -> None:
    write_card(tmp_path / "mine.json", record(forward=5e14))
    found = find_card(str(tmp_path / "mine.json"), ROOT)
    assert (found.name, found.rate("forward"), found.rate("start")) == ("mine", 5e14, 6.0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 2}, "format: found 2, allowed: 1; measure the card again"),
        ({"cores": 0}, "cores: found 0, allowed: a number above 0"),
        (
            {"measured": {"product": {"value": 1}}},
            "measured.copy.value: found None, allowed: a number above 0",
        ),
        (
            {"measured": {"product": {"value": 1}, "copy": {"value": 1}, "start": {"value": "6 s"}}},
            "measured.start.value: found '6 s', allowed: a number above 0 or null",
        ),
        (
            {"steps": [{"loss": "l1", "latents": 1, "batch": 1, "d_model": 1}]},
            "steps.0.seconds: allowed: a number above 0",
        ),
        ({"steps": None}, "measured, steps: allowed: an object"),
    ],
)
def test_record_that_is_wrong_is_one_line(tmp_path: Path, change: dict, said: str) -> None:
    (tmp_path / "mine.json").write_text(json.dumps({"format": 1} | record() | change))
    with pytest.raises(UserError) as caught:
        read_card(tmp_path / "mine.json")
    assert str(caught.value).startswith(f"{tmp_path / 'mine.json'}: {said}")


def test_unknown_card_names_those_that_are_known() -> None:
    with pytest.raises(
        UserError,
        match=(
            r"--card: found z9, allowed: h100, h200.*, or a file that crossdiff plan --calibrate "
            r"FILE\.json"
        ),
    ):
        find_card("z9", ROOT)
