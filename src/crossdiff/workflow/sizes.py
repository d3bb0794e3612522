"""The size of a language model, and what the jobs of a rule take."""

from typing import NamedTuple

PROCESS = 0.5e9  # bytes: Python with torch
ADAM_BYTES = 34  # moved for a parameter in a training step: weight and two moments read and written, a gradient, the copy for products


class Experts(NamedTuple):
    """Of a mixture-of-experts model: what stands in a block in place of its MLP."""

    number: int
    active: int  # that a token passes
    d_mlp: int  # of one
    shared: int = 0  # width of what every token passes beside them
    dense: frozenset[int] = frozenset()  # blocks that have an ordinary MLP instead


class Shape(NamedTuple):
    """Of a decoder-only language model."""

    layers: int
    d_model: int
    d_mlp: int
    vocabulary: int
    attention: int  # parameters of one block's attention
    matrices: int = 3  # of an MLP: 3 where it is gated, else 2
    embeddings: int = 1  # 1 where the output embedding is the input's, else 2
    positions: int = 0  # that have a learned vector
    experts: Experts | None = None

    @property
    def mlp_width(self) -> int:
        """Values of a token between the matrices of a block's MLP."""
        return self.experts.active * self.experts.d_mlp + self.experts.shared if self.experts else self.d_mlp

    def cache(self, sequences: int, tokens: int) -> int:
        """Bytes of keys and values, in bfloat16, while this many sequences are continued."""
        return sequences * tokens * 2 * 2 * self.layers * self.d_model

    def parameters(self, layers: int | None = None) -> int:
        """All of them; with ``layers``, those of the input embedding and of this many first blocks."""
        experts = self.experts
        every = experts.number * experts.d_mlp + experts.shared if experts else 0
        tables = (self.embeddings if layers is None else 1) * self.vocabulary + self.positions
        return tables * self.d_model + self._blocks(layers, every)

    def per_token(self, layers: int | None = None) -> int:
        """Parameters that a token is multiplied with: of ``layers`` first blocks, or of all and the output embedding."""
        head = self.vocabulary * self.d_model if layers is None else 0
        return head + self._blocks(layers, self.mlp_width)

    def _blocks(self, layers: int | None, of_experts: int) -> int:
        """Parameters of the first blocks, where ``of_experts`` is the width that counts in a block with experts."""
        number = self.layers if layers is None else layers
        dense = (
            number if self.experts is None else sum(block in self.experts.dense for block in range(number))
        )
        widths = dense * self.d_mlp + (number - dense) * of_experts
        return number * self.attention + self.matrices * self.d_model * widths


class Work(NamedTuple):
    """What a device does: products, and bytes that move through its memory. A card's record says how fast, by kind (cards.py)."""

    kind: str  # forward, encode, scale, generate, host, or a loss for its training step
    flop: float
    moved: float = 0
    size: float = 0  # d_model * latents of a training step


class Need(NamedTuple):
    """What all jobs of a rule take together, but for host and device: what the largest of them takes alone."""

    jobs: int
    tokens: int
    disk: float  # bytes that stay
    host: float  # bytes of main memory
    device: float  # bytes on the GPU; in main memory where there is none
    flop: float
    work: tuple[Work, ...] = ()  # of what kind; encoding, or the host's where no device is used, if left out
    loads: float = 0  # bytes of models that are read into the device
    written: float = 0  # bytes of activations, before compression: written to caches,
    read: float = 0  # read from them in order,
    pairs: float = 0  # and read of both models, shuffled

    @property
    def memory(self) -> float:
        return self.host + self.device

    @property
    def works(self) -> tuple[Work, ...]:
        """``work``, or what it stands for where it is left out."""
        return self.work or (Work("encode" if self.device else "host", self.flop),)
