"""Sessions that a reader saves from the live page: a prompt, the changed latents, the answers and the KL."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from crossdiff.errors import UserError
from crossdiff.provenance.storage import atomic_path

NAME = re.compile(r"\d{8}-\d{6}(-\d+)?(-[a-z0-9-]{1,40})?")
Count = Annotated[int, Field(ge=0)]
Text = Annotated[str, Field(max_length=200_000)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class SavedLatent(_Model):
    """How one latent was changed."""

    latent: Count
    change: Literal["add", "ablate"]
    strength: float | None = Field(description="in largest activations of the latent; null for an ablation")
    name: Text | None = Field(default=None, description="what the run calls the latent")


class SavedAnswers(_Model):
    """Greedy answers to the prompt, as a reader sees them. None where there was none."""

    base: Text | None = None
    chat: Text | None = None
    steered: Text | None = Field(
        default=None, description="of the chat model with all changes of ``latents``"
    )


class Saved(_Model):
    """A session as it is written. Its JSON schema comes from this class."""

    format: Literal["crossdiff session 1"] = "crossdiff session 1"
    title: Annotated[str, Field(max_length=200)] = ""
    saved: str = Field(default="", description="when, in UTC (ISO 8601); set by the server")
    pair: str = Field(default="", description="set by the server, and so are layer and models")
    layer: Count = 0
    models: dict[str, str] = Field(default_factory=dict, description="base and chat: names in results/models")
    crosscoder: Annotated[str, Field(max_length=200)]
    weights: Text = Field(
        default="", description="digest of its weights, set by the server: other weights have other latents"
    )
    mode: Literal["chat", "text"]
    prompt: Text
    latents: Annotated[list[SavedLatent], Field(max_length=64)]
    new_tokens: Count | None = Field(default=None, description="the most tokens of an answer")
    answers: SavedAnswers
    kl: list[float] | None = Field(
        default=None, description="KL(p_chat || p_steered) in nats at each token of the prompt"
    )
    kl_mean: float | None = Field(default=None, description="its mean over the tokens that are steered")

    @model_validator(mode="after")
    def _has_strengths(self) -> "Saved":
        for one in self.latents:
            if one.change == "add" and one.strength is None:
                raise ValueError(f"latent {one.latent} is added without a strength, allowed: a number")
        return self


def write(folder: Path, session: Saved, about: dict[str, Any], weights: str) -> str:
    """Write a session below ``folder`` and return its name.

    ``about`` is that of ``Session``, ``weights`` the digest of the crosscoder's weights.
    """
    now = datetime.now(UTC)
    session = session.model_copy(
        update={
            "saved": now.isoformat(timespec="seconds"),
            "pair": about["pair"],
            "layer": about["layer"],
            "models": {role: about[role] for role in ("base", "chat")},
            "weights": weights,
        }
    )
    words = re.sub(r"[^a-z0-9]+", "-", (session.title or session.prompt[:40]).lower()).strip("-")[:40]
    slug = f"-{words.rstrip('-')}" if words else ""
    stem, number = f"{now:%Y%m%d-%H%M%S}", 1
    name = stem + slug
    while (folder / f"{name}.json").exists():
        number += 1
        name = f"{stem}-{number}{slug}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(folder / f"{name}.json") as path:
            path.write_text(session.model_dump_json(indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{folder}: the session can't be written there ({error.strerror}); use --sessions"
        ) from error
    return name


def opened(folder: Path, name: str, about: dict[str, Any]) -> Saved:
    """A saved session of the pair, layer and models of ``about``.

    Latents of another pair have other meanings. Raises UserError for a session of one, and as ``read`` does.
    """
    found = read(folder, name)
    models = {role: about[role] for role in ("base", "chat")}
    if (found.pair, found.layer, found.models) != (about["pair"], about["layer"], models):
        raise UserError(
            f"session {name}: found one of {found.pair}, layer {found.layer}, allowed: those of "
            f"{about['pair']}, layer {about['layer']}"
        )
    return found


def listing(folder: Path) -> list[dict[str, str]]:
    """The saved sessions, the newest first: name, title and prompt of each. Other files are left out."""
    found = []
    for path in sorted(folder.glob("*.json"), reverse=True):
        try:
            session = read(folder, path.stem)
        except UserError:
            continue  # not a session
        found.append({"name": path.stem, "title": session.title, "prompt": session.prompt[:80]})
    return found


def read(folder: Path, name: str) -> Saved:
    """A saved session. Raises UserError where there is none of this name, and where it is none."""
    path = folder / f"{name}.json"
    if not NAME.fullmatch(name) or not path.is_file():
        raise UserError(f"session: found {name[:80]!r}, allowed: the name of a saved one")
    return read_file(path)


def read_file(path: Path) -> Saved:
    """A saved session, whatever its file is called. Raises UserError for a file that holds none."""
    try:
        return Saved.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a session of the live page") from error
