"""Download files of a hub repository. Every way in which that can fail has a line of its own. Torch-free."""

import errno
import logging
import shutil
from pathlib import Path
from typing import Any

from crossdiff.config import HubModel
from crossdiff.errors import UserError, first_line

log = logging.getLogger(__name__)


def fetch(hub: HubModel, folder: Path, allow: tuple[str, ...], ignore: tuple[str, ...] = ()) -> Path:
    """Download files of ``hub`` into ``folder``, and return the folder that they lie in.

    Only files of the repository's ``subfolder`` (or of its top) come whose names match a glob of ``allow``
    and none of ``ignore``. Without a network they come from the hub's cache. Raises UserError for a
    repository, revision or file that can't be had.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    patterns: dict[str, Any] = {
        "allow_patterns": [hub.within(pattern) for pattern in allow],
        # A star matches slashes too, so deeper folders have to be named.
        "ignore_patterns": [hub.within(pattern) for pattern in ("*/*", *ignore)],
    }
    try:
        snapshot_download(hub.name, revision=hub.revision, local_dir=folder, **patterns)
        return folder / hub.within("")
    except LocalEntryNotFoundError as error:
        return _cached(hub, error, patterns) / hub.within("")
    except Exception as error:  # network, authentication and hub errors share no base class
        raise _error(error, hub) from error


def file_names(hub: HubModel) -> list[str]:
    """Names of all files that ``hub`` holds. Raises UserError if the hub can't be asked."""
    from huggingface_hub import list_repo_files

    try:
        paths = list_repo_files(hub.name, revision=hub.revision)
    except Exception as error:  # network, authentication and hub errors share no base class
        said = f"not all of it is in the hub's cache, and the hub can't be asked ({first_line(error)})"
        raise UserError(f"hub model {hub}: {said}; go on where there is a network") from error
    return [path.removeprefix(hub.within("")) for path in paths if path.startswith(hub.within(""))]


def _cached(hub: HubModel, offline: Exception, patterns: dict[str, Any]) -> Path:
    """The snapshot of ``hub`` in the hub's cache. Raises UserError, from ``offline``, if there is none."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        found = snapshot_download(hub.name, revision=hub.revision, local_files_only=True, **patterns)
    except LocalEntryNotFoundError:
        raise _error(offline, hub) from offline
    log.info("%s: no network, taken from the hub's cache (%s)", hub, found)
    return Path(found)


def _error(error: Exception, hub: HubModel) -> Exception:
    """The error to raise. A full disk is for ``atomic_path`` to name."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return error
    return UserError(f"hub model {hub_error(error, str(hub))}")


def take(path: Path, folder: Path) -> None:
    """Move a downloaded file into ``folder``; copy one that the hub's cache keeps."""
    if path.is_symlink() or path.resolve().parent.name == "blobs":
        shutil.copyfile(path, folder / path.name)
    else:
        shutil.move(path, folder / path.name)


def hub_error(error: Exception, name: str, login: str = "hf auth login", file: str = "") -> UserError:
    """The one line for an ``error`` of huggingface_hub about the repository ``name``, as NAME@REVISION.

    ``login`` is the command that logs in, ``file`` the one file that was asked for. An error that is none of
    the hub's keeps its first line.
    """
    from huggingface_hub import errors

    token = f"run {login} or set HF_TOKEN"
    match error:
        case errors.GatedRepoError():
            page = f"https://huggingface.co/{name.partition('@')[0]}"
            said = f"gated; accept its terms at {page}, then {token}"
        case errors.DisabledRepoError():
            said = "disabled by the hub; name another repository"
        case errors.RevisionNotFoundError():
            said = "the hub has no such revision; name a commit, a tag or main"
        case errors.RepositoryNotFoundError():
            said = f"the hub shows no such model; correct its name, or {token} if it is private"
        case errors.LocalEntryNotFoundError() if not isinstance(error.__cause__, errors.OfflineModeIsEnabled):
            said = "not in the hub's cache, and the hub can't be reached; go on where there is a network"
        case errors.LocalEntryNotFoundError() | errors.OfflineModeIsEnabled():
            said = "not in the hub's cache, and HF_HUB_OFFLINE is set; unset it where there is a network"
        case errors.EntryNotFoundError():
            said = f"it has no {file or 'file that is needed'}; correct its name, revision or subfolder"
        case errors.HFValidationError():
            said = "no name of a hub repository; allowed: OWNER/NAME"
        case errors.HfHubHTTPError() if getattr(error.response, "status_code", None) in (401, 403):
            said = f"the hub refuses your token; {token} with one that may read it"
        case _:
            said = f"{file or 'it'} can't be downloaded ({first_line(error)}); go on where there is a network"
    return UserError(f"{name}: {said}")
