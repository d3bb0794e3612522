"""The files of a model's folder. Torch-free: the Snakefile imports it."""

from pathlib import Path

# What transformers needs of a folder. No Python files: trust_remote_code stays off.
MODEL_FILES = ("*.json", "*.safetensors", "*.jinja", "tokenizer.model", "*.txt")


def model_files(folder: Path) -> list[Path]:
    """The files of a model's folder that are copied. What else it holds, such as an optimiser's state, decides nothing."""
    return sorted({path for pattern in MODEL_FILES for path in folder.glob(pattern) if path.is_file()})
