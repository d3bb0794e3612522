"""A training in the format of the paper's authors (docs/exchange.md)."""

from pathlib import Path

from crossdiff.crosscoders.published import write_published
from crossdiff.exchange.training import Training


def write_authors(training: Training, folder: Path) -> str:
    """Write config.json and model.safetensors as the authors' class reads them.

    Returns a sentence on what was written. Raises UserError for what their class can't hold.
    """
    k = training.settings.get("k")
    write_published(training.crosscoder, k, folder, training.mark)
    kind = "CrossCoder" if k is None else "BatchTopKCrossCoder"
    return f"a {kind} of dictionary_learning with {training.crosscoder.latents:,} latents"
