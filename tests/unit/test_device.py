"""GPUs that torch can't use are named with what to do; the machines are pretended."""

import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from crossdiff import device
from crossdiff.errors import UserError
from crossdiff.workflow import gpu

NVRM = (
    "NVRM version: NVIDIA UNIX {kind}x86_64 Kernel Module  {version}  Fri Nov  3 13:20:11 UTC 2023\n"
    "GCC version: gcc 11.4.0\n"
)
BUILT_FOR = ["sm_75", "sm_80", "sm_90", "sm_120", "compute_120"]
CU126 = "pip install torch==2.13.0+cu126 --index-url https://download.pytorch.org/whl/cu126"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Pretend a machine: its driver, its card, the capability that torch sees, and torch's build."""

    def pretend(
        driver: str | None = None,
        card: bool = True,
        sees: tuple[int, int] | None = None,
        cuda: str | None = "13.0",
        bfloat16: bool = True,
        open_kernel: bool = False,
    ) -> None:
        (tmp_path / "dev").mkdir()
        if card:
            (tmp_path / "dev/nvidia0").touch()
        if driver:
            kind = "Open Kernel Module for " if open_kernel else ""
            (tmp_path / "version").write_text(NVRM.format(kind=kind, version=driver))
        monkeypatch.setattr(device, "DEVICES", tmp_path / "dev")
        monkeypatch.setattr(device, "DRIVER", tmp_path / "version")
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.setattr(torch, "__version__", "2.13.0+cu130" if cuda else "2.13.0+cpu")
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: sees is not None)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: sees)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _index=None: "Some Card")
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: BUILT_FOR)
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation=True: bfloat16 or including_emulation
        )
        monkeypatch.setattr(torch.cuda, "init", refuse)

    return pretend


def refuse() -> None:
    raise RuntimeError("No CUDA GPUs are available\nmore lines")


def test_no_card(machine: Callable[..., None]) -> None:
    machine(card=False)
    assert device.device() == torch.device("cpu")


@pytest.mark.parametrize("capability", [(7, 5), (8, 6), (9, 0), (12, 1), (13, 0)])
def test_cards_that_the_build_runs_on(machine: Callable[..., None], capability: tuple[int, int]) -> None:
    machine("580.95.05", sees=capability)
    assert device.device() == torch.device("cuda")


@pytest.mark.parametrize("open_kernel", [False, True])
def test_driver_too_old_for_the_build(machine: Callable[..., None], open_kernel: bool) -> None:
    machine("535.104.05", open_kernel=open_kernel)
    with pytest.raises(UserError) as error:
        device.device()
    assert str(error.value) == (
        "device: found a GPU with driver 535.104.05, but torch 2.13.0+cu130 is built for CUDA 13.0, "
        "which needs driver 580 or newer; "
        f"{CU126}, or set device: cpu"
    )


def test_driver_too_old_for_every_build(machine: Callable[..., None]) -> None:
    machine("470.199.02")
    with pytest.raises(
        UserError,
        match=r"driver 470.199.02, .* driver 580 or newer; install driver 525 or newer, or set device: cpu",
    ):
        device.device()


def test_card_too_old_for_the_build(machine: Callable[..., None]) -> None:
    machine("580.95.05", sees=(7, 0))
    with pytest.raises(UserError) as error:
        device.device()
    built = "sm_75, sm_80, sm_90, sm_120, compute_120"
    assert str(error.value) == (
        f"device: found a Some Card (sm_70), but torch 2.13.0+cu130 is built for {built}; {CU126}, "
        "or set device: cpu"
    )


def test_torch_without_cuda(machine: Callable[..., None]) -> None:
    machine("580.95.05", cuda=None)
    with pytest.raises(
        UserError,
        match=r"found a GPU, but torch 2.13.0\+cpu is built without CUDA; pip install .*, or set device: cpu",
    ):
        device.device()


def test_what_cuda_complains_of_is_passed_on(machine: Callable[..., None]) -> None:
    machine("580.95.05")
    with pytest.raises(
        UserError, match=r"can't use it: No CUDA GPUs are available; fix that, or set device: cpu$"
    ):
        device.device()


@pytest.mark.parametrize("visible", ["", "-1", "NoDevFiles"])
def test_a_hidden_card_is_left_alone(
    machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch, visible: str
) -> None:
    machine("535.104.05")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert device.device() == torch.device("cpu")


def test_driver_by_nvidia_smi_where_the_kernel_is_silent(
    machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert device.driver() is None
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 535.104.05\necho 535.104.05\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    assert device.driver() == "535.104.05"


# bfloat16


class OfDevice:
    """Stands in for torch.cuda.device without a GPU."""

    def __init__(self, index: int | None) -> None:
        pass

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("native", [True, False])
def test_emulated_bfloat16_counts_as_none_and_is_told_once(
    machine: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    native: bool,
) -> None:
    machine("580.95.05", sees=(7, 5), bfloat16=native)
    monkeypatch.setattr(torch.cuda, "device", OfDevice)
    device._gpu_multiplies_bfloat16.cache_clear()
    with caplog.at_level(logging.INFO):
        found = [device.multiplies_bfloat16(torch.device("cuda")) for _ in range(3)]
    assert found == [native] * 3
    assert device.fast_dtype() == (torch.bfloat16 if native else torch.float32)
    line = "Some Card does not multiply bfloat16 natively; matrices are multiplied in float32"
    assert [record.getMessage() for record in caplog.records] == ([] if native else [line])
    device._gpu_multiplies_bfloat16.cache_clear()


# Before the first job


def workflow(executor: str = "local", on_gpu: int = 1) -> SimpleNamespace:
    jobs = [SimpleNamespace(resources={"on_gpu": wanted}) for wanted in (0, on_gpu)]
    return SimpleNamespace(
        executor_plugin=SimpleNamespace(name=executor), dag=SimpleNamespace(needrun_jobs=lambda: jobs)
    )


@pytest.fixture
def devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with a card and a torch that complains about it."""
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(gpu, "QUESTION", "print('device: found a GPU, but no')")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path


def test_run_stops_before_its_first_job(devices: Path) -> None:
    with pytest.raises(UserError, match=r"^device: found a GPU, but no$"):
        gpu.check(workflow(), devices)


def test_run_goes_on(devices: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """``gpu.check`` raises nothing in each of these cases; the test above shows that it can."""
    gpu.check(workflow(executor="slurm"), devices)  # the nodes of a cluster have other cards
    gpu.check(workflow(on_gpu=0), devices)
    (tmp_path / "none").mkdir()
    gpu.check(workflow(), tmp_path / "none")
    with monkeypatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        gpu.check(workflow(), devices)
    # Each rule may have an environment of its own, so torch may be missing here.
    monkeypatch.setattr(gpu, "QUESTION", "raise ModuleNotFoundError('torch')")
    gpu.check(workflow(), devices)
    monkeypatch.undo()
    gpu.check(workflow(), devices)  # torch has nothing to complain about


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, int]]:
    """Pretend a GPU of 80 GB with 50 free. This process holds 20, and fills 15 of them.

    Gives the limits that are set.
    """
    limits: list[tuple[float, int]] = []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(device, "unusable", lambda: None)
    for name, found in {
        "is_available": True,
        "device_count": 1,
        "mem_get_info": (50e9, 80e9),
        "memory_reserved": 20e9,
        "memory_allocated": 15e9,
        "get_device_properties": SimpleNamespace(total_memory=80e9),
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, found=found: found)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *given: limits.append(given))
    return limits


@pytest.mark.parametrize(
    ("limit", "usable", "room", "set_to"),
    [("", 70e9, 55e9, []), ("40", 40e9, 25e9, [(0.5, 0)]), ("100", 70e9, 55e9, [(1.0, 0)])],
)
def test_memory_of_a_gpu_up_to_the_limit(card, monkeypatch, limit, usable, room, set_to) -> None:
    monkeypatch.setenv(device.MEMORY, limit)
    where = device.device()
    assert where == torch.device("cuda")
    assert (device.usable_memory(where), device.room(where)) == (usable, room)
    assert card == set_to
