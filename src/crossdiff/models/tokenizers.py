"""The tokenizer and the configuration of a plain Hugging Face folder, and the tokenizer that renders chats for both models."""

from pathlib import Path
from typing import TYPE_CHECKING

from transformers import AutoConfig, AutoTokenizer

from crossdiff.errors import UserError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def load_tokenizer(folder: str | Path):
    """The folder's fast tokenizer."""
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: not a usable tokenizer folder ({first_line(error)})") from error


def text_config(folder: str | Path) -> "PreTrainedConfig":
    """The configuration of the language model proper (without a vision tower)."""
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True).get_text_config()
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: no usable config.json ({first_line(error)})") from error


def write_chat_tokenizer(origin: str | Path, template: str | Path | None, folder: Path) -> None:
    """The tokenizer that renders chats: that of ``origin``, with the fine-tune's own ``template`` if there is one."""
    tokenizer = load_tokenizer(origin)
    if template is not None:
        tokenizer.chat_template = Path(template).read_text(encoding="utf-8")
    if not tokenizer.chat_template:
        raise UserError(f"{origin}: the chat model's tokenizer has no chat template")
    tokenizer.save_pretrained(folder)
