"""Planted patterns are found and score 1, noise does not, halves share no document, and counts are exact."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers_activations import write_tokens
from helpers_explanations import WORDS, decode, explained, random_shard, write_latents

from crossdiff.config import Examples
from crossdiff.explanations import patterns
from crossdiff.explanations.contexts import Contexts, Text, is_scored, read_background, read_examples
from crossdiff.explanations.features import KINDS, NONE, describe, features
from crossdiff.explanations.fitting import Found
from crossdiff.explanations.negatives import Similarity, most_similar
from crossdiff.explanations.patterns import PatternExplainer
from crossdiff.texts.chats import CONTENT, HEADER, NO_ROLE, TURN_END
from crossdiff.texts.columns import taken
from crossdiff.texts.formats import ROLES
from crossdiff.texts.shards import Shard

USER, ASSISTANT = ROLES.index("user"), ROLES.index("assistant")
BANANA, SORRY, CANT, HELP = (WORDS.index(word) for word in ("banana", "sorry", "can't", "help"))


def strengths(where: np.ndarray, seed: int = 0) -> np.ndarray:
    """Activations between 0.1 and 1 at these rows."""
    return (where * np.random.default_rng(seed).uniform(0.1, 1, len(where))).astype(np.float32)


def chats(count: int, seed: int = 0) -> Shard:
    """Chats of random tokens: a header of two and an end of one around each turn of ten."""
    generator = np.random.default_rng(seed)
    places = [
        (role, part) for role in (USER, ASSISTANT) for part in [HEADER] * 2 + [CONTENT] * 10 + [TURN_END]
    ]
    role, template = np.tile(np.array(places, np.int8), (count, 1)).T
    return Shard(
        token=generator.integers(0, 500, len(role)).astype(np.int32),
        document=np.repeat(np.arange(count), len(places)),
        position=np.tile(np.arange(len(places), dtype=np.int32), count),
        role=role,
        template=template,
    )


# What is planted


def test_a_planted_word_scores_1_and_is_named(tmp_path: Path) -> None:
    shard = random_shard(300)
    table, quantiles = explained(tmp_path, shard, strengths(shard.token == BANANA)[:, None])
    [row] = table.itertuples()
    assert row.explanation == '"banana"' and row.kind == "token"
    assert row.detection == row.detection_random == row.detection_similar == row.fuzzing == 1
    assert 0.8 < row.detection_low < 1 and row.detection_high == 1
    assert (quantiles.recall == 1).all() and quantiles.contexts.sum() == row.scored
    assert (quantiles.recall_low < 1).all()


def test_what_stands_before_is_named_as_such(tmp_path: Path) -> None:
    shard = random_shard(300)
    after = (np.roll(shard.token, 1) == BANANA) & (shard.position > 0)
    [row] = explained(tmp_path, shard, strengths(after)[:, None])[0].itertuples()
    assert row.explanation == 'after "banana"' and row.detection == row.fuzzing == 1


def test_a_union_of_words(tmp_path: Path) -> None:
    shard = random_shard(600)
    words = np.isin(shard.token, [BANANA, SORRY, CANT])
    [row] = explained(tmp_path, shard, strengths(words)[:, None])[0].itertuples()
    assert row.kind == "union" and set(row.explanation.split(" or ")) == {'"banana"', '"sorry"', '"can\'t"'}
    assert row.detection == row.fuzzing == 1


def test_a_sequence_of_words(tmp_path: Path) -> None:
    """Each word by itself is frequent, both together are not."""
    shard = random_shard(400, tokens=14)
    pair = (shard.token == HELP) & (np.roll(shard.token, 1) == CANT) & (shard.position > 0)
    [row] = explained(tmp_path, shard, strengths(pair)[:, None])[0].itertuples()
    assert row.explanation == '"can\'t help"' and row.kind == "bigram" and row.detection == 1


@pytest.mark.parametrize(
    ("where", "explanation"),
    [
        (lambda s: (s.role == ASSISTANT) & (s.template == HEADER), "header of an assistant's turn"),
        (lambda s: (s.role == USER) & (s.template == TURN_END), "turn end of a user's turn"),
        (lambda s: (s.role == ASSISTANT) & (s.position == 15), "the first token of an assistant's turn"),
    ],
)
def test_places_in_a_chat(tmp_path: Path, where, explanation: str) -> None:
    shard = chats(300)
    settings = Examples(background=1500, before=3, after=2)
    [row] = explained(tmp_path, shard, strengths(where(shard))[:, None], settings)[0].itertuples()
    assert row.explanation == explanation
    assert row.detection > 0.95


def test_the_start_of_a_text(tmp_path: Path) -> None:
    shard = random_shard(300)
    [row] = explained(
        tmp_path, shard, strengths(shard.position == 1)[:, None], Examples(background=1500, before=3, after=2)
    )[0].itertuples()
    assert row.explanation.startswith("the first ") and row.kind == "position"
    assert row.detection > 0.95


def windowed(documents: int) -> Shard:
    """Documents of three windows each."""
    shard = random_shard(3 * documents, length=20)
    return shard._replace(document=shard.document // 3)


@pytest.mark.parametrize(
    ("opening", "whole"), [([True, False, False], "a text"), ([True, True, True], "a window of text")]
)
def test_a_windows_start_is_no_texts_start(tmp_path: Path, opening: list[bool], whole: str) -> None:
    shard = windowed(200)
    fires = (shard.position == 1) & np.tile(np.repeat(opening, 20), 200)
    settings = Examples(background=1500, before=3, after=2)
    [row] = explained(tmp_path, shard, strengths(fires)[:, None], settings)[0].itertuples()
    assert row.explanation == f"the first 2 tokens of {whole}"


def test_only_the_first_window_opens_its_text(tmp_path: Path) -> None:
    """Document 7 goes on in the next shard, after which 8 begins."""
    windows = [(7, 2), (7, 3), (7, 1), (8, 2), (8, 1)]
    shards = []
    for name, part in (("a", windows[:2]), ("b", windows[2:])):
        length = np.array([size for _, size in part])
        document = np.repeat([document for document, _ in part], length)
        position = np.concatenate([np.arange(size) for size in length]).astype(np.int32)
        zeros = np.zeros(len(document), np.int8)
        shard = Shard(zeros.astype(np.int32), document, position, zeros, zeros)
        shards.append(write_tokens(tmp_path / f"{name}.parquet", shard))
    opens = [True] * 2 + [False] * 4 + [True] * 2 + [False]
    assert Text.of(shards).opens.tolist() == opens
    assert not Text.of(shards, sampled=True).opens.any()


def test_noise_scores_near_chance(tmp_path: Path) -> None:
    """Sixty latents fire anywhere. Fitted and scored on the same contexts they would look explained."""
    shard = random_shard(400)
    generator = np.random.default_rng(3)
    codes = np.stack(
        [strengths(generator.random(len(shard.token)) < 0.003, seed) for seed in range(60)], axis=1
    )
    table, _ = explained(tmp_path, shard, codes)
    assert abs(table.detection.mean() - 0.5) < 0.02
    assert abs(table.fuzzing.mean() - 0.5) < 0.05
    assert ((table.detection_low < 0.5) & (table.detection_high > 0.5)).mean() > 0.85


def test_latents_that_cannot_be_scored_say_so(tmp_path: Path) -> None:
    shard = random_shard(200)
    codes = np.zeros((len(shard.token), 4), np.float32)
    codes[[5, 900, 1800], 1] = 1
    codes[:, 2] = 1
    codes[:, 3] = strengths(shard.token == BANANA)
    table, _ = explained(tmp_path, shard, codes)
    assert table.detection.isna().tolist() == [True, True, True, False]
    assert list(table.kind) == ["empty", "too few", "everywhere", "token"]
    assert table.explanation[1].startswith("too few contexts (") and list(table.contexts[:2]) == [0, 3]
    assert table.fuzzing.isna()[:3].all()


def test_no_latent_fires_at_all(tmp_path: Path) -> None:
    table, quantiles = explained(tmp_path, random_shard(20), np.zeros((800, 2), np.float32))
    assert list(table.kind) == ["empty", "empty"] and table.detection.isna().all() and quantiles.empty


# How it is found


def test_blocks_of_latents_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = random_shard(200)
    codes = np.stack([strengths(shard.token == word, word) for word in range(7)], axis=1)
    whole = explained(tmp_path, shard, codes)
    monkeypatch.setattr(patterns, "AT_ONCE", 3)
    for one, other in zip(whole, explained(tmp_path, shard, codes), strict=True):
        pd.testing.assert_frame_equal(one, other)


def test_halves_share_no_document_and_the_fit_sees_only_its_own(tmp_path: Path) -> None:
    """In the scored half the latent fires on another word: the fitted half's pattern finds nothing there."""
    shard = random_shard(400)
    scored = is_scored(shard.document)
    where = np.where(scored, shard.token == SORRY, shard.token == BANANA)
    [row] = explained(tmp_path, shard, strengths(where)[:, None])[0].itertuples()
    assert row.explanation == '"banana"'
    assert row.detection < 0.6
    text, examples, background = write_latents(
        tmp_path, shard, strengths(where)[:, None], Examples(background=500)
    )
    contexts = read_examples(examples, text, 0, 1).contexts
    random = read_background(background, text).contexts
    halves = [
        set(shard.document[found.first[found.scored == half]])
        for half in (True, False)
        for found in (contexts, random)
    ]
    assert not (halves[0] | halves[1]) & (halves[2] | halves[3]) and all(halves)


def test_scores_against_a_walk_over_contexts(tmp_path: Path) -> None:
    """Every count behind detection, by brute force, for the patterns that were found."""
    shard = random_shard(150, tokens=40)
    generator = np.random.default_rng(5)
    codes = np.stack(
        [
            strengths((shard.token == word) & (generator.random(len(shard.token)) < 0.7), word)
            for word in range(5)
        ],
        axis=1,
    )
    table, _ = explained(tmp_path, shard, codes, Examples(background=300))
    examples = pd.read_parquet(tmp_path / "examples.parquet")
    background = pd.read_parquet(tmp_path / "background.parquet")
    for row in table.itertuples():
        words = [
            WORDS.index(name.strip('"')) if name.strip('"') in WORDS else int(name.strip('"w'))
            for name in row.explanation.removeprefix("after ").split(" or ")
        ]
        mine = examples[
            (examples.latent == row.latent) & examples.sampled & is_scored(examples.document.to_numpy())
        ]
        hits = [
            bool(set(one.tokens[: int(one.activations.argmax()) + 1]) & set(words))
            for one in mine.itertuples()
        ]
        others = background[is_scored(background.document.to_numpy())]
        silent = others[[row.latent not in latents for latents in others.latents]]
        refused = [not set(one.tokens[: one.centre + 1]) & set(words) for one in silent.itertuples()]
        assert row.scored == len(mine)
        assert row.detection_random == pytest.approx((np.mean(hits) + np.mean(refused)) / 2)
        assert row.detection == pytest.approx((row.detection_random + row.detection_similar) / 2)


def test_similar_contexts_are_the_silent_ones_that_share_rare_words() -> None:
    token = np.array([1, 2, 3, 1, 2, 4, 1, 5, 6, 1, 7, 8, 1, 3, 9], np.int32)
    text = Text(
        token,
        np.tile(np.arange(3, dtype=np.int32), 5),
        np.zeros(15, np.int8),
        np.zeros(15, np.int8),
        np.ones(15, bool),
        np.array([0]),
    )
    five = Contexts(
        *(np.zeros(5, np.int64) for _ in range(4)), first=np.arange(0, 15, 3), length=np.full(5, 3)
    )
    similarity = Similarity(text, five).of(taken(five, np.array([0])), 1)
    weights = {
        word: np.log(5 / count) for word, count in zip(*np.unique(token, return_counts=True), strict=True)
    }

    def vector(place: int) -> np.ndarray:
        return np.array([weights[word] * (word in token[3 * place : 3 * place + 3]) for word in range(1, 10)])

    query = vector(0) / 3 - sum(vector(place) for place in range(5)) / 15
    expected = [query @ vector(place) / np.linalg.norm(vector(place)) for place in range(5)]
    np.testing.assert_allclose(similarity[0], expected, rtol=1e-12, atol=1e-12)
    silent = np.array([[False, True, True, True, True]])
    # The query itself is the most similar and does not count.
    assert np.flatnonzero(most_similar(similarity, silent, 2)[0]).tolist() == [1, 4]
    assert (most_similar(similarity, silent, 9) == silent).all()
    # Of equal ones the earlier come first.
    assert most_similar(np.zeros((1, 5)), silent, 2)[0].tolist() == [False, True, True, False, False]


def test_similarity_is_that_of_dense_tables() -> None:
    """Three cases: the background lacks tokens, a token is in all its contexts, a latent has no context."""
    generator = np.random.default_rng(0)
    token = generator.geometric(0.1, 3000).astype(np.int32)
    token[::5] = 7
    nothing = np.zeros(3000, np.int8)
    text = Text(token, np.arange(3000, dtype=np.int32), nothing, nothing, nothing == 0, np.array([0]))
    first, latent = generator.integers(0, 2900, 60), np.repeat([0, 1, 3], 20)
    contexts = Contexts(
        latent, *(np.zeros(60, np.int64) for _ in range(3)), first=first, length=generator.integers(5, 30, 60)
    )
    background = taken(contexts, np.arange(0, 60, 4))
    found = Similarity(text, background).of(contexts, 4)
    names = np.unique(token[background.rows()])

    def counts(some: Contexts, group: np.ndarray, groups: int) -> np.ndarray:
        return np.array(
            [(token[some.rows()][group == number][:, None] == names).sum(axis=0) for number in range(groups)]
        )

    of_background = counts(background, background.each_token(), 15)
    rarity = np.log(15 / (of_background > 0).sum(axis=0))
    assert (rarity == 0).any() and not np.isin(token[contexts.rows()], names).all()
    of_latents = counts(contexts, latent[contexts.each_token()], 4)
    query = of_latents / np.maximum(of_latents.sum(axis=1, keepdims=True), 1) * rarity
    vectors = of_background * rarity
    usual = vectors.sum(axis=0) / of_background.sum()
    expected = (query - usual) @ (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).T
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


def test_without_a_background_nothing_is_similar() -> None:
    text = Text(
        np.arange(3, dtype=np.int32),
        np.arange(3, dtype=np.int32),
        np.zeros(3, np.int8),
        np.zeros(3, np.int8),
        np.ones(3, bool),
        np.array([0]),
    )
    one = Contexts(
        *(np.zeros(1, np.int64) for _ in range(4)), first=np.zeros(1, np.int64), length=np.full(1, 3)
    )
    assert Similarity(text, taken(one, np.array([], int))).of(one, 2).shape == (2, 0)


def test_features_against_a_walk() -> None:
    shard = chats(2)
    text = Text(shard.token, shard.position, shard.role, shard.template, shard.document == 0, np.array([0]))
    rows = np.arange(len(shard.token))
    found = features(text, text.since_template(), rows)
    for row in rows.tolist():
        said = {describe([feature], decode, True) for feature in found[row].tolist() if feature != NONE}
        expected = {
            f'"{decode(shard.token[row - back : row + 1].tolist())}"'
            for back in range(3)
            if shard.position[row] >= back
        }
        role = "a user" if shard.role[row] == USER else "an assistant"
        expected.add(f"{('content', 'header', 'turn end')[shard.template[row]]} of {role}'s turn")
        since = (shard.position[row] % 13) - 1  # in the turn: 1 is the first token of its content
        if shard.template[row] == CONTENT:
            expected |= {
                f"the first {'token' if count == 1 else f'{count} tokens'} of {role}'s turn"
                for count in (1, 2, 4, 8)
                if since <= count
            }
        expected |= {
            f"the first {'token' if k == 1 else f'{k} tokens'} of {whole}"
            for k in (1, 2, 4, 8, 16)
            for whole in ("a text", "a window of text")
            if shard.position[row] < k and (whole != "a text" or shard.document[row] == 0)
        }
        assert said == expected


def test_text_outside_of_chats_has_no_turns() -> None:
    text = Text(
        np.arange(3, dtype=np.int32),
        np.arange(3, dtype=np.int32),
        np.full(3, NO_ROLE, np.int8),
        np.zeros(3, np.int8),
        np.ones(3, bool),
        np.array([0]),
    )
    said = {
        describe([feature], decode, True)
        for feature in features(text, text.since_template(), np.array([2])).ravel().tolist()
        if feature != NONE
    }
    assert "text outside of chats" in said and not any("turn" in one for one in said)


def test_found_gives_each_pair_once() -> None:
    found = Found.of(np.array([0, 0, 1, 3]), np.array([[5, NONE], [5, 7], [7, NONE], [5, 5]]))
    assert list(zip(found.feature.tolist(), found.context.tolist(), strict=True)) == [
        (5, 0),
        (5, 3),
        (7, 0),
        (7, 1),
    ]
    index, context = found.of_features(np.array([7, 6, 5, 7]))
    assert list(zip(index.tolist(), context.tolist(), strict=True)) == [
        (0, 0),
        (0, 1),
        (2, 0),
        (2, 3),
        (3, 0),
        (3, 1),
    ]


def test_large_token_ids_do_not_mix(tmp_path: Path) -> None:
    """Ids as large as those of the largest vocabularies."""
    shard = random_shard(200)
    shard = shard._replace(token=shard.token + 300_000)
    text, examples, background = write_latents(
        tmp_path, shard, strengths(shard.token == 300_003)[:, None], Examples(background=400)
    )
    table, _ = PatternExplainer(
        text, read_background(background, text), lambda ids: " ".join(map(str, ids))
    ).explain(examples, 1)
    assert table.explanation[0] == '"300003"' and table.detection[0] == 1
    assert set(table.kind) <= {*KINDS, "union"}
