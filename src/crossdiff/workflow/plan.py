"""A forecast beside what this machine has: the table of ``crossdiff plan`` and its warnings."""

import os
import shutil
import time
from pathlib import Path

import torch

from crossdiff.config import MODELS, Config
from crossdiff.device import device, fast_dtype
from crossdiff.explanations.cost import forecast_lines
from crossdiff.workflow.forecast import Need, forecast, known_shape
from crossdiff.workflow.run import result_folders

CALIBRATION_SECONDS = 1.0
COLUMNS = "{:<24}{:>7}{:>10}{:>11}{:>13}{:>12}{:>9}"


def report(config: Config, root: Path, flops: float | None) -> tuple[list[str], list[str]]:
    """Lines of the table, and warnings where disk or memory will not do.

    ``flops``: operations per second; None measures a matrix product here. Raises UserError where the model's size is not known.
    """
    needs = forecast(config, known_shape(config, root))
    rate = flops or measured_flops()
    lines = [COLUMNS.format("rule", "jobs", "M tokens", "disk GB", "host RAM GB", "device GB", "hours")]
    for rule, need in needs.items():
        lines.append(_line(rule, need, rate))
    lines.append(
        COLUMNS.format("all", sum(n.jobs for n in needs.values()), "", f"{_disk(needs) / 1e9:.2f}", "", "", f"{_hours(needs, rate):.1f}")
    )
    given = "as given" if flops else f"a matrix product's on this {device().type}"
    lines += [
        "",
        f"Hours: one job after another at {rate:.2g} operations per second ({given}); a rough guide, within a factor of 3.",
        "Memory: of the largest job. Disk: what stays; downloaded wheels and the hub's cache come on top.",
        *forecast_lines(config),
    ]
    return lines, _warnings(needs, config, root)


def _line(rule: str, need: Need, rate: float) -> str:
    numbers = (f"{need.tokens / 1e6:.2f}", f"{need.disk / 1e9:.2f}", f"{need.host / 1e9:.1f}", f"{need.device / 1e9:.1f}")
    return COLUMNS.format(rule, need.jobs, *numbers, f"{need.flop / rate / 3600:.1f}")


def _disk(needs: dict[str, Need]) -> float:
    return sum(need.disk for need in needs.values())


def _hours(needs: dict[str, Need], rate: float) -> float:
    return sum(need.flop for need in needs.values()) / rate / 3600


def _warnings(needs: dict[str, Need], config: Config, root: Path) -> list[str]:
    folders = [*result_folders(config), *(f"results/models/{config.pair.model_name(role)}" for role in MODELS)]
    there = sum(path.stat().st_size for folder in folders for path in (root / folder).rglob("*") if path.is_file())
    free, wanted = shutil.disk_usage(root).free, _disk(needs) - there
    warnings = [f"disk: {wanted / 1e9:,.1f} GB more are needed, {free / 1e9:,.1f} GB are free"] if wanted > free else []
    main = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    gpu = torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None
    for rule, need in needs.items():
        host = need.host if gpu else need.memory
        if host > main:
            warnings.append(f"memory: {rule} needs {host / 1e9:,.1f} GB, this machine has {main / 1e9:,.1f} GB")
        if gpu and need.device > gpu:
            warnings.append(f"GPU memory: {rule} needs {need.device / 1e9:,.1f} GB, this GPU has {gpu / 1e9:,.1f} GB")
    return warnings


def measured_flops() -> float:
    """Operations per second of a matrix product in the precision that models run in."""
    where = device()
    a = torch.randn(2048, 2048, device=where).to(fast_dtype())
    (a @ a).sum().item()
    start, products = time.perf_counter(), 0
    while time.perf_counter() - start < CALIBRATION_SECONDS:
        (a @ a).sum().item()  # .item(): wait for the device
        products += 1
    return products * 2 * 2048**3 / (time.perf_counter() - start)
