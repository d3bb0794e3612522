"""Numbers below or above which the pages say that a run is too small, or too weak, to conclude."""

FEW_LATENTS = 5  # with fewer confirmed latents a difference can be chance
LOW_FVE = 0.6  # a crosscoder that explains a smaller part of the variance may miss the difference
MANY_DEAD = 0.25  # share of latents that never fire on held-out text
# Two crosscoders agree on little if one has a smaller share of the other's shared latents.
LOW_CONTROL = 0.5
UNEQUAL_L0 = 1.25  # crosscoders are not compared fairly if one has this many times the other's active latents
