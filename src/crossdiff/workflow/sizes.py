"""Types of the forecast: the size of a language model, and what the jobs of a rule take."""

from collections.abc import Iterable
from typing import NamedTuple

PROCESS, NO_TORCH = 0.5e9, 0.2e9  # bytes of a Python process with torch, and without
ENTRIES_HELD = 0.3e9  # bytes of a group of active entries in several orders
# Bytes that a training step moves per parameter: it reads and writes the weight and two moments, and it moves
# a gradient and the copy for products.
ADAM_BYTES = 34


class Experts(NamedTuple):
    """The experts of a mixture-of-experts model. In most blocks they take the place of the MLP."""

    number: int
    active: int  # experts that each token passes
    d_mlp: int  # width of one expert
    shared: int = 0  # total width of the experts that every token passes
    dense: frozenset[int] = frozenset()  # blocks that have an ordinary MLP


class Shape(NamedTuple):
    """The sizes of a decoder-only language model."""

    layers: int
    d_model: int
    d_mlp: int
    vocabulary: int
    attention: int  # parameters of one block's attention
    matrices: int = 3  # matrices of an MLP: 3 if it is gated, else 2
    embeddings: int = 1  # 1 if the output embedding is tied to the input embedding, else 2
    positions: int = 0  # positions with a learned vector
    experts: Experts | None = None
    keys: int | None = None  # width of a token's keys in one block, if it is not d_model

    @property
    def mlp_width(self) -> int:
        """Values per token between the matrices of a block's MLP."""
        return self.experts.active * self.experts.d_mlp + self.experts.shared if self.experts else self.d_mlp

    def cache(self, sequences: int, tokens: int) -> int:
        """Bytes of keys and values in bfloat16 for this many sequences of ``tokens`` tokens each."""
        return sequences * tokens * 2 * 2 * self.layers * (self.keys or self.d_model)

    def parameters(self, layers: int | None = None) -> int:
        """All parameters.

        With ``layers``: those of the input embedding and of the first ``layers`` blocks.
        """
        experts = self.experts
        every = experts.number * experts.d_mlp + experts.shared if experts else 0
        tables = (self.embeddings if layers is None else 1) * self.vocabulary + self.positions
        return tables * self.d_model + self._blocks(layers, every)

    def per_token(self, layers: int | None = None) -> int:
        """Parameters that multiply one token: those of all blocks and the output embedding.

        With ``layers``: those of the first ``layers`` blocks.
        """
        head = self.vocabulary * self.d_model if layers is None else 0
        return head + self._blocks(layers, self.mlp_width)

    def _blocks(self, layers: int | None, of_experts: int) -> int:
        """Parameters of the first blocks.

        ``of_experts`` is the MLP width to count in a block with experts.
        """
        number = self.layers if layers is None else layers
        dense = (
            number if self.experts is None else sum(block in self.experts.dense for block in range(number))
        )
        widths = dense * self.d_mlp + (number - dense) * of_experts
        return number * self.attention + self.matrices * self.d_model * widths


class Work(NamedTuple):
    """Work of one kind for a device. A card's record says how fast it does each kind (cards.py)."""

    kind: str  # forward, encode, scale, generate, host, or the name of a loss for its training steps
    flop: float
    moved: float = 0  # bytes that move through the device's memory
    size: float = 0  # d_model * latents of a training step


class Need(NamedTuple):
    """What all jobs of a rule take together. ``host`` and ``device`` are those of its largest job."""

    jobs: int
    tokens: int
    disk: float  # bytes that stay
    host: float  # bytes of main memory
    device: float  # bytes on the GPU, or in main memory if there is none
    flop: float
    work: tuple[Work, ...] = ()  # if left out: encoding, or host work if no device is used
    loads: float = 0  # bytes of models that are read into the device
    # Bytes of activations before compression:
    written: float = 0  # written to caches
    read: float = 0  # read from caches in order
    pairs: float = 0  # read of both models, shuffled
    temporary: float = 0  # bytes on disk that a later job removes
    models: float = 0  # bytes of ``device`` that are weights of language models
    passes: float = 0  # forward passes of a batch through all models that a job holds
    linked: float = 0  # bytes that GPUs exchange
    gpus: int = 1  # GPUs that share a job because a setting says so
    side_by_side: bool = True  # whether jobs may run at the same time
    trainings: tuple[float, ...] = ()  # bytes of ``device`` that each training of one process takes

    def times(self, share: float) -> "Need":
        """What this share of the jobs takes. The largest job stays."""
        work = tuple(part._replace(flop=share * part.flop, moved=share * part.moved) for part in self.works)
        return self._replace(
            jobs=round(share * self.jobs),
            tokens=round(share * self.tokens),
            work=work,
            **{name: share * getattr(self, name) for name in ADDED},
        )

    def plus(self, other: "Need") -> "Need":
        """What both take together."""
        larger = max(self, other, key=lambda need: need.device)
        return self._replace(
            jobs=self.jobs + other.jobs,
            tokens=self.tokens + other.tokens,
            host=max(self.host, other.host),
            device=larger.device,
            models=larger.models,
            trainings=larger.trainings,
            work=self.works + other.works,
            **{name: getattr(self, name) + getattr(other, name) for name in ADDED},
        )

    @property
    def memory(self) -> float:
        """Bytes of host and device together."""
        return self.host + self.device

    @property
    def works(self) -> tuple[Work, ...]:
        """``work``, or its default if it is left out."""
        return self.work or (Work("encode" if self.device else "host", self.flop),)


# The numbers that add up over jobs, next to jobs and tokens, which are integers.
ADDED = ("disk", "flop", "loads", "written", "read", "pairs", "temporary", "passes", "linked")


def kept(needs: Iterable[Need]) -> float:
    """Bytes on disk that stay after a run."""
    return sum(need.disk for need in needs)


def peak(needs: Iterable[Need]) -> float:
    """Bytes on disk at most, at any time of a run.

    Snakemake promises no order, so all temporary files may exist at once.
    """
    return sum(need.disk + need.temporary for need in needs)
