"""What a run will take, before anything runs: jobs, tokens, disk, memory and work of every heavy rule.

Sums over the arrays that each rule holds, from the config and the model's shape; what compression and libraries add was measured on the
default run. Torch-free: the Snakefile takes from here what a rule asks SLURM for. How long the work takes, a card's record says (cards.py).
"""

import math
from collections.abc import Callable
from pathlib import Path

from crossdiff.config import Config
from crossdiff.config.text_files import ending
from crossdiff.crosscoders.memory import training_bytes
from crossdiff.explanations.cost import asked
from crossdiff.workflow.cards import step_work
from crossdiff.workflow.evaluations import evaluations
from crossdiff.workflow.shapes import folder_shape
from crossdiff.workflow.sizes import ADAM_BYTES, PROCESS, Need, Shape, Work

COMPRESSED = 0.72  # of a bfloat16 activation's two bytes are left on disk
WINDOW = 2**20  # tokens of a shard that a harvest holds at once, as activations.harvest has it
TOKEN_BYTES = 1.6  # of a token shard, compressed
LATENT_BYTES, CONTEXT_BYTES = 1300, 42  # a latent's rows in all tables, and each of its contexts, compressed
ENTRY_BYTES, ACTIVE = (
    4.4,
    42,
)  # of a latent that is active on a token, compressed; how many are under a loss without k, a guess
ENTRIES_HELD, NO_TORCH = 0.3e9, 0.2e9  # a group of such entries, in several orders; Python with tables alone
DIRECTION_BYTES, BROWSER_BYTES = (
    190,
    1700,
)  # of a latent: in the tables of directions, and in the latent browser
FIRING_BYTES = 13  # a planted firing's row, compressed
WHOLE = (".txt", ".json", ".yaml", ".yml")  # files that may hold one text or value
STREAMED = 2e9  # of texts from the hub, which come in large parts; a guess
STEERED_REQUESTS, PROMPT_TOKENS = (
    50,
    24,
)  # held-out requests of data/requests.yaml in one phrasing, and their longest prompt
PATTERN_BYTES = 95  # of a latent's pattern and scores, compressed
UNKNOWN_BYTES, UNKNOWN_FLOP = (
    43e9,
    2e17,
)  # of a model that explains, where nobody knows its size: enough for one of some billion parameters
LOGIT_BYTES = (
    64 * 16
)  # of fine-tuning, for each entry of the vocabulary: 64 tokens, with their gradients and probabilities
TOKENISED = 1e5  # operations of a core for a token: 200,000 a second
FIRST_TURN = 128  # tokens of a chat's first turn; a guess
TOGETHER, STEERED_TOGETHER = 32, 256  # answers that are continued at once


def activation_width(config: Config, model: Shape) -> int:
    """Values of an activation: the model's, or those of planted noise."""
    planted = config.pair.chat.planted
    return planted.noise.d_model if planted and planted.noise else model.d_model


def forecast(config: Config, model: Shape) -> dict[str, Need]:
    """Rule -> what it takes, in the order data flows."""
    planted, layer, datasets = config.pair.chat.planted, config.pair.layer, config.datasets.values()
    width = activation_width(config, model)
    train, validation = sum(d.tokens for d in datasets), sum(d.validation_tokens for d in datasets)
    tokens, shard = train + validation, config.tokens.shard
    shards = sum(-(-budget // shard) for d in datasets for budget in (d.tokens, d.validation_tokens))
    # bfloat16 in whole, or float32 as far as the layer: what is not run is never touched.
    weights = max(2 * model.parameters(), 4 * model.parameters(layer + 1))
    batch = config.activations.batch_tokens * 4 * (4 * width + 2 * model.mlp_width)
    prepared = 1 if planted or config.pair.chat.finetune else 2
    models = 1 if planted else 2
    needs = {
        "prepare_model": Need(
            prepared, 0, models * 2 * model.parameters(), PROCESS + 4 * model.parameters(), 0, 0
        )
    }
    if finetune := config.pair.chat.finetune:
        seen = finetune.epochs * sum(finetune.data.values())
        kept = 2 * model.layers * (14 * width + 5 * model.mlp_width)  # of a token, for the backward pass
        # Weights, gradients and two moments in float32; weights and what is kept of a batch in bfloat16; logits of few tokens at a time.
        memory = 18 * model.parameters() + finetune.batch_tokens * kept + LOGIT_BYTES * model.vocabulary
        flop, moved = (
            6 * seen * model.per_token(),
            seen / finetune.batch_tokens * ADAM_BYTES * model.parameters(),
        )
        needs["finetune_model"] = Need(
            1,
            seen,
            0,
            PROCESS + _text(config),
            memory,
            flop,
            (Work("forward", flop, moved),),
            2 * model.parameters(),
        )
    needs["tokenise"] = Need(
        shards,
        tokens,
        tokens * TOKEN_BYTES,
        PROCESS + _text(config),
        0,
        0,
        work=(Work("host", TOKENISED * tokens),),
    )
    cache = tokens * (2 * width * COMPRESSED + 4)  # of one model
    largest = min(shard, max(max(d.tokens, d.validation_tokens) for d in datasets))
    harvested = models if not (planted and planted.noise) else 0
    if harvested:
        flop = harvested * 2 * tokens * model.per_token(layer + 1)
        held = PROCESS + min(largest, WINDOW) * 2 * width
        needs["harvest_activations"] = Need(
            harvested * shards,
            tokens,
            harvested * cache,
            held,
            weights + batch,
            flop,
            work=(Work("forward", flop),),
            loads=harvested * shards * 2 * model.parameters(layer + 1),
            written=harvested * tokens * 2 * width,
        )
    if planted:
        low, high = planted.frequency
        mean = (high - low) / math.log(high / low) if high > low else low
        firings = tokens * sum(planted.concepts.model_dump().values()) * mean
        # The shard before and after planting: in float32 twice, then in bfloat16.
        held = PROCESS + largest * 18 * width
        needs["plant_concepts"] = Need(
            shards, tokens, 2 * cache + FIRING_BYTES * firings, held, 0, 0, written=2 * tokens * 2 * width
        )
    needs |= (
        _of_answers(config, model)
        | _of_crosscoders(config, model, width, train, validation)
        | _of_explainer(config)
    )
    return needs | {
        rule: need(config) for evaluation in evaluations(config) for rule, need in evaluation.need.items()
    }


def _text(config: Config) -> float:
    """Bytes of the texts in memory at once: the largest file that is one text or one value, and a part of a stream.

    A file that is one text is held as its bytes and as text.
    """
    sources = config.datasets.items()
    files = [Path(path) for name, source in sources for path in source.local_files(f"datasets.{name}")]
    whole = [path for path in files if ending(path.name)[0] in WHOLE and path.exists()]
    hub = STREAMED if any(source.hub for _, source in sources) else 0
    return max([hub, *(3 * path.stat().st_size for path in whole)])


def _of_answers(config: Config, model: Shape) -> dict[str, Need]:
    """Rules that let the models answer, before there are crosscoders."""
    needs = {}
    if behaviour := config.behaviour:
        seen = STEERED_REQUESTS * behaviour.phrasings * (PROMPT_TOKENS + behaviour.answer_tokens)
        # The second model is loaded while the first is there.
        device = 2 * 2 * model.parameters() + model.cache(TOGETHER, PROMPT_TOKENS + behaviour.answer_tokens)
        answers = 2 * STEERED_REQUESTS * behaviour.phrasings
        work = _answered(model, 2 * seen, answers, TOGETHER, behaviour.answer_tokens)
        needs["measure_refusals"] = Need(
            1, seen, 0, PROCESS, device, work[0].flop, work, 2 * 2 * model.parameters()
        )
    if (causal := config.causal) and causal.answers == "generated":
        jobs, length = len(causal.datasets), _conversation(config)
        seen = jobs * causal.conversations * length
        device = 4 * model.parameters() + model.cache(TOGETHER, config.tokens.context)
        work = _answered(model, seen, jobs * causal.conversations, TOGETHER, causal.answer_tokens)
        needs["generate_answers"] = Need(
            jobs, seen, 0, PROCESS + _text(config), device, work[0].flop, work, jobs * 2 * model.parameters()
        )
    return needs


def _conversation(config: Config) -> int:
    """Tokens of one whose causal effect is measured: a usual first turn and its answer, or all that the context holds."""
    generated = config.causal.answers == "generated"
    return (
        min(config.tokens.context, FIRST_TURN + config.causal.answer_tokens)
        if generated
        else config.tokens.context
    )


def _answered(model: Shape, seen: float, answers: float, together: int, tokens: int) -> tuple[Work, ...]:
    """Of a model that reads ``seen`` tokens in all; for each new token of answers written together it reads its weights once."""
    flop = 2 * seen * model.per_token()
    return Work("forward", flop), Work(
        "generate", 0, math.ceil(answers / together) * tokens * 2 * model.parameters()
    )


def _of_explainer(config: Config) -> dict[str, Need]:
    """The language model that explains latents, if it is a local folder: a server is asked from where Snakemake runs."""
    if config.explanations is None or config.explanations.model.folder is None:
        return {}
    jobs, (_, _, read, written) = len(config.crosscoders) * len(config.seeds), asked(config)
    model = folder_shape(Path(config.explanations.model.folder))
    if model is None:
        flop = jobs * UNKNOWN_FLOP
        return {
            "explain_latents": Need(
                jobs, int(read + written), 0, PROCESS, UNKNOWN_BYTES, flop, (Work("forward", flop),)
            )
        }
    work = _answered(model, read + written, written, TOGETHER, 1)
    loads = jobs * 2 * model.parameters()
    return {
        "explain_latents": Need(
            jobs, int(read + written), 0, PROCESS, 4 * model.parameters(), work[0].flop, work, loads
        )
    }


def _of_crosscoders(config: Config, model: Shape, width: int, train: int, validation: int) -> dict[str, Need]:
    entries, seeds = list(config.crosscoders.values()), len(config.seeds)
    jobs = len(entries) * seeds
    latents = [entry.n_latents(width) for entry in entries]
    parameters = [4 * n * width for n in latents]  # encoder and decoder of both models
    contexts = config.examples.per_latent + config.examples.per_quantile * len(config.examples.quantiles)

    def total(values: Callable[[int], float]) -> float:
        return seeds * sum(values(i) for i in range(len(entries)))

    def largest(values: Callable[[int], float]) -> float:
        return max(values(i) for i in range(len(entries)))

    def reading(tokens: int, disk: float = 0.0, extra: float = 0.0, kind: str = "encode") -> Need:
        """A rule that reads a crosscoder once and runs it over tokens, in blocks."""
        device = largest(lambda i: 4 * parameters[i] + 4 * 2048 * 4 * latents[i]) + extra
        flop = total(lambda i: parameters[i] * tokens)  # of the encoder's product
        return Need(
            jobs, tokens, disk, PROCESS, device, flop, (Work(kind, flop),), read=jobs * tokens * 4 * width
        )

    def codes(tokens: int) -> float:
        """Disk of the files of active entries."""
        return tokens * total(lambda i: ENTRY_BYTES * getattr(entries[i], "k", ACTIVE))

    def training(i: int) -> Work:
        """The steps of all trainings of an entry."""
        flop, moved = step_work(width, latents[i], entries[i].batch)
        steps = seeds * entries[i].steps
        return Work(entries[i].loss, steps * flop, steps * moved, width * latents[i])

    trainings = tuple(training(i) for i in range(len(entries)))
    needs = {
        "train_crosscoder": Need(
            jobs,
            int(total(lambda i: entries[i].tokens)),
            total(lambda i: 4 * parameters[i]),
            # A pool of token pairs in use and one that is filled; the GPU holds them if they fit beside what it needs anyway.
            PROCESS + largest(lambda i: 2 * min(entries[i].buffer_tokens, train) * 2 * 2 * width),
            largest(lambda i: training_bytes(width, latents[i], entries[i].batch)),
            sum(work.flop for work in trainings),
            trainings,
            pairs=total(lambda i: entries[i].tokens * 4 * width),
        ),
        # The decoder's directions, sums of the targets and one more; some tokens, their reconstructions and what these are made of.
        "scale_latents": reading(
            train,
            codes(train),
            largest(lambda i: 9 * parameters[i] + 8 * 8 * config.latent_scaling.bootstrap.blocks * latents[i])
            + 3 * 8 * 16_384 * width,
            kind="scale",
        ),
        "measure_reconstruction": reading(validation, codes(validation)),
        "read_latents": Need(
            jobs,
            min(train, config.examples.tokens),
            total(lambda i: latents[i] * (LATENT_BYTES + CONTEXT_BYTES * contexts)),
            NO_TORCH + ENTRIES_HELD + largest(lambda i: 25 * 8 * contexts * latents[i]),
            0,
            0,
        ),
        "find_patterns": Need(
            jobs,
            0,
            total(lambda i: PATTERN_BYTES * latents[i]),
            # All tokens with their places; the background's vectors and what is compared with them.
            PROCESS + 20 * train + 4 * config.examples.background * 3e4,
            0,
            total(lambda i: 2 * config.examples.background * 1e4 * latents[i]),
        ),
        "find_twins": Need(
            jobs, validation, 0, PROCESS + ENTRIES_HELD + largest(lambda i: 4 * parameters[i]), 0, 0
        ),
        "read_directions": Need(
            1,
            0,
            total(lambda i: DIRECTION_BYTES * latents[i]),
            PROCESS,
            # The decoders of all trainings; the chat model, and the logits of a block of latents.
            total(lambda i: 2 * parameters[i]) + 4 * model.parameters() + 3 * 4 * 256 * model.vocabulary,
            total(lambda i: 2 * latents[i] * width * (model.vocabulary + 2 * sum(latents) * seeds)),
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
    if seeds > 1:
        pairs = seeds * (seeds - 1) // 2
        needs["compare_seeds"] = Need(
            1,
            0,
            0,
            PROCESS + largest(lambda i: 4 * parameters[i]),  # a crosscoder while it is read
            # Two decoders, their live latents, these normalised; cosines of a block of latents.
            largest(lambda i: 3 * 2 * 2 * parameters[i] + 4 * 1024 * latents[i]),
            sum(pairs * 2 * parameters[i] * latents[i] for i in range(len(entries))),
        )
    if planted := config.pair.chat.planted:
        concepts = sum(planted.concepts.model_dump().values())
        # The crosscoder; sums over tokens, covariances, variances and correlations, in both models, in float64.
        matching = (
            PROCESS + ENTRIES_HELD + largest(lambda i: 4 * parameters[i] + 5 * 8 * 2 * concepts * latents[i])
        )
        needs["match_concepts"] = Need(jobs, train, 0, matching, 0, 0)
    if causal := config.causal:
        # Every patched run is a pass of the rest of the model.
        seen = causal.conversations * len(causal.datasets) * _conversation(config)
        answers = 2 * 2 * model.parameters() + config.activations.batch_tokens * 4 * (
            4 * width + 2 * model.mlp_width
        )
        runs = 13 + causal.random_sets  # patched runs of both models' activations
        flop = (
            jobs
            * 2
            * seen
            * (model.per_token() + runs * (model.per_token() - model.per_token(config.pair.layer + 1)))
        )
        needs["measure_causal_effect"] = reading(seen, extra=answers)._replace(
            flop=flop, work=(Work("forward", flop),), loads=jobs * 2 * 2 * model.parameters(), read=0
        )
    if steering := config.steering:
        # Of the first seed: the rest of the chat model under every condition, and the base model for what comes out.
        steered = 1 + max(len(steering.latents.get(name, [])) for name in config.crosscoders)
        runs = (
            steered
            * (1 + steering.random_latents + steering.random_directions)
            * (len(steering.strengths) + 1)
        )
        seen = STEERED_REQUESTS * steering.phrasings * (PROMPT_TOKENS + steering.answer_tokens)
        both = 2 * 2 * model.parameters() + model.cache(
            STEERED_TOGETHER, PROMPT_TOKENS + steering.answer_tokens
        )
        answers = len(entries) * runs * STEERED_REQUESTS * steering.phrasings
        work = _answered(
            model, len(entries) * runs * 2 * seen, answers, STEERED_TOGETHER, steering.answer_tokens
        )
        needs["steer_latents"] = reading(seen, extra=both)._replace(
            jobs=len(entries),
            flop=work[0].flop,
            work=work,
            loads=len(entries) * 2 * 2 * model.parameters(),
            read=0,
        )
    return needs
