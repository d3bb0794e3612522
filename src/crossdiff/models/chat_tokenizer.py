"""Loading the tokenizer that renders chats, from the folder that ``chat_tokenizer`` wrote. Torch-free, so that tokenising starts fast."""

from pathlib import Path

from transformers import PreTrainedTokenizerFast

from crossdiff.errors import UserError, first_line


def load_chat_tokenizer(folder: str | Path) -> PreTrainedTokenizerFast:
    """The fast tokenizer that tokenizer.json holds whole.

    A model's own is read by ``models.tokenizers``: its class may say more, which takes the model's configuration and torch.
    """
    try:
        return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: not a usable tokenizer folder ({first_line(error)})") from error
