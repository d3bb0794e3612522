"""The logit lens: the tokens that a direction of the residual stream speaks for and against."""

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformers import PreTrainedModel

from crossdiff.models.forward import head_logits
from crossdiff.models.parts import device_of_inputs

TOKENS = 10  # that are promoted, and as many that are suppressed
ROWS_AT_ONCE = 256  # directions whose logits are held together


@torch.inference_mode()
def promoted_tokens(model: PreTrainedModel, directions: Tensor, count: int = TOKENS) -> pd.DataFrame:
    """Send each direction (latents, d_model) alone through the final norm and the LM head.

    All directions get the same length first, so the columns show what a direction says, not how strongly.
    Gives one row per direction, with lists of ``count`` entries, the furthest first:

    - promoted: token ids with the logits furthest above the mean over the vocabulary
    - promoted_by: their distances from that mean, in logits
    - suppressed, suppressed_by: the same below the mean

    All four are None for a direction of length 0, as of a latent that the chat model does not have.
    """
    pointless = np.flatnonzero((directions == 0).all(dim=1).cpu().numpy())
    # A root mean square of 1. The final norm alone is not enough: its epsilon shrinks short directions.
    directions = normalize(directions.float(), dim=1) * directions.shape[1] ** 0.5
    names = ("promoted", "promoted_by", "suppressed", "suppressed_by")
    if not len(directions):
        return pd.DataFrame(columns=names)
    parts = []
    for start in range(0, len(directions), ROWS_AT_ONCE):
        block = directions[start : start + ROWS_AT_ONCE].to(device_of_inputs(model), model.dtype)
        logits = head_logits(model, block).float()
        logits -= logits.mean(dim=1, keepdim=True)
        ends = [logits.topk(min(count, logits.shape[1]), largest=largest) for largest in (True, False)]
        parts.append([tensor.cpu().numpy() for end in ends for tensor in (end.indices, end.values)])
    columns = (list(np.concatenate(blocks)) for blocks in zip(*parts, strict=True))
    table = pd.DataFrame(dict(zip(names, columns, strict=True)))
    table.loc[pointless] = None
    return table
