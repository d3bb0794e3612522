"""Crossdiff: what did fine-tuning do to a language model?

The floors, from the ground up. Imports only point down; ``lint-imports`` holds them (pyproject.toml).

1. ``config``: typed settings
2. ``provenance``: whole files, hashes, records, code digests, audit
3. ``texts``, ``models``: token shards; fetching, running, answering, fine-tuning
4. ``activations``: harvest, caches, pairs of caches in step
5. ``crosscoders``: architecture, losses, training
6. ``latents``, then ``interventions``, ``explanations``, ``planted``: what is known of each latent, and what it does
7. ``report``, ``exchange``: figures and pages; other formats
8. ``workflow``: what the Snakefile and its scripts need
"""
