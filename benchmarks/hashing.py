"""Hash a large file from the page cache: the tree hash with 1, 2 and all threads against a serial SHA-256.

.venv/bin/python benchmarks/hashing.py [--gigabytes N] [--rounds N] [--json]

The file is made in the folder for temporary files, and removed.
"""

import argparse
import os
import tempfile
from pathlib import Path

from turns import in_turn, show

from crossdiff.provenance.hashing import PART, content, file_sha256


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gigabytes", type=float, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    length = int(arguments.gigabytes * 1e9)
    with tempfile.NamedTemporaryFile() as file:
        while (left := length - file.tell()) > 0:
            file.write(os.urandom(min(left, PART)))
        file.flush()
        path = Path(file.name)
        threads = sorted({1, 2, len(os.sched_getaffinity(0))})
        things = {"plain": lambda: file_sha256(path)}
        things |= {
            f"tree, threads: {number}": lambda number=number: content(path, threads=number)
            for number in threads
        }
        seconds = in_turn(things, arguments.rounds)
    rows = [
        {"hash": name, "seconds": took, "GB/s": length / took / 1e9, "plain / this": seconds["plain"] / took}
        for name, took in seconds.items()
    ]
    show(rows, arguments.json)


if __name__ == "__main__":
    main()
