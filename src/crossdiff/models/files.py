"""The files of a model's folder. Torch-free, because the Snakefile imports this module."""

from fnmatch import fnmatch
from pathlib import Path

# The files that transformers needs. Python files are not among them, as trust_remote_code stays off.
MODEL_FILES = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", "*.tiktoken")
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Files that look like a model's, but that its folder does not need: an adapter, weights in another format or
# precision, and what trainers leave. transformers would apply an adapter that it finds.
NOT_NEEDED = ("adapter_*", "consolidated*", "*.fp16.*", "*.fp16-*", "trainer_state.json", "*_results.json")
TOKENIZER_FILES = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "vocab.*",
    "merges.txt",
    "tekken.json",
    "*.model",
    "*.tiktoken",
    "*.jinja",
)
# A tokenizer has at least one of them.
VOCABULARIES = ("tokenizer.json", "vocab.*", "*.model", "*.tiktoken")


def is_one_of(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a file's ``name`` matches one of the glob ``patterns``."""
    return any(fnmatch(name, pattern) for pattern in patterns)


def model_files(folder: Path) -> list[Path]:
    """The files of a folder that make up its model. Others, such as an optimiser's state, are left out."""
    return [path for path in _files(folder, MODEL_FILES) if not is_one_of(path.name, NOT_NEEDED)]


def adapter_files(folder: Path) -> list[Path]:
    """The files of a folder that make up its adapter: configuration, weights, and a tokenizer's files."""
    return _files(folder, (ADAPTER_CONFIG, ADAPTER_WEIGHTS, *TOKENIZER_FILES))


def _files(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    return sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})


def has_tokenizer(folder: str | Path) -> bool:
    """Whether a folder holds a tokenizer of its own."""
    return bool(_files(Path(folder), VOCABULARIES))


def is_adapter(folder: str | Path) -> bool:
    """Whether a folder holds an adapter, and no whole model."""
    folder = Path(folder)
    return (folder / ADAPTER_CONFIG).is_file() and not (
        (folder / "model.safetensors.index.json").exists() or any(folder.glob("model*.safetensors"))
    )
