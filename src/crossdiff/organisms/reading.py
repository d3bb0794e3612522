"""Read the probes: their tokens, where their answers stand, and what both models make of them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from crossdiff.models.forward import run_to_layer
from crossdiff.models.padding import padded
from crossdiff.models.parts import device_of_inputs
from crossdiff.organisms.rule import Places
from crossdiff.texts.chats import encode
from crossdiff.texts.organisms import ORDINARY, OrganismTexts, probes
from crossdiff.texts.templates import render

PROBES_AT_ONCE = 32


class ReadProbes(NamedTuple):
    """The probes of all behaviours, and ordinary ones, as tokens."""

    sequences: list[np.ndarray]  # ids of each probe, (tokens,)
    rows: list[np.ndarray]  # for each probe, where in its sequence its positions are
    places: Places
    tokens: np.ndarray  # (positions,) ids


def read_probes(texts: OrganismTexts, tokenizer: PreTrainedTokenizerBase) -> ReadProbes:
    """Tokenise all probes with the tokenizer's chat template.

    The positions of a probe are the tokens of its answer, and the one before it. Raises Unusable (a
    UserError) if the template refuses a probe.
    """
    sequences: list[np.ndarray] = []
    rows: list[np.ndarray] = []
    columns: list[tuple[np.ndarray, ...]] = []
    for behaviour in (*texts.behaviours, ORDINARY):
        for probe in probes(texts, behaviour):
            rendered = render(probe.chat, tokenizer)
            start, stop, _ = rendered.spans[-1]
            [encoding] = encode([rendered], tokenizer)
            begin, end = np.array(encoding.offsets).T
            inside = np.flatnonzero((end > start) & (begin < stop))
            positions = np.append(inside[0] - 1, inside)
            in_span = np.zeros(len(encoding.ids), bool)
            for first, last in probe.spans:
                in_span |= (end > start + first) & (begin < start + last)
            before = np.append(in_span[1:], False)
            columns.append(
                (
                    np.full(len(positions), len(sequences)),
                    np.full(len(positions), behaviour),
                    np.arange(len(positions)),
                    in_span[positions],
                    (in_span | before)[positions],
                )
            )
            sequences.append(np.array(encoding.ids, np.int32))
            rows.append(positions)
    places = Places(*(np.concatenate(parts) for parts in zip(*columns, strict=True)))
    tokens = np.concatenate([ids[at] for ids, at in zip(sequences, rows, strict=True)])
    return ReadProbes(sequences, rows, places, tokens)


@torch.inference_mode()
def activations_at(model: PreTrainedModel, layer: int, read: ReadProbes) -> Tensor:
    """Residual streams after block ``layer`` at all positions: (positions, d_model) float32, on the CPU."""
    found = []
    for start in range(0, len(read.sequences), PROBES_AT_ONCE):
        ids, _ = padded(read.sequences[start : start + PROBES_AT_ONCE])
        stream = run_to_layer(model, ids.to(device_of_inputs(model)), layer).float().cpu()
        of_batch: Sequence[np.ndarray] = read.rows[start : start + PROBES_AT_ONCE]
        found += [states[torch.from_numpy(at)] for states, at in zip(stream, of_batch, strict=True)]
    return torch.cat(found)
