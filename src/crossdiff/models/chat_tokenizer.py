"""Load the tokenizer that renders chats, from the folder that the rule ``chat_tokenizer`` wrote.

Torch-free, so that tokenising starts fast.
"""

from pathlib import Path

from transformers import PreTrainedTokenizerFast

from crossdiff.errors import UserError, first_line


def load_chat_tokenizer(folder: str | Path) -> PreTrainedTokenizerFast:
    """The fast tokenizer of a folder, from tokenizer.json alone.

    ``models.tokenizers`` reads a model's own tokenizer. Its class may need the model's configuration and
    torch. Raises UserError if the folder holds no usable tokenizer.
    """
    try:
        return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder}: not a usable tokenizer folder ({first_line(error)})") from error
