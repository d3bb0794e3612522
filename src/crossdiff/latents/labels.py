"""What a latent is called in figures and on the page."""


def latent_label(crosscoder: str, latent: int) -> str:
    """The latent and the crosscoder that it belongs to."""
    return f"latent {latent} ({crosscoder})"
