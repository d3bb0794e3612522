"""The files of a model's folder. Torch-free, because the Snakefile imports this module."""

from pathlib import Path

# The files that transformers needs. Python files are not among them, as trust_remote_code stays off.
MODEL_FILES = ("*.json", "*.safetensors", "*.jinja", "tokenizer.model", "*.txt")


def model_files(folder: Path) -> list[Path]:
    """The files of a folder that make up its model. Others, such as an optimiser's state, are left out."""
    return sorted({path for pattern in MODEL_FILES for path in folder.glob(pattern) if path.is_file()})
