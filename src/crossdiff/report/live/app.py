"""The live page's server: what its addresses answer. ``Session`` does the work."""

import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from crossdiff.errors import UserError
from crossdiff.report.live import saved
from crossdiff.report.live.gate import Gate
from crossdiff.report.live.session import MOST_CHANGES, Mode, Session, Setting
from crossdiff.report.template import page_template

log = logging.getLogger(__name__)

MOST_NEW = 1024  # tokens of an answer
CONTENT_POLICY = (
    "default-src 'none'; img-src data:; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Prompt(BaseModel):
    """A prompt, and the crosscoder that is to read it."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    crosscoder: Annotated[str, Field(max_length=200)]
    mode: Mode = "chat"
    prompt: saved.Text


class OfLatent(Prompt):
    """A prompt, and the latent whose activations are asked for."""

    latent: int


class Changed(Prompt):
    """A prompt, and the latents that are changed."""

    latents: Annotated[list[saved.SavedLatent], Field(max_length=MOST_CHANGES)] = []

    def settings(self) -> list[Setting]:
        """What the session takes. Raises UserError for an addition without a strength."""
        for one in self.latents:
            if one.change == "add" and one.strength is None:
                raise UserError(f"latents: {one.latent} is added without a strength, allowed: a number")
        return [Setting(one.latent, None if one.change == "ablate" else one.strength) for one in self.latents]


class Asked(Changed):
    """A prompt that is to be answered."""

    new_tokens: Annotated[int, Field(ge=1, le=MOST_NEW)] = 64


def make_app(
    session: Session, front: Path, sessions: Path, token: str, cookie: str = "crossdiff", host: str = ""
) -> Gate:
    """The server. ``front`` is the folder ``report`` of the repository, with the page and its scripts.

    Saved sessions go to the folder ``sessions``. Every request must know the ``token``, and ``host`` is this
    machine's name in addresses, if the user gave one (``gate``).
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    _answer_problems(app)
    page = page_template(front / "live.html.jinja")

    @app.get("/")
    def show() -> HTMLResponse:
        html = page.render(about=session.about, token=token)
        shown = HTMLResponse(html, headers={"content-security-policy": CONTENT_POLICY})
        shown.set_cookie(cookie, token, httponly=True, samesite="strict")
        return shown

    @app.post("/api/prompt")
    def prompt(asked: Prompt) -> dict[str, Any]:
        return session.prompt(asked.crosscoder, asked.mode, asked.prompt)

    @app.post("/api/latent")
    def latent(asked: OfLatent) -> dict[str, Any]:
        return session.latent(asked.crosscoder, asked.mode, asked.prompt, asked.latent)

    @app.post("/api/effect")
    def effect(asked: Changed) -> dict[str, Any]:
        return session.effect(asked.crosscoder, asked.mode, asked.prompt, asked.settings())

    @app.post("/api/answers")
    def answers(asked: Asked, request: Request) -> StreamingResponse:
        steps = session.answers(
            asked.crosscoder, asked.mode, asked.prompt, asked.settings(), asked.new_tokens
        )

        async def lines() -> AsyncIterator[str]:
            try:
                while not await request.is_disconnected():
                    step = await run_in_threadpool(next, steps, None)
                    if step is None:
                        return
                    yield json.dumps(step) + "\n"
            except Exception as error:  # the answer has begun, so its status can't say this
                log.exception("an answer failed")
                yield json.dumps({"error": f"the answer failed: {_line(error)}"}) + "\n"
            finally:
                steps.close()

        return StreamingResponse(lines(), media_type="application/x-ndjson")

    @app.post("/api/sessions")
    def save(given: saved.Saved) -> dict[str, str]:
        name = saved.write(sessions, given, session.about, session.weights(given.crosscoder))
        return {"name": name, "file": str(sessions / f"{name}.json")}

    @app.get("/api/sessions")
    def listed() -> list[dict[str, str]]:
        return saved.listing(sessions)

    @app.get("/api/sessions/{name}")
    def opened(name: str) -> saved.Saved:
        return saved.opened(sessions, name, session.about)

    for folder in ("browser", "live"):
        app.mount(f"/assets/{folder}", StaticFiles(directory=front / folder), name=folder)
    if session.about["report"]:
        app.mount("/report", StaticFiles(directory=session.folder / "report", html=True), name="report")
    return Gate(app, token, cookie, host)


def _answer_problems(app: FastAPI) -> None:
    """Every problem is answered with one line: {"error": line}."""

    @app.exception_handler(UserError)
    def wrong(_request: Request, error: UserError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 400)

    @app.exception_handler(RequestValidationError)
    def invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or "the request"
        return JSONResponse({"error": f"{where}: {first['msg']}"}, 422)

    @app.exception_handler(HTTPException)
    def refused(_request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": str(error.detail)}, error.status_code)

    @app.exception_handler(Exception)
    def failed(_request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": f"this failed, and the terminal says where: {_line(error)}"}, 500)


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]
