"""Checkpoints of a training, kept outside the declared outputs: Snakemake deletes those of a failed job.

One file per crosscoder and seed. A lock beside it names its owner: a SLURM job lives on when Snakemake is killed, and it and the job that
takes its place must never train from one checkpoint at the same time.
"""

import json
import logging
import os
import signal
import socket
import threading
import time
import uuid
from pathlib import Path
from types import FrameType
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from crossdiff.provenance.storage import atomic_path

log = logging.getLogger(__name__)

EVERY_SECONDS = 300.0
HEARTBEAT_SECONDS = 20.0
STALE_SECONDS = 180.0  # an owner on another host that gave no sign of life for so long is dead


class Checkpoint:
    """The last state of one training, for a training of the same ``identity`` (settings, code and data) only.

    As a context manager it holds the lock, waiting for a live owner to finish, and turns SIGTERM (a cancelled job, the end of a time limit)
    into a last checkpoint and an exit.
    """

    def __init__(self, file: str | Path, identity: str, every_seconds: float = EVERY_SECONDS) -> None:
        self.file, self.identity, self.every_seconds = Path(file), identity, every_seconds
        self.lock = Lock(self.file.with_suffix(".lock"))
        self.terminated = False
        self.written = time.monotonic()

    def __enter__(self) -> "Checkpoint":
        self.lock.acquire()
        for pattern in (
            f".{self.file.name}.*",
            ".tmp*",
        ):  # what a killed owner was writing, under our and safetensors' temporary names
            for unfinished in self.file.parent.glob(pattern):
                unfinished.unlink()
        self.previous_handler = signal.signal(signal.SIGTERM, self._terminate)
        return self

    def __exit__(self, *_error: object) -> None:
        signal.signal(signal.SIGTERM, self.previous_handler)
        self.lock.release()

    def _terminate(self, _signal: int, _frame: FrameType | None) -> None:
        self.terminated = True

    def is_due(self) -> bool:
        return self.terminated or time.monotonic() - self.written >= self.every_seconds

    def write(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Replace the last state. Ends the process if it was asked to terminate."""
        metadata = {"identity": self.identity, "values": json.dumps(values)}
        with atomic_path(self.file) as temporary:
            save_file(
                {name: value.detach().cpu().contiguous() for name, value in tensors.items()},
                temporary,
                metadata,
            )
        self.written = time.monotonic()
        if self.terminated:
            log.error("terminated; the next attempt goes on from here")
            raise SystemExit(128 + signal.SIGTERM)

    def read(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The last state; None if there is none, or one of another training."""
        if not self.file.exists():
            return None
        try:
            with safe_open(self.file, "pt") as file:
                metadata = file.metadata()
                if metadata["identity"] != self.identity:
                    log.info("%s is of other settings, code or data: starting anew", self.file)
                    return None
                return {name: file.get_tensor(name) for name in file.keys()}, json.loads(metadata["values"])
        except SafetensorError as error:
            log.warning("%s is damaged (%s): starting anew", self.file, error)
            return None

    def remove(self) -> None:
        """Delete the state: the training's outputs are written."""
        self.file.unlink(missing_ok=True)


class Lock:
    """A lock file that works across hosts on a shared file system: kept alive by its owner, taken over when its owner is dead."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.owner = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "slurm_job": os.environ.get("SLURM_JOB_ID"),
            "token": uuid.uuid4().hex,
        }
        self.released = threading.Event()

    def acquire(self, poll_seconds: float = 2.0) -> None:
        """Take the lock; wait while a live owner has it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        told = False
        while not self._create():
            found = self._read()
            if found is None:
                continue  # released just now
            if self._is_dead(found):
                self._set_aside(found)
                continue
            if not told:
                job = f", SLURM job {found['slurm_job']}" if found["slurm_job"] else ""
                log.info(
                    "%s: held by process %s on %s%s; waiting for it",
                    self.path,
                    found["pid"],
                    found["host"],
                    job,
                )
                told = True
            time.sleep(poll_seconds)
        threading.Thread(target=self._keep_alive, daemon=True).start()

    def release(self) -> None:
        """Give the lock back, unless another took it over."""
        self.released.set()
        if (found := self._read()) is not None and found["token"] == self.owner["token"]:
            self.path.unlink()

    def _create(self) -> bool:
        # A hard link appears whole or not at all: nobody reads half an owner.
        temporary = self.path.with_name(f".{self.path.name}.{self.owner['token']}")
        temporary.write_text(json.dumps(self.owner))
        try:
            os.link(temporary, self.path)
            return True
        except FileExistsError:
            return False
        finally:
            temporary.unlink()

    def _read(self) -> dict[str, Any] | None:
        try:
            return json.loads(self.path.read_text())
        except FileNotFoundError:
            return None

    def _is_dead(self, owner: dict[str, Any]) -> bool:
        if owner["host"] == self.owner["host"]:
            return not Path(f"/proc/{owner['pid']}").exists()
        try:
            return time.time() - self.path.stat().st_mtime > STALE_SECONDS
        except FileNotFoundError:
            return False

    def _set_aside(self, dead: dict[str, Any]) -> None:
        """Remove a dead owner's lock, and only that: another waiter may have replaced it in the meantime."""
        aside = self.path.with_name(f".{self.path.name}.{uuid.uuid4().hex}")
        try:
            self.path.rename(aside)
        except FileNotFoundError:
            return
        moved = json.loads(aside.read_text())
        if moved["token"] != dead["token"]:
            os.link(aside, self.path)
        else:
            log.info(
                "%s: its owner, process %s on %s, is dead; taking over", self.path, dead["pid"], dead["host"]
            )
        aside.unlink()

    def _keep_alive(self) -> None:
        while not self.released.wait(HEARTBEAT_SECONDS):
            if self.path.exists():
                os.utime(self.path)
