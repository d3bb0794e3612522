"""Which chat models share a tokenizer, and hence token shards and the base model's activations on them.

A tokenizer has a name that does not depend on the models that share it. So a model that leaves the config
takes nothing with it. Torch-free.
"""

import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from crossdiff.config import Config
from crossdiff.errors import UserError
from crossdiff.models.files import TOKENIZER_FILES, adapter_files, has_tokenizer, is_one_of, model_files


class ChatTokenizer(NamedTuple):
    """A tokenizer that renders chats."""

    name: str  # of its folder in results/tokenizers
    model: str  # the model that it comes from
    template: str | None  # a file with its chat template, if that is not the model's own


def chat_tokenizers(config: Config) -> dict[str, ChatTokenizer]:
    """Model -> the tokenizer that renders its chats: of chat models, and of all that are fine-tuned here.

    A planted pair has that of its base.

    With ``tokens.tokenizer`` all share one of this name. In ``pair`` it has the chat model's name. Models of
    ``models`` share one where the config, or the files on this machine, show that they have the same
    tokenizer and template. Raises UserError for ``tokens.tokenizer`` where their templates may differ.
    """
    if config.pairs and config.tokens.tokenizer:
        _check_one_template(config)
    made: dict[str, ChatTokenizer] = {}
    named: dict[str, str] = {}  # name of a tokenizer -> the first model whose tokenizer it is
    finetuned = [name for name, source in config.models.items() if source.finetune is not None]
    for model in dict.fromkeys([*_chats(config), *finetuned]):
        origin, template = _origin(config, model)
        name = config.tokens.tokenizer or (model if config.given_pair else _name(config, model))
        made[model] = ChatTokenizer(name, named.setdefault(name, origin), template)
    return made


def told(config: Config) -> Iterator[str]:
    """Say of every tokenizer which chat models share it, if there are several of them."""
    tokenizers = chat_tokenizers(config)
    sharing: dict[str, list[str]] = {}
    for model in _chats(config):
        sharing.setdefault(tokenizers[model].name, []).append(model)
    if len(_chats(config)) > 1:
        for name, models in sharing.items():
            if len(models) > 1:
                yield f"tokenizer {name}: {', '.join(models)} share its token shards"
            else:
                why = "nothing shows that another chat model has the same tokenizer and template"
                yield f"tokenizer {name}: {models[0]} has token shards of its own, because {why}"


def _chats(config: Config) -> list[str]:
    """The chat models, in the order of the config. A planted pair has only its base."""
    role = "base" if config.planted else "chat"
    return list(dict.fromkeys(pair.model_name(role) for pair in config.comparisons))


def _check_one_template(config: Config) -> None:
    """check_model compares vocabularies, but only the config can say that templates are the same."""
    known: dict[str, str] = {}
    for model in _chats(config):
        known.setdefault(_name(config, model), model)
    if len(known) > 1 and config.tokens.chat_template is None:
        name, models = config.tokens.tokenizer, " and ".join(known.values())
        raise UserError(
            f"tokens.tokenizer: found {name}, but nothing shows that {models} have one chat template; "
            "name a file with it in tokens.chat_template, or leave tokenizer out"
        )


def _origin(config: Config, model: str) -> tuple[str, str | None]:
    """The model whose tokenizer ``model`` has, and the file of its chat template."""
    source = config.models[model]
    if source.finetune is not None and source.origin is not None:
        return source.origin, source.finetune.chat_template
    if not config.given_pair and source.origin is not None and not _has_own(config, model):
        return _origin(config, source.origin)
    return model, config.tokens.template_file


def _has_own(config: Config, model: str) -> bool:
    """Whether an adapter has a tokenizer or template of its own. True where that is not known yet."""
    adapter = config.models[model].adapter
    if adapter is None or adapter.folder is None:
        return True
    return any(is_one_of(path.name, TOKENIZER_FILES) for path in adapter_files(Path(adapter.folder)))


def _name(config: Config, model: str) -> str:
    """The name of the tokenizer of one of ``models``. Equal tokenizers have equal names, as far as known."""
    source = config.models[model]
    if source.finetune is not None and source.origin is not None:
        return f"{_name(config, source.origin)}-{_digest(Path(source.finetune.chat_template))}"
    if source.origin is not None and not _has_own(config, model):
        return _name(config, source.origin)
    folder = source.folder or (source.adapter.folder if source.adapter else None)
    if folder is None or not has_tokenizer(folder):
        return model  # what it has is not known before it is downloaded
    files = model_files(Path(folder)) if source.folder else adapter_files(Path(folder))
    return f"tokenizer-{_digest(*(path for path in files if is_one_of(path.name, TOKENIZER_FILES)))}"


@functools.cache  # a run asks several times, and a tokenizer may have 30 MB
def _digest(*files: Path) -> str:
    """Eight digits that stand for the names and the content of files. A missing file counts too."""
    parts = [f"{path.name}\0".encode() + (path.read_bytes() if path.is_file() else b"") for path in files]
    return hashlib.sha256(b"\0".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:8]
