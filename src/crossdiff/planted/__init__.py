"""Planted concepts: activations of two models whose every difference is known, and scores of crosscoders."""
