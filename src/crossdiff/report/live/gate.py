"""Who may ask the live page: nothing is answered without the token of this start.

The token comes in the address of the page, and then in a cookie for files. Requests that run a model need it
in a header of their own, which no other site's page can send: the browser would ask first, and gets no leave.
The Host header must be an address or this machine's name. So a name that a foreign page has bound to this
machine's address (DNS rebinding) opens nothing.
"""

import hmac
import ipaddress
import socket
from collections.abc import Collection
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = "x-crossdiff-token"
API = "/api/"
SENT = {
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class Gate:
    """Lets requests with the token through to ``app``, and answers all others with 403 and one line."""

    def __init__(self, app: ASGIApp, token: str, cookie: str, host: str = "") -> None:
        """``host`` is the name that the user gave for this machine, if it is one."""
        self.app, self.token, self.cookie = app, token, cookie
        self.names = {"localhost", socket.gethostname().lower(), socket.getfqdn().lower(), host.lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return None  # no other protocol is spoken here

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SENT.items():
                    headers.setdefault(name, value)
            await send(message)

        headers = Headers(scope=scope)
        if not own_host(headers.get("host", ""), self.names):
            said = "This host name is not served: open the address that crossdiff explore has printed.\n"
            return await PlainTextResponse(said, 403)(scope, receive, with_headers)
        if not self._knows_token(scope, headers):
            said = (
                "The token is missing or wrong: open the whole address that crossdiff explore has printed.\n"
            )
            return await PlainTextResponse(said, 403)(scope, receive, with_headers)
        return await self.app(scope, receive, with_headers)

    def _knows_token(self, scope: Scope, headers: Headers) -> bool:
        given = [headers.get(HEADER, "")]
        if not scope["path"].startswith(API):
            given += parse_qs(scope["query_string"].decode("latin-1")).get("token", [])
            given.append(_cookie(headers, self.cookie))
        return any(hmac.compare_digest(one.encode(), self.token.encode()) for one in given)


def _cookie(headers: Headers, name: str) -> str:
    # Other programs on this machine share the browser's cookies, and theirs may have any form.
    return cookie_parser(headers.get("cookie", "")).get(name, "")


def own_host(host: str, names: Collection[str]) -> bool:
    """Whether a Host header names this machine by an address, or by one of its ``names`` in lower case."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
    if name and name.lower() in names:
        return True
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True
