"""Put activation caches on another file system: the key ``activations.folder``.

The folder results/activations becomes a link, when a run starts. Torch-free.
"""

import os
import platform
import shlex
from pathlib import Path

from crossdiff.config import Config
from crossdiff.errors import UserError
from crossdiff.provenance.records import RESULTS
from crossdiff.provenance.scratch import CACHES, is_of_another, own_folder
from crossdiff.provenance.storage import existing

KEY = "activations.folder"


def check_link(root: Path = Path()) -> None:
    """Raise UserError if the caches' link leads nowhere, on this machine. Every job asks, on its own node."""
    link = root / CACHES
    if link.is_symlink() and not link.is_dir():
        there = shlex.quote(str(link.readlink()))
        found = f"found a link to {there}, which is not there on {platform.node()}"
        raise UserError(
            f"{CACHES}: {found}; mount its file system, or make it again if it was purged: mkdir -p {there}"
        )


def check(config: Config, root: Path = Path()) -> None:
    """Raise UserError if the caches can't lie where ``activations.folder`` puts them. Changes nothing.

    Without the key the caches lie in results/activations, or where a link of this name leads.
    """
    check_link(root)
    link, folder = root / CACHES, config.activations.folder
    if folder is None:
        if is_of_another(root):
            own = own_folder(str(link.readlink().parent), root)
            _refuse_target(link, own, "which was made for another checkout")
        return
    own, found = own_folder(folder, root), f"{KEY}: found {folder}"
    if own.resolve().is_relative_to((root / RESULTS).resolve()):
        raise UserError(f"{found}, allowed: a folder outside of {RESULTS}/")
    if link.is_symlink():
        if link.resolve() != own.resolve():
            _refuse_target(link, own, f"but {KEY} gives this checkout {own}")
    elif link.is_file():
        raise UserError(f"{CACHES}: found a file, allowed: a folder, or nothing; move the file elsewhere")
    elif link.is_dir() and any(link.iterdir()):
        _refuse_files(found, own)
    _check_place(found, own)


def _refuse_target(link: Path, own: Path, why: str) -> None:
    old, folder, new = (shlex.quote(str(path)) for path in (link.readlink(), own.parent, own))
    move = f"mkdir -p {folder} && mv -T {old} {new} && ln -sfn {new} {CACHES}"
    raise UserError(
        f"{CACHES}: found a link to {old}, {why}; if this checkout is a copy: rm {CACHES}; "
        f"if it was moved, or the key has changed: {move}"
    )


def _refuse_files(found: str, own: Path) -> None:
    if own.is_dir() and any(own.iterdir()):
        raise UserError(f"{found}, but {CACHES} and {own} both hold files; delete one of these folders")
    folder, new = (shlex.quote(str(path)) for path in (own.parent, own))
    move = f"mkdir -p {folder} && mv -T {CACHES} {new} && ln -s {new} {CACHES}"
    raise UserError(f"{found}, but {CACHES} holds files already; move them: {move}")


def _check_place(found: str, own: Path) -> None:
    """Raise UserError if the folder can't be made. The folder above the key's must exist.

    Crossdiff does not make that one, because it is missing if the file system is not mounted.
    """
    place = existing(own)
    if not place.is_dir():
        raise UserError(f"{found}, but {place} is no folder; name another folder")
    if place not in (own, own.parent, own.parent.parent):
        above = own.parent.parent
        raise UserError(f"{found}, but {above} is not there; mount its file system, or: mkdir -p {above}")
    if not os.access(place, os.W_OK):
        raise UserError(f"{found}, but {place} can't be written to; make it writable, or name another folder")


def link_caches(config: Config, root: Path = Path(), begin: bool = True) -> None:
    """Make results/activations a link to this checkout's folder on the other file system, and the folder.

    Call ``check`` before. ``begin`` says whether a run begins. If none does, the link is made only if the
    folder is there, so that a plan finds the caches in it. Raises UserError if the system refuses.
    """
    link = root / CACHES
    if config.activations.folder is None or link.is_symlink():
        return
    own = own_folder(config.activations.folder, root)
    if not begin and not own.is_dir():
        return
    try:
        own.parent.mkdir(exist_ok=True)
        own.mkdir(exist_ok=True)
        if link.is_dir():
            link.rmdir()
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(own)
    except OSError as error:
        raise UserError(f"{KEY}: {own} or the link to it can't be made ({error.strerror})") from error


def caches_place(config: Config, root: Path) -> Path:
    """An existing folder on the file system where the caches lie, or will lie."""
    if config.activations.folder is None or (root / CACHES).is_symlink():
        return existing(root / CACHES)
    return existing(own_folder(config.activations.folder, root))
