"""Records that can't be used. They are skipped and counted by reason, up to the share that the config
sets.
"""

import json
import logging
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from crossdiff.errors import UserError

log = logging.getLogger(__name__)

EXAMPLES = 3  # kept of each reason
SHORTENED = 100  # characters of an example
HOPELESS = 200  # records: if none of the first ones can be used, reading stops
STANDARD_ERRORS = 2  # by which the share so far may be above the limit: few records say little


class Unusable(UserError):
    """A record that can't be used.

    ``reason`` names a kind of mistake, so records with the same mistake share it. ``record`` is what was
    read. ``where`` names the record in the message."""

    def __init__(self, reason: str, record: Any = None, where: str = "") -> None:
        super().__init__(f"{where}: {reason}" if where else reason)
        self.reason, self.record = reason, record


class Tally:
    """Counts of the records that a data set gave to one split."""

    def __init__(self, name: str, limit: float = 1.0, before: Mapping[str, Any] | None = None) -> None:
        """``name`` is the data set's, for messages. ``limit`` is the share of records that may be skipped.

        ``before`` is what ``so_far`` gave for the shard before this one.
        """
        self.name, self.limit = name, limit
        self.before = before or {"records": 0, "skipped": {}, "examples": {}}
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
        """Raises UserError with the three most frequent reasons if too many records were skipped.

        Those are all records that were read, or a share above the limit that is too large for chance. With n
        records and limit p, the number of skipped ones has the standard error sqrt(n p (1 - p)).
        """
        so_far = self.so_far()
        records, skipped = so_far["records"], sum(so_far["skipped"].values())
        chance = STANDARD_ERRORS * math.sqrt(records * self.limit * (1 - self.limit))
        if not skipped or (skipped < records and skipped <= self.limit * records + chance):
            return
        allows, more = "", ""
        if skipped < records:
            allows, more = f", tokens.unusable allows {self.limit:.2%}", ", or raise tokens.unusable"
        raise UserError(
            f"datasets.{self.name}: {self.told()} ({skipped / records:.2%}){allows}: {self.reasons()}; "
            f"mend the records, read them with another format or field{more}"
        )

    def told(self) -> str:
        """How many records can't be used, of all that were read so far. Empty if all can be used."""
        so_far = self.so_far()
        skipped = sum(so_far["skipped"].values())
        return f"{skipped:,} of {so_far['records']:,} records can't be used" if skipped else ""

    def reasons(self) -> str:
        """The three most frequent reasons so far, with an example each."""
        so_far = self.so_far()
        return "; ".join(
            f"{count:,} x {reason} ({so_far['examples'][reason]})"
            for reason, count in Counter(so_far["skipped"]).most_common(3)
        )

    def so_far(self) -> dict[str, Any]:
        """Number of records, skipped ones by reason and one example each, with the shards before."""
        examples = {reason: found[0] for reason, found in self.examples.items()}
        return {
            "records": self.before["records"] + self.records,
            "skipped": dict(sorted((Counter(self.before["skipped"]) + self.skipped).items())),
            "examples": dict(sorted((examples | self.before["examples"]).items())),
        }

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
