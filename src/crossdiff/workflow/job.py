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
from crossdiff.provenance.recording import recording
from crossdiff.provenance.storage import not_written
from crossdiff.workflow.running import running

log = logging.getLogger(__name__)


@contextmanager
def job(snakemake: Any) -> Iterator[Config]:
    """Give the settings that the rule declares, typed. To ask for another setting is an error.

    A record is written next to every output. ``crossdiff watch`` shows the job until it ends. Everything that
    is printed goes to the rule's log. A UserError ends the job with its one line.
    """
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
            with running(snakemake), recording(snakemake):
                seen = load(snakemake.config).seen_by(dict(snakemake.wildcards.items()))
                yield only(seen, snakemake.params.get("settings", {}).keys(), snakemake.rule)
        except UserError as error:
            log.error("error: %s", error)
            raise SystemExit(1) from None
        except OSError as error:
            if told := not_written(error, Path(snakemake.output[0])):
                log.error("error: %s", told)
                raise SystemExit(1) from None
            raise
