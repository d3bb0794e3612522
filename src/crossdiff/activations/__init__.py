"""Caches of activations, and the pairs that crosscoders read from them."""

MODELS = ("base", "chat")  # in the order of every model axis
