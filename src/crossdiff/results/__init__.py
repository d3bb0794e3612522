"""Finished results in a notebook: a crosscoder, its tables and contexts, and the pair of models behind it."""
