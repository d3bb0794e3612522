"""Read the tokenizer and the configuration of a plain Hugging Face folder.

Also writes the tokenizer that renders chats for both models.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from transformers import AutoConfig, AutoTokenizer

from crossdiff.errors import UserError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase


def load_tokenizer(folder: str | Path) -> "PreTrainedTokenizerBase":
    """The folder's own tokenizer, the fast one if it has one. Raises UserError if there is no usable one."""
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: not a usable tokenizer folder ({first_line(error)})") from error


def text_config(folder: str | Path) -> "PreTrainedConfig":
    """The configuration of the language model, without that of a vision tower.

    Raises UserError if the folder has no usable config.json.
    """
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True).get_text_config()
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: no usable config.json ({first_line(error)})") from error


def write_chat_tokenizer(origin: str | Path, template: str | Path | None, folder: Path) -> None:
    """Write the tokenizer that renders chats to ``folder``.

    It is the tokenizer of the folder ``origin``, with the fine-tune's own chat template (the file
    ``template``) if there is one. Raises UserError if there is no chat template.
    """
    tokenizer = load_tokenizer(origin)
    if template is not None:
        tokenizer.chat_template = Path(template).read_text(encoding="utf-8")
    if not tokenizer.chat_template:
        raise UserError(f"{origin}: the chat model's tokenizer has no chat template")
    tokenizer.save_pretrained(folder)
