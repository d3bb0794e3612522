"""A card's record in data/cards tells how fast it works, and so how long a rule takes. Torch-free.

What a record lacks is estimated from bytes and operations, at a share of the card's own rates.
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

# A record's "measured" holds rates of the card itself, which are required, and what our code reaches on it.
# The card's: FLOP/s in a bfloat16 product, and bytes/s that a copy in the device's memory reads and writes.
OF_CARD = ("product", "copy")
OF_CODE = ("forward", "encode")  # FLOP/s
# Values for what was not measured, on a GPU and on a CPU.
# Shares of the bound by products and bytes that each kind of work reaches; "step" is for any loss.
SHARES = {"forward": (0.4, 0.6), "encode": (0.2, 0.4), "generate": (0.2, 0.3), "step": (0.4, 0.6)}
USUAL = {
    "harvest": (0.7, 0.9),  # tokens/s of a harvest job, as a share of its forward pass alone
    "training": (0.9, 1.0),  # tokens/s of a training with data from disk, as a share of its steps alone
    "scaling": (2.0, 1.4),  # time of latent scaling, as a multiple of encoding
    "cache_write": (2e8, 1.4e8),  # bytes/s per core: activations are compressed and written
    "cache_read": (3e8, 3e8),  # bytes/s per core: activations are read in order
    "pairs": (1e8, 1e8),  # bytes/s per core: activations of both models are read, shuffled
    "load": (1e9, 1e9),  # bytes/s of a model that is read into the device
    "disk_write": (1e9, 1e9),  # bytes/s of a file
    "disk_read": (1e9, 1e9),  # bytes/s of a file
    "start": (6.0, 3.0),  # seconds until a job works
}
MEASURED = (*OF_CARD, *OF_CODE, *USUAL)
HOST_FLOPS = 2e10  # FLOP/s of a core, for work that no device does


class Card(NamedTuple):
    """A card's name and record."""

    name: str
    record: dict[str, Any]

    def rate(self, key: str) -> float:
        """Return the measured rate, or the usual one if it was not measured."""
        return self._measured(key) or USUAL[key][self._is_cpu]

    def _measured(self, key: str) -> float | None:
        return (self.record["measured"].get(key) or {}).get("value")

    @property
    def _is_cpu(self) -> bool:
        return self.record["architecture"] == "cpu"

    @property
    def memory(self) -> float | None:
        """Bytes of the device's memory. None for a CPU, or if they are not known."""
        return self.record.get("memory")

    def bound(self, flop: float, moved: float) -> float:
        """Return the seconds of a product and then of moving bytes, at the card's own rates."""
        return flop / self.rate("product") + moved / self.rate("copy")

    def share(self, kind: str, size: float = 1) -> float:
        """Return the share of the bound by products and bytes that work of this kind reaches.

        For a training step it is the share of the measured step that is nearest in ``size``.
        """
        if kind in OF_CODE and (found := self._measured(kind)):
            return found / self.rate("product")
        if not (steps := self._steps(kind)):
            return SHARES.get(kind, SHARES["step"])[self._is_cpu]
        step = min(steps, key=lambda one: abs(math.log(one["d_model"] * one["latents"] / size)))
        return self.bound(*step_work(step["d_model"], step["latents"], step["batch"])) / step["seconds"]

    def _steps(self, loss: str) -> list[dict[str, Any]]:
        """Return the measured training steps of a loss, without those that had dead latents."""
        return [step for step in self.record["steps"] if step["loss"] == loss and not step.get("dead")]

    def seconds(self, need: Need) -> float:
        """Return the seconds of all jobs of a rule, one after another.

        Each job takes its start and its loading, then the longest of: the device's work, writing, reading.
        """
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
        """Return the hours that these rules take together."""
        return sum(map(self.seconds, needs)) / 3600

    def _work(self, work: Work) -> float:
        if work.kind == "host":
            return work.flop / HOST_FLOPS / self.record["cores"]
        slower, kind = (self.rate("scaling"), "encode") if work.kind == "scale" else (1, work.kind)
        return slower * self.bound(work.flop, work.moved) / self.share(kind, work.size)

    def told(self, needs: dict[str, Need]) -> list[str]:
        """Return lines that say what the hours rest on: the card's rates, and what was not measured on it."""
        record = self.record
        rates = f"{self.rate('product'):.2g} FLOP/s in products, {self.rate('copy'):.2g} bytes/s copied"
        machine = f"{record['card']} ({rates}) with {record['cores']} CPU cores"
        lines = [f"Hours are for work on {machine}."]
        every = {work.kind for need in needs.values() for work in need.works} - {"host"}
        kinds = sorted({"encode" if kind == "scale" else kind for kind in every})
        if guessed := [kind for kind in kinds if not (self._measured(kind) or self._steps(kind))]:
            named = ", ".join(f"{kind} {self.share(kind):.0%}" for kind in guessed)
            lines.append(
                f"Not measured on this card: {named}; the forecast assumes these shares of the rates above."
            )
        if usual := [f"{key} {_told(self.rate(key))}" for key in USUAL if not self._measured(key)]:
            lines.append(f"Not measured, so usual values are taken: {', '.join(usual)}.")
        return lines


def _told(rate: float) -> str:
    return f"{rate / 1e9:g} GB/s" if rate > 1e6 else f"{rate:g}"


def step_work(d_model: int, latents: int, batch: int) -> tuple[float, float]:
    """Return FLOP and bytes of a training step.

    FLOP count the encoder's product. Bytes are what Adam moves for every parameter of both models.
    """
    return 2.0 * batch * 2 * d_model * latents, 4.0 * d_model * latents * ADAM_BYTES


def card_name(device: str) -> str:
    """Return the name of a card's record from torch's name of the device.

    "NVIDIA H100 80GB HBM3" becomes h100, "NVIDIA A100-SXM4-80GB" becomes a100-sxm4.
    """
    words = re.findall(r"[a-z0-9]+", device.lower())
    return "-".join(word for word in words if not NO_PART_OF_A_NAME.fullmatch(word))


def find_card(named: str, root: Path) -> Card:
    """Read a card by its name in data/cards or by a file. Raises UserError if there is none."""
    if Path(named).suffix == ".json":
        return read_card(Path(named))
    cards = shipped(CARDS, root)
    path = cards / f"{named.lower()}.json"
    if not path.exists():
        known = ", ".join(sorted(file.stem for file in cards.glob("*.json")))
        raise UserError(
            f"--card: found {named}, allowed: {known}, "
            "or a file that crossdiff plan --calibrate FILE.json wrote on the card"
        )
    return read_card(path)


def read_card(path: Path) -> Card:
    """Read a card's record. Raises UserError if it can't be read or is not of this format."""
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: can't be read as the record of a card ({first_line(error)})") from None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        found = record.get("format") if isinstance(record, dict) else type(record).__name__
        raise UserError(
            f"{path}: format: found {found}, allowed: {FORMAT}; "
            "measure the card again with crossdiff plan --calibrate FILE.json"
        )
    for key, problem in _problems(record):
        raise UserError(f"{path}: {key}: {problem}")
    return Card(path.stem, record)


def _problems(record: dict[str, Any]) -> list[tuple[str, str]]:
    """Return (key, what is wrong with it) for every problem of a record."""
    problems = [
        (key, f"found {record.get(key)!r}, allowed: text")
        for key in ("card", "architecture")
        if not isinstance(record.get(key), str)
    ]
    if not _positive(record.get("cores")):
        problems.append(("cores", f"found {record.get('cores')!r}, allowed: a number above 0"))
    measured, steps = record.get("measured"), record.get("steps")
    if not isinstance(measured, dict) or not isinstance(steps, list):
        allowed = "allowed: an object of measurements and a list of training steps"
        return [*problems, ("measured, steps", allowed)]
    for key in MEASURED:
        entry = measured.get(key)
        value = entry.get("value") if isinstance(entry, dict) else entry
        needed = key in OF_CARD
        if not _positive(value) and (needed or value is not None):
            allowed = f"allowed: a number above 0{'' if needed else ' or null'}"
            problems.append((f"measured.{key}.value", f"found {value!r}, {allowed}"))
    for number, step in enumerate(steps):
        for key in ("d_model", "latents", "batch", "seconds"):
            if not isinstance(step, dict) or not _positive(step.get(key)):
                problems.append((f"steps.{number}.{key}", "allowed: a number above 0"))
    return problems


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def write_card(path: Path, record: dict[str, Any]) -> None:
    """Write a card's record. Raises UserError for a record that ``read_card`` would refuse."""
    for key, problem in _problems(record):
        raise UserError(f"{path}: {key}: {problem}")
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps({"format": FORMAT} | record, indent=1) + "\n")
