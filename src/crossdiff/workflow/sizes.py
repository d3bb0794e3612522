"""The size of a language model, and what the jobs of a rule take."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from crossdiff.errors import UserError, first_line

PROCESS = 0.5e9  # bytes: Python with torch


class Shape(NamedTuple):
    """Of a decoder-only language model."""

    layers: int
    d_model: int
    d_mlp: int
    vocabulary: int
    attention: int  # parameters of one block's attention

    @classmethod
    def of(cls, config: dict[str, Any]) -> "Shape | None":
        """From the values of a model's config.json; a vision model's text part. None where the usual keys are missing, or differ by layer.

        Raises UserError for one that is no size.
        """
        config = config.get("text_config") or config
        if any(isinstance(config.get(name), list) for name in ("intermediate_size", "num_key_value_heads")):
            return None

        def size(*names: str) -> int | None:
            for name in names:
                if (found := config.get(name)) is not None:
                    if not isinstance(found, int) or found < 1:
                        raise UserError(f"{name}: found {found!r}, allowed: an integer above 0")
                    return found
            return None

        layers, d_model = size("num_hidden_layers", "n_layer", "n_layers", "num_layers"), size("hidden_size", "n_embd", "d_model")
        heads, vocabulary = size("num_attention_heads", "n_head", "n_heads", "num_heads"), size("vocab_size")
        if not (layers and d_model and heads and vocabulary):
            return None
        head = size("head_dim") or d_model // heads
        attention = 2 * d_model * head * (heads + (size("num_key_value_heads") or heads))
        return cls(layers, d_model, size("intermediate_size", "n_inner", "ffn_dim", "d_ff") or 4 * d_model, vocabulary, attention)

    def cache(self, sequences: int, tokens: int) -> int:
        """Bytes of keys and values, in bfloat16, while this many sequences are continued."""
        return sequences * tokens * 2 * 2 * self.layers * self.d_model

    def parameters(self, layers: int | None = None) -> int:
        """Embeddings (tied) and the first ``layers`` blocks, all by default."""
        block = self.attention + 3 * self.d_model * self.d_mlp
        return self.vocabulary * self.d_model + block * (self.layers if layers is None else layers)


class Need(NamedTuple):
    """What all jobs of a rule take together (jobs, tokens, disk, flop) and the largest of them alone (host, device)."""

    jobs: int
    tokens: int
    disk: float  # bytes that stay
    host: float  # bytes of main memory
    device: float  # bytes on the GPU; in main memory where there is none
    flop: float

    @property
    def memory(self) -> float:
        return self.host + self.device


def folder_shape(folder: Path) -> Shape | None:
    """A model folder's, None where it has no config.json or one of an unknown kind. Raises UserError for a malformed one."""
    path = folder / "config.json"
    if not path.exists():
        return None
    try:
        return Shape.of(json.loads(path.read_text()))
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: can't be read as a model's config ({first_line(error)})") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
