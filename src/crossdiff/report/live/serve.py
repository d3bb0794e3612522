"""Starts the live page's server, and ends it with Ctrl-C."""

import secrets
import socket
from pathlib import Path

import uvicorn

from crossdiff.errors import UserError
from crossdiff.report.live.app import make_app
from crossdiff.report.live.session import Session, open_pair

LOOPBACK = "127.0.0.1"
ANY = ("0.0.0.0", "::")  # every interface: no address to open
PATIENCE = 1  # seconds that answers in progress get when the server ends


def serve(
    results: Path,
    front: Path,
    host: str = LOOPBACK,
    port: int = 0,
    sessions: Path | None = None,
    check: bool = True,
) -> None:
    """Serve the live page of a results folder until Ctrl-C. ``port`` 0 takes a free one.

    ``sessions`` is the folder of saved sessions, by default ``sessions/PAIR/layerN`` of the run. Raises
    UserError for results that can't be explored, and for an address that can't be taken.
    """
    listening = _listening(host, port)
    with listening:
        session = Session(open_pair(results, check), check)
        # Next to results/, where the audit would ask what made them.
        folder = (
            sessions
            or session.pair.folder.parents[1] / "sessions" / session.pair.folder.name / session.folder.name
        )
        _say(f"loading {session.pair.names.base} and {session.pair.names.chat} ...")
        session.start()
        token, taken = secrets.token_urlsafe(32), listening.getsockname()[1]
        app = make_app(session, front, folder, token, f"crossdiff-{taken}", host)
        shown = socket.getfqdn() if host in ANY else f"[{host}]" if ":" in host else host
        _say(f"open http://{shown}:{taken}/?token={token}")
        _say("Ctrl-C ends it.")
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, timeout_graceful_shutdown=PATIENCE, ws="none"
        )
        uvicorn.Server(config).run(sockets=[listening])


def _listening(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise UserError(
            f"--host {host} --port {port}: can't be listened on ({error}); name others"
        ) from error


def _say(line: str) -> None:
    print(line, flush=True)
