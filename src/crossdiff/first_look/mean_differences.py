"""Mean differences of activations, read as tokens, and what adding them does (arXiv 2510.13900)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel

from crossdiff.first_look.sample import KINDS, Place
from crossdiff.interventions.changes import Change
from crossdiff.interventions.steered_answers import answer, read
from crossdiff.models.logit_lens import promoted_tokens
from crossdiff.models.turns import contents
from crossdiff.texts.formats import ROLES

RANDOM = 20  # random directions that each mean difference is compared with
SEED = 0  # of these
STRENGTH = 0.5  # norm of what is added to the stream, over the chat model's median norm at the layer
STEERED = 4  # prompts that are answered with something added


def difference_table(
    chat: PreTrainedModel, means: np.ndarray, places: Sequence[Place], counts: np.ndarray, median_norm: float
) -> pd.DataFrame:
    """Read the mean difference at each place through the chat model's final norm and head.

    ``means`` (places, d_model) are means of chat minus base at one layer over ``counts`` (places,) tokens.
    ``median_norm`` is the chat model's there. The logits of RANDOM random directions say what chance gives:
    directions are brought to the same norm before the head. Columns:

    - kind, position, token, role: of the place; token is an id
    - tokens: number of tokens
    - norm: L2 norm; relative_norm: over ``median_norm``
    - promoted, promoted_by, suppressed, suppressed_by: as in ``models.logit_lens.promoted_tokens``
    - random_by: the median over random directions of the largest distance from the mean logit
    """
    directions = torch.from_numpy(np.asarray(means, np.float32))
    norms = directions.norm(dim=1).numpy()
    chance = promoted_tokens(chat, random_directions(directions.shape[1]), 1).promoted_by
    table = promoted_tokens(chat, directions)
    return pd.DataFrame(
        {
            "kind": [place.kind for place in places],
            "position": pd.array([place.position for place in places], dtype="Int64"),
            "token": pd.array([place.token for place in places], dtype="Int64"),
            "role": [None if place.role is None else ROLES[place.role] for place in places],
            "tokens": counts,
            "norm": norms,
            "relative_norm": norms / median_norm,
            **{name: list(table[name]) for name in table},
            "random_by": float(np.median([values[0] for values in chance])),
        }
    )


def random_directions(width: int, count: int = RANDOM) -> Tensor:
    """Random unit vectors, (count, width), always the same."""
    drawn = torch.randn(count, width, generator=torch.Generator().manual_seed(SEED))
    return torch.nn.functional.normalize(drawn, dim=1)


class Steered(NamedTuple):
    """Answers of the chat model under one condition."""

    condition: str
    answers: list[np.ndarray]  # ids of each answer, without the end of the turn


def strongest_of_each_kind(table: pd.DataFrame) -> list[int]:
    """For each kind of place that is there, the row of ``difference_table`` with the largest norm."""
    kinds = [kind for kind in KINDS if (table.kind == kind).any()]
    return [int(table.norm[table.kind == kind].idxmax()) for kind in kinds]


def steered_answers(
    chat: PreTrainedModel,
    prompts: Sequence[np.ndarray],
    directions: dict[str, Tensor],
    layer: int,
    median_norm: float,
    new_tokens: int,
) -> list[Steered]:
    """Let the chat model answer with each direction (d_model,) added, and with a random one.

    Each is added to the output of block ``layer`` from the last token of the prompt on, at a norm of STRENGTH
    times ``median_norm``. The first condition is ``chat``, with nothing added, and the last is ``random``.
    """
    [random] = random_directions(chat.config.get_text_config().hidden_size, 1)
    added = directions | {"random": random}
    steps = [torch.nn.functional.normalize(value.float(), dim=0) for value in added.values()]
    changes = [Change.nothing(len(random)), *(Change.add(STRENGTH * median_norm * step) for step in steps)]
    known = read(chat, prompts, layer, [len(prompt) - 1 for prompt in prompts])
    answered = answer(chat, known, changes, new_tokens)
    return [
        Steered(name, contents(found.answers, chat))
        for name, found in zip(["chat", *added], answered, strict=True)
    ]
