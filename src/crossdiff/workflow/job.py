"""The frame around every workflow script gives it a log file, a record, and one line for each UserError."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from crossdiff.config import Config, load
from crossdiff.config.declared import only
from crossdiff.errors import UserError
from crossdiff.provenance.parts import parts_of
from crossdiff.provenance.recording import recording
from crossdiff.provenance.storage import not_written
from crossdiff.workflow.gpu_claims import claim
from crossdiff.workflow.machine_gpus import ON_GPU
from crossdiff.workflow.running import running

log = logging.getLogger(__name__)


@contextmanager
def job(snakemake: Any) -> Iterator[Config]:
    """Give the settings that the rule declares, typed. To ask for another setting is an error.

    A record is written next to every output. ``crossdiff watch`` shows the job until it ends. Everything that
    is printed goes to the rule's log. A UserError ends the job with its one line. Where a machine has several
    GPUs, the job sees the ones that it has claimed (``gpu_claims``).
    """
    with jobs(snakemake) as [settings]:
        yield settings


@contextmanager
def jobs(snakemake: Any) -> Iterator[list[Config]]:
    """Do the same for a job that may stand for several (``provenance.parts``). Give the settings of each."""
    try:
        opened = Path(snakemake.log[0]).open("w", buffering=1)
    except OSError as error:
        raise SystemExit(f"error: {snakemake.log[0]}: can't be written ({error.strerror})") from None
    with opened as file:
        # Redirect the descriptors, not only sys.stderr, because native libraries print too.
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        logging.basicConfig(
            level=logging.INFO,
            format="%(asctime)s %(message)s",
            datefmt="%H:%M:%S",
            stream=sys.stderr,
            force=True,
        )
        try:
            gpus = claim(snakemake.resources.get(ON_GPU, 0))  # before the script uses CUDA
            with running(snakemake, gpus), recording(snakemake):
                config = load(snakemake.config)
                yield [
                    only(config.seen_by(part.wildcards), part.params.get("settings", {}).keys(), part.rule)
                    for part in parts_of(snakemake.rule, snakemake)
                ]
        except UserError as error:
            log.error("error: %s", error)
            raise SystemExit(1) from None
        except OSError as error:
            if told := not_written(error, Path(snakemake.output[0])):
                log.error("error: %s", told)
                raise SystemExit(1) from None
            raise
