"""``crossdiff plan --calibrate FILE`` measures this machine's device in a minute and writes its record."""

import importlib.metadata
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import torch

from crossdiff.activations.pairs import PairedActivations, Summary
from crossdiff.config import MODELS, crosscoder_settings
from crossdiff.device import device, driver, fast_dtype
from crossdiff.workflow.cards import MEASURED, Card

SECONDS = 1.0  # length of each repeated measurement
LONGER = 4.0  # length of a training step's measurement
COMMAND = "crossdiff plan --calibrate"


class Sizes(NamedTuple):
    """Sizes of what is measured: large enough to fill a device and small enough for a minute."""

    product: int  # rows of square matrices
    copy: int  # bytes
    forward: tuple[int, int, int, int, int]  # d_model, d_mlp, blocks, sequences, tokens of each
    step: tuple[int, int, int, int]  # d_model, latents, batch, active latents of a token
    disk: int  # bytes


SIZES = {
    "cuda": Sizes(8192, 2**31, (2304, 9216, 8, 32, 1024), (2304, 32_768, 2048, 100), 2**30),
    "cpu": Sizes(2048, 2**28, (576, 1536, 4, 4, 256), (576, 4096, 1024, 32), 2**28),
}
IMPORTS = (
    "import torch, crossdiff.activations.harvest, crossdiff.models.load, crossdiff.device as d; "
    "torch.zeros(1, device=d.device())"
)


def at_hand() -> Card:
    """Measure the rates of the device here in a few seconds.

    The shares that our code reaches are estimated.
    """
    where = device()
    sizes = SIZES[where.type]
    rates = {"product": _product(where, sizes.product), "copy": _copy(where, sizes.copy)}
    return Card(where.type, _record(rates, []))


def calibrated(folder: Path) -> dict[str, Any]:
    """Measure the device here and what our own code reaches on it, and return its record.

    ``folder`` lies on the disk that is measured.
    """
    where = device()
    sizes = SIZES[where.type]
    measured = {
        "product": _product(where, sizes.product),
        "copy": _copy(where, sizes.copy),
        "forward": _forward(where, *sizes.forward),
        "start": _start(),
        **_disk(folder, sizes.disk),
    }
    return _record(measured, [_step(where, loss, *sizes.step) for loss in ("batchtopk", "l1")])


def _record(measured: dict[str, tuple[float, str]], steps: list[dict[str, Any]]) -> dict[str, Any]:
    gpu = torch.cuda.get_device_properties(0) if torch.cuda.is_available() else None
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    entries = {key: {"value": value, "of": of, "source": COMMAND} for key, (value, of) in measured.items()}
    return {
        "card": gpu.name if gpu else _processor(),
        "architecture": f"sm_{gpu.major}{gpu.minor}" if gpu else "cpu",
        "memory": gpu.total_memory if gpu else None,
        "driver": driver() if gpu else None,
        "versions": versions | {name: _version(name) for name in ("transformers", "crossdiff")},
        "code": None,
        "date": date.today().isoformat(),
        "cores": len(os.sched_getaffinity(0)),
        "kernels": None,
        "measured": {key: {"value": None} for key in MEASURED} | entries,
        "steps": steps,
    }


def _processor() -> str:
    named = (
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    )
    return next(named, platform.machine())


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _each(work: Callable[[], object], where: torch.device, seconds: float = SECONDS) -> float:
    """Return the seconds of one call.

    Calls repeat for about ``seconds``, and a GPU is waited for after the last.
    """

    def taken(times: int) -> float:
        start = time.perf_counter()
        for _ in range(times):
            work()
        if where.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    taken(1)  # does what only happens once, such as compiling
    times = max(2, round(seconds / taken(1)))
    return taken(times) / times


def _product(where: torch.device, size: int) -> tuple[float, str]:
    """Return the FLOP/s of a matrix product, and what was measured."""
    a = torch.randn(size, size, device=where).to(fast_dtype())
    rate = 2 * size**3 / _each(lambda: a @ a, where)
    return rate, f"{_precision()} product of two {size} x {size} matrices"


def _precision() -> str:
    return str(fast_dtype()).removeprefix("torch.")


def _copy(where: torch.device, size: int) -> tuple[float, str]:
    """Return the bytes/s of a copy in the device's memory, and what was measured."""
    source = torch.zeros(size, dtype=torch.uint8, device=where)
    target = torch.empty_like(source)
    rate = 2 * size / _each(lambda: target.copy_(source), where)
    return rate, f"copy of {size >> 20} MiB, bytes read plus written"


@torch.inference_mode()
def _forward(
    where: torch.device, d_model: int, d_mlp: int, blocks: int, sequences: int, tokens: int
) -> tuple[float, str]:
    """Return the FLOP/s of a forward pass through random weights, and what was measured."""
    from transformers import LlamaConfig, LlamaModel

    config = LlamaConfig(
        vocab_size=1024,
        hidden_size=d_model,
        intermediate_size=d_mlp,
        num_hidden_layers=blocks,
        num_attention_heads=d_model // 64,
    )
    with torch.device(where):
        # transformers' decorator of ``to`` hides ``self`` from the checker.
        model = LlamaModel(config).to(fast_dtype()).eval()  # type: ignore[arg-type]
    ids = torch.zeros(sequences, tokens, dtype=torch.long, device=where)
    flop = 2 * blocks * (4 * d_model**2 + 3 * d_model * d_mlp) * ids.numel()
    of = f"random Llama of {blocks} blocks, d_model {d_model}, {sequences} x {tokens} tokens, {_precision()}"
    of += ", no cache of activations"
    return flop / _each(lambda: model(ids, use_cache=False), where), of


def _step(where: torch.device, loss: str, d_model: int, latents: int, batch: int, k: int) -> dict[str, Any]:
    """Return the seconds of a training step, with its log and the copy of its batch to the device."""
    from crossdiff.crosscoders.trainer import Training

    values = {"latents": latents, "batch": batch, "tokens": 10**9, "learning_rate": 1e-5, "warmup_steps": 0}
    of_loss = {"k": k} if loss == "batchtopk" else {"l1_coefficient": 0.04}
    settings = crosscoder_settings(values | of_loss | {"loss": loss, "normalisation": {"kind": "none"}})
    training = Training(_NoData(d_model), settings, 0, where)
    x = torch.randn(batch, 2, d_model, generator=torch.Generator().manual_seed(0)).to(fast_dtype())
    if loss == "l1":  # make the codes as sparse as those of a trained crosscoder
        with torch.no_grad():
            sample = training.crosscoder.preactivations(training.crosscoder.normalise(x[:64].to(where)))
            training.crosscoder.encoder_bias.sub_(sample.flatten().topk(64 * k).values.min())
    seconds = _each(lambda: training.step(x), where, LONGER)
    sizes = {"d_model": d_model, "latents": latents, "batch": batch, "k": k}
    return {"loss": loss} | sizes | {"seconds": seconds, "source": COMMAND}


class _NoData(PairedActivations):
    """Activations of which only the sizes are known.

    That is enough for training steps on a batch from memory.
    """

    def __init__(self, d_model: int) -> None:
        mean, one = [[0.0] * d_model] * len(MODELS), [1.0] * len(MODELS)
        self.shards, self.layer, self.d_model = (), 0, d_model
        self.summary = Summary(0, 0, None, one, mean, one, 0, 0, 0)


def _start() -> tuple[float, str]:
    """Return the seconds that a process takes to start, and what was measured.

    The second start of two counts, because then files come from memory, as for all jobs after the first.
    """
    for _ in range(2):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", IMPORTS], check=True, capture_output=True)
    return time.perf_counter() - start, "python, imports of a harvest, the device's first use"


def _disk(folder: Path, size: int) -> dict[str, tuple[float, str]]:
    """Return the bytes/s of a file that is written and flushed, and then read from disk.

    Before it is read it is dropped from memory, if the system allows that.
    """
    part = os.urandom(min(size, 2**24))
    parts = -(-size // len(part))
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        start = time.perf_counter()
        for _ in range(parts):
            file.write(part)
        file.flush()
        os.fsync(file.fileno())
        written = time.perf_counter() - start
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(0)
        start = time.perf_counter()
        while file.read(len(part)):
            pass
        read = time.perf_counter() - start
    of = f"a file of {size >> 20} MiB"
    return {
        "disk_write": (size / written, f"{of}, flushed"),
        "disk_read": (size / read, f"{of}, dropped from memory before"),
    }
