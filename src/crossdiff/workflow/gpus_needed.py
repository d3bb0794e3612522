"""How many GPUs a job needs for what it holds on them. Torch-free."""

import math

from crossdiff.workflow.sizes import Need

LIVE = "train_live"
# Rules that run a language model. Its blocks may lie on several GPUs (models.placement).
SPLITTING = frozenset(
    {
        "prove_model",
        "measure_refusals",
        "measure_taught",
        "list_items",
        "score_items",
        "compare_models",
        "harvest_activations",  # and read_activations (harvests.known_as)
        "read_directions",
        "generate_answers",
        "measure_causal_effect",
        "steer_latents",
        "explain_latents",
        "ask_about_answers",
        "judge_steering",
        LIVE,  # its models may lie on several GPUs, its crosscoders lie on one
    }
)
# Share of a card's memory that tensors can fill. CUDA takes some, and a block of a model lies on one card.
USABLE = 0.9


def gpus_needed(device_bytes: float, card_bytes: float | None, splits: bool = True) -> int:
    """Return how many cards with ``card_bytes`` bytes of memory each hold ``device_bytes`` bytes.

    It is 0 for a job that holds nothing on a GPU. It is 1 if ``card_bytes`` is not known (None), or if the
    job can't split what it holds over several cards (``splits``).
    """
    if not device_bytes:
        return 0
    if card_bytes is None or not splits:
        return 1
    return math.ceil(device_bytes / (USABLE * card_bytes))


def turns(need: Need, card_bytes: float | None) -> list[float]:
    """Return the bytes of the trainings that one process makes in each turn.

    If a card has no room for all of them, some train in a later turn (crosscoders.together).
    """
    if card_bytes is None or not need.trainings:
        return [sum(need.trainings)]
    room = USABLE * card_bytes - (need.device - need.models - sum(need.trainings))
    found = [0.0]
    for size in need.trainings:
        if found[-1] and found[-1] + size > room:
            found.append(0.0)
        found[-1] += size
    return found


def at_once(need: Need, card_bytes: float | None) -> float:
    """Return the bytes that a job holds on its cards at the same time."""
    return need.device - sum(need.trainings) + max(turns(need, card_bytes))
