"""Write data/cards/{card}.json, the record of this machine's GPU: what it is, how fast, which kernels pass.

    PYTHONPATH=src:benchmarks python -m pytest -p card_record -m gpu tests/gpu     (make test-gpu)

As a plugin of pytest it writes which tests passed. If all tests of the kernels passed, kernels become the
default on cards of that architecture (crossdiff.provenance.tested_cards). benchmarks/gpu.py adds the times.
"""

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from turns import queued

from crossdiff.device import device, driver, fast_dtype
from crossdiff.provenance.code import ROOT, code_digest
from crossdiff.provenance.storage import atomic_path
from crossdiff.provenance.tested_cards import CARDS
from crossdiff.workflow.cards import card_name

FORMAT = 1
OF_KERNELS = "test_kernels"  # stands in the path of their tests
LOSSES = ("crossdiff.crosscoders.losses.batchtopk", "crossdiff.crosscoders.losses.l1")


def card_facts() -> dict[str, Any]:
    """Give what the card and the software on it are."""
    cuda = device().type == "cuda"
    major, minor = torch.cuda.get_device_capability() if cuda else (0, 0)
    return {
        "format": FORMAT,
        "card": torch.cuda.get_device_name() if cuda else "cpu",
        "architecture": f"sm_{major}{minor}" if cuda else "cpu",
        "memory": torch.cuda.get_device_properties(0).total_memory if cuda else None,
        "driver": driver(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "triton": _version("triton"),
        },
        "code": _commit(),
        "date": datetime.now(UTC).date().isoformat(),
        "cores": len(os.sched_getaffinity(0)),
    }


def ceilings(side: int = 8192, floats: int = 2**30) -> dict[str, dict[str, Any]]:
    """Measure the card's own rates.

    FLOP/s of a matrix product in the precision that models run in; bytes/s of a copy, read plus written.
    """
    where, dtype = device(), fast_dtype()
    a, b = (torch.randn(side, side, device=where).to(dtype) for _ in range(2))
    product = queued(lambda: a @ b, 5)
    source = torch.zeros(floats, device=where)
    target = torch.empty_like(source)
    copy = queued(lambda: target.copy_(source), 5)
    return {
        "product": {
            "value": 2 * side**3 / product,
            "of": f"{_plain(dtype)} product of two {side} x {side} matrices",
        },
        "copy": {
            "value": 8 * floats / copy,
            "of": f"copy of {4 * floats / 2**20:g} MiB, bytes read plus written",
        },
    }


def write_record(changes: Mapping[str, Any], path: Path | None = None) -> Path:
    """Put ``changes`` into the card's record, keep everything else, and return its path.

    Without ``path`` the record in data/cards is changed.
    """
    path = path or CARDS / f"{card_name(changes['card'])}.json"
    old = json.loads(path.read_text()) if path.exists() else {"measured": {}, "steps": [], "kernels": None}
    record = old | changes | {"measured": old["measured"] | changes.get("measured", {})}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n")
    return path


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Give the checkout's commit; None without git."""
    answer = subprocess.run(
        ["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True
    )
    return answer.stdout.strip() if answer.returncode == 0 else None


def kernel_digest() -> str:
    """Give the digest of all code that a training runs."""
    return code_digest("train_crosscoder", *LOSSES)


# The plugin

_outcomes: dict[str, str] = {}  # test -> the worst that happened in its setup, call or teardown


def pytest_runtest_logreport(report: Any) -> None:
    """Called by pytest after each phase of a test."""
    if report.outcome != "passed" or report.when == "call":
        if _outcomes.get(report.nodeid) != "failed":
            _outcomes[report.nodeid] = report.outcome


def pytest_sessionfinish(session: Any) -> None:
    """Called by pytest at the end: writes the record. The session fails if no test ran on a GPU."""
    ran = {test: outcome for test, outcome in _outcomes.items() if outcome != "skipped"}
    if device().type != "cuda" or not ran:
        print("\nno test ran on a GPU: no record is written")
        session.exitstatus = session.exitstatus or 1
        return
    path = write_record(card_facts() | {"measured": ceilings()} | outcomes_record(ran))
    print(f"\nthe record of this card: {path}")


def outcomes_record(ran: Mapping[str, str]) -> dict[str, Any]:
    """Give the parts of a record that describe tests, from {test: passed or failed}."""
    kernels = [test for test in ran if OF_KERNELS in test]
    failed = sorted(test for test, outcome in ran.items() if outcome != "passed")
    of_kernels = {
        "tests": len(kernels),
        "failed": sum(test in failed for test in kernels),
        "digest": kernel_digest(),
        "versions": {"torch": torch.__version__, "triton": _version("triton")},
        "driver": driver(),
        "date": datetime.now(UTC).date().isoformat(),
    }
    return {
        "kernels": of_kernels if kernels else None,
        "gpu_tests": {"passed": sorted(set(ran) - set(failed)), "failed": failed},
    }
