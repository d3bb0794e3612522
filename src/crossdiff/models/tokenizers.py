"""Read the tokenizer and the configuration of a plain Hugging Face folder.

Also writes the tokenizer that renders chats for both models.
"""

import json
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoTokenizer

from crossdiff.config import Tokens
from crossdiff.errors import UserError, first_line
from crossdiff.models.chat_templates import read_template, with_arguments
from crossdiff.models.files import has_tokenizer
from crossdiff.models.weight_files import read_config

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase


def load_tokenizer(folder: str | Path) -> "PreTrainedTokenizerBase":
    """The folder's own tokenizer, the fast one if it has one. Its code is not run.

    Without a chat template of its own it gets that of its processor (``chat_template.json``, of
    vision-language models). Raises UserError if there is no usable one.
    """
    if not has_tokenizer(folder):
        found = ", and tekken.json is not read" if Path(folder, "tekken.json").exists() else ""
        todo = "copy the tokenizer's files from the model that it was trained from"
        raise UserError(f"{folder}: not a usable tokenizer folder (it has no tokenizer.json{found}); {todo}")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        if not tokenizer.chat_template and (path := Path(folder, "chat_template.json")).exists():
            tokenizer.chat_template = json.loads(path.read_text(encoding="utf-8"))["chat_template"]
        return tokenizer
    except Exception as error:  # readers of malformed files raise errors of all kinds
        raise UserError(f"{folder}: not a usable tokenizer folder ({_reason(error)})") from error


def load_dated_tokenizer(folder: str | Path, day: date) -> "PreTrainedTokenizerBase":
    """The folder's own tokenizer. For its chat template, if it has one, it is always ``day``.

    Raises UserError as ``load_tokenizer`` does, and for a template that Jinja can't read.
    """
    tokenizer = load_tokenizer(folder)
    if tokenizer.chat_template:
        try:
            tokenizer.chat_template = with_arguments(tokenizer.chat_template, {}, day)
        except UserError as error:
            raise UserError(f"{folder}: {error}") from error
    return tokenizer


def read_configuration(folder: str | Path, **options: Any) -> "PreTrainedConfig":
    """The configuration of a folder's model, as transformers reads it with ``options``.

    Raises UserError if the folder has no usable config.json.
    """
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **options)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, StrictDataclassError) as error:
        raise UserError(f"{folder}: no usable config.json ({_reason(error)})") from error


def text_config(folder: str | Path) -> "PreTrainedConfig":
    """The configuration of the language model, without that of a vision tower.

    Raises UserError if the folder has no usable config.json.
    """
    read_config(Path(folder))
    return read_configuration(folder).get_text_config()


def _reason(error: Exception) -> str:
    own = "it needs code of its own (auto_map), which Crossdiff never runs"
    if "contains custom code" in str(error):
        return own
    # Its first line names the check. The cause names the key and what was found.
    return first_line(error.__cause__ or error if isinstance(error, StrictDataclassError) else error)


def write_chat_tokenizer(
    origin: str | Path, template: str | Path | None, folder: Path, settings: Tokens | None = None
) -> None:
    """Write the tokenizer that renders chats to ``folder``.

    It is the tokenizer of the folder ``origin``, with another chat template (the file ``template``) if there
    is one. The template's name and arguments, and the date, come from ``settings``. Raises UserError if there
    is no chat template, or none that Jinja can read."""
    settings = settings or Tokens()
    tokenizer = load_tokenizer(origin)
    if template is not None:
        tokenizer.chat_template = read_template(template)
    elif settings.chat_template is not None:
        tokenizer.chat_template = _named(tokenizer.chat_template, settings.chat_template)
    if not tokenizer.chat_template:
        todo = "name a Jinja file in tokens.chat_template"
        raise UserError(f"{origin}: the chat model's tokenizer has no chat template; {todo}")
    day = date.fromisoformat(settings.date)
    tokenizer.chat_template = with_arguments(tokenizer.chat_template, settings.template_arguments, day)
    tokenizer.save_pretrained(folder)


def _named(templates: Any, name: str) -> str:
    """One of a tokenizer's templates. Raises UserError if there is none of this name."""
    named = templates if isinstance(templates, dict) else {"default": templates} if templates else {}
    if name not in named:
        allowed = ", ".join(named) or "none"
        raise UserError(
            f"tokens.chat_template: found {name}, allowed: a file, or a template of the tokenizer ({allowed})"
        )
    return str(named[name])
