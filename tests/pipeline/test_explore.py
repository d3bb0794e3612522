"""``crossdiff explore`` on a finished run: it opens by its address alone, and Ctrl-C ends it."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
from conftest import Checkout

from crossdiff.report.live.session import Session, Setting, open_pair

COMMAND = "import sys; from crossdiff.cli import main; sys.exit(main())"


@pytest.fixture(scope="module")
def layer(finished: Checkout) -> Path:
    return finished.folder / "results/tiny/layer1"


def test_pairs_and_layers_folder_open_the_same_and_every_crosscoder_is_there(layer: Path) -> None:
    sessions = [Session(open_pair(folder)) for folder in (layer.parent, layer)]
    names = ["batchtopk.seed0", "batchtopk.seed1", "l1.seed0", "l1.seed1"]
    assert [list(session.folders) for session in sessions] == [names, names]
    assert sessions[0].about | {"crosscoders": None} == {
        "pair": "tiny",
        "layer": 1,
        "base": "tiny-base",
        "chat": "tiny-chat",
        "crosscoders": None,
        "report": True,
        "browser": True,
    }
    found = sessions[1].prompt("l1.seed0", "chat", "How do I boil an egg?")
    latent = found["top"][0][0]
    assert {"name", "class", "confirmed"} <= set(found["latents"][latent])
    assert sessions[1].effect("l1.seed0", "chat", "How?", [Setting(latent, 2.0)])["mean"] > 0


@pytest.mark.slow  # a process that imports torch
def test_command_serves_until_ctrl_c(layer: Path, tmp_path: Path) -> None:
    library = str(layer.parents[2] / "src")
    variables = os.environ | {"PYTHONPATH": library, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", COMMAND, "explore", str(layer), "--sessions", str(tmp_path)]
    running = subprocess.Popen(
        command,
        env=variables,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A shell starts background jobs with Ctrl-C switched off.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        lines = [running.stdout.readline() for _ in range(2)]
        assert lines[0] == "loading tiny-base and tiny-chat ...\n"
        found = re.fullmatch(r"open (http://127\.0\.0\.1:\d+/)\?token=([\w-]{43})\n", lines[1])
        address, token = found.groups()
        assert httpx2.get(address).status_code == 403
        page = httpx2.get(f"{address}?token={token}")
        assert "Explore tiny" in page.text
        browser = httpx2.get(f"{address}report/latents/index.html?token={token}")
        assert "Latents of tiny" in browser.text
        asked = {"crosscoder": "batchtopk.seed0", "mode": "text", "prompt": "Hello"}
        answer = httpx2.post(
            f"{address}api/prompt", json=asked, headers={"X-Crossdiff-Token": token}, timeout=60
        )
        assert len(answer.json()["tokens"]) > 0
        running.send_signal(signal.SIGINT)
        assert running.wait(30) == 0
        assert "Traceback" not in running.stderr.read()
    finally:
        running.kill()
        running.communicate()
