"""Which GPUs a run uses, on machines with a pretended /dev and nvidia-smi."""

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from crossdiff.workflow import machine_gpus
from crossdiff.workflow.machine_gpus import GPU, card_bytes, found, usable
from crossdiff.workflow.resources import share_gpus

MIB = 2**20
BIG = 81559 * MIB
A, B, C = (f"GPU-{letter * 8}-0000-0000-0000-000000000000" for letter in "abc")
THREE = f"0, {A}, 81559\n1, {B}, 81559\n2, {C}, 4096\n"

Pretend = Callable[..., Path]


@pytest.fixture
def pretend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pretend:
    """Make a machine with so many devices, an nvidia-smi that says ``smi``, and what the user has set."""

    def made(devices: int, smi: str | None, visible: str | None = None) -> Path:
        machine_gpus._found.cache_clear()
        for number in range(devices):
            (tmp_path / f"nvidia{number}").touch()
        for other in ("nvidiactl", "nvidia-uvm"):
            (tmp_path / other).touch()
        monkeypatch.setenv("PATH", str(tmp_path))
        if smi is not None:
            (tmp_path / "answer").write_text(smi)
            (tmp_path / "nvidia-smi").write_text(
                f'#!/bin/bash\nwhile read -r l; do echo "$l"; done < {tmp_path}/answer\n'
            )
            (tmp_path / "nvidia-smi").chmod(0o755)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        return tmp_path

    return made


def test_cards_have_the_names_and_memory_that_nvidia_smi_gives(pretend: Pretend) -> None:
    devices = pretend(3, THREE)
    assert found(devices) == [GPU(A, BIG), GPU(B, BIG), GPU(C, 4096 * MIB)]
    assert usable(devices) == [GPU(A, BIG), GPU(B, BIG)]  # the small one drives a screen
    assert card_bytes(devices) == BIG


@pytest.mark.parametrize(
    ("visible", "names", "memory"),
    [
        ("1", ["1"], BIG),
        (" 1 ,0", ["1", "0"], BIG),
        ("2", ["2"], 4096 * MIB),  # the user wants this one
        ("GPU-bbb", ["GPU-bbb"], BIG),
        ("MIG-1,MIG-2", ["MIG-1", "MIG-2"], None),
        ("0,0", ["0"], BIG),
        ("0,-1,1", ["0"], BIG),
        ("", [], None),
        ("-1", [], None),
        ("NoDevFiles", [], None),
    ],
)
def test_the_user_names_cards(pretend: Pretend, visible: str, names: list[str], memory: float | None) -> None:
    devices = pretend(3, THREE, visible)
    assert [gpu.name for gpu in usable(devices)] == names
    assert card_bytes(devices) == memory


@pytest.mark.parametrize("smi", [None, "", "Failed to initialize NVML: Driver/library version mismatch\n"])
def test_without_an_answer_cards_have_numbers(pretend: Pretend, smi: str | None) -> None:
    devices = pretend(12, smi)
    assert found(devices) == [GPU(str(number), None) for number in range(12)]
    assert card_bytes(devices) is None


def test_shared_memory_is_not_known(pretend: Pretend) -> None:
    devices = pretend(1, f"0, {A}, [N/A]\n")
    assert usable(devices) == [GPU(A, None)]
    assert card_bytes(devices) is None


def test_machine_without_cards_asks_nobody(pretend: Pretend, monkeypatch: pytest.MonkeyPatch) -> None:
    devices = pretend(0, THREE)
    monkeypatch.setattr(machine_gpus, "_asked", lambda: pytest.fail("nvidia-smi was called"))
    assert found(devices) == []
    assert usable(devices) == []
    assert card_bytes(devices) is None


@pytest.mark.parametrize(
    ("devices", "visible", "given", "limits"),
    [
        (0, None, {}, {}),
        (3, None, {}, {"on_gpu": 2}),
        (3, "0,1,2", {}, {"on_gpu": 2}),
        (3, "1", {}, {"on_gpu": 1}),
        (3, "", {}, {}),
        (3, None, {"on_gpu": 5}, {"on_gpu": 5}),
    ],
)
def test_jobs_use_all_cards_together(
    pretend: Pretend, devices: int, visible: str | None, given: dict[str, int], limits: dict[str, int]
) -> None:
    workflow = SimpleNamespace(global_resources=given, register_resource=given.__setitem__)
    share_gpus(workflow, pretend(devices, THREE, visible))
    assert given == limits


@pytest.mark.gpu
def test_cards_of_this_machine_are_those_that_torch_sees() -> None:
    import torch

    machine_gpus._found.cache_clear()
    cards = found()
    assert len(cards) == torch.cuda.device_count()
    if os.environ.get("CUDA_VISIBLE_DEVICES") is None:
        seen = {str(torch.cuda.get_device_properties(n).uuid) for n in range(len(cards))}
        assert {card.name.removeprefix("GPU-") for card in cards} == seen
