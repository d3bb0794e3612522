"""Where the size of a run's model is known from: its folder, data/model-shapes.yaml, or its config.json on the hub. Torch-free."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from crossdiff.config import Config, GivenModel, HubModel, ModelSource
from crossdiff.errors import UserError, first_line
from crossdiff.models.hub import hub_error
from crossdiff.workflow.commands import login, snakemake
from crossdiff.workflow.sizes import Experts, Shape

SHAPES = Path("data/model-shapes.yaml")
VARIANTS = (
    "-it",
    "-pt",
    "-Instruct",
    "-Chat",
    "-Base",
    "-instruct",
    "-chat",
    "-deduped",
)  # models of one size, by the end of their names
UNGATED = (
    "gpt2",
    "gpt_neo",
    "gpt_neox",
    "gptj",
    "gpt_bigcode",
    "codegen",
    "opt",
    "bloom",
    "falcon",
    "phi",
    "mpt",
    "starcoder2",
    "nemotron",
)
LEARNED_POSITIONS = ("gpt2", "gpt_neo", "gpt_bigcode", "opt")
# What files of these families leave out, by the default of the class that reads them.
LEFT_OUT = {
    "gemma3_text": {
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "vocab_size": 262_208,
    }
}


def shape_of(values: dict[str, Any]) -> Shape | None:
    """From the values of a model's config.json; a vision model's text part. None where the usual keys are missing, or differ by layer.

    Raises UserError for one that is no size.
    """
    if inner := values.get("text_config"):
        values = {name: value for name, value in values.items() if name == "tie_word_embeddings"} | inner
    family = values.get("model_type")
    values = LEFT_OUT.get(family, {}) | values
    if any(isinstance(values.get(name), list) for name in ("intermediate_size", "num_key_value_heads")):
        return None
    layers, d_model = (
        _size(values, "num_hidden_layers", "n_layer", "n_layers", "num_layers"),
        _size(values, "hidden_size", "n_embd", "d_model"),
    )
    heads, vocabulary = (
        _size(values, "num_attention_heads", "n_head", "n_heads", "num_heads"),
        _size(values, "vocab_size"),
    )
    if not (layers and d_model and heads and vocabulary):
        return None
    experts = _experts(values, layers)
    if experts is None and any("expert" in name and value for name, value in values.items()):
        return None  # of a family that names its experts otherwise
    # Llama 4 has a key of its own for blocks without experts.
    mlp = (
        _size(values, "intermediate_size_mlp", "intermediate_size", "n_inner", "ffn_dim", "d_ff")
        or 4 * d_model
    )
    positions = _size(values, "n_positions", "max_position_embeddings") if family in LEARNED_POSITIONS else 0
    matrices, embeddings = 2 if family in UNGATED else 3, 1 if values.get("tie_word_embeddings", True) else 2
    return Shape(
        layers,
        d_model,
        mlp,
        vocabulary,
        _attention(values, d_model, heads),
        matrices,
        embeddings,
        positions or 0,
        experts,
    )


def _size(values: dict[str, Any], *names: str) -> int | None:
    """The first that is there."""
    for name in names:
        if (found := values.get(name)) is not None:
            if not isinstance(found, int) or found < 1:
                raise UserError(f"{name}: found {found!r}, allowed: an integer above 0")
            return found
    return None


def _attention(values: dict[str, Any], d_model: int, heads: int) -> int:
    """Parameters of a block's attention."""
    if rank := _size(
        values, "kv_lora_rank"
    ):  # keys and values come from one small vector, perhaps queries from another
        plain, turned, value = (
            _size(values, name) or 0 for name in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
        )
        queries, inner = heads * (plain + turned), _size(values, "q_lora_rank")
        of_queries = inner * (d_model + queries) if inner else d_model * queries
        return (
            of_queries + d_model * (rank + turned) + rank * heads * (plain + value) + heads * value * d_model
        )
    of_keys = _size(values, "num_key_value_heads", "num_kv_heads") or (
        1 if values.get("multi_query") else heads
    )
    return 2 * d_model * (_size(values, "head_dim") or d_model // heads) * (heads + of_keys)


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
    """A model folder's, None where it has no config.json or one of an unknown kind. Raises UserError for a malformed one."""
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
    """The models', from what is on this machine; None where nobody knows it. Asks no network.

    From the base model's folder if that is there, else from its source; then from the chat model's, which has the same size.
    Raises UserError for a malformed config.json.
    """
    for role in ("base", "chat"):
        if found := _source_shape(
            config.pair.source(role), root / f"results/models/{config.pair.model_name(role)}", root
        ):
            return found
    return None


def _source_shape(source: ModelSource, made: Path, root: Path) -> Shape | None:
    if found := folder_shape(made):
        return found
    if source.random:
        width = source.random.d_model  # as models/prepare.py makes it
        return Shape(source.random.layers, width, 2 * width, 260, 4 * width * width, embeddings=2)
    if source.adapter:  # of the size of its base; that of the pair is looked at on its own
        return _given_shape(source.adapter.base, root) if source.adapter.base else None
    return _given_shape(source, root)


def _given_shape(source: ModelSource | GivenModel, root: Path) -> Shape | None:
    if source.folder and (found := folder_shape(Path(source.folder))):
        return found
    name = source.hub.name if source.hub else source.package.key if source.package else source.folder or ""
    return _listed(name, root) or (_cached(source.hub) if source.hub else None)


def _listed(name: str, root: Path) -> Shape | None:
    known = yaml.safe_load((root / SHAPES).read_text())
    for ending in ("", *VARIANTS):
        if name.endswith(ending) and (values := known.get(name.removesuffix(ending))):
            return shape_of(values)
    return None


def _cached(hub: HubModel) -> Shape | None:
    """Of a config.json that is in the hub's cache here."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(hub.name, hub.within("config.json"), revision=hub.revision)
    return _file_shape(Path(found), f"{hub.name}: config.json") if isinstance(found, str) else None


def known_shape(config: Config, root: Path, configs: Sequence[Path]) -> Shape:
    """As ``shape``, or from config.json on the hub, which is the one file that is then downloaded.

    Raises UserError where nobody knows it: what to do with the config files ``configs``.
    """
    if found := shape(config, root):
        return found
    hubs = {}
    for role in ("base", "chat"):
        source: ModelSource | GivenModel = config.pair.source(role)
        key = f"pair.{role}"
        if isinstance(source, ModelSource) and source.adapter:  # of the size of its base
            source, key = source.adapter.base or config.pair.base, f"{key}.adapter.base"
        if source.hub:
            hubs[f"{key}.hub"] = source.hub
    said = []
    for key, hub in hubs.items():
        try:
            if found := _file_shape(_download(hub), f"{hub.name}: config.json"):
                return found
            said.append(f"{key}: {hub.name} is of a family whose config.json does not tell its size")
        except UserError as error:
            said.append(f"{key}: {error}")
    build = snakemake(configs, f"results/models/{config.pair.model_name('base')}")
    told = said[0] if said else f"pair.base: the model's size is not known yet; build it first: {build}"
    raise UserError(f"{told}; or add its sizes to {SHAPES}")


def _download(hub: HubModel) -> Path:
    """Path of a hub model's config.json. Raises UserError for one that can't be had: why, and what to do."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    file = hub.within("config.json")
    try:
        get_hf_file_metadata(
            hf_hub_url(hub.name, file, revision=hub.revision)
        )  # fails at once, where a download tries six times
        return Path(hf_hub_download(hub.name, file, revision=hub.revision))
    except Exception as error:  # network and certificate errors share no base class
        raise hub_error(error, str(hub), login(), "config.json") from None
