"""Language models that explain and judge: a server, or a local folder."""

import os
import threading
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import requests
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from crossdiff.config import Endpoint, Explainer
from crossdiff.errors import UserError
from crossdiff.provenance.hashing import content

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Messages = list[dict[str, str]]  # role and content of each turn

ATTEMPTS = 5  # for each request
LONGEST_WAIT = 60.0  # seconds between two attempts
BACKOFF = wait_exponential()  # 1, 2, 4, ... seconds
TIMEOUT = 300  # seconds that a server may take to answer
DAY = date(2024, 7, 26)  # it always is, for a local model whose chat template asks for the date
HIDDEN = "[key]"  # replaces the key in what the server says


class LanguageModel(Protocol):
    """Anything that answers a conversation."""

    name: str  # identifies everything but the conversation that an answer depends on
    workers: int  # number of requests at a time

    def answer(self, messages: Messages, longest: int) -> str:
        """The next turn of a conversation, the most likely one, of at most ``longest`` tokens.

        Raises UserError if the model can't answer.
        """


def language_model(settings: Explainer) -> LanguageModel:
    """Make the model that a config names.

    Raises UserError if the server's key is missing, or the folder holds no model.
    """
    if settings.endpoint is not None:
        return Server(settings.endpoint)
    if settings.folder is not None:
        return LocalModel(settings.folder)
    raise UserError("explanations.model: found nothing, allowed: exactly one of endpoint, folder")


class RateLimit:
    """Lets requests start at equal intervals, from any number of threads.

    ``per_minute``: requests per minute.
    """

    def __init__(
        self,
        per_minute: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.distance, self.clock, self.sleep = 60 / per_minute, clock, sleep
        self.next, self.lock = -float("inf"), threading.Lock()

    def wait(self) -> None:
        """Return when the caller may start its request."""
        with self.lock:
            start = max(self.next, self.clock())
            self.next = start + self.distance
        if (left := start - self.clock()) > 0:
            self.sleep(left)


class _Bearer(requests.auth.AuthBase):
    """Sends the key in a header. As ``auth`` it takes precedence over a password in ~/.netrc."""

    def __init__(self, key: str | None) -> None:
        self.key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self.key:
            request.headers["Authorization"] = f"Bearer {self.key}"
        return request


class Server:
    """An OpenAI-compatible endpoint.

    The key is read from the environment. It is removed from everything that the server says. Raises UserError
    if the key is missing.
    """

    workers = 8

    def __init__(
        self, settings: Endpoint, limit: RateLimit | None = None, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.settings, self.sleep = settings, sleep
        self.limit = limit or RateLimit(settings.requests_per_minute)
        self.name = f"{settings.url} {settings.model}"
        self._key = os.environ.get(settings.key, "").strip() if settings.key else None
        if settings.key and not self._key:
            unset = f"the environment variable {settings.key} is not set"
            raise UserError(f"explanations.model.endpoint.key: {unset}")
        self._session = requests.Session()

    def answer(self, messages: Messages, longest: int) -> str:
        """See ``LanguageModel``. Up to ATTEMPTS requests are sent."""
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
            kept = "earlier answers are kept, so run again to continue"
            raise self._error(f"{error}, {ATTEMPTS} times; {kept}") from None

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
        refused = f"refused with status {response.status_code}"
        if response.status_code == 429 or response.status_code >= 500:
            raise _TryAgain(refused, _seconds(response.headers.get("Retry-After")))
        if response.status_code != 200:
            raise self._error(f"{refused} ({self._hide(response.text)[:200]})")
        try:
            answer = response.json()["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError):
            answer = None
        if not isinstance(answer, str):
            raise self._error(f"the reply is not a chat completion ({self._hide(response.text)[:200]})")
        return self._hide(answer)

    def _hide(self, text: str) -> str:
        return text.replace(self._key, HIDDEN) if self._key else text

    def _error(self, what: str) -> UserError:
        return UserError(f"explanations.model.endpoint {self.settings.url}: {' '.join(what.split())}")


class _TryAgain(Exception):
    """A request that may succeed later. ``after``: seconds that the server asks to wait, if it does."""

    def __init__(self, what: str, after: float | None = None) -> None:
        super().__init__(what)
        self.after = after


def _seconds(header: str | None) -> float | None:
    """The seconds in a Retry-After header. None if there is no header, or if it holds a date."""
    if header is None:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        return None


def _wait(state: RetryCallState) -> float:
    """Seconds until the next attempt, at most LONGEST_WAIT.

    They are what the server asks for, or else 1, 2, 4, ...
    """
    error = state.outcome.exception() if state.outcome else None
    named = error.after if isinstance(error, _TryAgain) else None
    return min(LONGEST_WAIT, named or BACKOFF(state))


class LocalModel:
    """A model in a Hugging Face folder.

    It is loaded at the first question, so not at all if every answer is known. Raises UserError if the folder
    holds no model.
    """

    workers = 1

    def __init__(self, folder: str) -> None:
        if not (Path(folder) / "config.json").exists():
            what = "no Hugging Face model folder, because it has no config.json"
            raise UserError(f"explanations.model.folder: found {folder}, which is {what}")
        self.folder = folder
        self.name = f"folder {content(folder, plain=True).digest}"  # plain, because answers are kept by it
        self._loaded: tuple[PreTrainedModel, Any] | None = None  # model and tokenizer

    def answer(self, messages: Messages, longest: int) -> str:
        """See ``LanguageModel``. Raises UserError if the chat template can't be used."""
        import torch  # not needed to ask a server

        from crossdiff.models.answers import greedy
        from crossdiff.models.load import load_model
        from crossdiff.models.thoughts import said, without_thinking
        from crossdiff.models.tokenizers import load_dated_tokenizer
        from crossdiff.models.turns import contents, end_turns_as
        from crossdiff.texts.templates import shown
        from crossdiff.texts.unusable import Unusable

        if self._loaded is None:
            asker, _ = without_thinking(load_dated_tokenizer(self.folder, DAY))
            self._loaded = load_model(self.folder, torch.float32), asker
            end_turns_as(*self._loaded)
        model, tokenizer = self._loaded
        try:
            prompt = shown(messages, tokenizer, ask=True)
        except Unusable as problem:
            why = f"no usable chat template ({problem.reason})"
            raise UserError(f"explanations.model.folder {self.folder}: {why}") from problem
        ids = tokenizer(prompt, add_special_tokens=False, return_tensors="np")["input_ids"][0]
        [answer] = said([ids], contents(greedy(model, [ids], longest), model), tokenizer)
        return answer.text
