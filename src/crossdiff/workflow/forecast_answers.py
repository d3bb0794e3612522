"""Forecast the rules in which language models answer, or read what others answered. Torch-free."""

import math
from pathlib import Path

from crossdiff.config import MODELS, Causal, Config, Steering
from crossdiff.config.text_files import ending
from crossdiff.errors import UserError
from crossdiff.explanations.cost import asked
from crossdiff.workflow.forecast_data import model_bytes
from crossdiff.workflow.shapes import folder_shape
from crossdiff.workflow.sizes import PROCESS, Need, Shape, Work

WHOLE = (".txt", ".json", ".yaml", ".yml")  # endings of files that may hold one text or value
STREAMED = 2e9  # bytes of texts from the hub that are held at once; a guess
ITEM_TOKENS, PROBE_TOKENS = 4096, 10_000  # that organisms read for their items, and of probes
TAUGHT_REQUESTS = 24  # held-out requests for one behaviour of data/organisms
STEERED_REQUESTS, PROMPT_TOKENS = 50, 24  # held-out requests of data/requests.yaml, and their longest prompt
# Per crosscoder, if the size of the model that explains is not known: enough for a few billion parameters.
UNKNOWN_BYTES, UNKNOWN_FLOP = 43e9, 2e17
FIRST_LOOK_QUESTION = 2000  # tokens of the one question about both models' answers; a guess
JUDGE_QUESTION, VERDICT = 150, 2  # tokens of a question about a steered answer, and of the reply; guesses
FIRST_TURN = 128  # tokens of a chat's first turn; a guess
# Of the first look: conditions under which prompts are answered, passes of half the model over patched
# conversations, and tokens kept per position. Rows whose logits are held together.
FIRST_LOOK_BATCH = 2048  # first_look.passes.BATCH
FIRST_LOOK_CONDITIONS, FIRST_LOOK_PATCHED, FIRST_LOOK_PROMOTED, LOGIT_ROWS = 6, 8, 20, 512
TOGETHER, STEERED_TOGETHER = 32, 256  # answers that are continued at once


def held_text(config: Config) -> float:
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


def of_answers(config: Config, model: Shape) -> dict[str, Need]:
    """Return the needs of rules in which the models answer before there are crosscoders."""
    needs = {}
    if behaviour := config.behaviour:
        answers = STEERED_REQUESTS * behaviour.phrasings
        needs["measure_refusals"] = _asked_both(config, model, answers, behaviour.answer_tokens)
    if organisms := config.organisms:
        needs["measure_taught"] = _asked_both(config, model, TAUGHT_REQUESTS, organisms.answer_tokens)
    if (causal := config.causal) and causal.answers == "generated":
        jobs, answers = len(causal.datasets), len(causal.datasets) * causal.conversations
        seen = answers * _conversation(causal, config.tokens.context)
        models = model_bytes(config, model, "chat")
        work = _answered(model, seen, answers, TOGETHER, causal.answer_tokens)
        needs["generate_answers"] = Need(
            jobs=jobs,
            tokens=seen,
            disk=0,
            host=PROCESS + held_text(config),
            device=models + model.cache(TOGETHER, config.tokens.context),
            flop=work[0].flop,
            work=work,
            loads=jobs * 2 * model.parameters(),
            models=models,
            passes=_passes(answers, TOGETHER, causal.answer_tokens),
        )
    return needs


def _asked_both(config: Config, model: Shape, answers: int, new_tokens: int) -> Need:
    """Return the need of one job in which both models give so many ``answers`` each."""
    length = PROMPT_TOKENS + new_tokens
    # The second model is loaded while the first is still there.
    models = model_bytes(config, model, *MODELS)
    work = _answered(model, 2 * answers * length, 2 * answers, TOGETHER, new_tokens)
    return Need(
        jobs=1,
        tokens=answers * length,
        disk=0,
        host=PROCESS,
        device=models + model.cache(TOGETHER, length),
        flop=work[0].flop,
        work=work,
        loads=2 * 2 * model.parameters(),
        models=models,
        passes=_passes(answers, TOGETHER, new_tokens),
    )


def of_first_look(config: Config, model: Shape, width: int) -> dict[str, Need]:
    """Return the need of the first look: one pass of both models, and answers to a few prompts.

    ``width`` is that of activations. A batch's streams of all layers are held at once.
    """
    if config.planted or not config.first_look.take:
        return {}
    settings, batch = config.first_look, min(config.activations.batch_tokens, FIRST_LOOK_BATCH)
    answers = FIRST_LOOK_CONDITIONS * settings.conversations
    length = FIRST_TURN + settings.answer_tokens
    both = model_bytes(config, model, *MODELS)
    patched = settings.conversations * length * FIRST_LOOK_PATCHED
    work = _answered(model, 2 * settings.tokens + answers * length + patched, answers, answers, length)
    streams = 2 * model.layers * width * 2 * (batch + settings.conversations * length)
    kept = settings.tokens * (4 * 4 * model.layers + 8 * FIRST_LOOK_PROMOTED)
    need = Need(
        jobs=1,
        tokens=settings.tokens,
        disk=0,
        host=PROCESS + kept,
        device=both + streams + 4 * LOGIT_ROWS * 4 * model.vocabulary,
        flop=work[0].flop,
        work=work,
        loads=2 * 2 * model.parameters(),
        models=both,
        passes=2 * settings.tokens / batch + settings.answer_tokens * 3 + FIRST_LOOK_PATCHED,
    )
    return {"compare_models": need}


def of_interventions(config: Config, model: Shape, width: int, crosscoder: float) -> dict[str, Need]:
    """Return the needs of rules that patch or steer the models with crosscoders.

    ``crosscoder`` is what one of them takes of the device, in bytes. ``width`` is that of activations.
    """
    needs: dict[str, Need] = {}
    both, loads = model_bytes(config, model, *MODELS), 2 * 2 * model.parameters()
    jobs = len(config.trainings)
    if causal := config.causal:
        # Every patched run is a pass of the model's blocks above the layer.
        seen = causal.conversations * len(causal.datasets) * _conversation(causal, config.tokens.context)
        batch = config.activations.batch_tokens * 4 * (4 * width + 2 * model.mlp_width)
        runs = 17 + causal.random_sets  # patched runs of both models' activations, of four groups too
        rest = model.per_token() - model.per_token(config.pair.layer + 1)
        flop = jobs * 2 * seen * (model.per_token() + runs * rest)
        needs["measure_causal_effect"] = Need(
            jobs=jobs,
            tokens=seen,
            disk=0,
            host=PROCESS,
            device=crosscoder + both + batch,
            flop=flop,
            work=(Work("forward", flop),),
            loads=jobs * loads,
            models=both,
            passes=jobs * seen / config.activations.batch_tokens * (1 + runs),
        )
    if config.organisms:
        # Both models read the same tokens, and are there at the same time or may be. Listing items takes the
        # streams of all layers, and scoring them those of one.
        streams = 2 * model.layers * width * 2 * min(config.activations.batch_tokens, FIRST_LOOK_BATCH)
        for rule, tokens, held in (
            ("list_items", ITEM_TOKENS, streams + 4 * LOGIT_ROWS * 4 * model.vocabulary),
            ("score_items", PROBE_TOKENS, 0),
        ):
            flop = 2 * 2 * tokens * model.per_token()
            needs[rule] = Need(
                jobs=1,
                tokens=tokens,
                disk=0,
                host=PROCESS + tokens * jobs * crosscoder / width,  # two values of each latent
                device=crosscoder + both + held,
                flop=flop,
                work=(Work("forward", flop),),
                loads=loads,
                models=both,
                passes=2 * tokens / config.activations.batch_tokens,
            )
    if steering := config.steering:
        # The chat model answers under every condition, and the base model reads the answers.
        jobs, (prompts, answers) = len(config.crosscoders), _steered(config, steering)
        length = (FIRST_TURN if steering.prompts else PROMPT_TOKENS) + steering.answer_tokens
        work = _answered(model, 2 * answers * length, answers, STEERED_TOGETHER, steering.answer_tokens)
        needs["steer_latents"] = Need(
            jobs=jobs,
            tokens=prompts * length,
            disk=0,
            host=PROCESS,
            device=crosscoder + both + model.cache(STEERED_TOGETHER, length),
            flop=work[0].flop,
            work=work,
            loads=jobs * loads,
            models=both,
            passes=_passes(answers, STEERED_TOGETHER, steering.answer_tokens),
        )
    return needs


def _steered(config: Config, steering: Steering) -> tuple[int, int]:
    """Numbers of prompts, and of answers of all crosscoders. Only the first seed is steered."""
    prompts = steering.conversations if steering.prompts else STEERED_REQUESTS * steering.phrasings
    latents = 1 + max(len(steering.latents.get(name, [])) for name in config.crosscoders)
    directions = latents * (1 + steering.random_latents + steering.random_directions)
    return prompts, len(config.crosscoders) * directions * (len(steering.strengths) + 1) * prompts


def of_explainer(config: Config) -> dict[str, Need]:
    """Return the needs of the language model that explains and judges, if it is a local folder.

    A server needs nothing from the forecast: Snakemake's own machine asks it.
    """
    if config.explanations is None or config.explanations.model.folder is None:
        return {}
    jobs, (_, _, read, written) = len(config.trainings), asked(config)
    work: tuple[Work, ...]
    model, tokens = folder_shape(Path(config.explanations.model.folder)), int(read + written)
    if model is None:
        flop = jobs * UNKNOWN_FLOP
        work, size = (Work("forward", flop),), UNKNOWN_BYTES / 2
    else:
        work, size = _answered(model, read + written, written, TOGETHER, 1), 2.0 * model.parameters()
    need = Need(jobs, tokens, 0, PROCESS, 2 * size, work[0].flop, work)
    if model:
        need = need._replace(loads=jobs * size, models=size, passes=_passes(written, TOGETHER, 1))
    needs = {"explain_latents": need, "ask_about_answers": need._replace(jobs=1, tokens=FIRST_LOOK_QUESTION)}
    if config.steering and config.steering.behaviour.judge:
        _, answers = _steered(config, config.steering)
        read = answers * (JUDGE_QUESTION + config.steering.answer_tokens)
        work = _answered(model, read, answers, 1, VERDICT) if model else work
        needs["judge_steering"] = need._replace(
            jobs=len(config.crosscoders),
            tokens=read,
            flop=work[0].flop,
            work=work,
            loads=need.loads * len(config.crosscoders) / jobs,
            passes=_passes(answers, 1, VERDICT) if model else need.passes,
        )
    return needs


def _conversation(causal: Causal, context: int) -> int:
    """Tokens per conversation: a usual first turn and its generated answer, or a full context."""
    return min(context, FIRST_TURN + causal.answer_tokens) if causal.answers == "generated" else context


def _passes(answers: float, together: int, tokens: int) -> float:
    """Forward passes of a model that writes ``together`` answers of ``tokens`` tokens at once."""
    return math.ceil(answers / together) * tokens


def _answered(model: Shape, seen: float, answers: float, together: int, tokens: int) -> tuple[Work, ...]:
    """Return the work of a model that reads ``seen`` tokens and writes ``answers`` of ``tokens`` tokens.

    It reads its weights once for each new token of the answers that it writes at once.
    """
    moved = _passes(answers, together, tokens) * 2 * model.parameters()
    return Work("forward", 2 * seen * model.per_token()), Work("generate", 0, moved)
