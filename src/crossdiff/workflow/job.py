"""The frame around every workflow script: its log file, its record, and one clear line when the user can mend what went wrong."""

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from crossdiff.errors import UserError
from crossdiff.provenance.recording import recording

log = logging.getLogger(__name__)


@contextmanager
def job(snakemake: Any) -> Iterator[Mapping[str, Any]]:
    """Give the rule's settings; everything that is printed goes to the rule's log, and a record is written beside every output.

    A UserError ends the job with its one line.
    """
    with Path(snakemake.log[0]).open("w", buffering=1) as file:
        # The descriptors, not only sys.stderr: native libraries print too.
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr, force=True)
        try:
            with recording(snakemake):
                yield snakemake.params.get("settings", {})
        except UserError as error:
            log.error("error: %s", error)
            raise SystemExit(1) from None
