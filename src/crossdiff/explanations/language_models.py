"""Language models that explain and judge: one method, two backends."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import requests
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from crossdiff.config import Endpoint, Explainer
from crossdiff.errors import UserError, first_line
from crossdiff.provenance.hashing import content

Messages = list[dict[str, str]]  # role and content of each turn

ATTEMPTS = 5
LONGEST_WAIT = 60.0  # seconds before a request is tried again
BACKOFF = wait_exponential()  # 1, 2, 4, ... seconds
TIMEOUT = 300  # seconds
HIDDEN = "[key]"


class LanguageModel(Protocol):
    """Anything that answers a conversation."""

    name: str  # of all that an answer depends on besides the conversation
    workers: int  # requests at a time

    def answer(self, messages: Messages, longest: int) -> str:
        """The next turn, at most ``longest`` tokens; the most likely one. Raises UserError when there can be none."""


def language_model(settings: Explainer) -> LanguageModel:
    """The model that a config names. Raises UserError where its key is missing."""
    return Server(settings.endpoint) if settings.endpoint else LocalModel(settings.folder)


class RateLimit:
    """Lets requests start at even distances, from any number of threads."""

    def __init__(
        self,
        per_minute: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.distance, self.clock, self.sleep = 60 / per_minute, clock, sleep
        self.next, self.lock = -float("inf"), threading.Lock()

    def wait(self) -> None:
        """Return when the caller may start."""
        with self.lock:
            start = max(self.next, self.clock())
            self.next = start + self.distance
        if (left := start - self.clock()) > 0:
            self.sleep(left)


class _Bearer(requests.auth.AuthBase):
    """The key, as a header. As ``auth``, so that a password in ~/.netrc does not take its place."""

    def __init__(self, key: str | None) -> None:
        self.key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self.key:
            request.headers["Authorization"] = f"Bearer {self.key}"
        return request


class Server:
    """An OpenAI-compatible endpoint. The key is read from the environment, and taken out of whatever the server says."""

    workers = 8

    def __init__(
        self, settings: Endpoint, limit: RateLimit | None = None, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.settings, self.sleep = settings, sleep
        self.limit = limit or RateLimit(settings.requests_per_minute)
        self.name = f"{settings.url} {settings.model}"
        self._key = os.environ.get(settings.key, "").strip() if settings.key else None
        if settings.key and not self._key:
            raise UserError(
                f"explanations.model.endpoint.key: the environment variable {settings.key} is not set"
            )
        self._session = requests.Session()

    def answer(self, messages: Messages, longest: int) -> str:
        ask = Retrying(
            sleep=self.sleep,
            stop=stop_after_attempt(ATTEMPTS),
            wait=_wait,
            retry=retry_if_exception_type(_TryAgain),
            reraise=True,
        )
        try:
            return ask(self._ask, messages, longest)
        except _TryAgain as error:
            raise self._error(
                f"{error}, {ATTEMPTS} times; what was answered is kept, run again to go on"
            ) from None

    def _ask(self, messages: Messages, longest: int) -> str:
        self.limit.wait()
        body = {"model": self.settings.model, "messages": messages, "max_tokens": longest, "temperature": 0}
        try:
            response = self._session.post(
                self.settings.url.rstrip("/") + "/chat/completions",
                json=body,
                auth=_Bearer(self._key),
                timeout=TIMEOUT,
            )
        except (requests.ConnectionError, requests.Timeout) as error:
            raise _TryAgain(f"no answer ({type(error).__name__})") from None
        except requests.RequestException as error:
            raise self._error(f"can't be asked ({type(error).__name__})") from None
        if response.status_code == 429 or response.status_code >= 500:
            raise _TryAgain(
                f"refused with status {response.status_code}", _seconds(response.headers.get("Retry-After"))
            )
        if response.status_code != 200:
            raise self._error(
                f"refused with status {response.status_code} ({self._hide(response.text)[:200]})"
            )
        try:
            answer = response.json()["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError):
            answer = None
        if not isinstance(answer, str):
            raise self._error(f"its reply is none of a chat completion ({self._hide(response.text)[:200]})")
        return self._hide(answer)

    def _hide(self, text: str) -> str:
        return text.replace(self._key, HIDDEN) if self._key else text

    def _error(self, what: str) -> UserError:
        return UserError(f"explanations.model.endpoint {self.settings.url}: {' '.join(what.split())}")


class _TryAgain(Exception):
    """A request that may succeed later, after so many seconds."""

    def __init__(self, what: str, after: float | None = None) -> None:
        super().__init__(what)
        self.after = after


def _seconds(header: str | None) -> float | None:
    """Of a Retry-After header; None for a date."""
    try:
        return max(0.0, float(header))
    except (TypeError, ValueError):
        return None


def _wait(state: RetryCallState) -> float:
    """Seconds until the next attempt: those that the server names, else 1, 2, 4, ...; LONGEST_WAIT at most."""
    return min(LONGEST_WAIT, state.outcome.exception().after or BACKOFF(state))


class LocalModel:
    """A Hugging Face folder. Loaded at the first question: where all answers are known, there is none."""

    workers = 1

    def __init__(self, folder: str) -> None:
        if not (Path(folder) / "config.json").exists():
            raise UserError(
                f"explanations.model.folder: found {folder}, which is no Hugging Face model folder"
            )
        self.folder = folder
        self.name = f"folder {content(folder, plain=True).digest}"  # plain: answers are kept by it
        self._loaded = None

    def answer(self, messages: Messages, longest: int) -> str:
        import torch  # not needed to ask a server
        from jinja2 import TemplateError

        from crossdiff.models.answers import greedy
        from crossdiff.models.load import load_model
        from crossdiff.models.tokenizers import load_tokenizer

        if self._loaded is None:
            self._loaded = load_model(self.folder, torch.float32), load_tokenizer(self.folder)
        model, tokenizer = self._loaded
        try:
            prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except (TemplateError, ValueError) as error:
            raise UserError(
                f"explanations.model.folder {self.folder}: no usable chat template ({first_line(error)})"
            ) from error
        ids = tokenizer(prompt, add_special_tokens=False, return_tensors="np")["input_ids"][0]
        return tokenizer.decode(greedy(model, [ids], longest)[0], skip_special_tokens=True)
