"""Time several things in turn, so that a machine whose speed drifts slows all of them alike.

Only ratios inside one run mean anything.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def wait() -> None:
    """Wait until a GPU has done all that was queued."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def queued(thing: Callable[[], object], calls: int, rounds: int = 3) -> float:
    """Give the median seconds of one of several calls, between which a GPU does not wait for the host.

    The steps of a training follow each other like that.
    """
    seconds = []
    for number in range(rounds + 1):  # the first round is not counted
        wait()
        start = time.perf_counter()
        for _ in range(calls):
            thing()
        wait()
        if number:
            seconds.append((time.perf_counter() - start) / calls)
    return statistics.median(seconds)


def in_turn(things: Mapping[str, Callable[[], object]], rounds: int, uncounted: int = 1) -> dict[str, float]:
    """Give {name: median seconds} over ``rounds``, after ``uncounted`` rounds."""
    seconds: dict[str, list[float]] = {name: [] for name in things}
    for number in range(rounds + uncounted):
        for name, thing in things.items():
            wait()
            start = time.perf_counter()
            thing()
            wait()
            if number >= uncounted:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def show(rows: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """Print a table with a column per key, or the same as JSON."""
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    table = [list(rows[0])] + [
        [f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()] for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        print(
            "  ".join(
                cell.rjust(width) if i else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
        )
