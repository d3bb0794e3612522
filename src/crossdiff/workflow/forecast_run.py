"""Forecast a whole run: all pairs at all layers. What they share is counted once. Torch-free."""

from collections.abc import Mapping

from crossdiff.config import MODELS, Config
from crossdiff.workflow.forecast import forecast_pair
from crossdiff.workflow.forecast_data import activation_width
from crossdiff.workflow.sizes import ENTRIES_HELD, PROCESS, Need, Shape
from crossdiff.workflow.tokenizer_names import chat_tokenizers

OF_MODELS = ("prepare_model", "prove_model", "harvest_activations")  # rules with a job for each model
CACHING = ("harvest_activations", "plant_concepts")  # rules that write caches
OF_TOKENIZERS = ("tokenise", "draw_sample")  # rules with jobs for each tokenizer
# Rules that don't depend on the layer.
OF_PAIRS = ("measure_refusals", "measure_taught", "generate_answers", "compare_models", "ask_about_answers")


def forecast(config: Config, model: Shape | Mapping[str, Shape]) -> dict[str, Need]:
    """Return what each rule takes, by its name, in the order data flows.

    ``model`` is the size of the models, or that of each pair by its name.
    """
    tokenizers = chat_tokenizers(config)
    seen: set[tuple[str, ...]] = set()
    total: dict[str, Need] = {}
    # The deepest layer first: its pass gives the activations of the others.
    for pair in sorted(config.comparisons, key=lambda pair: -pair.layer):
        models = {pair.model_name(role) for role in MODELS} & config.models.keys()
        tokenizer = tokenizers[pair.model_name("base" if config.planted else "chat")].name
        needs = forecast_pair(config.of(pair), model if isinstance(model, Shape) else model[pair.name])
        for rule, need in needs.items():
            share = 1.0
            if rule in OF_MODELS:
                place = {"prepare_model": (), "prove_model": (str(pair.layer), tokenizer)}.get(
                    rule, (tokenizer,)
                )
                share = _new(seen, [(rule, name, *place) for name in models])
            elif rule == "finetune_model":
                share = _new(seen, [(rule, pair.model_name("chat"))])
            elif rule in OF_TOKENIZERS:
                share = _new(seen, [(rule, tokenizer)])
            elif rule in OF_PAIRS:
                share = _new(seen, [(rule, pair.name)])
            part = need.times(share)
            if rule == "harvest_activations":  # every layer is written, also in a pass for a deeper one
                places = [("cache", name, tokenizer) for name in models]
                caches = _new(seen, [(*place, str(pair.layer)) for place in places])
                layers = max(sum(thing[:3] == place for thing in seen) for place in places)
                held = PROCESS + layers * (need.host - PROCESS)  # one job holds a part of every layer's cache
                sizes = {name: caches * getattr(need, name) for name in ("disk", "temporary", "written")}
                part = part._replace(host=held, **sizes)
            total[rule] = total[rule].plus(part) if rule in total else part
    if len(config.comparisons) > 1:
        total["compare_pairs"] = _of_all_pairs(config, model)
    return total


def _of_all_pairs(config: Config, model: Shape | Mapping[str, Shape]) -> Need:
    """Return the need of the job that compares pairs.

    It holds a crosscoder while it is read, the chat decoders of one crosscoder on all pairs, two copies of
    one of them, and a group of active entries.
    """
    models = [model] if isinstance(model, Shape) else list(model.values())
    width = max(activation_width(config, one) for one in models)
    decoder = max(4 * entry.n_latents(width) * width for entry in config.crosscoders.values())
    pairs = len({pair.name for pair in config.comparisons})
    tokens = sum(dataset.validation_tokens for dataset in config.datasets.values())
    return Need(1, tokens, 0, PROCESS + ENTRIES_HELD + (4 + pairs + 2) * decoder, device=0, flop=0)


def _new(seen: set[tuple[str, ...]], things: list[tuple[str, ...]]) -> float:
    """The share of ``things`` that were not ``seen`` before. Now they are."""
    share = sum(thing not in seen for thing in things) / len(things)
    seen.update(things)
    return share
