"""The page's section on what readers tried: sessions that they saved from the live page. Torch-free."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from crossdiff.errors import UserError
from crossdiff.latents.catalogue import TrainingName, training_name, weights_digest
from crossdiff.report.live.saved import Saved, SavedLatent, read_file

Place = tuple[str, int]  # name of a pair, and layer


class ShownSession(NamedTuple):
    """A session as the page shows it."""

    session: Saved
    changes: list[str]  # in words
    caution: str  # what to mind: weights that are others now, or are not known


def sessions_by_place(
    paths: Iterable[str], places: Iterable[Place], trainings: Iterable[TrainingName]
) -> dict[Place, list[str]]:
    """Sort the files of ``report.sessions`` by the pages that show them.

    ``trainings`` are the (crosscoder, seed) of the run. Raises UserError for a file that holds no session,
    and for the session of a pair, layer or crosscoder that the run does not have.
    """
    found: dict[Place, list[str]] = {place: [] for place in places}
    crosscoders = [training_name(*training) for training in trainings]
    for path in paths:
        session = read_file(Path(path))
        place, named = (session.pair, session.layer), f"report.sessions: {path}: found"
        if place not in found:
            allowed = ", ".join(f"{pair} layer {layer}" for pair, layer in found)
            raise UserError(f"{named} {session.pair[:80]} layer {session.layer}, allowed: {allowed}")
        if session.crosscoder not in crosscoders:
            raise UserError(f"{named} {session.crosscoder}, allowed: {', '.join(crosscoders)}")
        found[place].append(path)
    return found


def tried_section(paths: Iterable[str], weights: Mapping[str, str]) -> list[ShownSession]:
    """Read the sessions of a page. ``weights``: name of a training -> path of its weights."""
    sessions = [read_file(Path(path)) for path in paths]
    digests = {name: weights_digest(weights[name]) for name in {session.crosscoder for session in sessions}}
    return [
        ShownSession(
            session,
            [_change(latent) for latent in session.latents],
            _caution(session, digests[session.crosscoder]),
        )
        for session in sessions
    ]


def _caution(session: Saved, weights: str) -> str:
    if session.weights == weights:
        return ""
    if not session.weights:
        return f"The session does not say for which weights of {session.crosscoder} it was saved."
    return (
        f"{session.crosscoder} had other weights when this was saved. The numbers of its latents mean "
        "something else now."
    )


def _change(latent: SavedLatent) -> str:
    named = f"latent {latent.latent}" + (f" ({latent.name})" if latent.name else "")
    return f"{named} ablated" if latent.change == "ablate" else f"{named} added at {latent.strength:+g}"
