"""The latent browser: a page and its data, in pieces that it loads when it needs them."""
