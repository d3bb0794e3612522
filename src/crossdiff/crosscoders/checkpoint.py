"""Checkpoints of a training, one file per crosscoder and seed.

A checkpoint is no declared output, because Snakemake deletes the outputs of a failed job.

A lock file next to it names its owner. A SLURM job lives on when Snakemake is killed. That job and the one
that replaces it must never train from the same checkpoint at the same time.
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
STALE_SECONDS = 180.0  # an owner on another host counts as dead after this time without a sign of life


class Checkpoint:
    """The last state of one training. Only a training of the same ``identity`` reads it.

    The identity stands for settings, code and data. As a context manager it first waits until no live owner
    has the lock, then holds the lock. SIGTERM (a cancelled job, the end of a time limit) makes it write a
    last checkpoint and exit. Several may be open at once, one inside the other, and SIGTERM reaches all.
    """

    def __init__(self, file: str | Path, identity: str, every_seconds: float = EVERY_SECONDS) -> None:
        self.file, self.identity, self.every_seconds = Path(file), identity, every_seconds
        self.lock = Lock(self.file.with_suffix(".lock"))
        self.terminated = False
        self.written = time.monotonic()

    def __enter__(self) -> "Checkpoint":
        self.lock.acquire()
        # A killed owner leaves unfinished files under our temporary names and those of safetensors.
        for pattern in (f".{self.file.name}.*", ".tmp*"):
            for unfinished in self.file.parent.glob(pattern):
                unfinished.unlink()
        self.previous_handler = signal.signal(signal.SIGTERM, self._terminate)
        return self

    def __exit__(self, *_error: object) -> None:
        signal.signal(signal.SIGTERM, self.previous_handler)
        self.lock.release()

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        self.terminated = True
        outer = getattr(self.previous_handler, "__self__", None)
        if isinstance(outer, Checkpoint):
            outer._terminate(number, frame)

    def is_due(self) -> bool:
        """Return whether to write now: after SIGTERM, or ``every_seconds`` after the last checkpoint."""
        return self.terminated or time.monotonic() - self.written >= self.every_seconds

    def write(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Replace the last state. Raises SystemExit if SIGTERM has come."""
        metadata = {"identity": self.identity, "values": json.dumps(values)}
        saved = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        with atomic_path(self.file) as temporary:
            save_file(saved, temporary, metadata)
        self.written = time.monotonic()
        if self.terminated:
            log.error("terminated after writing a checkpoint; the next attempt goes on from there")
            raise SystemExit(128 + signal.SIGTERM)

    def read(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return the last state, tensors and plain values, or None if this training can use none."""
        if not self.file.exists():
            return None
        try:
            with safe_open(self.file, "pt") as file:
                metadata = file.metadata()
                if metadata["identity"] != self.identity:
                    log.info("%s has other settings, code or data; starting from the first step", self.file)
                    return None
                return {name: file.get_tensor(name) for name in file.keys()}, json.loads(metadata["values"])
        except SafetensorError as error:
            log.warning("%s is damaged (%s); starting from the first step", self.file, error)
            return None

    def remove(self) -> None:
        """Delete the state, once the outputs of the training are written."""
        self.file.unlink(missing_ok=True)


class Lock:
    """A lock file that works across hosts on a shared file system.

    Its owner touches it every HEARTBEAT_SECONDS. A dead owner's lock is taken over.
    """

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
        """Take the lock. Waits while a live owner has it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        told = False
        while not self._create():
            found = self._read()
            if found is None:
                continue  # it was released just now
            if self._is_dead(found):
                self._set_aside(found)
                continue
            if not told:
                job = f", SLURM job {found['slurm_job']}" if found["slurm_job"] else ""
                owner = f"process {found['pid']} on {found['host']}{job}"
                log.info("%s: %s holds it; waiting", self.path, owner)
                told = True
            time.sleep(poll_seconds)
        threading.Thread(target=self._keep_alive, daemon=True).start()

    def is_held(self) -> bool:
        """Return whether a live owner has the lock."""
        return (found := self._read()) is not None and not self._is_dead(found)

    def release(self) -> None:
        """Give the lock back, unless another owner took it over."""
        self.released.set()
        if (found := self._read()) is not None and found["token"] == self.owner["token"]:
            self.path.unlink()

    def _create(self) -> bool:
        # A hard link appears whole or not at all, so nobody reads half an owner.
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
        """Remove a dead owner's lock. If another waiter has replaced it meanwhile, put that one back."""
        aside = self.path.with_name(f".{self.path.name}.{uuid.uuid4().hex}")
        try:
            self.path.rename(aside)
        except FileNotFoundError:
            return
        moved = json.loads(aside.read_text())
        if moved["token"] != dead["token"]:
            os.link(aside, self.path)
        else:
            owner = f"process {dead['pid']} on {dead['host']}"
            log.info("%s: its owner, %s, is dead; taking over", self.path, owner)
        aside.unlink()

    def _keep_alive(self) -> None:
        while not self.released.wait(HEARTBEAT_SECONDS):
            if self.path.exists():
                os.utime(self.path)
