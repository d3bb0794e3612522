"""Forecast what a run will take: jobs, tokens, disk, memory and work of every heavy rule.

The forecast adds up the arrays that each rule holds, from the config and the model's shape. What compression
and libraries add was measured on the default run. A card's record says how long the work takes (cards.py).
Torch-free, because the Snakefile takes from here what a rule asks SLURM for.
"""

import math

from crossdiff.config import Config
from crossdiff.workflow.evaluations import evaluations
from crossdiff.workflow.forecast_answers import held_text, of_answers, of_explainer, of_first_look
from crossdiff.workflow.forecast_crosscoders import of_crosscoders
from crossdiff.workflow.forecast_data import Data, activation_width, model_bytes
from crossdiff.workflow.sizes import ADAM_BYTES, NO_TORCH, PROCESS, Need, Shape, Work

COMPRESSED = 0.72  # share of a bfloat16 activation's two bytes that is left on disk
WINDOW = 2**20  # tokens of a shard that a harvest holds at once, as in activations.harvest
TOKEN_BYTES = 1.6  # per token of a shard, compressed
FIRING_BYTES = 13  # per row of a planted firing, compressed
LOGIT_BYTES = 64 * 16  # of fine-tuning, per vocabulary entry: 64 tokens with gradients and probabilities
TOKENISED, PICKED = 1e5, 2e3  # operations of a core per token that is tokenised, or read to draw a sample
COLUMN_BYTES = 18  # of main memory per token of a shard: all columns of texts.shards
# Of interventions.proof: its texts' tokens, how often they are read, and in how many passes each time.
PROOF_TOKENS, PROOF_PASSES, PROOF_TEXTS = 200, 30, 4


def forecast_pair(config: Config, model: Shape) -> dict[str, Need]:
    """Return what each rule takes for one pair at one layer, by its name, in the order data flows."""
    data, width = Data.of(config), activation_width(config, model)
    needs = {"prepare_model": _preparing(config, model)}
    if config.pair.chat.finetune:
        needs["finetune_model"] = _finetuning(config, model, width)
    tokens = data.train + data.validation
    work = (Work("host", TOKENISED * tokens),)
    held = PROCESS + held_text(config)
    needs["tokenise"] = Need(data.token_shards, tokens, tokens * TOKEN_BYTES, held, 0, 0, work)
    if config.activations.are_live:
        needs["draw_sample"] = _sampling(config, data)
    needs |= of_first_look(config, model, width)
    needs |= _of_caches(config, model, data, width)
    needs |= of_answers(config, model) | of_crosscoders(config, model, width) | of_explainer(config)
    listed = [item for evaluation in evaluations(config) for item in evaluation.need.items()]
    return needs | {rule: need(config) for rule, need in listed}


def _preparing(config: Config, model: Shape) -> Need:
    """Return the need of writing the models' folders. A hub's or a local folder is copied, file by file."""
    pair = config.pair
    given = [pair.base] if pair.chat.planted or pair.chat.finetune else [pair.base, pair.chat]
    # An adapter is applied when it is loaded, so its base is not written again.
    adapter = pair.chat.adapter
    once = pair.chat.planted or (adapter and not adapter.merge and isinstance(adapter.base, str))
    copied = all(source.hub or source.folder for source in given)
    held = 0 if copied else 4 * model.parameters()  # converted: whole, in float32
    return Need(len(given), 0, (1 if once else 2) * 2 * model.parameters(), PROCESS + held, device=0, flop=0)


def _finetuning(config: Config, model: Shape, width: int) -> Need:
    finetune = config.pair.chat.finetune
    assert finetune is not None
    seen = finetune.epochs * sum(finetune.data.values())
    kept = 2 * model.layers * (14 * width + 5 * model.mlp_width)  # bytes per token for the backward pass
    # Weights, gradients and two moments are float32. A copy of the weights, and what is kept of a batch, are
    # bfloat16. Logits exist for a few tokens at a time.
    memory = 18 * model.parameters() + finetune.batch_tokens * kept + LOGIT_BYTES * model.vocabulary
    flop = 6 * seen * model.per_token()
    work = (Work("forward", flop, seen / finetune.batch_tokens * ADAM_BYTES * model.parameters()),)
    held = PROCESS + held_text(config)
    return Need(1, seen, 0, held, memory, flop, work, loads=2 * model.parameters())


def _sampling(config: Config, data: Data) -> Need:
    """Return the need of the job that draws a sample of every data set's training tokens."""
    largest = max(source.tokens for source in config.datasets.values())
    held = NO_TORCH + COLUMN_BYTES * (2 * largest + data.stored)  # shards, the same joined, samples
    work = (Work("host", PICKED * data.train),)
    return Need(1, data.stored, data.stored * TOKEN_BYTES, held, 0, 0, work)


def _of_caches(config: Config, model: Shape, data: Data, width: int) -> dict[str, Need]:
    """Return the needs of rules that write activations, or prove how they are computed."""
    planted, layer, kept = config.pair.chat.planted, config.pair.layer, config.activations.keep
    needs, models = {}, ["base"] if planted else ["base", "chat"]
    cache = data.cached * (2 * width * COMPRESSED + 4)  # bytes of one model's caches
    if not (planted and planted.noise):
        number = len(models)
        weights = max(model_bytes(config, model, role) for role in models)
        seen = number * PROOF_PASSES * PROOF_TOKENS
        proof = 2 * seen * model.per_token()
        needs["prove_model"] = Need(
            number,
            seen,
            0,
            PROCESS,
            weights,
            proof,
            (Work("forward", proof),),
            number * 2 * model.parameters(),
            models=weights,
            passes=number * PROOF_PASSES * PROOF_TEXTS,
        )
        # What others stored is read (read_activations). It counts here, without the model's work.
        read = [config.datasets[name] for name in config.stores]
        theirs = sum(source.tokens + source.validation_tokens for source in read)
        run, batch = data.cached - theirs, config.activations.batch_tokens
        flop = number * 2 * run * model.per_token(layer + 1)
        needs["harvest_activations"] = Need(
            number * data.caches,
            data.cached,
            number * cache if kept else 0,
            PROCESS + min(data.largest, WINDOW) * 2 * width,
            weights + batch * 4 * (4 * width + 2 * model.mlp_width),
            flop,
            work=(Work("forward", flop),),
            loads=number * data.caches * 2 * model.parameters(layer + 1),
            written=number * data.cached * 2 * width,
            temporary=0 if kept else number * cache,
            models=weights,
            passes=number * run / batch,
        )
    if planted:
        low, high = planted.frequency
        mean = (high - low) / math.log(high / low) if high > low else low
        firings = FIRING_BYTES * data.cached * sum(planted.concepts.model_dump().values()) * mean
        needs["plant_concepts"] = Need(
            data.caches,
            data.cached,
            firings + (2 * cache if kept else 0),
            # The shard is held twice in float32, before and after planting, and then in bfloat16.
            PROCESS + data.largest * 18 * width,
            0,
            0,
            written=2 * data.cached * 2 * width,
            temporary=0 if kept else 2 * cache,
        )
    return needs
