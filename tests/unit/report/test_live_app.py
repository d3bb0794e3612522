"""The live page's server: who may ask, what it answers, and what happens when a client leaves."""

import json
import socket
import threading
import time
from pathlib import Path

import httpx2
import jsonschema
import pytest
from conftest import ROOT
from fastapi.testclient import TestClient
from helpers_explore import CROSSCODER, HOSTILE, TOKEN, served, tiny_session

from crossdiff.cli import main
from crossdiff.latents.catalogue import weights_digest
from crossdiff.report.live import saved
from crossdiff.report.live.app import make_app
from crossdiff.report.live.gate import own_host
from crossdiff.report.live.session import Session
from crossdiff.results.crosscoder import WEIGHTS

KNOWN = {"X-Crossdiff-Token": TOKEN}
ASKED = {"crosscoder": CROSSCODER, "mode": "text", "prompt": "Hello"}
ADDED = {"latent": 1, "change": "add", "strength": 2.0}
SAVED = ASKED | {"latents": [ADDED], "answers": {"chat": "Hi", "steered": HOSTILE}, "kl": [0.0, 0.5]}


@pytest.fixture(scope="module")
def session(tmp_path_factory) -> Session:
    folder = tmp_path_factory.mktemp("pair")
    report = folder / "layer1/report"
    (report / "latents").mkdir(parents=True)
    (report / "index.html").write_text("the report")
    (report / "latents/index.html").write_text("the browser")
    (folder / "layer1/secret.txt").write_text("not served")
    return tiny_session(folder)


@pytest.fixture
def sessions(tmp_path) -> Path:
    return tmp_path / "sessions"


@pytest.fixture
def client(session, sessions) -> TestClient:
    """A client without the token, at the address of this machine."""
    app = make_app(session, ROOT / "report", sessions, TOKEN)
    return TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)


ADDRESSES = ["/", "/nothing", "/assets/live/main.js", "/report/index.html", "/api/sessions", "/docs"]


@pytest.mark.parametrize("path", ADDRESSES)
@pytest.mark.parametrize("given", ["", "?token=", "?token=a-toke", "?token=ä", "?token=a-token2"])
def test_without_the_token_everything_is_refused_in_one_line(client, path, given):
    found = client.get(path + given)
    assert found.status_code == 403
    assert found.text == (
        "The token is missing or wrong: open the whole address that crossdiff explore has printed.\n"
    )


@pytest.mark.parametrize("name", ["prompt", "latent", "effect", "answers", "sessions"])
def test_requests_need_the_token_in_their_header(client, name):
    """A cookie or the address would let pages of other local servers ask."""
    client.cookies.set("crossdiff", TOKEN)
    assert client.post(f"/api/{name}?token={TOKEN}", json=ASKED).status_code == 403
    assert client.post(f"/api/{name}", json=ASKED, headers={"X-Crossdiff-Token": "b"}).status_code == 403
    assert client.options(f"/api/{name}", headers={"Origin": "http://127.0.0.1:1"}).status_code == 403


def test_page_with_the_token_opens_and_its_cookie_opens_files(client):
    page = client.get(f"/?token={TOKEN}")
    assert page.status_code == 200
    assert f'<meta name="token" content="{TOKEN}">' in page.text
    cookie = page.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie
    assert "script-src 'self';" in page.headers["content-security-policy"]
    assert page.headers["referrer-policy"] == "no-referrer"
    assert page.headers["cross-origin-resource-policy"] == "same-origin"
    assert "access-control-allow-origin" not in page.headers
    assert client.get("/assets/live/main.js").status_code == 200
    assert client.get("/assets/browser/pieces.js").status_code == 200
    assert client.get("/report/latents/index.html").text == "the browser"
    assert client.get("/report/index.html").headers["cross-origin-resource-policy"] == "same-origin"
    for path in ("/report/../secret.txt", "/report/%2e%2e/secret.txt", "/assets/live/%2e%2e/live.html.jinja"):
        assert client.get(path).status_code == 404
    assert client.get("/nothing").json() == {"error": "Not Found"}


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("127.0.0.1:8000", True),
        ("127.0.0.1", True),
        ("localhost:8000", True),
        ("LOCALHOST", True),
        ("[::1]:8000", True),
        ("[::1]", True),
        ("10.1.2.3:80", True),
        ("evil.example", False),
        ("evil.example:8000", False),
        ("127.0.0.1.evil.example:8000", False),
        ("localhost.evil.example", False),
        ("", False),
    ],
)
def test_name_bound_to_this_machine_by_others_is_not_served(client, host, own):
    assert own_host(host, {"localhost"}) is own
    found = client.get(f"/?token={TOKEN}", headers={"Host": host})
    assert found.status_code == (200 if own else 403)
    if not own:
        assert found.text.startswith("This host name is not served") and found.text.count("\n") == 1


def test_own_name_is_served_and_the_one_that_the_user_gave(session, sessions):
    app = make_app(session, ROOT / "report", sessions, TOKEN, host="Node7.cluster.example.org")
    client = TestClient(app)
    for host in (f"{socket.gethostname()}:8000", "node7.cluster.example.org:8000"):
        assert client.get(f"/?token={TOKEN}", headers={"Host": host}).status_code == 200
    assert client.get(f"/?token={TOKEN}", headers={"Host": "node8.cluster.example.org"}).status_code == 403


@pytest.mark.parametrize("other", ['prefs={"a":1}', "flag", "x=a b", "a[b]=1", "crossdiff=wrong"])
def test_cookies_of_other_programs_do_not_hide_the_pages_own(client, other):
    headers = {"Cookie": f"{other}; crossdiff={TOKEN}"}
    assert client.get("/assets/live/main.js", headers=headers).status_code == 200


def test_session_of_another_pair_is_refused_in_one_line(client, sessions):
    name = client.post("/api/sessions", json=SAVED, headers=KNOWN).json()["name"]
    assert client.get(f"/api/sessions/{name}", headers=KNOWN).status_code == 200
    path = sessions / f"{name}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"layer": 7}))
    found = client.get(f"/api/sessions/{name}", headers=KNOWN)
    assert found.status_code == 400
    assert found.json()["error"].startswith(f"session {name}: found one of ")
    assert ", layer 7, allowed: those of " in found.json()["error"]


def test_prompt_latent_and_effect(client, session):
    found = client.post("/api/prompt", json=ASKED, headers=KNOWN).json()
    assert [token["text"] for token in found["tokens"]] == list("Hello")
    one = client.post("/api/latent", json=ASKED | {"latent": 0}, headers=KNOWN).json()
    assert len(one["values"]) == 5 and one["latents"]["0"]["name"] == HOSTILE
    ablated = ADDED | {"change": "ablate", "strength": None, "latent": 0}
    found = client.post("/api/effect", json=ASKED | {"latents": [ADDED, ablated]}, headers=KNOWN).json()
    assert len(found["kl"]) == 5 and found["mean"] > 0


@pytest.mark.parametrize(
    ("path", "changes", "status", "line"),
    [
        ("latent", {"latent": 99}, 400, "latent: found 99, allowed: whole numbers, 0 to 11"),
        ("latent", {"latent": "x"}, 422, "latent: Input should be a valid integer"),
        ("prompt", {"crosscoder": "l1"}, 400, "crosscoder: found l1, allowed: topk.seed0"),
        ("prompt", {"prompt": "x" * 100}, 400, "text: found 100 tokens, allowed: 64 in all"),
        ("prompt", {"prompt": "x" * 300_000}, 422, "prompt: String should have at most 200000 characters"),
        ("prompt", {"mode": "song"}, 422, "mode: Input should be 'chat' or 'text'"),
        ("answers", {"prompt": "x" * 60}, 400, "text: found 60 tokens and 64 new ones, allowed: 64 in all"),
        ("answers", {"new_tokens": 0}, 422, "new_tokens: Input should be greater than or equal to 1"),
        ("effect", {"latents": [ADDED | {"strength": None}]}, 400, "latents: 1 is added without a strength"),
        ("effect", {"latents": [ADDED] * 9}, 422, "latents: List should have at most 8 items"),
        ("sessions", {}, 422, "latents: Field required"),
    ],
)
def test_problems_are_answered_in_one_line(client, path, changes, status, line):
    found = client.post(f"/api/{path}", json=ASKED | changes, headers=KNOWN)
    assert found.status_code == status
    assert list(found.json()) == ["error"]
    assert found.json()["error"].startswith(line) and "\n" not in found.json()["error"]


def test_answers_come_line_by_line(client):
    asked = ASKED | {"latents": [ADDED], "new_tokens": 3}
    found = client.post("/api/answers", json=asked, headers=KNOWN)
    assert found.headers["content-type"] == "application/x-ndjson"
    steps = [json.loads(line) for line in found.text.splitlines()]
    assert [step["who"] for step in steps] == ["base", "chat", "steered"] * 3
    assert all(step["done"] for step in steps[-3:])


def test_failure_within_an_answer_is_one_line(client, session, monkeypatch):
    def failing(*_):
        yield {"who": "chat", "text": "a", "tokens": 1, "done": False}
        raise RuntimeError("no memory\nmore")

    monkeypatch.setattr(Session, "answers", failing)
    lines = client.post("/api/answers", json=ASKED, headers=KNOWN).text.splitlines()
    assert json.loads(lines[-1]) == {"error": "the answer failed: RuntimeError: no memory"}


def test_session_is_saved_listed_and_opened(client, session, sessions):
    found = client.post("/api/sessions", json=SAVED | {"title": "An égg!"}, headers=KNOWN)
    name = found.json()["name"]
    assert name.endswith("-an-gg") and found.json()["file"] == str(sessions / f"{name}.json")
    other = client.post("/api/sessions", json=SAVED | {"title": "An égg!"}, headers=KNOWN).json()["name"]
    assert other != name
    written = json.loads((sessions / f"{name}.json").read_text())
    jsonschema.validate(written, saved.Saved.model_json_schema())
    assert written["format"] == "crossdiff session 1"
    assert written["weights"] == weights_digest(session.folders[SAVED["crosscoder"]] / WEIGHTS)
    assert (written["layer"], written["models"]) == (1, {"base": "tiny-base", "chat": "tiny-chat"})
    assert written["latents"][0] == ADDED | {"name": None}
    (sessions / "other.json").write_text("{}")
    listed = client.get("/api/sessions", headers=KNOWN).json()
    assert sorted(one["name"] for one in listed) == sorted([name, other])
    assert client.get(f"/api/sessions/{name}", headers=KNOWN).json() == written
    for wrong in ("nothing", "other", "..%2Fother", "20260101-000000"):
        found = client.get(f"/api/sessions/{wrong}", headers=KNOWN)
        assert found.status_code in (400, 404) and "\n" not in found.json()["error"]


def test_folder_that_can_not_be_written_is_one_line(session, tmp_path):
    (tmp_path / "file").write_text("")
    app = make_app(session, ROOT / "report", tmp_path / "file/sessions", TOKEN)
    client = TestClient(app, base_url="http://127.0.0.1", headers=KNOWN)
    found = client.post("/api/sessions", json=SAVED)
    assert found.status_code == 400 and "can't be written there" in found.json()["error"]


def test_client_that_leaves_stops_its_answer_and_others_are_answered(session, tmp_path, monkeypatch):
    steps, closed = [], threading.Event()

    def endless(*_):
        try:
            while True:
                with session.lock:
                    time.sleep(0.005)
                steps.append(1)
                yield {"who": "chat", "text": "a" * len(steps), "tokens": len(steps), "done": False}
        finally:
            closed.set()

    monkeypatch.setattr(Session, "answers", endless)
    with served(session, tmp_path) as address:
        asked = {"url": f"{address}/api/answers", "json": ASKED, "headers": KNOWN}
        with httpx2.stream("POST", **asked) as answer:
            lines = answer.iter_lines()
            assert [json.loads(next(lines))["tokens"] for _ in range(3)] == [1, 2, 3]
            second = httpx2.post(f"{address}/api/prompt", json=ASKED | {"prompt": "other"}, headers=KNOWN)
            assert second.status_code == 200
            assert not closed.is_set()
        assert closed.wait(10)
        made = len(steps)
        time.sleep(0.2)
        assert len(steps) == made


def test_command_says_what_is_wrong_in_one_line(tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["explore", str(tmp_path), "--port", port]) == 2
        assert f"--port {port}: can't be listened on" in capsys.readouterr().err
    assert main(["explore", str(tmp_path)]) == 2
    assert "found no layer*/pair.json" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["explore", str(tmp_path), "--port", "70000"])
    assert "allowed: 0 to 65535" in capsys.readouterr().err
