"""The frame around every workflow script: its log file, its record, and one clear line when the user can mend what went wrong."""

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

log = logging.getLogger(__name__)


@contextmanager
def job(snakemake: Any) -> Iterator[Config]:
    """Give the settings that the rule declares, typed; to ask for another is an error. A record is written next to every output.

    Everything that is printed goes to the rule's log. A UserError ends the job with its one line.
    """
    try:
        opened = Path(snakemake.log[0]).open("w", buffering=1)
    except OSError as error:
        raise SystemExit(f"error: {snakemake.log[0]}: can't be written ({error.strerror})") from None
    with opened as file:
        # The descriptors, not only sys.stderr: native libraries print too.
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
            with recording(snakemake):
                yield only(
                    load(snakemake.config), snakemake.params.get("settings", {}).keys(), snakemake.rule
                )
        except UserError as error:
            log.error("error: %s", error)
            raise SystemExit(1) from None
        except OSError as error:
            if told := not_written(error, Path(snakemake.output[0])):
                log.error("error: %s", told)
                raise SystemExit(1) from None
            raise
