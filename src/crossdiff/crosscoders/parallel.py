"""A training on several GPUs of one node.

torchrun starts one process per GPU. The processes make every step and leave a checkpoint. The job itself then
resumes from that checkpoint with no step left to make, and writes the outputs.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from crossdiff.activations.pairs import PairedActivations
from crossdiff.config import CrosscoderSettings, crosscoder_settings
from crossdiff.crosscoders import ranks
from crossdiff.crosscoders.checkpoint import Checkpoint
from crossdiff.crosscoders.trainer import Training
from crossdiff.device import device, keep_freed_memory
from crossdiff.errors import UserError

log = logging.getLogger(__name__)

# Rank 0 may wait for another job's lock. torchrun notices if a rank dies.
PATIENCE = timedelta(days=30)


def train_on_ranks(
    processes: int,
    inputs: Mapping[str, Any],
    settings: CrosscoderSettings,
    seed: int,
    state: Path,
    identity: str,
    training_log: str,
) -> None:
    """Run a training up to its last step in ``processes`` processes. The checkpoint is then in ``state``.

    ``inputs`` are paths as ``PairedActivations.of`` takes them. SIGTERM is passed on to the processes. Raises
    UserError if ``processes`` does not divide the batch, if there are fewer GPUs, or if the training fails.
    """
    if settings.batch % processes:
        raise UserError(
            f"crosscoders: batch: found {settings.batch}, "
            f"allowed on {processes} GPUs: multiples of {processes}"
        )
    if 0 < torch.cuda.device_count() < processes:
        raise UserError(
            f"train_crosscoder: its resources ask for {processes} GPUs, "
            f"allowed here: up to {torch.cuda.device_count()}"
        )
    paths = {name: list(inputs[name]) for name in ("tokens", "base", "chat")}
    paths["summary"] = inputs["summary"]
    job = {
        "inputs": paths,
        "settings": settings.model_dump(mode="json"),
        "seed": seed,
        "state": str(state),
        "identity": identity,
        "training_log": training_log,
    }
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, torch.get_num_threads() // processes))
    log.info("training in %d processes", processes)
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(job, file)
        file.flush()
        torchrun = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command = [sys.executable, "-m", *torchrun, "-m", __name__, file.name]
        running = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": threads})
        before = signal.signal(signal.SIGTERM, lambda *_: running.terminate())
        try:
            failed = running.wait()
        finally:
            signal.signal(signal.SIGTERM, before)
    if failed:
        raise UserError(
            f"train_crosscoder: one of {processes} processes ended early; its messages stand above"
        )


def _work(
    inputs: Mapping[str, Any],
    settings: dict[str, Any],
    seed: int,
    state: str,
    identity: str,
    training_log: str,
) -> None:
    """Train in one of the processes. Only rank 0 holds the lock and writes."""
    first, checkpoint = ranks.rank() == 0, Checkpoint(state, identity)
    where = device()  # it also keeps this process within gpus.memory
    if where.type == "cuda":
        where = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    keep_freed_memory()
    with checkpoint if first else nullcontext():
        activations, grows = PairedActivations.of(inputs), Path(training_log) if first else None
        training = Training(activations, crosscoder_settings(settings), seed, where, grows)
        dist.barrier()  # rank 0 holds the lock now, so the checkpoint stays as it is while all ranks read it
        training.resume(checkpoint)
        training.run(activations, checkpoint if first else None)
        if first:
            checkpoint.write(*training.state())


def main(job: str) -> None:
    """Run one of the processes. ``job`` is a JSON file with the arguments of ``_work``."""
    first = os.environ["RANK"] == "0"
    if not first:  # rank 0 needs the others to finish its step and write a last checkpoint
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
    level = logging.INFO if first else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    try:
        _work(**json.loads(Path(job).read_text()))
    except UserError as error:
        log.error("error: %s", error)
        raise SystemExit(1) from None
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
