"""Numbers below or above which the pages say that a run is too small, or too weak, to conclude."""

from collections.abc import Mapping

FEW_LATENTS = 5  # with fewer confirmed latents a difference can be chance
LOW_FVE = 0.6  # a crosscoder that explains a smaller part of the variance may miss the difference
MANY_DEAD = 0.25  # share of latents that never fire on held-out text
# Two crosscoders agree on little if one has a smaller share of the other's shared latents.
LOW_CONTROL = 0.5
UNEQUAL_L0 = 1.25  # crosscoders are not compared fairly if one has this many times the other's active latents


def unequal_l0(l0: Mapping[str, float]) -> list[str]:
    """Return a sentence if some crosscoders have many more active latents per token than others.

    ``l0``: crosscoder -> its active latents per held-out token.
    """
    if max(l0.values()) <= UNEQUAL_L0 * min(l0.values()):
        return []
    named = ", ".join(f"{value:.1f} in {name}" for name, value in l0.items())
    return [
        f"Active latents per token (L0) are not about the same: {named}. "
        "So what differs between these crosscoders need not come from their losses."
    ]
