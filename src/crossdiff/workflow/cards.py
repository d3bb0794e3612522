"""How fast a card works: its record in data/cards, and the seconds that the work of a rule takes by it. Torch-free.

What a record lacks is estimated: from bytes and operations, at a share of the card's own rates.
"""

import json
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

from crossdiff.errors import UserError, first_line
from crossdiff.provenance.storage import atomic_path
from crossdiff.workflow.shipped import shipped
from crossdiff.workflow.sizes import ADAM_BYTES, Need, Work

CARDS = Path("data/cards")
FORMAT = 1
NO_PART_OF_A_NAME = re.compile(r"nvidia|tesla|geforce|quadro|\d+gb|hbm\d\w*")

# What a record's "measured" holds: rates of the card itself, which must be there, and what our code reaches on it; each in its unit.
OF_CARD = (
    "product",
    "copy",
)  # FLOP/s in a bfloat16 product, bytes/s read and written by a copy in the device's memory
OF_CODE = ("forward", "encode")  # FLOP/s
# In place of what was not measured, on a GPU and on a CPU. First shares of the bound by products and bytes; "step" is of any loss.
SHARES = {"forward": (0.4, 0.6), "encode": (0.2, 0.4), "generate": (0.2, 0.3), "step": (0.4, 0.6)}
USUAL = {
    "harvest": (0.7, 0.9),  # a harvest job over its forward pass, in tokens per second
    "training": (0.9, 1.0),  # training with data from disk over steps alone, in tokens per second
    "scaling": (2.0, 1.4),  # latent scaling over encoding, in time
    "cache_write": (2e8, 1.4e8),  # bytes/s of a core: activations compressed and written,
    "cache_read": (3e8, 3e8),  # read in order,
    "pairs": (1e8, 1e8),  # read of both models, shuffled
    "load": (1e9, 1e9),  # bytes/s of a model read into the device
    "disk_write": (1e9, 1e9),  # bytes/s of a file
    "disk_read": (1e9, 1e9),
    "start": (6.0, 3.0),  # seconds until a job works
}
MEASURED = (*OF_CARD, *OF_CODE, *USUAL)
HOST_FLOPS = 2e10  # of a core, for what no device does


class Card(NamedTuple):
    """A record, and how it is called."""

    name: str
    record: dict[str, Any]

    def rate(self, key: str) -> float:
        """What was measured, else what is usual."""
        return self._measured(key) or USUAL[key][self._is_cpu]

    def _measured(self, key: str) -> float | None:
        return (self.record["measured"].get(key) or {}).get("value")

    @property
    def _is_cpu(self) -> bool:
        return self.record["architecture"] == "cpu"

    @property
    def memory(self) -> float | None:
        """Bytes of the device; None for a CPU, and where it is not known."""
        return self.record.get("memory")

    def bound(self, flop: float, moved: float) -> float:
        """Seconds of a product and of moving bytes, one after the other, at the card's own rates."""
        return flop / self.rate("product") + moved / self.rate("copy")

    def share(self, kind: str, size: float = 1) -> float:
        """Of the bound by products and bytes, what work of this kind reaches; a training step by the measured one next in ``size``."""
        if kind in OF_CODE and (found := self._measured(kind)):
            return found / self.rate("product")
        if not (steps := self._steps(kind)):
            return SHARES.get(kind, SHARES["step"])[self._is_cpu]
        step = min(steps, key=lambda one: abs(math.log(one["d_model"] * one["latents"] / size)))
        return self.bound(*step_work(step["d_model"], step["latents"], step["batch"])) / step["seconds"]

    def _steps(self, loss: str) -> list[dict[str, Any]]:
        """Measured steps of a loss without dead latents."""
        return [step for step in self.record["steps"] if step["loss"] == loss and not step.get("dead")]

    def seconds(self, need: Need) -> float:
        """Of all jobs of a rule, one after another: the device's work, or the data's way if that is longer; and the start of each."""
        cores = self.record["cores"]
        device = sum(map(self._work, need.works))
        if need.written:
            device /= self.rate("harvest")
        if need.pairs:
            device /= self.rate("training")
        data = (
            need.written / min(self.rate("cache_write") * cores, self.rate("disk_write")),
            need.read / min(self.rate("cache_read") * cores, self.rate("disk_read")),
            need.pairs / min(self.rate("pairs") * cores, self.rate("disk_read")),
        )
        return need.jobs * self.rate("start") + need.loads / self.rate("load") + max(device, *data)

    def hours(self, *needs: Need) -> float:
        """Of these rules together."""
        return sum(map(self.seconds, needs)) / 3600

    def _work(self, work: Work) -> float:
        if work.kind == "host":
            return work.flop / HOST_FLOPS / self.record["cores"]
        slower, kind = (self.rate("scaling"), "encode") if work.kind == "scale" else (1, work.kind)
        return slower * self.bound(work.flop, work.moved) / self.share(kind, work.size)

    def told(self, needs: dict[str, Need]) -> list[str]:
        """Lines that say what the hours rest on: the card's rates, and what was not measured on it."""
        record = self.record
        rates = f"{self.rate('product'):.2g} FLOP/s in products, {self.rate('copy'):.2g} bytes/s copied"
        lines = [
            f"Hours: one job after another on {record['card']} ({rates}) with {record['cores']} CPU cores."
        ]
        kinds = sorted(
            {
                "encode" if work.kind == "scale" else work.kind
                for need in needs.values()
                for work in need.works
            }
            - {"host"}
        )
        if guessed := [kind for kind in kinds if not (self._measured(kind) or self._steps(kind))]:
            named = ", ".join(f"{kind} {self.share(kind):.0%}" for kind in guessed)
            lines.append(
                f"Not measured on this card: {named}; estimated from bytes and FLOP at so much of these rates."
            )
        if usual := [key for key in USUAL if not self._measured(key)]:
            lines.append(
                f"Taken as usual, not measured: {', '.join(f'{key} {_told(self.rate(key))}' for key in usual)}."
            )
        return lines


def _told(rate: float) -> str:
    return f"{rate / 1e9:g} GB/s" if rate > 1e6 else f"{rate:g}"


def step_work(d_model: int, latents: int, batch: int) -> tuple[float, float]:
    """FLOP and bytes of a training step: the encoder's product, and what Adam moves for every parameter of both models."""
    return 2.0 * batch * 2 * d_model * latents, 4.0 * d_model * latents * ADAM_BYTES


def card_name(device: str) -> str:
    """Of a card's record, from what torch calls the device: "NVIDIA H100 80GB HBM3" is h100, "NVIDIA A100-SXM4-80GB" a100-sxm4."""
    return "-".join(
        word for word in re.findall(r"[a-z0-9]+", device.lower()) if not NO_PART_OF_A_NAME.fullmatch(word)
    )


def find_card(named: str, root: Path) -> Card:
    """By the name of a record in data/cards, or by a file. Raises UserError for one that is not there."""
    if Path(named).suffix == ".json":
        return read_card(Path(named))
    cards = shipped(CARDS, root)
    path = cards / f"{named.lower()}.json"
    if not path.exists():
        known = ", ".join(sorted(file.stem for file in cards.glob("*.json")))
        raise UserError(
            f"--card: found {named}, allowed: {known}, or a file that crossdiff plan --calibrate FILE.json wrote on the card"
        )
    return read_card(path)


def read_card(path: Path) -> Card:
    """A record. Raises UserError where it can't be read or is not of this format: the key, what was found, what is allowed."""
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: can't be read as the record of a card ({first_line(error)})") from None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        found = record.get("format") if isinstance(record, dict) else type(record).__name__
        raise UserError(
            f"{path}: format: found {found}, allowed: {FORMAT}; measure the card anew with crossdiff plan --calibrate FILE.json"
        )
    for key, problem in _problems(record):
        raise UserError(f"{path}: {key}: {problem}")
    return Card(path.stem, record)


def _problems(record: dict[str, Any]) -> list[tuple[str, str]]:
    """(key, what is wrong with it)."""
    problems = [
        (key, f"found {record.get(key)!r}, allowed: text")
        for key in ("card", "architecture")
        if not _is(record.get(key), str)
    ]
    if not _positive(record.get("cores")):
        problems.append(("cores", f"found {record.get('cores')!r}, allowed: a number above 0"))
    measured, steps = record.get("measured"), record.get("steps")
    if not _is(measured, dict) or not _is(steps, list):
        return [
            *problems,
            ("measured, steps", "allowed: an object of measurements and a list of training steps"),
        ]
    for key in MEASURED:
        entry = measured.get(key)
        value = entry.get("value") if _is(entry, dict) else entry
        needed = key in OF_CARD
        if not _positive(value) and (needed or value is not None):
            problems.append(
                (
                    f"measured.{key}.value",
                    f"found {value!r}, allowed: a number above 0{'' if needed else ' or null'}",
                )
            )
    for number, step in enumerate(steps):
        for key in ("d_model", "latents", "batch", "seconds"):
            if not _is(step, dict) or not _positive(step.get(key)):
                problems.append((f"steps.{number}.{key}", "allowed: a number above 0"))
    return problems


def _is(value: Any, kind: type) -> bool:
    return isinstance(value, kind)


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def write_card(path: Path, record: dict[str, Any]) -> None:
    """Raises UserError for a record that ``read_card`` would refuse."""
    for key, problem in _problems(record):
        raise UserError(f"{path}: {key}: {problem}")
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps({"format": FORMAT} | record, indent=1) + "\n")
