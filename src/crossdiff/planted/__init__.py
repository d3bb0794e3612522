"""Planted concepts: activations of a pair whose every difference is known, and how crosscoders score on them."""
