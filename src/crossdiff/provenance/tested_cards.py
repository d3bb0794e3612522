"""The GPUs on which the kernels passed their tests, from the records in data/cards.

`make test-gpu` writes these records. Torch-free.
"""

import json
from pathlib import Path

from crossdiff.errors import UserError, first_line
from crossdiff.provenance.code import ROOT

CARDS = ROOT / "data/cards"


def proven_architectures(folder: Path = CARDS) -> frozenset[str]:
    """Architectures such as "sm_90" for which a card's record says that all tests of the kernels passed.

    Raises UserError for a record that can't be read.
    """
    found = set()
    for path in folder.glob("*.json"):
        try:
            record = json.loads(path.read_text())
            kernels, architecture = record["kernels"], record["architecture"]
            if kernels and kernels["tests"] and not kernels["failed"]:
                found.add(architecture)
        except (OSError, ValueError, KeyError, TypeError) as error:
            problem = f"can't be read as the record of a card ({first_line(error)})"
            raise UserError(f"{path}: {problem}; make test-gpu writes one") from None
    return frozenset(found)
