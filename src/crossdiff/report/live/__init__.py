"""The live page (``crossdiff explore``): try prompts and latents of a finished run in a browser."""
