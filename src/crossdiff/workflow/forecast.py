"""Forecast what a run will take: jobs, tokens, disk, memory and work of every heavy rule.

The forecast adds up the arrays that each rule holds, from the config and the model's shape. What compression
and libraries add was measured on the default run. A card's record says how long the work takes (cards.py).
Torch-free, because the Snakefile takes from here what a rule asks SLURM for.
"""

import math
from collections.abc import Callable
from pathlib import Path

from crossdiff.config import Causal, Config
from crossdiff.config.text_files import ending
from crossdiff.crosscoders.memory import training_bytes
from crossdiff.errors import UserError
from crossdiff.explanations.cost import asked
from crossdiff.workflow.cards import step_work
from crossdiff.workflow.evaluations import evaluations
from crossdiff.workflow.shapes import folder_shape
from crossdiff.workflow.sizes import ADAM_BYTES, PROCESS, Need, Shape, Work

COMPRESSED = 0.72  # share of a bfloat16 activation's two bytes that is left on disk
WINDOW = 2**20  # tokens of a shard that a harvest holds at once, as in activations.harvest
TOKEN_BYTES = 1.6  # per token of a shard, compressed
LATENT_BYTES, CONTEXT_BYTES = 1300, 42  # a latent's rows in all tables, and each of its contexts, compressed
ENTRY_BYTES = 4.4  # per entry: a latent that is active on a token, compressed
ACTIVE = 42  # active latents per token under a loss without k; a guess
ENTRIES_HELD, NO_TORCH = (
    0.3e9,
    0.2e9,
)  # bytes: a group of such entries, in several orders; Python without torch
DIRECTION_BYTES, BROWSER_BYTES = (
    190,
    1700,
)  # per latent: in the tables of directions, and in the latent browser
FIRING_BYTES = 13  # per row of a planted firing, compressed
WHOLE = (".txt", ".json", ".yaml", ".yml")  # endings of files that may hold one text or value
STREAMED = 2e9  # bytes of texts from the hub that are held at once; a guess
STEERED_REQUESTS, PROMPT_TOKENS = 50, 24  # held-out requests of data/requests.yaml, and their longest prompt
PATTERN_BYTES = 95  # per latent: its pattern and scores, compressed
# Per crosscoder, if the size of the model that explains is not known: enough for a few billion parameters.
UNKNOWN_BYTES, UNKNOWN_FLOP = 43e9, 2e17
LOGIT_BYTES = 64 * 16  # of fine-tuning, per vocabulary entry: 64 tokens with gradients and probabilities
TOKENISED = 1e5  # operations of a core per token, which is 200,000 tokens a second
FIRST_TURN = 128  # tokens of a chat's first turn; a guess
PROOF_TOKENS, PROOF_PASSES = 200, 30  # of interventions.proof: its texts, and how often they are read
TOGETHER, STEERED_TOGETHER = 32, 256  # answers that are continued at once


def activation_width(config: Config, model: Shape) -> int:
    """The length of an activation vector: the model's d_model, or that of planted noise."""
    planted = config.planted
    return planted.noise.d_model if planted and planted.noise else model.d_model


def forecast_pair(config: Config, model: Shape) -> dict[str, Need]:
    """Return what each rule takes for one pair at one layer, by its name, in the order data flows."""
    planted, layer, datasets = config.pair.chat.planted, config.pair.layer, config.datasets.values()
    width = activation_width(config, model)
    train, validation = sum(d.tokens for d in datasets), sum(d.validation_tokens for d in datasets)
    tokens, shard = train + validation, config.tokens.shard
    shards = sum(-(-budget // shard) for d in datasets for budget in (d.tokens, d.validation_tokens))
    # All weights in bfloat16, or those up to the layer in float32: the rest is never touched.
    weights = max(2 * model.parameters(), 4 * model.parameters(layer + 1))
    batch = config.activations.batch_tokens * 4 * (4 * width + 2 * model.mlp_width)
    prepared = 1 if planted or config.pair.chat.finetune else 2
    models = 1 if planted else 2
    # An adapter is applied when it is loaded, so its base is not written again.
    adapter = None if planted else config.pair.chat.adapter
    written = 1 if adapter and not adapter.merge and isinstance(adapter.base, str) else models
    disk, held = written * 2 * model.parameters(), PROCESS + 4 * model.parameters()
    needs = {"prepare_model": Need(prepared, 0, disk, held, device=0, flop=0)}
    if finetune := config.pair.chat.finetune:
        seen = finetune.epochs * sum(finetune.data.values())
        kept = 2 * model.layers * (14 * width + 5 * model.mlp_width)  # bytes per token for the backward pass
        # Weights, gradients and two moments are float32. A copy of the weights, and what is kept of a batch,
        # are bfloat16. Logits exist for a few tokens at a time.
        memory = 18 * model.parameters() + finetune.batch_tokens * kept + LOGIT_BYTES * model.vocabulary
        flop = 6 * seen * model.per_token()
        work = (Work("forward", flop, seen / finetune.batch_tokens * ADAM_BYTES * model.parameters()),)
        held = PROCESS + _text(config)
        needs["finetune_model"] = Need(1, seen, 0, held, memory, flop, work, loads=2 * model.parameters())
    work = (Work("host", TOKENISED * tokens),)
    needs["tokenise"] = Need(shards, tokens, tokens * TOKEN_BYTES, PROCESS + _text(config), 0, 0, work)
    cache = tokens * (2 * width * COMPRESSED + 4)  # bytes of one model's caches
    largest = min(shard, max(max(d.tokens, d.validation_tokens) for d in datasets))
    harvested = models if not (planted and planted.noise) else 0
    if harvested:
        flop = harvested * 2 * tokens * model.per_token(layer + 1)
        held = PROCESS + min(largest, WINDOW) * 2 * width
        seen = harvested * PROOF_PASSES * PROOF_TOKENS
        proof = 2 * seen * model.per_token()
        needs["prove_model"] = Need(
            harvested,
            seen,
            0,
            PROCESS,
            4 * model.parameters(),
            proof,
            (Work("forward", proof),),
            harvested * 2 * model.parameters(),
        )
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
        # The shard is held twice in float32, before and after planting, and then in bfloat16.
        held = PROCESS + largest * 18 * width
        needs["plant_concepts"] = Need(
            shards, tokens, 2 * cache + FIRING_BYTES * firings, held, 0, 0, written=2 * tokens * 2 * width
        )
    needs |= _of_answers(config, model) | _of_crosscoders(config, model, width, train, validation)
    needs |= _of_explainer(config)
    listed = [item for evaluation in evaluations(config) for item in evaluation.need.items()]
    return needs | {rule: need(config) for rule, need in listed}


def _text(config: Config) -> float:
    """Bytes of the texts that are in memory at once.

    That is the largest file that is one text or one value, or a part of a stream. A file that is one text is
    held as its bytes and as text.
    """
    sizes = [STREAMED] if any(source.hub for source in config.datasets.values()) else [0]
    for name, source in config.datasets.items():
        try:
            files = [Path(path) for path in source.local_files(f"datasets.{name}")]
        except UserError:  # no such files yet; a run refuses them, and crossdiff plan says so
            continue
        whole = [path for path in files if ending(path.name)[0] in WHOLE and path.exists()]
        sizes += [3 * path.stat().st_size for path in whole]
    return max(sizes)


def _of_answers(config: Config, model: Shape) -> dict[str, Need]:
    """Return the needs of rules in which the models answer before there are crosscoders."""
    needs = {}
    if behaviour := config.behaviour:
        seen = STEERED_REQUESTS * behaviour.phrasings * (PROMPT_TOKENS + behaviour.answer_tokens)
        # The second model is loaded while the first is still there.
        device = 2 * 2 * model.parameters() + model.cache(TOGETHER, PROMPT_TOKENS + behaviour.answer_tokens)
        answers = 2 * STEERED_REQUESTS * behaviour.phrasings
        work = _answered(model, 2 * seen, answers, TOGETHER, behaviour.answer_tokens)
        needs["measure_refusals"] = Need(
            1, seen, 0, PROCESS, device, work[0].flop, work, 2 * 2 * model.parameters()
        )
    if (causal := config.causal) and causal.answers == "generated":
        jobs, length = len(causal.datasets), _conversation(causal, config.tokens.context)
        seen = jobs * causal.conversations * length
        device = 4 * model.parameters() + model.cache(TOGETHER, config.tokens.context)
        work = _answered(model, seen, jobs * causal.conversations, TOGETHER, causal.answer_tokens)
        needs["generate_answers"] = Need(
            jobs, seen, 0, PROCESS + _text(config), device, work[0].flop, work, jobs * 2 * model.parameters()
        )
    return needs


def _conversation(causal: Causal, context: int) -> int:
    """Tokens per conversation: a usual first turn and its generated answer, or a full context."""
    return min(context, FIRST_TURN + causal.answer_tokens) if causal.answers == "generated" else context


def _answered(model: Shape, seen: float, answers: float, together: int, tokens: int) -> tuple[Work, ...]:
    """Return the work of a model that reads ``seen`` tokens and writes ``answers`` of ``tokens`` tokens.

    It writes ``together`` answers at once, and reads its weights once for each new token of them.
    """
    moved = math.ceil(answers / together) * tokens * 2 * model.parameters()
    return Work("forward", 2 * seen * model.per_token()), Work("generate", 0, moved)


def _of_explainer(config: Config) -> dict[str, Need]:
    """Return the need of the language model that explains latents, if it is a local folder.

    A server needs nothing from the forecast: Snakemake's own machine asks it.
    """
    if config.explanations is None or config.explanations.model.folder is None:
        return {}
    jobs, (_, _, read, written) = len(config.crosscoders) * len(config.seeds), asked(config)
    model, tokens = folder_shape(Path(config.explanations.model.folder)), int(read + written)
    if model is None:
        flop = jobs * UNKNOWN_FLOP
        need = Need(jobs, tokens, 0, PROCESS, UNKNOWN_BYTES, flop, (Work("forward", flop),))
    else:
        work = _answered(model, read + written, written, TOGETHER, 1)
        size = 2 * model.parameters()
        need = Need(jobs, tokens, 0, PROCESS, 2 * size, work[0].flop, work, loads=jobs * size)
    return {"explain_latents": need}


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
        """Return the need of a rule that reads a crosscoder once and runs it over tokens in blocks."""
        device = largest(lambda i: 4 * parameters[i] + 4 * 2048 * 4 * latents[i]) + extra
        flop = total(lambda i: parameters[i] * tokens)  # the encoder's product
        work, read = (Work(kind, flop),), jobs * tokens * 4 * width
        return Need(jobs, tokens, disk, PROCESS, device, flop, work, read=read)

    def codes(tokens: int) -> float:
        """Return the disk that files of active entries take."""
        return tokens * total(lambda i: ENTRY_BYTES * getattr(entries[i], "k", ACTIVE))

    def training(i: int) -> Work:
        """Return the steps of all trainings of an entry."""
        flop, moved = step_work(width, latents[i], entries[i].batch)
        steps = seeds * entries[i].steps
        return Work(entries[i].loss, steps * flop, steps * moved, width * latents[i])

    trainings = tuple(training(i) for i in range(len(entries)))
    needs = {
        "train_crosscoder": Need(
            jobs,
            int(total(lambda i: entries[i].tokens)),
            total(lambda i: 4 * parameters[i]),
            # One pool of token pairs is in use while another is filled. A GPU holds them if it has room for
            # them.
            PROCESS + largest(lambda i: 2 * min(entries[i].buffer_tokens, train) * 2 * 2 * width),
            largest(lambda i: training_bytes(width, latents[i], entries[i].batch)),
            sum(work.flop for work in trainings),
            trainings,
            pairs=total(lambda i: entries[i].tokens * 4 * width),
        ),
        # The decoder's directions, the sums of the targets and one more; then some tokens, their
        # reconstructions and the parts of these.
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
            # All tokens with their places; the background's vectors and the vectors that are compared with
            # them.
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
            # Two decoders, their live latents, the same normalised; cosines of a block of latents.
            largest(lambda i: 3 * 2 * 2 * parameters[i] + 4 * 1024 * latents[i]),
            sum(pairs * 2 * parameters[i] * latents[i] for i in range(len(entries))),
        )
    if planted := config.pair.chat.planted:
        concepts = sum(planted.concepts.model_dump().values())
        # The crosscoder; sums over tokens, covariances, variances and correlations of both models in float64.
        matching = largest(lambda i: 4 * parameters[i] + 5 * 8 * 2 * concepts * latents[i])
        needs["match_concepts"] = Need(jobs, train, 0, PROCESS + ENTRIES_HELD + matching, 0, 0)
    if causal := config.causal:
        # Every patched run is a pass of the model's blocks above the layer.
        seen = causal.conversations * len(causal.datasets) * _conversation(causal, config.tokens.context)
        batch = config.activations.batch_tokens * 4 * (4 * width + 2 * model.mlp_width)
        runs = 13 + causal.random_sets  # patched runs of both models' activations
        rest = model.per_token() - model.per_token(config.pair.layer + 1)
        flop = jobs * 2 * seen * (model.per_token() + runs * rest)
        needs["measure_causal_effect"] = reading(seen, extra=2 * 2 * model.parameters() + batch)._replace(
            flop=flop, work=(Work("forward", flop),), loads=jobs * 2 * 2 * model.parameters(), read=0
        )
    if steering := config.steering:
        # Only the first seed is steered. The chat model answers under every condition, and the base model
        # reads the answers.
        steered = 1 + max(len(steering.latents.get(name, [])) for name in config.crosscoders)
        directions = steered * (1 + steering.random_latents + steering.random_directions)
        runs, length = directions * (len(steering.strengths) + 1), PROMPT_TOKENS + steering.answer_tokens
        requests = STEERED_REQUESTS * steering.phrasings
        read, answers = len(entries) * runs * 2 * requests * length, len(entries) * runs * requests
        work = _answered(model, read, answers, STEERED_TOGETHER, steering.answer_tokens)
        both, loads = 2 * 2 * model.parameters(), len(entries) * 2 * 2 * model.parameters()
        need = reading(requests * length, extra=both + model.cache(STEERED_TOGETHER, length))
        needs["steer_latents"] = need._replace(
            jobs=len(entries), flop=work[0].flop, work=work, loads=loads, read=0
        )
    return needs
