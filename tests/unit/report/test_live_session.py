"""What the live page computes, on tiny random models."""

import shutil
import threading

import numpy as np
import pytest
import torch
from helpers_explore import (
    CONTEXT,
    CROSSCODER,
    DEAD,
    HOSTILE,
    LATENTS,
    tiny_pair,
    tiny_session,
    write_crosscoder,
)
from helpers_texts import one_line

from crossdiff.errors import UserError
from crossdiff.report.live.session import MOST_CHANGES, Session, Setting, open_pair
from crossdiff.results.loading import load

TEXT = "Hi?"
HEADER = ["<|im_start|>", *"user", "\u21b5"]
ASKED = [*HEADER, *TEXT, "<|im_end|>", "\u21b5", "<|im_start|>", *"assistant", "\u21b5"]


@pytest.fixture(scope="module")
def session(tmp_path_factory) -> Session:
    return tiny_session(tmp_path_factory.mktemp("pair"))


def test_prompt_is_asked_as_a_chat_or_read_as_text(session):
    asked, text = (session.prompt(CROSSCODER, mode, TEXT) for mode in ("chat", "text"))
    assert [token["text"] for token in asked["tokens"]] == ASKED
    assert [token["text"] for token in text["tokens"]] == list(TEXT)
    assert [token["template"] for token in asked["tokens"]][5:10] == [1, 0, 0, 0, 2]
    assert [token["counts"] for token in text["tokens"]] == [False, True, True]
    assert text["tokens"][0]["top"] == []


def test_top_latents_are_those_of_the_notebook(session):
    found = session.prompt(CROSSCODER, "text", "Hello you")
    crosscoder = load(session.folders[CROSSCODER], check=False)
    codes = crosscoder.encode(session.pair.activations("Hello you"))
    table = crosscoder.top(codes, n=8)
    for position, token in enumerate(found["tokens"]):
        rows = table[table.position == position]
        assert [latent for latent, _ in token["top"]] == rows.latent.tolist()
        assert [value for _, value in token["top"]] == pytest.approx(rows.activation.tolist(), rel=1e-3)
    peaks = table.groupby("latent").strength.max().sort_values(ascending=False)
    assert [latent for latent, _ in found["top"]] == peaks.index.tolist()
    first = found["top"][0][0]
    assert found["top"][0][1] == pytest.approx(float(codes.values[:, first].max()), rel=1e-3)
    one = session.latent(CROSSCODER, "text", "Hello you", first)
    assert one["values"] == pytest.approx(codes.values[:, first].tolist(), rel=1e-3)


def test_names_and_verdicts_come_from_the_tables_and_may_be_missing(session, tmp_path):
    facts = [session.latent(CROSSCODER, "text", TEXT, latent)["latents"][latent] for latent in (0, 1, 2)]
    assert [fact["name"] for fact in facts] == [HOSTILE, "the first one", None]
    assert [fact["confirmed"] for fact in facts] == [False, True, False]
    assert facts[0]["max_activation"] == 2
    bare = tiny_session(tmp_path, tables=False)
    assert bare.latent(CROSSCODER, "text", TEXT, 0)["latents"] == {0: {}}
    assert "betas.parquet: not there" in one_line(bare.effect, CROSSCODER, "text", TEXT, [Setting(0, 1.0)])


def answers(session: Session, settings: list[Setting], new: int = 5) -> dict[str, str]:
    return {step["who"]: step["text"] for step in session.answers(CROSSCODER, "chat", TEXT, settings, new)}


def test_answers_are_those_of_the_notebook_side_by_side(session):
    crosscoder, pair = load(session.folders[CROSSCODER], check=False), session.pair
    plain = answers(session, [])
    assert plain["chat"] == plain["steered"] == pair.answer(TEXT, 5)
    assert plain["base"] != plain["chat"]
    for strength, expected in (
        (3.0, pair.steer(TEXT, crosscoder, 1, 3.0, 5)),
        (None, pair.ablate(TEXT, crosscoder, 1, 5)),
    ):
        found = answers(session, [Setting(1, strength)])
        assert found["steered"] == expected
        assert found["chat"] == plain["chat"]
    steps = list(session.answers(CROSSCODER, "chat", TEXT, [], 3))
    assert [step["who"] for step in steps] == ["base", "chat", "steered"] * 3
    assert [step["tokens"] for step in steps] == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert [step["done"] for step in steps] == [False] * 6 + [True] * 3


def test_answer_that_ends_its_turn_is_done_and_the_end_is_not_shown(session):
    chat = session.pair.chat
    ids = session.sequence("chat", TEXT).token
    with torch.inference_mode():
        first = int(chat(torch.from_numpy(ids).long()[None]).logits[0, -1].argmax())
    before = chat.generation_config.eos_token_id
    chat.generation_config.eos_token_id = first
    try:
        last = [step for step in session.answers(CROSSCODER, "chat", TEXT, [], 4) if step["who"] == "chat"]
    finally:
        chat.generation_config.eos_token_id = before
    assert last == [{"who": "chat", "text": "", "tokens": 0, "done": True}]


def test_effect_grows_with_the_strength_and_is_nothing_without_changes(session):
    none, weak, strong = (
        session.effect(CROSSCODER, "chat", TEXT, [Setting(1, strength)]) for strength in (0.0, 0.5, 3.0)
    )
    assert none["mean"] == 0 and none["promoted"] == none["suppressed"] == []
    assert 0 < weak["mean"] < strong["mean"]
    assert strong["kl"][0] == 0 and strong["last"] == strong["kl"][-1]
    assert strong["mean"] == pytest.approx(np.mean(strong["kl"][1:]), rel=1e-3)
    changes = [after - before for _, before, after in strong["promoted"]]
    assert len(changes) == 8 and changes == sorted(changes, reverse=True) and changes[-1] > 0
    assert all(after < before for _, before, after in strong["suppressed"])


def test_problems_are_one_line(session, tmp_path, monkeypatch):
    def prompt(*asked):
        return one_line(session.prompt, *asked)

    assert prompt("l2.seed0", "text", TEXT) == "crosscoder: found l2.seed0, allowed: topk.seed0"
    assert prompt(CROSSCODER, "text", "") == "text: found no token, allowed: text that is not empty"
    assert "allowed: 64 in all" in prompt(CROSSCODER, "text", "x" * (CONTEXT + 1))
    assert "allowed: 64 in all" in prompt(CROSSCODER, "chat", "x" * CONTEXT)
    long = one_line(session.answers, CROSSCODER, "text", "x" * CONTEXT, [], 1)
    assert long == "text: found 64 tokens and 1 new ones, allowed: 64 in all"
    unknown = one_line(session.latent, CROSSCODER, "text", TEXT, LATENTS)
    assert unknown == f"latent: found {LATENTS}, allowed: whole numbers, 0 to {LATENTS - 1}"
    unknown = one_line(session.effect, CROSSCODER, "text", TEXT, [Setting(-1, None)])
    assert unknown.startswith("latent: found -1")
    dead = one_line(session.effect, CROSSCODER, "text", TEXT, [Setting(DEAD, 1.0)])
    assert "never fired in the training text" in dead
    many = [Setting(latent, None) for latent in range(MOST_CHANGES + 1)]
    assert "allowed: 8" in one_line(session.effect, CROSSCODER, "text", TEXT, many)
    assert not session.lock.locked()
    monkeypatch.setattr(session.pair.chat, "get_output_embeddings", lambda: None)
    for ask in (session.effect, lambda *asked: session.answers(*asked, 4)):
        line = one_line(ask, CROSSCODER, "text", TEXT[:2], [])
        assert line == "the chat model (LlamaForCausalLM) has no head, so it predicts no tokens"
    assert session.prompt(CROSSCODER, "text", TEXT)["tokens"]


def test_results_without_a_crosscoder_or_a_pair_are_one_line(tmp_path):
    assert "found no crosscoder" in one_line(Session, tiny_pair(tmp_path))
    assert "found no layer*/pair.json" in one_line(open_pair, tmp_path)
    write_crosscoder(tmp_path)
    assert list(Session(tiny_pair(tmp_path), check=False).folders) == [CROSSCODER]


def test_models_run_one_at_a_time_and_a_stream_lets_others_in_between(session, monkeypatch):
    """Another request waits for a token, not for the whole answer."""
    running, most = [], []
    read = type(session.pair).read

    def watched(pair, sequence):
        running.append(1)
        most.append(len(running))
        found = read(pair, sequence)
        running.pop()
        return found

    monkeypatch.setattr(type(session.pair), "read", watched)
    stream = session.answers(CROSSCODER, "text", "abc", [], 20)
    next(stream)
    threads = [
        threading.Thread(target=session.prompt, args=(CROSSCODER, "text", f"prompt {i}")) for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most == [1] * 4
    assert next(stream)["who"] == "chat"
    stream.close()
    with session.lock:
        ended = threading.Thread(target=session.prompt, args=(CROSSCODER, "text", "waits"), daemon=True)
        ended.start()
        ended.join(0.2)
        assert ended.is_alive()
    ended.join(60)
    assert not ended.is_alive()


def test_a_prompt_too_long_for_the_page_is_one_line(session, monkeypatch):
    monkeypatch.setattr("crossdiff.report.live.session.MOST_TOKENS", 4)
    with pytest.raises(UserError, match=r"^prompt: found 5 tokens, allowed: up to 4 here$"):
        session.prompt(CROSSCODER, "text", "Hello")


def test_folders_that_are_no_trainings_are_left_out(tmp_path):
    session = tiny_session(tmp_path)
    trained = session.folders[CROSSCODER]
    shutil.copytree(trained, trained.with_name("seed0_backup"))
    assert list(Session(session.pair, check=False).folders) == [CROSSCODER]
