"""An explanation by a language model from start to end, with a real server that knows the planted word."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers_explanations import decode, random_shard, write_latents
from helpers_latents import classed
from helpers_server import excerpts_of, serving
from helpers_tables import scaling_table

from crossdiff.config import Endpoint, Examples, ExplainedLatents, Explainer, Explanations
from crossdiff.explanations import prompts
from crossdiff.explanations.answers import KnownAnswers
from crossdiff.explanations.contexts import is_scored, read_background
from crossdiff.explanations.excerpts import ExcerptMaker, Excerpts, marked
from crossdiff.explanations.judging import Judge
from crossdiff.explanations.language_models import RateLimit, Server
from crossdiff.explanations.selection import chosen

WORD, BANANA = "banana", 3
SHARD = random_shard(300)
LATENTS = 3  # fires on a word, at random, never


def settings(url: str = "http://127.0.0.1:1/v1", **changes: object) -> Explanations:
    return Explanations(
        **{"model": Explainer(endpoint=Endpoint(url=url, model="oracle")), "per_quantile": 4} | changes
    )


@pytest.fixture(scope="module")
def excerpts(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Excerpts]:
    folder, generator = tmp_path_factory.mktemp("latents"), np.random.default_rng(0)
    codes = np.zeros((len(SHARD.token), LATENTS), np.float32)
    codes[:, 0] = (SHARD.token == BANANA) * generator.uniform(0.1, 1, len(codes))
    codes[:, 1] = (generator.random(len(codes)) < 0.01) * generator.uniform(0.1, 1, len(codes))
    text, examples, background = write_latents(folder, SHARD, codes, Examples(background=400))
    tokens = pd.read_parquet(background).tokens
    maker = ExcerptMaker(
        text, read_background(background, text), tokens, lambda ids: decode(ids) + " ", settings()
    )
    return {latent: maker.of(latent, examples) for latent in range(LATENTS)}


def oracle(messages: list[dict[str, str]]) -> str:
    """Answers with what all marked places have in common, and with the places of the description's words."""
    texts = excerpts_of(messages)
    marks = [set(" ".join(re.findall("<<(.*?)>>", text)).split()) for text in texts]
    if messages[0]["content"] == prompts.EXPLAIN:
        return json.dumps({"explanation": " ".join(set.intersection(*marks)) or "nothing"})
    words = set(re.match("Description: (.*)", messages[-1]["content"])[1].split())
    if messages[0]["content"] == prompts.FUZZ:
        return json.dumps([int(words <= mark) for mark in marks])
    return json.dumps([int(words <= set(text.split())) for text in texts])


def explained(
    tmp_path: Path, excerpts: dict[int, Excerpts], answer=oracle, latents: int = LATENTS
) -> tuple[pd.DataFrame, pd.DataFrame, int]:
    """Give both tables and the number of questions."""
    with serving(answer) as asked:
        model = Server(Endpoint(url=asked.url, model="oracle"), RateLimit(1e9))
        tables = Judge(KnownAnswers(tmp_path, model), per_request=5).explain(excerpts, latents)
        return *tables, len(asked.requests)


def test_an_oracle_finds_the_planted_word_and_scores_1(tmp_path: Path, excerpts: dict[int, Excerpts]) -> None:
    table, quantiles, asked = explained(tmp_path, excerpts, latents=5)
    assert list(table.latent) == list(range(5))  # a row for every latent, those that nobody asked about, too
    word, noise, empty, *others = table.itertuples()
    assert (word.explanation, word.kind) == (WORD, "explained")
    assert word.detection == word.fuzzing == 1 and 0.7 < word.detection_low < 1
    assert word.scored == sum(one.right for one in excerpts[0].detection)
    assert word.requests == 1 + -(-len(excerpts[0].detection) // 5) + -(-len(excerpts[0].fuzzing) // 5)
    assert noise.explanation == "nothing" and noise.detection == 0.5
    assert empty.kind == "too few" and np.isnan(empty.detection) and empty.contexts == 0
    assert all(
        row.kind == "not chosen" and row.explanation == "" and np.isnan(row.detection) for row in others
    )
    assert table.malformed.sum() == 0 and table.requests.sum() == asked
    assert (quantiles.recall[quantiles.latent == 0] == 1).all() and set(quantiles["quantile"]) <= {
        0.25,
        0.5,
        0.75,
        0.95,
        1.0,
    }


def test_malformed_answers_are_counted_and_never_guessed(
    tmp_path: Path, excerpts: dict[int, Excerpts]
) -> None:
    """One of the answers on detection is prose: its excerpts do not count, the others count as before."""
    spoilt: list[str] = []

    def answer(messages: list[dict[str, str]]) -> str:
        if messages[0]["content"] == prompts.DETECT and spoilt in ([], [messages[-1]["content"]]):
            spoilt[:] = [messages[-1]["content"]]
            return "I think 1, 0, 1, 0 and 0."
        return oracle(messages)

    table, _, _ = explained(tmp_path, {0: excerpts[0]}, answer)
    row = table.iloc[0]
    assert row.malformed == 1 and row.detection == 1
    lost = sum(json.dumps(one.text) in spoilt[0] for one in excerpts[0].detection if one.right)
    assert row.scored == sum(one.right for one in excerpts[0].detection) - lost and lost


def test_nothing_but_malformed_answers_is_no_score(tmp_path: Path, excerpts: dict[int, Excerpts]) -> None:
    table, quantiles, asked = explained(tmp_path, {0: excerpts[0]}, lambda messages: "no idea")
    assert (
        table.iloc[0].kind == "malformed"
        and np.isnan(table.iloc[0].detection)
        and table.iloc[0].malformed == asked == 1
    )
    assert quantiles.empty
    table, _, asked = explained(tmp_path / "2", {0: excerpts[0]}, lambda messages: '{"explanation": "cats"}')
    assert (
        np.isnan(table.iloc[0].detection)
        and table.iloc[0].malformed == asked - 1
        and table.iloc[0].scored == 0
    )


def test_what_is_judged_was_not_shown(excerpts: dict[int, Excerpts]) -> None:
    shown = {text.replace("<<", "").replace(">>", "") for text in excerpts[0].shown}
    assert shown and not shown & {one.text for one in excerpts[0].detection}
    assert not any(WORD in one.text.split() for one in excerpts[0].detection if not one.right)
    rights = [one.right for one in excerpts[0].detection]
    assert sum(rights) == len(rights) / 2
    assert abs(sum(one.right for one in excerpts[0].fuzzing) - len(excerpts[0].fuzzing) / 2) <= 0.5
    documents = np.arange(1000)
    assert 0.4 < is_scored(documents).mean() < 0.6


def test_the_same_excerpts_every_time(excerpts: dict[int, Excerpts], tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    codes = np.zeros((len(SHARD.token), 1), np.float32)
    codes[:, 0] = (SHARD.token == BANANA) * generator.uniform(0.1, 1, len(codes))
    text, examples, background = write_latents(tmp_path, SHARD, codes, Examples(background=400))
    tokens = pd.read_parquet(background).tokens
    again = ExcerptMaker(
        text, read_background(background, text), tokens, lambda ids: decode(ids) + " ", settings()
    ).of(0, examples)
    assert again.shown == excerpts[0].shown
    assert [one.text for one in again.detection if one.right] == [
        one.text for one in excerpts[0].detection if one.right
    ]


def test_marks_stand_around_runs() -> None:
    tokens = np.array([0, 1, 2, 3, 4])
    for where, text in (
        ([0, 1, 1, 0, 1], "the<<cat sat>>banana<<on>>"),
        ([1, 0, 0, 0, 0], "<<the>>cat sat banana on"),
        ([0, 0, 0, 0, 0], "the cat sat banana on"),
        ([1, 1, 1, 1, 1], "<<the cat sat banana on>>"),
    ):
        assert marked(tokens, np.array(where, bool), decode) == text


def test_chosen_latents() -> None:
    betas = classed(["shared"] * 10 + ["other"] * 6 + ["chat-only"] * 3 + ["dead"])
    nu = np.linspace(1.5, 0.1, 20)
    table = betas.merge(
        scaling_table([0.5] * 20, nu, nu)[["latent", "nu_error", "nu_reconstruction"]], on="latent"
    )
    table["confirmed"] = table.latent.isin([11, 12, 16])
    wanted = ExplainedLatents(confirmed=2, chat_leaning=2, shared=3, low_nu=2, high_nu=2)
    groups = pd.DataFrame({"latent": [11, 12, 16], "group": [0, 1, 1], "strength": 1.0})
    found = chosen(table, groups.iloc[:0], wanted, top=6)
    assert {12, 16} <= set(found) and 11 not in found  # the most chat-leaning of the confirmed ones
    assert {17, 18} <= set(found)  # most chat-leaning, and lowest nu
    assert {13, 14} <= set(found)  # highest nu of the six most chat-leaning
    assert (
        len([latent for latent in found if latent < 10]) == 3 and len(found) == 9 and found == sorted(found)
    )
    shared = ExplainedLatents(confirmed=0, chat_leaning=0, shared=99, low_nu=0, high_nu=0)
    assert chosen(table, groups.iloc[:0], shared, top=6) == list(range(10))
    assert chosen(table, groups, shared, top=6) == list(range(10))
    # The strongest latent of each group that a finding describes comes before the most chat-leaning ones.
    two = ExplainedLatents(confirmed=2, chat_leaning=0, shared=0, low_nu=0, high_nu=0)
    assert chosen(table, groups, two, top=6) == [11, 12]
    assert chosen(table, groups.iloc[:0], two, top=6) == [12, 16]
