"""Records that can't be used. They are skipped and counted by reason, up to the share that the config
sets.
"""

import json
import logging
from collections import Counter
from typing import Any

from crossdiff.errors import UserError

log = logging.getLogger(__name__)

EXAMPLES = 3  # kept of each reason
SHORTENED = 100  # characters of an example
HOPELESS = 200  # records: if none of the first ones can be used, reading stops


class Unusable(UserError):
    """A record that can't be used.

    ``reason`` names a kind of mistake, so records with the same mistake share it. ``record`` is what was
    read. ``where`` names the record in the message."""

    def __init__(self, reason: str, record: Any = None, where: str = "") -> None:
        super().__init__(f"{where}: {reason}" if where else reason)
        self.reason, self.record = reason, record


class Tally:
    """Counts of the records that a data set gave to one split."""

    def __init__(self, name: str, limit: float = 1.0, before: tuple[int, int] = (0, 0)) -> None:
        """``name`` is the data set's, for messages. ``limit`` is the share of records that may be skipped.

        ``before`` are the numbers of records and of skipped ones in the shards before this one.
        """
        self.name, self.limit, self.before = name, limit, before
        self.records = 0  # read, those that were skipped included
        self.skipped: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}
        self.notes: Counter[str] = Counter()  # what was changed or not used in records that were read

    def use(self, *notes: str) -> None:
        """Count a record that is used. ``notes`` say what was changed in it."""
        self.records += 1
        self.notes.update(notes)

    def skip(self, number: int, problem: Unusable) -> None:
        """Count the record ``number`` of the stream, which can't be used.

        Raises UserError if nothing at all could be used so far.
        """
        self.records += 1
        self.skipped[problem.reason] += 1
        examples = self.examples.setdefault(problem.reason, [])
        if len(examples) < EXAMPLES:
            examples.append(f"record {number}: {shortened(problem.record)}")
            log.warning("dataset %s: skipped, %s: %s", self.name, problem.reason, examples[-1])
        if self.records == HOPELESS == self.skipped.total():
            self.check()

    def check(self) -> None:
        """Raises UserError with the three most frequent reasons if too many records were skipped."""
        records, skipped = self.so_far()
        if skipped <= self.limit * records:
            return
        reasons = "; ".join(
            f"{count:,} x {reason} ({self.examples[reason][0]})"
            for reason, count in self.skipped.most_common(3)
        )
        raise UserError(
            f"datasets.{self.name}: {skipped:,} of {records:,} records can't be used "
            f"({skipped / records:.2%}), tokens.unusable allows {self.limit:.2%}: {reasons}; "
            "mend the records, read them with another format or field, or raise tokens.unusable"
        )

    def so_far(self) -> tuple[int, int]:
        """Numbers of records and of skipped ones, with those of the shards before."""
        return self.before[0] + self.records, self.before[1] + self.skipped.total()

    def counts(self) -> dict[str, Any]:
        """The counts as plain values, for a shard's metadata: records, skipped, examples and notes."""
        return {
            "records": self.records,
            "skipped": dict(sorted(self.skipped.items())),
            "examples": dict(sorted(self.examples.items())),
            "notes": dict(sorted(self.notes.items())),
        }


def as_text(record: Any) -> str:
    """A record as text that UTF-8 can hold, whatever it is."""
    text = record if isinstance(record, str) else json.dumps(record, ensure_ascii=False, default=str)
    return text.encode("utf-8", "replace").decode("utf-8")


def shortened(record: Any) -> str:
    """The start of a record as one line of text."""
    line = " ".join(as_text(record)[: 4 * SHORTENED].split())
    return line if len(line) <= SHORTENED else line[: SHORTENED - 3] + "..."
