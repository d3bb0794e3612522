"""What a run will take, before anything runs: jobs, tokens, disk, memory and time of every heavy rule.

Sums over the arrays that each rule holds, from the config and the model's shape; what compression and libraries add was measured on the
default run. Torch-free: the Snakefile takes from here what a rule asks SLURM for.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from crossdiff.config import Config
from crossdiff.errors import UserError
from crossdiff.explanations.cost import asked
from crossdiff.workflow.evaluations import evaluations
from crossdiff.workflow.sizes import PROCESS, Need, Shape, folder_shape

if TYPE_CHECKING:
    from snakemake.workflow import Workflow

SHAPES = Path("data/model-shapes.yaml")
COMPRESSED = 0.72  # of a bfloat16 activation's two bytes are left on disk
TOKEN_BYTES = 1.6  # of a token shard, compressed
LATENT_BYTES, CONTEXT_BYTES = 1300, 42  # a latent's rows in all tables, and each of its contexts, compressed
ENTRY_BYTES, ACTIVE = 4.4, 42  # of a latent that is active on a token, compressed; how many are under a loss without k, a guess
ENTRIES_HELD, NO_TORCH = 0.3e9, 0.2e9  # a group of such entries, in several orders; Python with tables alone
DIRECTION_BYTES, BROWSER_BYTES = 190, 1700  # of a latent: in the tables of directions, and in the latent browser
FIRING_BYTES = 13  # a planted firing's row, compressed
STREAMED = 2e9  # of texts from the hub, which come in large parts; a guess
STEERED_REQUESTS, PROMPT_TOKENS = 50, 24  # held-out requests of data/requests.yaml in one phrasing, and their longest prompt
PATTERN_BYTES = 95  # of a latent's pattern and scores, compressed
MARGIN = 1.5  # what is asked of SLURM, as a multiple of the forecast
UNKNOWN_MB, UNKNOWN_MINUTES = 64_000, 480  # asked where nobody knows the model yet: enough for one of some billion parameters
SLOWEST = 3e13  # FLOP/s that any GPU of a cluster sustains: the time asked of SLURM
LOGIT_BYTES = 64 * 16  # of fine-tuning, for each entry of the vocabulary: 64 tokens, with their gradients and probabilities
ON_GPU = "on_gpu"  # resource of jobs that use the GPU, if there is one
LEAST_MB, LEAST_MINUTES = 2000, 30


def shape(config: Config, root: Path) -> Shape | None:
    """The base model's, from its folder if that is there, else from the config or data/model-shapes.yaml; None where nobody knows it.

    Raises UserError for a malformed config.json.
    """
    source = config.pair.base
    for folder in (root / f"results/models/{config.pair.model_name('base')}", *([Path(source.folder)] if source.folder else [])):
        if found := folder_shape(folder):
            return found
    if source.random:
        width = source.random.d_model  # as models/prepare.py makes it
        return Shape(source.random.layers, width, 2 * width, 260, 4 * width * width)
    name = source.hub.name if source.hub else source.package.key if source.package else source.folder or ""
    known = yaml.safe_load((root / SHAPES).read_text()).get(name)
    return Shape.of(known) if known else None


def forecast(config: Config, model: Shape) -> dict[str, Need]:
    """Rule -> what it takes, in the order data flows."""
    planted, layer, datasets = config.pair.chat.planted, config.pair.layer, config.datasets.values()
    width = planted.noise.d_model if planted and planted.noise else model.d_model
    train, validation = sum(d.tokens for d in datasets), sum(d.validation_tokens for d in datasets)
    tokens, shard = train + validation, config.tokens.shard
    shards = sum(-(-budget // shard) for d in datasets for budget in (d.tokens, d.validation_tokens))
    # bfloat16 in whole, or float32 as far as the layer: what is not run is never touched.
    weights = max(2 * model.parameters(), 4 * model.parameters(layer + 1))
    batch = config.activations.batch_tokens * 4 * (4 * width + 2 * model.d_mlp)
    prepared = 1 if planted or config.pair.chat.finetune else 2
    models = 1 if planted else 2
    needs = {"prepare_model": Need(prepared, 0, models * 2 * model.parameters(), PROCESS + 4 * model.parameters(), 0, 0)}
    if finetune := config.pair.chat.finetune:
        seen = finetune.epochs * sum(finetune.data.values())
        kept = 2 * model.layers * (14 * width + 5 * model.d_mlp)  # of a token, for the backward pass
        # Weights, gradients and two moments in float32; weights and what is kept of a batch in bfloat16; logits of few tokens at a time.
        memory = 18 * model.parameters() + finetune.batch_tokens * kept + LOGIT_BYTES * model.vocabulary
        needs["finetune_model"] = Need(1, seen, 0, PROCESS + _text(config), memory, 6 * seen * model.parameters())
    needs["tokenise"] = Need(shards, tokens, tokens * TOKEN_BYTES, PROCESS + _text(config), 0, 0)
    cache = tokens * (2 * width * COMPRESSED + 4)  # of one model
    largest = min(shard, max(max(d.tokens, d.validation_tokens) for d in datasets))
    harvested = models if not (planted and planted.noise) else 0
    if harvested:
        flop = harvested * 2 * tokens * model.parameters(layer + 1)
        held = PROCESS + largest * 2 * width
        needs["harvest_activations"] = Need(harvested * shards, tokens, harvested * cache, held, weights + batch, flop)
    if planted:
        low, high = planted.frequency
        mean = (high - low) / math.log(high / low) if high > low else low
        firings = tokens * sum(planted.concepts.model_dump().values()) * mean
        # The shard before and after planting: in float32 twice, then in bfloat16.
        held = PROCESS + largest * 18 * width
        needs["plant_concepts"] = Need(shards, tokens, 2 * cache + FIRING_BYTES * firings, held, 0, 0)
    needs |= _of_answers(config, model) | _of_crosscoders(config, model, width, train, validation) | _of_explainer(config)
    return needs | {rule: need(config) for evaluation in evaluations(config) for rule, need in evaluation.need.items()}


def _text(config: Config) -> float:
    """Bytes of the largest text that is in memory at once: of a local file its bytes, their text, and the lines that this is split into."""
    files = [Path(path) for dataset in config.datasets.values() for path in dataset.files or []]
    hub = STREAMED if any(dataset.hub for dataset in config.datasets.values()) else 0
    return max([hub, *(3 * path.stat().st_size for path in files if path.exists())])


def _of_answers(config: Config, model: Shape) -> dict[str, Need]:
    """Rules that let the models answer, before there are crosscoders."""
    needs = {}
    if behaviour := config.behaviour:
        seen = STEERED_REQUESTS * behaviour.phrasings * (PROMPT_TOKENS + behaviour.answer_tokens)
        # The second model is loaded while the first is there.
        device = 2 * 2 * model.parameters() + model.cache(32, PROMPT_TOKENS + behaviour.answer_tokens)
        needs["measure_refusals"] = Need(1, seen, 0, PROCESS, device, 2 * 2 * seen * model.parameters())
    if (causal := config.causal) and causal.answers == "generated":
        jobs, length = len(causal.datasets), config.tokens.context
        seen = jobs * causal.conversations * length
        device = 4 * model.parameters() + model.cache(32, length)
        needs["generate_answers"] = Need(jobs, seen, 0, PROCESS + _text(config), device, 2 * seen * model.parameters())
    return needs


def _of_explainer(config: Config) -> dict[str, Need]:
    """The language model that explains latents, if it is a local folder: a server is asked from where Snakemake runs."""
    if config.explanations is None or config.explanations.model.folder is None:
        return {}
    jobs, (_, _, read, written) = len(config.crosscoders) * len(config.seeds), asked(config)
    model = folder_shape(Path(config.explanations.model.folder))
    device = 4 * model.parameters() if model else UNKNOWN_MB / MARGIN * 1e6
    flop = 2 * (read + written) * model.parameters() if model else jobs * UNKNOWN_MINUTES / MARGIN * 60 * SLOWEST
    return {"explain_latents": Need(jobs, int(read + written), 0, PROCESS, device, flop)}


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

    def reading(tokens: int, disk: float = 0.0, extra: float = 0.0, passes: float = 1.0) -> Need:
        """A rule that reads a crosscoder once and runs it over tokens, in blocks."""
        device = largest(lambda i: 4 * parameters[i] + 4 * 2048 * 4 * latents[i]) + extra
        return Need(jobs, tokens, disk, PROCESS, device, passes * total(lambda i: 2 * parameters[i] * tokens))

    def codes(tokens: int) -> float:
        """Disk of the files of active entries."""
        return tokens * total(lambda i: ENTRY_BYTES * getattr(entries[i], "k", ACTIVE))

    needs = {
        "train_crosscoder": Need(
            jobs,
            int(total(lambda i: entries[i].tokens)),
            total(lambda i: 4 * parameters[i]),
            # A pool of token pairs in use and one that is read, in parts and whole; weights, gradients and two moments; a batch's codes
            # several times over.
            PROCESS + largest(lambda i: 3 * min(entries[i].buffer_tokens, train) * 2 * 2 * width),
            largest(lambda i: 16 * parameters[i] + 6 * 4 * entries[i].batch * latents[i]),
            total(lambda i: 6 * parameters[i] * entries[i].tokens),
        ),
        # The decoder's directions, sums of the targets and one more; some tokens, their reconstructions and what these are made of.
        "scale_latents": reading(
            train,
            codes(train),
            largest(lambda i: 9 * parameters[i] + 8 * 8 * config.latent_scaling.bootstrap.blocks * latents[i]) + 3 * 8 * 16_384 * width,
            passes=1.5,
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
        "find_twins": Need(jobs, validation, 0, PROCESS + ENTRIES_HELD + largest(lambda i: 4 * parameters[i]), 0, 0),
        "read_directions": Need(
            1,
            0,
            total(lambda i: DIRECTION_BYTES * latents[i]),
            PROCESS,
            # The decoders of all trainings; the chat model, and the logits of a block of latents.
            total(lambda i: 2 * parameters[i]) + 4 * model.parameters() + 3 * 4 * 256 * model.vocabulary,
            total(lambda i: 2 * latents[i] * width * (model.vocabulary + 2 * sum(latents) * seeds)),
        ),
        "write_browser": Need(1, 0, total(lambda i: BROWSER_BYTES * latents[i]), PROCESS + largest(lambda i: 2000 * latents[i]), 0, 0),
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
        matching = PROCESS + ENTRIES_HELD + largest(lambda i: 4 * parameters[i] + 5 * 8 * 2 * concepts * latents[i])
        needs["match_concepts"] = Need(jobs, train, 0, matching, 0, 0)
    if causal := config.causal:
        # Every patched run is a pass of the rest of the model.
        seen = causal.conversations * len(causal.datasets) * config.tokens.context
        answers = 2 * 2 * model.parameters() + config.activations.batch_tokens * 4 * (4 * width + 2 * model.d_mlp)
        runs = 13 + causal.random_sets  # patched runs of both models' activations
        needs["measure_causal_effect"] = reading(seen, extra=answers)._replace(flop=jobs * runs * 2 * seen * model.parameters())
    if steering := config.steering:
        # Of the first seed: the rest of the chat model under every condition, and the base model for what comes out.
        steered = 1 + max(len(steering.latents.get(name, [])) for name in config.crosscoders)
        runs = steered * (1 + steering.random_latents + steering.random_directions) * (len(steering.strengths) + 1)
        seen = STEERED_REQUESTS * steering.phrasings * (PROMPT_TOKENS + steering.answer_tokens)
        both = 2 * 2 * model.parameters() + model.cache(256, PROMPT_TOKENS + steering.answer_tokens)
        needs["steer_latents"] = reading(seen, extra=both)._replace(
            jobs=len(entries), flop=len(entries) * runs * 2 * 2 * seen * model.parameters()
        )
    return needs


def request(config: Config, root: Path = Path()) -> Callable[[str], dict[str, int | Callable[..., int]]]:
    """For the rules: ``**request("train_crosscoder")`` among the resources gives memory and minutes, more after each failed attempt.

    And ``on_gpu``: whether a job runs on a GPU where there is one.
    """
    model = shape(config, root)
    needs = forecast(config, model or Shape(1, 1, 1, 1, 1))  # of any model: which rules there are, and which use a device

    def of(rule: str) -> dict[str, int | Callable[..., int]]:
        if rule not in needs:  # nothing to ask for: no job, or one that waits for a server
            return {}
        need = needs[rule]
        memory = max(LEAST_MB, int(MARGIN * need.memory / 1e6)) if model else UNKNOWN_MB
        minutes = max(LEAST_MINUTES, int(need.flop / need.jobs / SLOWEST / 60 * MARGIN)) if model else UNKNOWN_MINUTES
        grows = {"mem_mb": lambda wildcards, attempt: memory * attempt, "runtime": lambda wildcards, attempt: minutes * attempt}
        return grows | {ON_GPU: 1 if need.device else 0}

    return of


def share_gpu(workflow: "Workflow", devices: Path = Path("/dev")) -> None:
    """Run one job on this machine's GPU at a time, where it has one and ``--resources on_gpu=...`` gives no other number.

    All jobs take the first GPU, so that several GPUs change nothing. A limit of local scope: jobs of a cluster don't count.
    """
    if any(devices.glob("nvidia[0-9]*")) and ON_GPU not in workflow.global_resources:
        workflow.register_resource(ON_GPU, 1)


def known_shape(config: Config, root: Path) -> Shape:
    """As ``shape``. Raises UserError where nobody knows it."""
    found = shape(config, root)
    if found is None:
        folder = f"results/models/{config.pair.model_name('base')}"
        raise UserError(f"pair.base: the model's size is not known yet; run snakemake {folder} first, or add it to {SHAPES}")
    return found
