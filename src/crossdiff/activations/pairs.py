"""Both models' caches in step: which tokens count, how activations are scaled, and blocks of token pairs."""

from collections.abc import Iterator, Mapping, Sequence
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
    """One token shard with both models' caches. Raises UserError when the three do not belong together."""

    def __init__(self, tokens: str | Path, base: str | Path, chat: str | Path) -> None:
        self.tokens: Shard = read_shard(tokens)
        self.paths = (base, chat)
        headers = [read_header(path) for path in self.paths]
        for path, header in zip(self.paths, headers, strict=True):
            if header.tokens_sha256 != tokens_digest(self.tokens.token):
                raise UserError(f"{path}: its activations belong to other tokens than {tokens}")
            if (header.layer, header.d_model) != (headers[0].layer, headers[0].d_model):
                raise UserError(
                    f"{path}: layer {header.layer} of width {header.d_model}, "
                    f"but {base} has layer {headers[0].layer} of width {headers[0].d_model}"
                )
        self.layer, self.d_model, self.rows = headers[0].layer, headers[0].d_model, headers[0].rows
        self.norms = np.stack([header.norm for header in headers])  # (model, rows)

    def read(self, start: int, stop: int) -> Tensor:
        """Activations of rows ``start`` to ``stop``, (rows, model, d_model) bfloat16."""
        return torch.stack([read_rows(path, start, stop) for path in self.paths], dim=1)

    def read_into(self, out: Tensor, start: int, stop: int, rows: np.ndarray) -> None:
        """Of rows ``start`` to ``stop`` those numbered ``rows``, from 0, into ``out`` (rows, model, d_model) bfloat16 of main memory."""
        bits = out.view(
            torch.uint16
        ).numpy()  # NumPy copies in the calling thread alone, where torch would start others
        for model, path in enumerate(self.paths):
            bits[:, model] = read_rows(path, start, stop).view(torch.uint16).numpy().take(rows, axis=0)


class Summary(NamedTuple):
    """What is known of all activations of a pair at a layer before any crosscoder sees them."""

    layer: int
    skip_first: int
    max_norm_ratio: float | None
    median_norm: list[float]  # per model
    mean: list[list[float]]  # per model, of the kept tokens
    rms: list[float]  # per model: root of the summed variances of the kept tokens
    tokens: int
    skipped_as_first: int
    skipped_by_norm: int

    def kept(self, shard: PairedShard) -> np.ndarray:
        """(rows,) bool: the tokens that count."""
        return self.counts(shard.tokens.position, shard.norms)

    def counts(self, position: np.ndarray, norms: np.ndarray) -> np.ndarray:
        """(tokens,) bool: whether tokens at ``position`` (tokens,) with ``norms`` (model, tokens) count."""
        late = position >= self.skip_first
        if self.max_norm_ratio is None:
            return late
        limit = self.max_norm_ratio * np.asarray(self.median_norm, np.float32)
        return late & (norms <= limit[:, None]).all(axis=0)

    def scaling(self, normalisation: Normalisation) -> tuple[Tensor, Tensor]:
        """Mean (model, d_model) to subtract and factor (model,) to multiply with (docs/method.md 3)."""
        mean, rms = torch.tensor(self.mean), torch.tensor(self.rms)
        match normalisation.kind:
            case "none":
                return torch.zeros_like(mean), torch.ones_like(rms)
            case "per_model":
                return mean, normalisation.target_rms / rms
            case "shared":
                return mean, (normalisation.target_rms / rms.square().mean().sqrt()).expand(
                    len(MODELS)
                ).clone()


def summarise(shards: Sequence[PairedShard], settings: Activations) -> Summary:
    """Median norms over all tokens past ``skip_first``; means and variances over ``statistics_tokens`` kept ones, an equal share per shard.

    Raises UserError when too few tokens are kept.
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
    )
    n_kept = sum(int(summary.kept(shard).sum()) for shard in shards)
    mean, rms = _moments(shards, summary, -(-settings.statistics_tokens // len(shards)))
    return summary._replace(mean=mean.tolist(), rms=rms.tolist(), skipped_by_norm=norms.shape[1] - n_kept)


def _moments(shards: Sequence[PairedShard], summary: Summary, per_shard: int) -> tuple[Tensor, Tensor]:
    """Mean (model, d_model) and root of the summed variances (model,) of the first kept tokens of every shard."""
    count = 0
    total = torch.zeros(len(MODELS), shards[0].d_model, dtype=torch.float64)
    squares = torch.zeros(len(MODELS), dtype=torch.float64)
    for shard in shards:
        for _, block in kept_blocks(shard, summary, limit=per_shard):
            block = block.double()
            count += len(block)
            total += block.sum(dim=0)
            squares += block.square().sum(dim=(0, 2))
    if count < 2:
        raise UserError(
            f"activations: {count} of {summary.tokens:,} tokens are left; loosen skip_first or max_norm_ratio"
        )
    mean = total / count
    return mean, (squares / count - mean.square().sum(dim=1)).sqrt()


def kept_blocks(
    shard: PairedShard, summary: Summary, limit: int | None = None
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """(row numbers, activations (rows, model, d_model) bfloat16) of a shard's kept tokens in order, chunk by chunk."""
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
    """Read what ``write_summary`` wrote."""
    return Summary(**read_json(path))


def write_summary(path: str | Path, summary: Summary) -> None:
    """Write a summary as JSON."""
    write_json(path, summary._asdict())


class Block(NamedTuple):
    """Some token pairs of one shard, in order."""

    activations: Tensor  # (tokens, model, d_model) bfloat16
    documents: np.ndarray  # (tokens,) int64, see texts.shards
    shard: int  # number
    rows: np.ndarray  # (tokens,) in the shard


class PairedActivations:
    """The kept activations of all shards of a split, both models in step."""

    def __init__(self, shards: Sequence[PairedShard], summary: Summary) -> None:
        self.shards, self.summary = shards, summary
        self.layer, self.d_model = shards[0].layer, shards[0].d_model
        for shard in shards:
            if (shard.layer, shard.d_model) != (summary.layer, len(summary.mean[0])):
                raise UserError(
                    f"{shard.paths[0]}: layer {shard.layer} of width {shard.d_model}, but the summary is of layer {summary.layer}"
                )

    @classmethod
    def of(cls, inputs: Mapping[str, Any], prefix: str = "") -> "PairedActivations":
        """From a rule's named inputs ``tokens``, ``base``, ``chat`` (lists in the same order), each after ``prefix``, and ``summary``."""
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
        """All kept tokens, shard after shard, in order."""
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
    ) -> Iterator[Tensor]:
        """Endless batches (batch, model, d_model) bfloat16 in random order, epoch after epoch, from batch number ``start`` on.

        Chunks of all shards are put in a random order, which is cut into pools of about ``buffer_tokens`` tokens; each is shuffled.
        Within an epoch each kept token appears once, but for a last few that do not fill a batch. The next pool is read while one is used.
        What a batch holds follows from its number and the seed alone, so a resumed training goes on where it stopped.

        Batches are on ``device``. On a GPU the pools are held there too, if two of them fit beside the ``reserved`` bytes that the training
        takes in all. ``share``: (rank, ranks); each of several processes reads and gets only its part of every batch.
        Close the iterator to end its threads. Raises UserError when all tokens together do not fill a batch.
        """
        kept = [self.summary.kept(shard) for shard in self.shards]
        tokens = sum(int(np.count_nonzero(rows)) for rows in kept)
        if tokens < batch:
            raise UserError(f"crosscoders: batch {batch} is larger than the {tokens} tokens that are kept")
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

    def _read(self, piece: Piece, out: Tensor) -> None:
        shard = self.shards[piece.shard]
        shard.read_into(out, piece.start, min(piece.start + CHUNK_ROWS, shard.rows), piece.rows)
