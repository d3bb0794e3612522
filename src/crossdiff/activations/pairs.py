"""Read both models' caches in step.

This module decides which tokens count, computes how activations are scaled, and gives blocks and batches of
token pairs. A token pair is the activations of both models at one token.
"""

from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from crossdiff.activations.cache import CHUNK_ROWS, read_header, read_rows, tokens_digest
from crossdiff.activations.pools import Piece, plan, read_ahead
from crossdiff.config import MODELS, Activations, Normalisation
from crossdiff.errors import UserError
from crossdiff.provenance.storage import read_json, write_json
from crossdiff.texts.shards import Shard, read_shard

CPU = torch.device("cpu")


class PairedShard:
    """One token shard with both models' caches.

    Raises UserError if the three files do not belong together.
    """

    def __init__(self, tokens: str | Path, base: str | Path, chat: str | Path) -> None:
        self.tokens: Shard = read_shard(tokens)
        self.paths = (base, chat)
        headers = [read_header(path) for path in self.paths]
        for path, header in zip(self.paths, headers, strict=True):
            if header.tokens_sha256 != tokens_digest(self.tokens.token):
                raise UserError(f"{path}: the activations belong to other tokens than {tokens}")
            if (header.layer, header.d_model) != (headers[0].layer, headers[0].d_model):
                raise UserError(
                    f"{path}: layer {header.layer} of width {header.d_model}, "
                    f"but {base} has layer {headers[0].layer} of width {headers[0].d_model}"
                )
        self.layer, self.d_model, self.rows = headers[0].layer, headers[0].d_model, headers[0].rows
        self.norms = np.stack([header.norm for header in headers])  # (model, rows)

    def read(self, start: int, stop: int) -> Tensor:
        """Read the activations of rows ``start`` to ``stop`` as (rows, model, d_model) bfloat16."""
        return torch.stack([read_rows(path, start, stop) for path in self.paths], dim=1)

    def read_into(self, out: Tensor, start: int, stop: int, rows: np.ndarray) -> None:
        """Read some of the rows ``start`` to ``stop`` into ``out`` (n, model, d_model).

        ``rows`` (n,) numbers them from 0 at ``start``. ``out`` is bfloat16 in main memory.
        """
        # NumPy copies in the calling thread alone. torch would start other threads.
        bits = out.view(torch.uint16).numpy()
        for model, path in enumerate(self.paths):
            bits[:, model] = read_rows(path, start, stop).view(torch.uint16).numpy().take(rows, axis=0)


class Summary(NamedTuple):
    """Statistics of all activations of a model pair at one layer. No crosscoder is needed for them."""

    layer: int
    skip_first: int
    max_norm_ratio: float | None
    median_norm: list[float]  # (model,)
    mean: list[list[float]]  # (model, d_model), over kept tokens
    rms: list[float]  # (model,): root of the variances of kept tokens, summed over d_model
    tokens: int
    skipped_as_first: int
    skipped_by_norm: int
    unknown_to_base: int | None = 0  # tokens that the base's tokenizer lacks; None if it has no tokenizer
    replaced_for_base: int = 0  # tokens in whose place the base read others

    def kept(self, shard: PairedShard) -> np.ndarray:
        """Return which tokens of the shard count, (rows,) bool."""
        return self.counts(shard.tokens.position, shard.norms)

    def counts(self, position: np.ndarray, norms: np.ndarray) -> np.ndarray:
        """Return which tokens count, (tokens,) bool.

        ``position`` is (tokens,), and ``norms`` is (model, tokens).
        """
        late = position >= self.skip_first
        if self.max_norm_ratio is None:
            return late
        limit = self.max_norm_ratio * np.asarray(self.median_norm, np.float32)
        return late & (norms <= limit[:, None]).all(axis=0)

    def scaling(self, normalisation: Normalisation) -> tuple[Tensor, Tensor]:
        """Return the mean (model, d_model) to subtract and the factor (model,) to multiply by.

        Both follow docs/method.md 3.
        """
        mean, rms = torch.tensor(self.mean), torch.tensor(self.rms)
        match normalisation.kind:
            case "none":
                return torch.zeros_like(mean), torch.ones_like(rms)
            case "per_model":
                return mean, normalisation.target_rms / rms
            case "shared":
                factor = normalisation.target_rms / rms.square().mean().sqrt()
                return mean, factor.expand(len(MODELS)).clone()


def summarise(
    shards: Sequence[PairedShard],
    settings: Activations,
    unknown: Collection[int] | None = (),
    replaced: Collection[int] = (),
) -> Summary:
    """Compute the summary of all ``shards``.

    Median norms are over all tokens past ``skip_first``. Means and variances are over ``statistics_tokens``
    kept tokens, an equal share from every shard. Tokens with an id in ``unknown`` or ``replaced`` are counted
    (``models.check``). Raises UserError if too few tokens are kept.
    """
    late = [shard.tokens.position >= settings.skip_first for shard in shards]
    norms = np.concatenate([shard.norms[:, rows] for shard, rows in zip(shards, late, strict=True)], axis=1)
    tokens = sum(shard.rows for shard in shards)
    if not norms.size:
        raise UserError(
            f"activations.skip_first: {settings.skip_first} leaves none of {tokens:,} tokens; lower it"
        )
    summary = Summary(
        layer=shards[0].layer,
        skip_first=settings.skip_first,
        max_norm_ratio=settings.max_norm_ratio,
        median_norm=np.median(norms, axis=1).tolist(),
        mean=[],
        rms=[],
        tokens=tokens,
        skipped_as_first=tokens - norms.shape[1],
        skipped_by_norm=0,
        unknown_to_base=None if unknown is None else _count(shards, unknown),
        replaced_for_base=_count(shards, replaced),
    )
    n_kept = sum(int(summary.kept(shard).sum()) for shard in shards)
    per_shard = -(-settings.statistics_tokens // len(shards))
    blocks = (block for shard in shards for _, block in kept_blocks(shard, summary, limit=per_shard))
    mean, rms = moments(blocks, tokens)
    return summary._replace(mean=mean.tolist(), rms=rms.tolist(), skipped_by_norm=norms.shape[1] - n_kept)


def _count(shards: Sequence[PairedShard], ids: Collection[int]) -> int:
    """The number of tokens whose id is one of ``ids``."""
    return sum(int(np.isin(shard.tokens.token, list(ids)).sum()) for shard in shards) if ids else 0


def moments(blocks: Iterable[Tensor], tokens: int) -> tuple[Tensor, Tensor]:
    """Return the mean (model, d_model) and the root of the summed variances (model,), both float64.

    ``blocks`` are (n, model, d_model), on any device. They hold those of ``tokens`` tokens that count. Raises
    UserError if these are fewer than two.
    """
    count = 0
    total, squares = torch.zeros(()), torch.zeros(())
    for block in blocks:
        block = block.double()
        count += len(block)
        total = block.sum(dim=0) + total.to(block.device)
        squares = block.square().sum(dim=(0, 2)) + squares.to(block.device)
    if count < 2:
        raise UserError(
            f"activations: {count} of {tokens:,} tokens are left, allowed: 2 or more; "
            "loosen skip_first or max_norm_ratio"
        )
    mean = total.cpu() / count
    return mean, (squares.cpu() / count - mean.square().sum(dim=1)).sqrt()


def kept_blocks(
    shard: PairedShard, summary: Summary, limit: int | None = None
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Yield a shard's kept tokens in order, chunk by chunk, at most ``limit`` of them.

    Each item is the row numbers (n,) and the activations (n, model, d_model), bfloat16.
    """
    kept = summary.kept(shard)
    left = shard.rows if limit is None else limit
    for start in range(0, shard.rows, CHUNK_ROWS):
        rows = np.flatnonzero(kept[start : start + CHUNK_ROWS])[:left]
        if len(rows):
            yield start + rows, shard.read(start, min(start + CHUNK_ROWS, shard.rows))[rows]
        left -= len(rows)
        if left <= 0:
            return


def read_summary(path: str | Path) -> Summary:
    """Read a summary that ``write_summary`` wrote. Raises UserError for a file that is none."""
    try:
        return Summary(**read_json(path))
    except TypeError as error:
        raise UserError(f"{path}: not a summary of activations ({error})") from error


def write_summary(path: str | Path, summary: Summary) -> None:
    """Write a summary as JSON."""
    write_json(path, summary._asdict())


class Block(NamedTuple):
    """Some token pairs of one shard, in order."""

    activations: Tensor  # (tokens, model, d_model) bfloat16
    documents: np.ndarray  # (tokens,) int64, document ids of ``texts.shards``
    shard: int  # the shard's number
    rows: np.ndarray  # (tokens,) the tokens' rows in the shard


class PairedActivations:
    """The kept activations of all shards of a split, with both models in step.

    Raises UserError if a shard has another layer or width than the summary.
    """

    def __init__(self, shards: Sequence[PairedShard], summary: Summary) -> None:
        self.shards, self.summary = shards, summary
        self.layer, self.d_model = shards[0].layer, shards[0].d_model
        self._remembered: dict[tuple[int, int], Tensor] | None = None  # shard, first row -> a chunk's rows
        for shard in shards:
            if (shard.layer, shard.d_model) != (summary.layer, len(summary.mean[0])):
                raise UserError(
                    f"{shard.paths[0]}: layer {shard.layer} of width {shard.d_model}, "
                    f"but the summary is of layer {summary.layer} of width {len(summary.mean[0])}"
                )

    @classmethod
    def of(cls, inputs: Mapping[str, Any], prefix: str = "") -> "PairedActivations":
        """Open the named inputs of a rule: ``tokens``, ``base``, ``chat`` and ``summary``.

        The first three are lists in the same order, and ``prefix`` stands before their names.
        """
        paths = zip(*(inputs[prefix + name] for name in ("tokens", *MODELS)), strict=True)
        return cls([PairedShard(*shard) for shard in paths], read_summary(inputs["summary"]))

    @property
    def token_shards(self) -> list[Shard]:
        """The tokens of all shards, kept or not."""
        return [shard.tokens for shard in self.shards]

    @property
    def tokens(self) -> int:
        """Number of kept tokens."""
        return sum(int(self.summary.kept(shard).sum()) for shard in self.shards)

    def blocks(self) -> Iterator[Block]:
        """Yield all kept tokens, shard after shard, in order."""
        for number, shard in enumerate(self.shards):
            for rows, activations in kept_blocks(shard, self.summary):
                yield Block(activations, shard.tokens.document[rows], number, rows)

    def shuffled_batches(
        self,
        batch: int,
        buffer_tokens: int,
        seed: int,
        start: int = 0,
        device: torch.device = CPU,
        reserved: float = 0,
        share: tuple[int, int] = (0, 1),
    ) -> Generator[Tensor, None, None]:
        """Yield batches (batch, model, d_model), bfloat16, in random order, epoch after epoch, without end.

        The first batch has number ``start``. The seed and a batch's number alone decide what the batch holds.
        So a resumed training goes on where it stopped.

        The chunks of all shards get a random order. That order is cut into pools of about ``buffer_tokens``
        tokens, and each pool is shuffled. Within an epoch each kept token appears once, except a last few
        that do not fill a batch. The next pool is read while one is used.

        Batches are on ``device``. A GPU also holds the pools if two of them fit in addition to ``reserved``,
        the bytes that the training takes. ``share`` is (rank, ranks): each of several processes reads and
        gets only its part of every batch, (batch / ranks, model, d_model).

        Close the generator to end its threads. Raises UserError if all tokens together do not fill a batch.
        """
        kept = [self.summary.kept(shard) for shard in self.shards]
        tokens = sum(int(np.count_nonzero(rows)) for rows in kept)
        if tokens < batch:
            raise UserError(
                f"crosscoders: batch {batch} is larger than the {tokens} tokens that are kept; "
                "lower batch, or raise the tokens of datasets"
            )
        size = max(1, buffer_tokens // batch) * batch
        plans = plan(kept, batch, size, seed, start, share)
        rows, processes = min(size, tokens - tokens % batch), share[1]
        return read_ahead(
            plans,
            batch // processes,
            rows // processes,
            self.d_model,
            self._read,
            device,
            reserved,
            processes,
        )

    def remember(self) -> None:
        """Keep in main memory what ``shuffled_batches`` reads from now on, so that it is read once."""
        self._remembered = {}

    def _read(self, piece: Piece, out: Tensor) -> None:
        shard = self.shards[piece.shard]
        stop = min(piece.start + CHUNK_ROWS, shard.rows)
        if self._remembered is None:
            shard.read_into(out, piece.start, stop, piece.rows)
            return
        place = piece.shard, piece.start
        if place not in self._remembered:
            chunk = torch.empty(stop - piece.start, *out.shape[1:], dtype=out.dtype)
            shard.read_into(chunk, piece.start, stop, np.arange(len(chunk)))
            self._remembered[place] = chunk
        bits = self._remembered[place].view(torch.uint16).numpy()
        np.take(bits, piece.rows, axis=0, out=out.view(torch.uint16).numpy(), mode="clip")
