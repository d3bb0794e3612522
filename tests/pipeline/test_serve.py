"""Explanations by a real OpenAI-compatible server: `transformers serve`, the default pair's base model."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import requests
from conftest import TINY, Checkout
from helpers_server import excerpts_of

from crossdiff.explanations import prompts
from crossdiff.explanations.language_models import Messages

MODEL = "results/models/smollm2-135m-instruct"
FOLDER = "results/tiny/layer1/batchtopk/seed0"
LATENTS = {"chat_leaning": 6, "shared": 6, "low_nu": 0, "high_nu": 0}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    checkout = Checkout(tmp_path_factory.mktemp("smollm2") / "checkout")
    result = checkout.snakemake(MODEL)
    assert result.returncode == 0, result.stdout
    return checkout.folder / MODEL


@pytest.fixture(scope="module")
def url(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that runs while the tests of this module do."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # A CPU without bfloat16 units takes a hundred times as long for products in it.
    options = f"--host 127.0.0.1 --port {port} --device cpu --dtype float32".split()
    command = [Path(sys.executable).with_name("transformers"), "serve", model, *options]
    with (
        (tmp_path_factory.mktemp("served") / "log").open("w+") as log,
        subprocess.Popen(command, stdout=log, stderr=log) as server,
    ):
        try:
            for _ in range(120):
                time.sleep(1)
                assert server.poll() is None, Path(log.name).read_text()
                try:
                    if requests.get(f"http://127.0.0.1:{port}/health", timeout=5).ok:
                        break
                except (requests.ConnectionError, requests.Timeout):
                    continue
            else:
                pytest.fail(f"no answer for two minutes: {Path(log.name).read_text()}")
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()


@pytest.mark.slow
def test_a_small_model_explains_badly_and_the_score_says_so(
    finished: Checkout, model: Path, url: str, tmp_path: Path
) -> None:
    ours = finished.copy(tmp_path / "checkout")
    endpoint = {"url": url, "model": str(model), "requests_per_minute": 100_000}
    config = ours.changed(TINY, {"explanations": {"model": {"endpoint": endpoint}, "latents": LATENTS}})
    result = ours.snakemake(f"{FOLDER}/explanations.parquet", "--configfile", config, timeout=1200)
    assert result.returncode == 0, result.stdout

    table = pd.read_parquet(ours.folder / FOLDER / "explanations.parquet")
    asked = table[table.kind != "not chosen"]
    assert len(asked) >= sum(LATENTS.values()) // 2 and set(asked.kind) <= {"explained", "malformed"}
    kept = [json.loads(path.read_text()) for path in ours.folder.glob("results/.answers/*/*.json")]
    assert asked.requests.sum() == len(kept) and asked.malformed.sum() == sum(
        not _is_read(**one) for one in kept
    )
    # It repeats the example that it was given, so its answers are no better than chance. Where too few of
    # them can be read, there is no score.
    scored = asked.detection.notna()
    assert scored.any() and not scored[asked.kind == "malformed"].any()
    assert (asked.detection_low[scored] <= 0.5).all() and asked.detection[scored].mean() < 0.6


def _is_read(messages: Messages, answer: str, **_: object) -> bool:
    """Tell whether an answer has the form that its question asks for."""
    if messages[0]["content"] == prompts.EXPLAIN:
        return prompts.read_explanation(answer) is not None
    return prompts.read_verdicts(answer, len(excerpts_of(messages))) is not None
