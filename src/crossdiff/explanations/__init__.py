"""Latents explained in words (docs/explanations.md).

A score says how well the words tell contexts in which a latent fires from others.
"""
