"""This module finds the size of a run's model. Torch-free.

It looks into the model's folder, into data/model-shapes.yaml, and at the model's config.json on the hub.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from crossdiff.config import MODELS, Config, GivenModel, HubModel, ModelSource, Pair
from crossdiff.errors import UserError, first_line
from crossdiff.models.hub import hub_error
from crossdiff.workflow.commands import login, run
from crossdiff.workflow.shipped import shipped
from crossdiff.workflow.sizes import Experts, Shape

SHAPES = Path("data/model-shapes.yaml")
# Models whose names differ only by one of these endings have the same size.
VARIANTS = ("-it", "-pt", "-Instruct", "-Chat", "-Base", "-instruct", "-chat", "-deduped")
# The MLP of these families has two matrices.
UNGATED = (
    *("gpt2", "gpt_neo", "gpt_neox", "gptj", "gpt_bigcode", "codegen", "opt", "bloom", "falcon"),
    *("phi", "mpt", "starcoder2", "nemotron"),
)
LEARNED_POSITIONS = ("gpt2", "gpt_neo", "gpt_bigcode", "opt")
# A config.json of these families leaves values out. They are the defaults of the class that reads it.
GEMMA3 = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 262_208}
LEFT_OUT = {"gemma3_text": GEMMA3}


def shape_of(values: dict[str, Any]) -> Shape | None:
    """Return the size that a model's config.json gives; of a vision model, that of its text part.

    None means that the usual keys are missing, or that they differ by layer. Raises UserError for a value
    that is not an integer above 0.
    """
    if inner := values.get("text_config"):
        values = {name: value for name, value in values.items() if name == "tie_word_embeddings"} | inner
    family = values.get("model_type", "")
    values = LEFT_OUT.get(family, {}) | values
    if any(isinstance(values.get(name), list) for name in ("intermediate_size", "num_key_value_heads")):
        return None
    layers = _size(values, "num_hidden_layers", "n_layer", "n_layers", "num_layers")
    d_model = _size(values, "hidden_size", "n_embd", "d_model")
    heads = _size(values, "num_attention_heads", "n_head", "n_heads", "num_heads")
    vocabulary = _size(values, "vocab_size")
    if not (layers and d_model and heads and vocabulary):
        return None
    experts = _experts(values, layers)
    if experts is None and any("expert" in name and value for name, value in values.items()):
        return None  # this family has other names for its experts
    # The first key is Llama 4's, for its blocks without experts.
    mlp = _size(values, "intermediate_size_mlp", "intermediate_size", "n_inner", "ffn_dim", "d_ff")
    positions = _size(values, "n_positions", "max_position_embeddings") if family in LEARNED_POSITIONS else 0
    return Shape(
        layers,
        d_model,
        mlp or 4 * d_model,
        vocabulary,
        attention=_attention(values, d_model, heads),
        matrices=2 if family in UNGATED else 3,
        embeddings=1 if values.get("tie_word_embeddings", True) else 2,
        positions=positions or 0,
        experts=experts,
        keys=None if (keys := _keys(values, d_model, heads)) == d_model else keys,
    )


def _size(values: dict[str, Any], *names: str) -> int | None:
    """Return the first of these keys that has a value. Raises UserError if that is not an integer above 0."""
    for name in names:
        if (found := values.get(name)) is not None:
            if not isinstance(found, int) or found < 1:
                raise UserError(f"{name}: found {found!r}, allowed: an integer above 0")
            return found
    return None


def _attention(values: dict[str, Any], d_model: int, heads: int) -> int:
    """Return the parameters of one block's attention."""
    if rank := _size(values, "kv_lora_rank"):  # keys and values come from one small vector
        widths = ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
        plain, turned, value = (_size(values, name) or 0 for name in widths)
        # Queries may come from a small vector too.
        queries, inner = heads * (plain + turned), _size(values, "q_lora_rank")
        of_queries = inner * (d_model + queries) if inner else d_model * queries
        of_keys_and_values = d_model * (rank + turned) + rank * heads * (plain + value)
        return of_queries + of_keys_and_values + heads * value * d_model
    one = _size(values, "head_dim") or d_model // heads
    return 2 * d_model * (one * heads + _keys(values, d_model, heads))


def _keys(values: dict[str, Any], d_model: int, heads: int) -> int:
    """Return the width of a token's keys in one block."""
    if _size(values, "kv_lora_rank"):  # transformers keeps the keys of all heads
        return heads * sum(_size(values, name) or 0 for name in ("qk_nope_head_dim", "qk_rope_head_dim"))
    key_heads = _size(values, "num_key_value_heads", "num_kv_heads")
    key_heads = key_heads or (1 if values.get("multi_query") else heads)
    return (_size(values, "head_dim") or d_model // heads) * key_heads


def _experts(values: dict[str, Any], layers: int) -> Experts | None:
    number = _size(values, "num_local_experts", "num_experts", "n_routed_experts")
    one = _size(values, "moe_intermediate_size", "intermediate_size")
    if not number or not one:
        return None
    shared = _size(values, "shared_expert_intermediate_size") or one * (values.get("n_shared_experts") or 0)
    if step := _size(values, "interleave_moe_layer_step"):  # Llama 4
        shared = one
    step = step or _size(values, "decoder_sparse_step") or 1
    first, listed = values.get("first_k_dense_replace") or 0, values.get("mlp_only_layers") or []
    dense = frozenset(
        block for block in range(layers) if block < first or block in listed or (block + 1) % step
    )
    return Experts(number, _size(values, "num_experts_per_tok") or 1, one, shared, dense)


def folder_shape(folder: Path) -> Shape | None:
    """Return the size of the model in a folder. None means: no config.json, or one of an unknown kind.

    Raises UserError for a malformed config.json.
    """
    path = folder / "config.json"
    return _file_shape(path, path) if path.exists() else None


def _file_shape(path: Path, named: object) -> Shape | None:
    try:
        return shape_of(json.loads(path.read_text()))
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{named}: can't be read as a model's config ({first_line(error)})") from None
    except UserError as error:
        raise UserError(f"{named}: {error}") from None


def shape(config: Config, root: Path) -> Shape | None:
    """Return the models' size from what is on this machine, or None if that does not tell it.

    It asks no network. It looks at the base model first and then at the chat model, which has the same size:
    for each at its folder, then at its source. Raises UserError for a malformed config.json.
    """
    for role in MODELS:
        name: str | None = config.pair.model_name(role)
        while name in config.models:  # then the model that it is made from, which has the same size
            if found := _source_shape(config.models[name], root / f"results/models/{name}", root):
                return found
            name = config.models[name].origin
    return None


def check_fit(config: Config, root: Path = Path()) -> None:
    """Raise UserError for models that are known to be too narrow for a crosscoder's k, or to lack a layer.

    Asks no network. ``config`` may have several pairs and layers.
    """
    for pair in config.comparisons:
        if found := shape(config.of(pair), root):
            config.check_width(found.d_model)
            check_layer(config, pair, found)


def check_layer(config: Config, pair: Pair, model: Shape) -> None:
    """Raise UserError for a layer that a pair's models don't have."""
    if pair.layer >= model.layers:
        key = f"pairs.{pair.name}" if config.pairs else "pair"
        many = (
            config.pairs[pair.name].layers if config.pairs else config.given_pair and config.given_pair.layers
        )
        found = f"found {pair.layer}, the models have layers 0 to {model.layers - 1}"
        raise UserError(f"{key}.{'layers' if many else 'layer'}: {found}")


def _source_shape(source: ModelSource, made: Path, root: Path) -> Shape | None:
    if found := folder_shape(made):
        return found
    if source.random:
        width = source.random.d_model  # models/prepare.py makes the model with these sizes
        return Shape(source.random.layers, width, 2 * width, 260, 4 * width * width, embeddings=2)
    if source.adapter:  # of the size of its base
        base = source.adapter.base
        return _given_shape(base, root) if isinstance(base, GivenModel) else None
    return _given_shape(source, root)


def _given_shape(source: GivenModel, root: Path) -> Shape | None:
    if source.folder and (found := folder_shape(Path(source.folder))):
        return found
    name = source.hub.name if source.hub else source.package.key if source.package else source.folder or ""
    return listed(name, root) or (_cached(source.hub) if source.hub else None)


def listed(name: str, root: Path) -> Shape | None:
    """Return the size of a model that data/model-shapes.yaml lists, or None."""
    known = yaml.safe_load(shipped(SHAPES, root).read_text())
    for ending in ("", *VARIANTS):
        if name.endswith(ending) and (values := known.get(name.removesuffix(ending))):
            return shape_of(values)
    return None


def _cached(hub: HubModel) -> Shape | None:
    """Return the size in the config.json that is in this machine's cache of the hub."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(hub.name, hub.within("config.json"), revision=hub.revision)
    return _file_shape(Path(found), f"{hub.name}: config.json") if isinstance(found, str) else None


def known_shape(config: Config, root: Path, configs: Sequence[Path]) -> Shape:
    """Return the models' size as ``shape`` does, or else from config.json on the hub.

    It downloads no other file. Raises UserError if nothing tells the size. It says what to do about the
    config files ``configs``.
    """
    if found := shape(config, root):
        return found
    hubs = {}
    for role in MODELS:
        name = config.pair.model_name(role)
        source: GivenModel = config.pair.source(role)
        key = config.key_of(name)
        if isinstance(source, ModelSource) and source.adapter:  # of the size of its base
            base = source.adapter.base
            if isinstance(base, str):
                source, key = config.models[base], config.key_of(base)
            elif base is not None:
                source, key = base, f"{key}.adapter.base"
        if source.hub:
            hubs[f"{key}.hub"] = source.hub
    said = []
    for key, hub in hubs.items():
        try:
            if found := _file_shape(_download(hub), f"{hub.name}: config.json"):
                return found
            said.append(f"{key}: {hub.name}: its config.json does not tell its size in the usual keys")
        except UserError as error:
            said.append(f"{key}: {error}")
    build = run(configs, f"results/models/{config.pair.model_name('base')}")
    base_key = config.key_of(config.pair.model_name("base"))
    told = said[0] if said else f"{base_key}: the model's size is not known yet; build it first: {build}"
    raise UserError(f"{told}; or add its sizes to {SHAPES}")


def _download(hub: HubModel) -> Path:
    """Return the path of a hub model's config.json.

    Raises UserError if it can't be had: why, and what to do.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    file = hub.within("config.json")
    try:
        # This fails at once. A download would try six times.
        get_hf_file_metadata(hf_hub_url(hub.name, file, revision=hub.revision))
        return Path(hf_hub_download(hub.name, file, revision=hub.revision))
    except Exception as error:  # network and certificate errors share no base class
        raise hub_error(error, str(hub), login(), "config.json") from None
