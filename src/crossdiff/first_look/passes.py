"""One pass of both models over a sample: what the streams after every block and the predictions show."""

import logging
import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from crossdiff.activations.harvest import batch_of, length_batches
from crossdiff.models.forward import run_to_layers
from crossdiff.models.parts import HEAD_POSITIONS, decoder_layers, device_of_inputs
from crossdiff.models.predictions import log_probabilities
from crossdiff.models.replacements import check_ids, embedding_rows
from crossdiff.texts.shards import Shard

log = logging.getLogger(__name__)

BATCH = 2048  # tokens that both models read at once, at most: their streams of all layers are held
PROMOTED = 20  # tokens kept per position, those with the largest difference of logits
LIKELY = 0.01  # probability that the chat model gives at least to a promoted token


class Measured(NamedTuple):
    """What one pass gives. No table of tokens by vocabulary is kept."""

    norms: np.ndarray  # (model, layers, tokens) float32: L2 norms
    difference: np.ndarray  # (layers, tokens) float32: L2 norm of chat minus base
    cosine: np.ndarray  # (layers, tokens) float32
    means: np.ndarray  # (layers, places, d_model) float32: mean of chat minus base at each place
    kl: np.ndarray  # (tokens,) float32, nats: KL(p_chat || p_base) of the next token
    promoted: np.ndarray  # (tokens, PROMOTED) int32: ids of LIKELY tokens, the largest difference first
    promoted_by: np.ndarray  # (tokens, PROMOTED) float32: log p_chat - log p_base, 0 where none is above


@torch.inference_mode()
def one_pass(
    base: PreTrainedModel,
    chat: PreTrainedModel,
    shard: Shard,
    place_of: np.ndarray,
    places: int,
    batch_tokens: int,
) -> Measured:
    """Run both models over all sequences of ``shard``, in batches of ``batch_tokens`` tokens, at most BATCH.

    ``place_of`` (tokens,) is the number of each token's place, below ``places``, or -1. Predictions are over
    the ids that both models have. Raises UserError for a token that one of them can't read.
    """
    for model in (base, chat):
        check_ids(model, shard.token)
    starts, stops = shard.sequence_bounds()
    layers, total = len(decoder_layers(chat)), len(shard.token)
    width = min(embedding_rows(base), embedding_rows(chat))
    d_model, where = chat.config.get_text_config().hidden_size, device_of_inputs(chat)
    sums = torch.zeros(layers, places, d_model, device=where)
    kept = min(PROMOTED, width)
    found = Measured(
        norms=np.zeros((2, layers, total), np.float32),
        difference=np.zeros((layers, total), np.float32),
        cosine=np.zeros((layers, total), np.float32),
        means=np.zeros((layers, places, d_model), np.float32),
        kl=np.zeros(total, np.float32),
        promoted=np.zeros((total, kept), np.int32),
        promoted_by=np.zeros((total, kept), np.float32),
    )
    done = 0
    for group in length_batches(stops - starts, min(batch_tokens, BATCH)):
        batch = batch_of(shard.token, starts[group], (stops - starts)[group])
        streams = []
        for model in (base, chat):
            ids = batch.ids.to(device_of_inputs(model))
            read = run_to_layers(model, ids, range(layers))
            streams.append([hidden.flatten(0, 1)[batch.places.to(ids.device)] for hidden in read])
        place = torch.from_numpy(place_of[batch.rows]).to(where)
        for layer, (of_base, of_chat) in enumerate(zip(*streams, strict=True)):
            _compare(found, layer, batch.rows, of_base.to(where).float(), of_chat.float(), place, sums[layer])
        _predict(found, batch.rows, (base, chat), (streams[0][-1], streams[1][-1]), width)
        done += len(batch.rows)
        log.info("%d of %d tokens", done, total)
    counts = torch.bincount(torch.from_numpy(place_of[place_of >= 0]), minlength=places).to(where)
    found.means[:] = (sums / counts[:, None]).cpu().numpy()
    return found


def _compare(
    found: Measured,
    layer: int,
    rows: np.ndarray,
    base: Tensor,
    chat: Tensor,
    place: Tensor,
    sums: Tensor,
) -> None:
    """Compare both streams of one layer, (tokens, d_model), and add their difference to the places' sums."""
    difference = chat - base
    for part, values in (
        (found.norms[0], base.norm(dim=1)),
        (found.norms[1], chat.norm(dim=1)),
        (found.difference, difference.norm(dim=1)),
        (found.cosine, torch.cosine_similarity(base, chat, dim=1)),
    ):
        part[layer, rows] = values.cpu().numpy()
    sums.index_add_(0, place[place >= 0], difference[place >= 0])


def _predict(
    found: Measured,
    rows: np.ndarray,
    models: tuple[PreTrainedModel, PreTrainedModel],
    last: tuple[Tensor, Tensor],
    width: int,
) -> None:
    """Compare the predictions of both models, which follow from their last streams (tokens, d_model)."""
    for first in range(0, len(rows), HEAD_POSITIONS):
        block = slice(first, first + HEAD_POSITIONS)
        of_base, of_chat = (
            log_probabilities(model, stream[block], width) for model, stream in zip(models, last, strict=True)
        )
        difference = of_chat - of_base.to(of_chat.device)
        kl = (of_chat.exp() * difference).sum(dim=1)
        # Without LIKELY, rare tokens that neither model would say have the largest differences.
        likely = difference.masked_fill(of_chat < math.log(LIKELY), 0)
        top = likely.clamp_min(0).topk(found.promoted.shape[1], dim=1)
        part = rows[block]
        found.kl[part] = kl.clamp_min(0).cpu().numpy()  # rounding may give a little less than 0
        found.promoted[part] = top.indices.cpu().numpy()
        found.promoted_by[part] = top.values.cpu().numpy()
