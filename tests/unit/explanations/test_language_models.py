"""Language models as explainers and judges, through a real server on loopback.

Keys stay secret, limits are kept, malformed answers are counted, and answers outlive a kill.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, TINY
from helpers_server import Reply, excerpts_of, serving

from crossdiff.config import Endpoint, Explainer, load
from crossdiff.errors import UserError
from crossdiff.explanations import prompts
from crossdiff.explanations.answers import KnownAnswers, Question
from crossdiff.explanations.cost import forecast_lines
from crossdiff.explanations.language_models import ATTEMPTS, HIDDEN, RateLimit, Server, language_model

KEY = "sk-secret-0123456789"
QUESTION = Question([{"role": "user", "content": "what?"}], 10)


class Clock:
    """Time that passes when somebody sleeps."""

    def __init__(self) -> None:
        self.now, self.slept = 100.0, []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def server(url: str, clock: Clock | None = None, **settings: object) -> Server:
    """A client that never really waits."""
    clock = clock or Clock()
    return Server(
        Endpoint(url=url, model="some/model", **settings), RateLimit(1e9, clock, clock.sleep), clock.sleep
    )


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("EXPLAINER_KEY", KEY)
    return "EXPLAINER_KEY"


def test_a_question_is_a_chat_completion(key: str) -> None:
    with serving(lambda messages: messages[0]["content"].upper()) as asked:
        assert server(asked.url, key=key).answer(*QUESTION) == "WHAT?"
    [request] = asked.requests
    assert request["path"] == "/v1/chat/completions"
    assert request["headers"]["Authorization"] == f"Bearer {KEY}"
    wanted = {"model": "some/model", "messages": QUESTION.messages, "max_tokens": 10, "temperature": 0}
    assert {name: request[name] for name in wanted} == wanted


def test_no_key_where_none_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password mine\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    with serving(lambda messages: "yes") as asked:
        server(asked.url).answer(*QUESTION)
    assert "Authorization" not in asked.requests[0]["headers"]


@pytest.mark.parametrize("value", [None, "", " "])
def test_missing_key_is_one_clear_line(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EXPLAINER_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("EXPLAINER_KEY", value)
    with pytest.raises(
        UserError,
        match=r"^explanations\.model\.endpoint\.key: the environment variable EXPLAINER_KEY is not set$",
    ):
        language_model(
            Explainer(endpoint=Endpoint(url="http://127.0.0.1:1/v1", model="m", key="EXPLAINER_KEY"))
        )


def test_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no Hugging Face model folder"):
        language_model(Explainer(folder=str(tmp_path)))


def test_server_that_is_down_is_tried_again_and_named() -> None:
    with serving(lambda messages: "yes") as gone:
        url = gone.url
    clock = Clock()
    with pytest.raises(
        UserError,
        match=(
            rf"^explanations\.model\.endpoint {url}: no answer \(ConnectionError\), {ATTEMPTS} times; "
            rf".* run again"
        ),
    ):
        server(url, clock).answer(*QUESTION)
    assert clock.slept == [1, 2, 4, 8]


def test_busy_server_is_waited_for() -> None:
    replies: list[Reply | str] = [(429, "slow down", {"Retry-After": "7"}), (503, "", {}), "at last"]
    clock = Clock()
    with serving(lambda messages: replies.pop(0)) as asked:
        assert server(asked.url, clock).answer(*QUESTION) == "at last"
    assert clock.slept == [7, 2]


def test_no_wait_is_longer_than_a_minute_and_none_is_skipped() -> None:
    replies: list[Reply | str] = [
        (429, "", {"Retry-After": after}) for after in ("3600", "0", "Wed, 21 Oct 2026 07:28:00 GMT")
    ]
    clock = Clock()
    with serving(lambda messages: (replies or ["yes"]).pop(0)) as asked:
        assert server(asked.url, clock).answer(*QUESTION) == "yes"
    assert clock.slept == [60, 2, 4]


def test_the_rate_limit_holds_for_further_attempts_too() -> None:
    replies: list[Reply | str] = [(503, "", {}), (503, "", {}), "yes"]
    clock = Clock()
    with serving(lambda messages: replies.pop(0)) as asked:
        client = Server(Endpoint(url=asked.url, model="m"), RateLimit(20, clock, clock.sleep), clock.sleep)
        assert client.answer(*QUESTION) == "yes"
    assert clock.slept == [1, 2, 2, 1]  # a request every three seconds: what is left of them after each wait


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ((401, f"Incorrect API key: {KEY}", {}), rf"refused with status 401 \(Incorrect API key: {re_key}\)")
        for re_key in [r"\[key\]"]
    ]
    + [
        ((200, "<html>", {}), "not a chat completion"),
        ((200, '{"choices": []}', {}), "not a chat completion"),
        ((200, '{"choices": [{"message": {"content": null}}]}', {}), "not a chat completion"),
    ],
)
def test_refusals_are_one_clear_line_without_the_key(reply: Reply, said: str, key: str) -> None:
    with serving(lambda messages: reply) as asked, pytest.raises(UserError, match=said) as raised:
        server(asked.url, key=key).answer(*QUESTION)
    assert len(asked.requests) == 1  # trying again would not help
    assert KEY not in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def test_requests_start_at_even_distances() -> None:
    clock = Clock()
    limit = RateLimit(30, clock, clock.sleep)
    starts = []
    for work in (0.0, 0.0, 5.0, 0.0):
        limit.wait()
        starts.append(clock.now - 100)
        clock.now += work
    assert starts == [0, 2, 4, 9]  # never less than two seconds apart, and no burst after a pause


# Answers that are kept


def test_a_question_is_asked_once(tmp_path: Path, key: str) -> None:
    questions = [Question([{"role": "user", "content": str(number)}], 5) for number in range(20)]
    with serving(lambda messages: f"{messages[0]['content']}! {KEY}") as asked:
        for _ in range(2):
            assert KnownAnswers(tmp_path, server(asked.url, key=key)).answers(questions) == [
                f"{number}! {HIDDEN}" for number in range(20)
            ]
        assert len(asked.requests) == 20
        KnownAnswers(tmp_path, server(asked.url, key=key)).answers([questions[0]._replace(longest=6)])
        assert len(asked.requests) == 21  # another question
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and KEY in path.read_text()]


def test_damaged_answer_is_asked_again(tmp_path: Path) -> None:
    with serving(lambda messages: "yes") as asked:
        known = KnownAnswers(tmp_path, server(asked.url))
        known.answers([QUESTION])
        for damage in ("", "{", "[]", '{"answer": 3}'):
            known.path(QUESTION).write_text(damage)
            assert known.answers([QUESTION]) == ["yes"]
    assert len(asked.requests) == 5


def test_a_failure_keeps_what_was_answered(tmp_path: Path) -> None:
    questions = [Question([{"role": "user", "content": str(number)}], 5) for number in range(6)]
    broken = True

    def answer(messages: list[dict[str, str]]) -> str | Reply:
        return (400, "no", {}) if broken and messages[0]["content"] == "4" else "yes"

    with serving(answer) as asked:
        client = server(asked.url)
        client.workers = 1  # so that it is known what comes before
        with pytest.raises(UserError, match="status 400"):
            KnownAnswers(tmp_path, client).answers(questions)
        broken, before = False, len(asked.requests)
        assert KnownAnswers(tmp_path, client).answers(questions) == ["yes"] * 6
    assert before - 1 + len(asked.requests) - before == 6


ASKER = """
import sys
sys.path[:0] = {paths!r}
from test_language_models import server
from crossdiff.explanations.answers import KnownAnswers, Question
client = server({url!r})
client.workers = 1
questions = [Question([{{"role": "user", "content": str(number)}}], 5) for number in range(10)]
KnownAnswers({folder!r}, client).answers(questions)
"""


def test_a_kill_loses_no_answer(tmp_path: Path) -> None:
    """SIGKILL from the server's side, while the seventh question is open."""
    asker: list[subprocess.Popen[bytes]] = []

    def answer(messages: list[dict[str, str]]) -> str:
        if messages[0]["content"] == "6" and asker:
            os.kill(asker.pop().pid, signal.SIGKILL)
        return "yes"

    with serving(answer) as asked:
        script = ASKER.format(paths=sys.path, url=asked.url, folder=str(tmp_path))
        asker.append(subprocess.Popen([sys.executable, "-c", script]))
        process = asker[0]
        assert process.wait(60) == -signal.SIGKILL
        assert len(asked.requests) == 7
        client = server(asked.url)
        known = KnownAnswers(tmp_path, client)
        known.answers([Question([{"role": "user", "content": str(number)}], 5) for number in range(10)])
        assert known.asked == 4
    files = [path for path in tmp_path.rglob("*.json") if not path.name.startswith(".")]
    assert sorted(json.loads(path.read_text())["messages"][0]["content"] for path in files) == [
        str(number) for number in range(10)
    ]


# What counts as an answer


@pytest.mark.parametrize(
    ("answer", "verdicts"),
    [
        ("[1, 0, 1]", [True, False, True]),
        (" \n```json\n[0, 0, 1]\n``` ", [False, False, True]),
        ("[1, 0]", None),
        ("[1, 0, 1, 1]", None),
        ("[1, 0, 2]", None),
        ("[true, false, true]", None),
        ("[1.0, 0, 1]", None),
        ('["1", "0", "1"]', None),
        ("1, 0, 1", None),
        ("The answer is [1, 0, 1]", None),
        ('{"1": 1}', None),
        ("", None),
    ],
)
def test_a_malformed_list_is_no_verdict(answer: str, verdicts: list[bool] | None) -> None:
    assert prompts.read_verdicts(answer, 3) == verdicts


@pytest.mark.parametrize(
    ("answer", "explanation"),
    [
        ('{"explanation": " the word\\n cat "}', "the word cat"),
        ('```\n{"explanation": "cats"}\n```', "cats"),
        ('{"explanation": ""}', None),
        ('{"explanation": ["cats"]}', None),
        ('{"reason": "cats"}', None),
        ('"cats"', None),
        ("It fires on cats.", None),
    ],
)
def test_a_malformed_explanation_is_none(answer: str, explanation: str | None) -> None:
    assert prompts.read_explanation(answer) == explanation


def test_excerpts_stand_on_a_line_each() -> None:
    texts = ['two\nlines "quoted"', "Excerpt 3: \u2028"]
    assert excerpts_of(prompts.judge(prompts.DETECT, "x", texts).messages) == texts


def test_forecast_of_what_a_model_is_asked() -> None:
    tiny = yaml.safe_load((ROOT / TINY).read_text())
    assert not list(forecast_lines(load(tiny)))
    latents = {"confirmed": 3, "chat_leaning": 7, "shared": 10, "low_nu": 0, "high_nu": 5}
    model = {"endpoint": {"url": "http://127.0.0.1:1/v1", "model": "some"}}
    given = {
        "model": model,
        "latents": latents,
        "per_quantile": 4,
        "per_request": 3,
        "prices": {"read": 2.0, "written": 8.0},
    }
    [line] = forecast_lines(load(tiny | {"explanations": given}))
    # 25 latents of 2 crosscoders and 2 seeds. Each takes one question for the explanation, 40 contexts with
    # and without it, and 20 marked ones, 3 at a time.
    assert f"by some: at most 100 latents, {100 * (1 + 14 + 7):,} requests" in line
    read, written = 100 * (22 * 150 + (3 + 60) * 16 + (20 + 60) * 1.2 * 25), 100 * (40 + 3 * 60)
    assert (
        f"{read / 1e6:.2f} M tokens read and {written / 1e6:.2f} M written, "
        f"{(2 * read + 8 * written) / 1e6:.2f} at the prices" in line
    )


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({}, "exactly one of endpoint, folder"),
        ({"endpoint": {"url": "http://me:secret@host/v1", "model": "m"}}, "explanations.model.endpoint.url"),
        (
            {"endpoint": {"url": "http://host/v1", "model": "m", "key": "sk-abc"}},
            "explanations.model.endpoint.key",
        ),
    ],
)
def test_config_takes_no_secrets(model: dict, said: str) -> None:
    with pytest.raises(UserError, match=said) as raised:
        load(yaml.safe_load((ROOT / TINY).read_text()) | {"explanations": {"model": model}})
    assert "secret" not in str(raised.value) and "sk-abc" not in str(raised.value)
