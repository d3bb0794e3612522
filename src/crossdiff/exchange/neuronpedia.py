"""Latents for Neuronpedia: files that its interface for uploads takes, one per batch of features.

A file is the body of a request to ``/api/feature/upload-batch`` (docs/exchange.md). Nothing is sent.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field
from transformers import PreTrainedTokenizerFast

from crossdiff.exchange.training import Training

AT_ONCE = 128  # features of a request
MOST_TOKENS = 1024  # of a context
MOST_TEXT = 512  # characters of an explanation
CONTEXTS = 20  # of a feature
EMPTY = "\u2205"  # for a token without text, because none may be empty


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Logit(_Part):
    """A token, and by how much the latent changes its logit."""

    token: Annotated[str, Field(min_length=1)]
    value: float


class Explanation(_Part):
    """What a latent fires on, in words."""

    text: Annotated[str, Field(min_length=1, max_length=MOST_TEXT)]


class Activation(_Part):
    """A context: its tokens, and the latent's activation on each."""

    tokens: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=MOST_TOKENS)]
    values: Annotated[list[float], Field(min_length=1, max_length=MOST_TOKENS)]


class Feature(_Part):
    """A latent."""

    index: Annotated[int, Field(ge=0, le=10_000_000)]
    density: Annotated[float, Field(ge=0, le=1)]
    topLogits: Annotated[list[Logit], Field(max_length=20)]
    bottomLogits: Annotated[list[Logit], Field(max_length=20)]
    explanations: list[Explanation]
    activations: Annotated[list[Activation], Field(min_length=1)]


class Batch(_Part):
    """The body of a request."""

    modelId: Annotated[str, Field(pattern=r"^[^A-Z]+$")]
    source: Annotated[str, Field(pattern=r"^[^A-Z]+$")]
    features: Annotated[list[Feature], Field(min_length=1, max_length=AT_ONCE)]


def write_neuronpedia(training: Training, folder: Path) -> str:
    """Write ``batch-NNNN.json`` files with all latents that have contexts in ``examples.parquet``.

    Density is the share of training tokens. Logits are those of ``directions.parquet``. The explanation is
    a name of the catalogue, else what a language model said, else the pattern. Contexts are the strongest,
    with raw activations f. Model and source are named after chat model, layer, pair and crosscoder; the site
    must know them. Returns a sentence on what was written.
    """
    pair, layer, crosscoder, seed = training.name.split("/")
    chat = training.loaded.names.chat if training.loaded.names else pair
    model, source = chat.lower(), f"{layer.removeprefix('layer')}-{pair}-{crosscoder}-{seed}".lower()
    written, batch = 0, list[Feature]()
    for feature in _features(training):
        batch.append(feature)
        if len(batch) == AT_ONCE:
            written += _write_batch(model, source, batch, written, folder)
            batch = []
    if batch:
        written += _write_batch(model, source, batch, written, folder)
    (folder / "record.json").write_text(json.dumps(training.mark) + "\n", encoding="utf-8")
    silent = int((training.loaded.table().frequency == 0).sum())
    left = training.crosscoder.latents - written - silent
    return (
        f"{written:,} features of model {model}, source {source}; {silent:,} latents never fire, and "
        f"{left:,} have no context in the text that was searched"
    )


def _write_batch(model: str, source: str, features: list[Feature], before: int, folder: Path) -> int:
    """Write the next file, after files with ``before`` features, and return its number of features."""
    batch = Batch(modelId=model, source=source, features=features)
    path = folder / f"batch-{before // AT_ONCE:04}.json"
    path.write_text(batch.model_dump_json() + "\n", encoding="utf-8")
    return len(features)


def _features(training: Training) -> Iterator[Feature]:
    table, tokenizer = training.loaded.table().set_index("latent"), training.tokenizer
    directions = training.optional("directions.parquet")
    logits = None if directions is None else directions.set_index("latent")
    columns, strongest = ["latent", "peak", "tokens", "activations"], [("strongest", "==", True)]
    examples = training.table("examples.parquet", columns, strongest)
    for latent, rows in examples.groupby("latent"):
        found = rows.sort_values("peak", ascending=False, kind="stable").head(CONTEXTS)
        said = table["name"][latent]
        yield Feature(
            index=int(latent),
            density=float(table.frequency[latent]),
            topLogits=_logits(logits, latent, "promoted", tokenizer),
            bottomLogits=_logits(logits, latent, "suppressed", tokenizer),
            explanations=[] if pd.isna(said) or not said else [Explanation(text=str(said)[:MOST_TEXT])],
            activations=[
                Activation(
                    tokens=_texts(tokenizer, row.tokens[:MOST_TOKENS]),
                    values=[float(f"{value:.6g}") for value in row.activations[:MOST_TOKENS]],
                )
                for row in found.itertuples()
            ],
        )


def _logits(
    table: pd.DataFrame | None, latent: Any, column: str, tokenizer: PreTrainedTokenizerFast
) -> list[Logit]:
    if table is None or latent not in table.index or table[column][latent] is None:
        return []
    ids, values = table[column][latent], table[f"{column}_by"][latent]
    return [
        Logit(token=token, value=float(f"{value:.6g}"))
        for token, value in zip(_texts(tokenizer, ids), values, strict=True)
    ]


def _texts(tokenizer: PreTrainedTokenizerFast, ids: Sequence[int]) -> list[str]:
    return [text or EMPTY for text in tokenizer.batch_decode([[int(token)] for token in ids])]
