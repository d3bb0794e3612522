"""How a latent is called in figures and on the page."""

from collections.abc import Mapping


def latent_label(crosscoder: str, latent: int, names: Mapping[str, Mapping[int, str]] | None = None) -> str:
    """A label with the latent's number and crosscoder. Its name comes first, if it has one.

    ``names``: crosscoder -> latent -> name.
    """
    name = (names or {}).get(crosscoder, {}).get(latent)
    return (f"{name}: " if name else "") + f"latent {latent} ({crosscoder})"
