"""A real server of chat completions on loopback. A test decides its answers."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, str, dict[str, str]]  # status, body, headers


class ChatServer(ThreadingHTTPServer):
    """Speaks POST /v1/chat/completions. ``requests`` holds every body with its path and headers."""

    daemon_threads = True

    def __init__(self, answer: Callable[[list[dict[str, str]]], str | Reply]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer, self.requests = answer, []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append({"path": self.path, "headers": dict(self.headers)} | body)
        found = self.server.answer(body["messages"])
        if isinstance(found, str):
            found = 200, json.dumps({"choices": [{"message": {"role": "assistant", "content": found}}]}), {}
        status, text, headers = found
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


@contextmanager
def serving(answer: Callable[[list[dict[str, str]]], str | Reply]) -> Iterator[ChatServer]:
    """Run a server for the length of the block."""
    server = ChatServer(answer)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def excerpts_of(messages: list[dict[str, str]]) -> list[str]:
    """Give the excerpts of a question, as the model reads them."""
    lines = messages[-1]["content"].split("\n")
    return [json.loads(line.partition(": ")[2]) for line in lines if line.startswith("Excerpt ")]
