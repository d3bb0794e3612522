"""How the models differ layer by layer, and at which layer a crosscoder is worth training."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedModel

from crossdiff.first_look.passes import Measured
from crossdiff.models.forward import resume_from_layer, run_to_layers
from crossdiff.models.padding import padded
from crossdiff.models.parts import decoder_layers, device_of_inputs
from crossdiff.models.predictions import kl_from_chat
from crossdiff.texts.shards import Shard

OUTLIER = 10.0  # a token is one if its norm exceeds this multiple of the median
MOST_PATCHED = 16  # layers at which activations are patched in, evenly spaced
MIDDLE = (0.25, 0.75)  # share of the depth that a suggested layer lies in
ENOUGH = 0.5  # share of the KL at the last layer that is there at the suggested one
SAME = 1e-6  # relative difference, or KL in nats, up to which two models are called the same


def layer_table(measured: Measured, shard: Shard, ratio: float = OUTLIER) -> pd.DataFrame:
    """Compare both models' streams after every block, a row per layer.

    A token is an outlier if its norm in that model exceeds ``ratio`` times the model's median norm
    at the layer. Columns:

    - layer
    - relative_difference: median of |x_chat - x_base| / |x_base| over tokens that are outliers in neither
    - cosine: median cosine of x_base and x_chat over the same tokens
    - norm_base, norm_chat: median L2 norms over all tokens
    - outliers_base, outliers_chat: number of outliers
    - outliers_first: share of the outliers of either model that are the first token of their sequence, NaN
      without outliers
    """
    rows = []
    for layer in range(len(measured.difference)):
        norms = measured.norms[:, layer]
        medians = np.median(norms, axis=1)
        outlier = norms > ratio * medians[:, None]
        kept, either = ~outlier.any(axis=0), outlier.any(axis=0)
        relative = measured.difference[layer, kept] / np.maximum(norms[0, kept], np.finfo(np.float32).tiny)
        rows.append(
            {
                "layer": layer,
                "relative_difference": float(np.median(relative)),
                "cosine": float(np.median(measured.cosine[layer, kept])),
                "norm_base": float(medians[0]),
                "norm_chat": float(medians[1]),
                "outliers_base": int(outlier[0].sum()),
                "outliers_chat": int(outlier[1].sum()),
                "outliers_first": float((shard.position[either] == 0).mean()) if either.any() else np.nan,
            }
        )
    return pd.DataFrame(rows)


def patched_layers(layers: int) -> list[int]:
    """At most MOST_PATCHED layers, evenly spaced, with the first and the last."""
    return sorted({round(layer) for layer in np.linspace(0, layers - 1, min(layers, MOST_PATCHED))})


@torch.inference_mode()
def patched_kl(
    base: PreTrainedModel,
    chat: PreTrainedModel,
    prompts: Sequence[np.ndarray],
    answers: Sequence[np.ndarray],
) -> dict[int, float]:
    """Layer -> mean KL(p_chat || p_patched) in nats over all tokens of the chat model's ``answers``.

    In a patched run, the base model's streams after the layer go through the rest of the chat model, at all
    tokens. Prompts and answers are ids, (tokens,) each. At the last layer only the final norm and the head
    are the chat model's. Empty if no answer has a token.
    """
    whole = [np.concatenate(both) for both in zip(prompts, answers, strict=True)]
    if not sum(map(len, answers)):
        return {}
    ids, real = padded(whole)
    begins = torch.tensor([[len(prompt)] for prompt in prompts])
    said = real & (torch.arange(ids.shape[1]) >= begins)
    layers = patched_layers(len(decoder_layers(chat)))
    where = device_of_inputs(chat)
    predicting = said[:, 1:].to(where)
    streams = run_to_layers(base, ids.to(device_of_inputs(base)), layers)
    [own] = run_to_layers(chat, ids.to(where), [len(decoder_layers(chat)) - 1])
    found = {}
    for layer, stream in zip(layers, streams, strict=True):
        last = resume_from_layer(chat, stream.to(where, own.dtype), ids.to(where), layer)
        kl = kl_from_chat(chat, own[:, :-1][predicting], [last[:, :-1][predicting]])
        found[layer] = float(kl.mean())
    return found


class Suggested(NamedTuple):
    """The layer that the first look suggests."""

    layer: int
    reason: str


def suggest(table: pd.DataFrame) -> Suggested:
    """Suggest a layer from the table of all layers, with its column ``kl_patched``, NaN where not measured.

    It is the first layer in the middle half of the depth at which the base model's activations bring back
    ENOUGH of the KL that they bring back at the last layer. From there on, most of what the fine-tune changed
    is in the residual stream, and blocks that use it are still to come. If no layer of the middle half does,
    it is the one with the largest KL; without conversations, the one with the largest relative difference.
    """
    last = len(table) - 1
    middle = table[(table.layer >= MIDDLE[0] * last) & (table.layer <= MIDDLE[1] * last)]
    middle = table if middle.empty else middle
    patched = middle[middle.kl_patched.notna()]
    if patched.empty:
        row = middle.loc[middle.relative_difference.idxmax()]
        why = "the relative difference is the largest of the middle layers; no conversation was patched"
        return Suggested(int(row.layer), why)
    whole = table.kl_patched[table.kl_patched.notna()].iloc[-1]
    enough = patched[patched.kl_patched >= ENOUGH * whole]
    if enough.empty:
        row = patched.loc[patched.kl_patched.idxmax()]
        said = "the most of any middle layer"
    else:
        row, said = enough.iloc[0], "the first middle layer with half of it or more"
    why = f"the base's activations there bring back {row.kl_patched:.2g} of {whole:.2g} nats, {said}"
    return Suggested(int(row.layer), why)


def are_equal(table: pd.DataFrame, kl: np.ndarray) -> bool:
    """Whether the models do not differ: at no layer, and in no prediction (``kl`` in nats)."""
    return bool(table.relative_difference.max() <= SAME and kl.max() <= SAME)
