"""What latents fire on, in words, and how well these words tell contexts in which a latent fires from others (docs/explanations.md)."""
