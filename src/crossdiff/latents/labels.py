"""What a latent is called in figures and on the page."""

from collections.abc import Mapping


def latent_label(crosscoder: str, latent: int, names: Mapping[str, Mapping[int, str]] | None = None) -> str:
    """The latent and the crosscoder that it belongs to, and its name if it has one; ``names`` by crosscoder and latent."""
    name = (names or {}).get(crosscoder, {}).get(latent)
    return (f"{name}: " if name else "") + f"latent {latent} ({crosscoder})"
