"""Explanations by a language model through real Snakemake: a server on loopback, its failures and its key."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import TINY, Checkout, planned
from files_table import untold
from helpers_server import ChatServer, excerpts_of, serving

from crossdiff.explanations import prompts
from crossdiff.explanations.language_models import LocalModel

KEY = "sk-pipeline-0123456789"
FOLDER = "results/tiny/layer1/batchtopk/seed0"  # a latent of l1 may fire in every context, and has no score


def contrarian(messages: list[dict[str, str]]) -> str:
    """Explain everything the same way, and judge by the length of excerpts: scores are near chance."""
    if messages[0]["content"] == prompts.EXPLAIN:
        return json.dumps({"explanation": "long text"})
    return json.dumps([len(text) % 2 for text in excerpts_of(messages)])


@pytest.fixture(scope="module")
def server() -> Iterator[ChatServer]:
    with serving(contrarian) as running:
        yield running


def explained(checkout: Checkout, url: str, name: str, key: str | None = KEY) -> tuple[str, int, str]:
    """The config, the exit code and the output of a run that explains some latents of one crosscoder."""
    endpoint = {"url": url, "model": "some", "key": "EXPLAINER_KEY", "requests_per_minute": 100_000}
    latents = {"chat_leaning": 3, "shared": 3, "low_nu": 0, "high_nu": 0}
    config = checkout.changed(
        TINY, {"explanations": {"model": {"endpoint": endpoint}, "latents": latents}}, name
    )
    variables = {"EXPLAINER_KEY": key} if key else {}
    result = checkout.run(
        "-m", "snakemake", f"{FOLDER}/explanations.parquet", "--configfile", config, **variables
    )
    return config, result.returncode, result.stdout


@pytest.fixture(scope="module")
def ours(finished: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    return finished.copy(tmp_path_factory.mktemp("explained") / "checkout")


def test_server_explains_and_its_key_stays_in_the_environment(ours: Checkout, server: ChatServer) -> None:
    config, code, printed = explained(ours, server.url, "asked")
    assert code == 0, printed
    assert planned(printed) == {"explain_latents": 1}
    assert {request["headers"]["Authorization"] for request in server.requests} == {f"Bearer {KEY}"}
    table = pd.read_parquet(ours.folder / FOLDER / "explanations.parquet")
    assert list(table.latent) == list(range(128)) and (table.kind == "not chosen").sum() >= 122
    asked = table[table.kind == "explained"]
    assert len(asked) >= 3 and (asked.explanation == "long text").all()
    assert 0.3 < asked.detection.mean() < 0.7
    assert (
        table.requests.sum() == len(server.requests) == len([*ours.folder.glob("results/.answers/*/*.json")])
    )
    assert not [
        path for path in ours.folder.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()
    ]

    # Made again from known answers, without a question.
    before = len(server.requests)
    (ours.folder / FOLDER / "explanations.parquet").unlink()
    result = ours.run(
        "-m", "snakemake", f"{FOLDER}/explanations.parquet", "--configfile", config, EXPLAINER_KEY=KEY
    )
    assert result.returncode == 0 and len(server.requests) == before
    pd.testing.assert_frame_equal(table, pd.read_parquet(ours.folder / FOLDER / "explanations.parquet"))
    assert not untold(ours.folder, {"batchtopk", "l1"})


def test_server_is_asked_about_answers_of_both_models_and_steered_ones(
    finished: Checkout, tmp_path: Path
) -> None:
    """Nothing is generated anew: what is asked is about stored answers."""
    ours, table = finished.copy(tmp_path / "ours"), "results/tiny/first_look/asked.csv"
    folder = "results/tiny/layer1/l1/seed0"

    def reply(messages: list[dict[str, str]]) -> str:
        if len(messages) == 1:
            return "1. B <b>refuses</b>.\n2. B is shorter."
        return "perhaps" if "steal" in messages[1]["content"] else "Yes."

    with serving(reply) as running:
        explainer = {"endpoint": {"url": running.url, "model": "some", "requests_per_minute": 60_000}}
        changes = {"explanations": {"model": explainer}, "steering.behaviour": {"judge": "Is it rude?"}}
        config = ours.changed(TINY, changes)
        command = ("-m", "snakemake", "first_look", f"{folder}/steering.csv", "--configfile", config)
        result = ours.run(*command)
        assert result.returncode == 0, result.stdout
        asked = [request["messages"] for request in running.requests]
        (ours.folder / folder / "steering.csv").unlink()
        assert ours.run(*command).returncode == 0
        assert len(running.requests) == len(asked)  # a rerun asks nothing
    # Training does not wait for a language model, so neither the page before it nor its check runs again.
    assert planned(result.stdout) == {"ask_about_answers": 1, "first_look": 1, "judge_steering": 1}
    answers = pd.read_parquet(ours.folder / "results/tiny/first_look/answers.parquet")
    [[one]] = [messages for messages in asked if len(messages) == 1]
    assert one["content"].count("Model A: ") == answers.prompt.nunique()
    assert pd.read_csv(ours.folder / table).difference.tolist() == ["B <b>refuses</b>.", "B is shorter."]
    steered = pd.read_parquet(ours.folder / folder / "steering_answers.parquet")
    assert len(asked) - 1 == len(steered[["question", "answer"]].drop_duplicates())
    of_thefts = steered.question.str.contains("steal")
    assert 0 < of_thefts.sum() < len(steered)
    assert steered.shown.isna().equals(of_thefts | steered.answer.str.contains("steal"))
    effects = pd.read_csv(ours.folder / folder / "steering.csv")
    assert set(effects.behaviour) == {"is judged yes: Is it rude?"}
    assert effects.unjudged.sum() == steered.shown.isna().sum()
    assert effects.rate.eq(1).all()
    assert not untold(ours.folder, {"batchtopk", "l1"})


def test_what_is_wrong_is_one_clear_line_and_nothing_is_lost(ours: Checkout) -> None:
    kept = {path.name for path in ours.folder.glob("results/.answers/*/*.json")}
    with serving(lambda messages: (401, f"bad key {KEY}", {})) as refusing:
        for key, said in (
            (
                None,
                "error: explanations.model.endpoint.key: the environment variable EXPLAINER_KEY is not set",
            ),
            (
                KEY,
                f"error: explanations.model.endpoint {refusing.url}: refused with status 401 (bad key [key])",
            ),
        ):
            _, code, printed = explained(ours, refusing.url, "wrong", key)
            assert code == 1 and said in printed and "Traceback" not in printed and KEY not in printed
    assert {path.name for path in ours.folder.glob("results/.answers/*/*.json")} == kept


def test_a_local_folder_answers(finished: Checkout) -> None:
    """The model is random: its answers repeat, and give no verdict."""
    model = LocalModel(str(finished.folder / "results/models/tiny-chat"))
    question = prompts.judge(prompts.DETECT, "cats", ["a cat", "a dog"])
    answer = model.answer(*question)
    assert isinstance(answer, str) and answer == model.answer(*question)
    assert prompts.read_verdicts(answer, 2) is None


@pytest.mark.parametrize(("crosscoder", "latents"), [("batchtopk", 128), ("l1", 96)])
def test_every_latent_has_a_pattern_or_a_reason(finished: Checkout, crosscoder: str, latents: int) -> None:
    folder = finished.folder / f"results/tiny/layer1/{crosscoder}/seed1"
    table, scaling = (pd.read_parquet(folder / f"{name}.parquet") for name in ("patterns", "scaling"))
    assert list(table.latent) == list(range(latents)) and (table.explanation.str.len() > 0).all()
    assert ((table.kind == "empty") == (scaling.active_tokens == 0)).all()
    scored = table[table.detection.notna()]
    assert len(scored) > 10
    assert (scored.detection_low <= scored.detection).all() and (
        scored.detection <= scored.detection_high
    ).all()
    assert scored.detection.between(0, 1).all() and not set(scored.kind) & {"empty", "too few", "everywhere"}
    quantiles = pd.read_parquet(folder / "patterns_quantiles.parquet")
    assert np.array_equal(quantiles.groupby("latent").contexts.sum(), scored.scored)


def test_comparison_has_a_row_per_set_and_training(finished: Checkout) -> None:
    table = pd.read_csv(finished.folder / "results/tiny/layer1/tables/explanations.csv")
    assert len(table) == 2 * 2 * 4 and set(table.explainer) == {"patterns"}
    page = (finished.folder / "results/tiny/layer1/report/index.html").read_text()
    assert "How well an explanation tells contexts" in page
    assert ("Too few to conclude" in page) == bool(table.too_few.any())
