"""Forecast the rules that train and read crosscoders. Torch-free."""

from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from crossdiff.config import MODELS, Config, CrosscoderSettings, ImportedCrosscoder
from crossdiff.config.live import POOLS
from crossdiff.crosscoders.memory import training_bytes
from crossdiff.workflow.cards import step_work
from crossdiff.workflow.forecast_answers import of_interventions
from crossdiff.workflow.forecast_data import Data, model_bytes
from crossdiff.workflow.sizes import ENTRIES_HELD, NO_TORCH, PROCESS, Need, Shape, Work

LATENT_BYTES, CONTEXT_BYTES = 1300, 42  # a latent's rows in all tables, and each of its contexts, compressed
ENTRY_BYTES = 4.4  # per entry: a latent that is active on a token, compressed
ACTIVE = 31  # active latents per token under a loss whose settings do not say; a guess
DIRECTION_BYTES, BROWSER_BYTES = 190, 1700  # per latent: in tables of directions, and in the latent browser
PATTERN_BYTES = 95  # per latent: its pattern and scores, compressed
# Bytes of main memory per training token without caches: all columns of the shards; joined ids and positions.
HELD_LIVE = 18 + 8


Entry = TypeVar("Entry", CrosscoderSettings, CrosscoderSettings | ImportedCrosscoder)


class Crosscoders(NamedTuple, Generic[Entry]):
    """Crosscoders of one pair at one layer: entries of the config, and how many seeds each of them has."""

    entries: Sequence[Entry]
    seeds: list[int]
    width: int  # of activations

    @property
    def jobs(self) -> int:
        """Crosscoders, from all seeds."""
        return sum(self.seeds)

    @property
    def latents(self) -> list[int]:
        """Latents of each entry."""
        return [entry.n_latents(self.width) for entry in self.entries]

    @property
    def parameters(self) -> list[int]:
        """Weights of each entry: encoder and decoder of both models."""
        return [4 * latents * self.width for latents in self.latents]

    def total(self, values: Callable[[int], float]) -> float:
        """Add up a value of each entry, by its number, over all its seeds."""
        return sum(seeds * values(i) for i, seeds in enumerate(self.seeds))

    def largest(self, values: Callable[[int], float]) -> float:
        """Return the largest value of an entry, by its number."""
        return max(values(i) for i in range(len(self.entries)))

    @property
    def on_device(self) -> float:
        """Bytes of the largest crosscoder and of a block of its codes, for rules that read it."""
        return self.largest(lambda i: 4 * self.parameters[i] + 4 * 2048 * 4 * self.latents[i])

    def reading(self, tokens: int, disk: float = 0.0, extra: float = 0.0, kind: str = "encode") -> Need:
        """Return the need of a rule that reads each crosscoder once and runs it over tokens in blocks."""
        flop = self.total(lambda i: self.parameters[i] * tokens)  # the encoder's product
        work, read = (Work(kind, flop),), self.jobs * tokens * 4 * self.width
        return Need(self.jobs, tokens, disk, PROCESS, self.on_device + extra, flop, work, read=read)

    def codes(self, tokens: int) -> float:
        """Return the disk that files of active entries take."""
        return tokens * self.total(lambda i: ENTRY_BYTES * (self.entries[i].active_latents or ACTIVE))


def of_crosscoders(config: Config, model: Shape, width: int) -> dict[str, Need]:
    """Return the needs of all rules that train or read crosscoders. ``width`` is that of activations."""
    data, trained, imported = Data.of(config), list(config.trained.values()), list(config.imported.values())
    here = Crosscoders(trained, [len(config.seeds)] * len(trained), width)
    theirs = Crosscoders[Any](imported, [1] * len(imported), width)
    needs: dict[str, Need] = {}
    if trained and config.activations.are_live:
        needs["train_live"] = _live(config, model, here, data)
    elif trained:
        needs["train_crosscoder"] = _training(config, here, data)
    if imported:
        written, held = (f(lambda i: 4 * theirs.parameters[i]) for f in (theirs.total, theirs.largest))
        # The mapped file is as large as the weights (benchmarks/importing.py). The rest is a margin.
        needs["import_crosscoder"] = Need(theirs.jobs, 0, written, PROCESS + 1.5 * held, 0, 0)
    every = Crosscoders[Any]([*trained, *imported], here.seeds + theirs.seeds, width)
    return needs | _of_readers(config, model, every, data)


def _of_readers(
    config: Config,
    model: Shape,
    many: "Crosscoders[CrosscoderSettings | ImportedCrosscoder]",
    data: Data,
) -> dict[str, Need]:
    """Return the needs of all rules that read crosscoders."""
    latents, parameters, total, largest = many.latents, many.parameters, many.total, many.largest
    contexts = config.examples.per_latent + config.examples.per_quantile * len(config.examples.quantiles)
    chat = model_bytes(config, model, "chat")
    width, seeds = many.width, len(config.seeds)
    needs = {
        # The decoder's directions, the sums of the targets and one more; then some tokens, their
        # reconstructions and the parts of these.
        "scale_latents": many.reading(
            data.stored,
            many.codes(data.stored),
            largest(lambda i: 9 * parameters[i] + 8 * 8 * config.latent_scaling.bootstrap.blocks * latents[i])
            + 3 * 8 * 16_384 * width,
            kind="scale",
        ),
        "measure_reconstruction": many.reading(data.validation, many.codes(data.validation)),
        "read_latents": Need(
            many.jobs,
            min(data.stored, config.examples.tokens),
            total(lambda i: latents[i] * (LATENT_BYTES + CONTEXT_BYTES * contexts)),
            NO_TORCH + ENTRIES_HELD + largest(lambda i: 25 * 8 * contexts * latents[i]),
            0,
            0,
        ),
        "find_patterns": Need(
            many.jobs,
            0,
            total(lambda i: PATTERN_BYTES * latents[i]),
            # All tokens with their places; the background's vectors and the vectors that are compared with
            # them.
            PROCESS + 20 * data.stored + 4 * config.examples.background * 3e4,
            0,
            total(lambda i: 2 * config.examples.background * 1e4 * latents[i]),
        ),
        "find_twins": Need(
            many.jobs,
            data.validation,
            0,
            PROCESS + ENTRIES_HELD + largest(lambda i: 4 * parameters[i]),
            0,
            0,
        ),
        "group_latents": Need(
            len(config.crosscoders),
            data.stored,
            0,
            PROCESS + ENTRIES_HELD + largest(lambda i: 4 * parameters[i]),
            0,
            0,
        ),
        "read_directions": Need(
            1,
            0,
            total(lambda i: DIRECTION_BYTES * latents[i]),
            PROCESS,
            # The decoders of all trainings; the chat model, and the logits of a block of latents.
            total(lambda i: 2 * parameters[i]) + chat + 3 * 4 * 256 * model.vocabulary,
            total(lambda i: 2 * latents[i] * width * (model.vocabulary + 2 * total(lambda i: latents[i]))),
            models=chat,
            passes=1,
        ),
        "write_browser": Need(
            1,
            0,
            total(lambda i: BROWSER_BYTES * latents[i]),
            PROCESS + largest(lambda i: 2000 * latents[i]),
            0,
            0,
        ),
    }
    if seeds > 1 and config.trained:
        pairs = seeds * (seeds - 1) // 2
        needs["compare_seeds"] = Need(
            1,
            0,
            0,
            PROCESS + largest(lambda i: 4 * parameters[i]),  # a crosscoder while it is read
            # Two decoders, their live latents, the same normalised, or one decoder in three forms and the
            # live latents of all seeds; cosines of a block of latents.
            largest(lambda i: max(3 * 2, 3 + seeds) * 2 * parameters[i] + 4 * 1024 * latents[i]),
            sum(2 * pairs * 2 * parameters[i] * latents[i] for i, n in enumerate(many.seeds) if n > 1),
        )
    if planted := config.pair.chat.planted:
        concepts = sum(planted.concepts.model_dump().values())
        # The crosscoder; sums over tokens, covariances, variances and correlations of both models in float64.
        matching = largest(lambda i: 4 * parameters[i] + 5 * 8 * 2 * concepts * latents[i])
        needs["match_concepts"] = Need(many.jobs, data.stored, 0, PROCESS + ENTRIES_HELD + matching, 0, 0)
    return needs | of_interventions(config, model, width, many.on_device)


def _steps(many: Crosscoders[CrosscoderSettings], processes: int = 1) -> tuple[Work, ...]:
    """Return the steps of all trainings, for each entry. ``processes`` share every batch."""

    def of(i: int) -> Work:
        entry = many.entries[i]
        flop, moved = step_work(many.width, many.latents[i], entry.batch // processes)
        like, times = entry.step_like or (entry.loss, 1.0)
        steps = many.seeds[i] * entry.steps * times
        return Work(like, steps * flop, steps * moved, many.width * many.latents[i])

    return tuple(map(of, range(len(many.entries))))


def _checkpoints(many: Crosscoders[CrosscoderSettings], together: bool) -> float:
    """Return the bytes of checkpoints on disk at most: weights and two moments of every training.

    A new checkpoint replaces the last one when it is written. Trainings of one process write theirs one after
    another. Separate ones may all write at once.
    """

    def state(i: int) -> float:
        return 3 * 4 * many.parameters[i]

    return many.total(state) + (many.largest(state) if together else many.total(state))


def _training(config: Config, many: Crosscoders[CrosscoderSettings], data: Data) -> Need:
    """Return the need of trainings that read caches."""
    entries, width, gpus = many.entries, many.width, config.gpus.training
    # Every GPU has all weights. In each step all GPUs exchange gradients in float32 (ring all-reduce).
    exchanged = 2 * (gpus - 1) / gpus * 4
    work = _steps(many, gpus)
    return Need(
        many.jobs,
        int(many.total(lambda i: entries[i].tokens)),
        many.total(lambda i: 4 * many.parameters[i]),
        # One pool of token pairs is in use while another is filled. A GPU holds them if it has room for
        # them. A checkpoint passes through main memory.
        PROCESS
        + many.largest(
            lambda i: 2 * min(entries[i].buffer_tokens, data.train) * 2 * 2 * width + 12 * many.parameters[i]
        ),
        many.largest(lambda i: training_bytes(width, many.latents[i], entries[i].batch // gpus)),
        sum(part.flop for part in work),
        work,
        pairs=many.total(lambda i: entries[i].tokens * 4 * width),
        temporary=_checkpoints(many, config.train_together),
        linked=many.total(lambda i: entries[i].steps * exchanged * many.parameters[i]),
        gpus=gpus,
        side_by_side=not config.train_together,
    )


def _live(config: Config, model: Shape, many: Crosscoders[CrosscoderSettings], data: Data) -> Need:
    """Return the need of trainings while both models run. All of them share one process.

    Those with pools of one size share a stream: both models pass as many tokens as its longest training sees.
    If the sample is smaller than the tokens of mean and scale, they pass these first. The device holds the
    models, a batch of them, and all crosscoders.
    """
    entries, width, batch = many.entries, many.width, config.activations.batch_tokens
    streams: dict[int, int] = {}  # tokens of a pool -> tokens of its stream
    for entry in entries:
        streams[entry.buffer_tokens] = max(entry.tokens, streams.get(entry.buffer_tokens, 0))
    measured = min(config.activations.statistics_tokens, data.train)
    seen = sum(streams.values()) + (measured if data.stored < measured else 0)
    forward = len(MODELS) * 2 * seen * model.per_token(config.pair.layer + 1)
    work = (Work("forward", forward), *_steps(many))
    both = model_bytes(config, model, *MODELS)
    trainings = [
        training_bytes(width, latents, entry.batch)
        for entry, latents, seeds in zip(entries, many.latents, many.seeds, strict=True)
        for _ in range(seeds)
    ]
    pool = min(max(streams), data.train // POOLS) * len(MODELS) * 2 * width
    return Need(
        many.jobs,
        int(many.total(lambda i: entries[i].tokens)),
        many.total(lambda i: 4 * many.parameters[i]),
        # A GPU holds the pool if it has room for it. A checkpoint passes through main memory.
        PROCESS + pool + HELD_LIVE * data.train + many.largest(lambda i: 12 * many.parameters[i]),
        both + batch * 4 * (4 * width + 2 * model.mlp_width) + sum(trainings),
        sum(part.flop for part in work),
        work,
        loads=len(MODELS) * 2 * model.parameters(),
        temporary=_checkpoints(many, together=True),
        models=both,
        passes=seen / batch,
        side_by_side=False,
        trainings=tuple(trainings),
    )
