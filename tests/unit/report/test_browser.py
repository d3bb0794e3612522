"""The latent browser's data: what is in the pieces, and that nothing in them can become code."""

import base64
import gzip
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers_browser import (
    ASSETS,
    HOSTILE,
    ROOT,
    TEMPLATE,
    WORDS,
    beta_table,
    example_rows,
    named,
    write_examples,
    write_page,
    write_training,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from crossdiff.report.browser.contents import CHUNK, SAMPLED, chunks, contexts, table
from crossdiff.report.browser.page import render
from crossdiff.report.browser.pieces import DIGITS, Vocabulary, numbers, write_piece


def content(path: Path) -> Any:
    """What a piece hands to the page."""
    found = re.fullmatch(r'crossdiff\.receive\("([^"]+)", "([A-Za-z0-9+/=]+)"\);\n', path.read_text("ascii"))
    assert found[1] == path.as_posix().rpartition("/files/")[2].removesuffix(".js")
    return json.loads(gzip.decompress(base64.b64decode(found[2])))


def test_pieces_hold_any_text_and_are_the_same_each_time(tmp_path: Path) -> None:
    value = [HOSTILE, '");alert("', "\u2028", "\ufffd", "ü", "\x00"]
    write_piece(tmp_path / "files", "a/b", value)
    before = (tmp_path / "files/a/b.js").read_bytes()
    assert content(tmp_path / "files/a/b.js") == value
    write_piece(tmp_path / "files", "a/b", value)
    assert (tmp_path / "files/a/b.js").read_bytes() == before
    with pytest.raises(ValueError, match="JSON"):
        write_piece(tmp_path / "files", "c", float("nan"))


@given(st.lists(st.floats(width=32, allow_nan=True, allow_infinity=True), max_size=20))
def test_numbers_have_four_significant_digits_or_are_none(values: list[float]) -> None:
    expected = [float(f"{value:.{DIGITS - 1}e}") if np.isfinite(value) else None for value in values]
    for found, wanted, value in zip(numbers(np.array(values)), expected, values, strict=True):
        assert (found is None) == (wanted is None)
        # Halves may be rounded either way, but no value may have a digit too many.
        assert found is None or abs(found - value) <= abs(value) * 0.5000001 * 10 ** (1 - DIGITS)
        assert found is None or float(f"{found:.{DIGITS - 1}e}") == pytest.approx(found, rel=1e-12)


def test_numbers_are_short_in_json() -> None:
    assert (
        json.dumps(numbers(np.array([0.123456, -1234.56, 0.0, 1e-7, 99999.0, np.nan])))
        == "[0.1235, -1235.0, 0.0, 1e-07, 100000.0, null]"
    )


@given(st.lists(st.lists(st.integers(0, 300), max_size=8), max_size=6))
def test_vocabulary_numbers_tokens_as_they_come(batches: list[list[int]]) -> None:
    vocabulary, seen = Vocabulary(), []
    for batch in batches:
        places = vocabulary.places(np.array(batch, np.int64))
        assert [vocabulary.ids[place] for place in places] == batch
        seen += batch
    assert sorted(vocabulary.ids) == sorted(set(seen))


def test_table_has_every_latent_and_undefined_values_are_nothing(tmp_path: Path) -> None:
    training = write_training(tmp_path, 150, "l1")
    piece = table(
        training, named(("batchtopk", 0, 7, "refusal", False), ("batchtopk", 0, 8, "old", True)), "abc"
    )
    columns, betas = piece["columns"], beta_table(150)
    assert {len(values) for values in columns.values()} == {150}
    assert columns["class"] == betas["class"].tolist()
    assert columns["nu_error"][0] is None
    base_only = (betas["class"] == "base-only").to_numpy()  # these are judged by their mirrored ratios
    assert columns["nu_error"][1:] == pytest.approx((betas.nu_error + 2 * base_only)[1:].tolist(), rel=1e-3)
    without_interval = [low is None for low in columns["nu_error_low"]]
    assert base_only.any() and without_interval == (base_only | (betas["class"] == "dead")).tolist()
    assert columns["name"][7:9] == ["refusal", ""]
    assert piece["notes"] == {"7": "note on refusal"}
    assert piece["stale"] == [{"latent": 8, "name": "old", "weights": "0123456789ab"}]
    assert columns["kl"][:4] == [None, 0.25, 0.25, None]
    assert piece["kl_sets"] == [
        {
            "set": "best_norm",
            "reduction": 0.25,
            "reduction_low": 0.125,
            "reduction_high": 0.5,
            "members": [1, 2],
        }
    ]
    assert columns["detection"][:3] == [0.875, None, 0.875]


def test_words_replace_a_pattern_and_both_are_kept_for_the_latent(tmp_path: Path) -> None:
    training = write_training(tmp_path, 10, "l1")
    words = pd.DataFrame({"latent": [2], "explanation": ["the model refuses"], "contexts": [8]})
    words.assign(detection=0.6, detection_low=0.5, detection_high=0.7).to_parquet(
        tmp_path / "explanations.parquet"
    )
    training = training._replace(explanations=str(tmp_path / "explanations.parquet"))
    columns = table(training, named(), "abc")["columns"]
    assert columns["explanation"][1:4] == ["the word refuse, 1", "the model refuses", "the word refuse, 3"]
    assert columns["detection"][1:4] == [None, 0.6, 0.875]
    [chunk] = chunks(training, 10, Vocabulary(), ["l1.seed0"])
    assert [found["by"] for found in chunk[2]["explanations"]] == ["pattern", "language model"]
    assert [found["by"] for found in chunk[3]["explanations"]] == ["pattern"]


def test_run_without_explanations_or_causal_effect_has_no_such_columns(tmp_path: Path) -> None:
    training = write_training(tmp_path, 10, "l1", explained=False)._replace(kl=None, kl_sets=None)
    piece = table(training, named(), "abc")
    assert not {"kl", "explanation", "detection"} & set(piece["columns"])
    assert piece["kl_sets"] == []
    [chunk] = chunks(training, 10, Vocabulary(), ["l1.seed0"])
    assert not any(latent["explanations"] for latent in chunk)


def test_chunks_hold_every_latent_once_with_its_relatives(tmp_path: Path) -> None:
    training, vocabulary = write_training(tmp_path, 2 * CHUNK + 3, "l1"), Vocabulary()
    found = list(chunks(training, 2 * CHUNK + 3, vocabulary, ["batchtopk.seed0", "l1.seed0"]))
    assert [len(chunk) for chunk in found] == [CHUNK, CHUNK, 3]
    latent = found[1][1]
    assert latent["elsewhere"] == [[1, CHUNK + 1, 0.75, 1]]
    assert latent["near"] == [[0, 0.5], [2, 0.25]]
    assert [(WORDS[vocabulary.ids[token]], by) for token, by in latent["promoted"]] == [
        (" refuse", 2.5),
        (" can't", 1.5),
    ]
    assert (found[0][2]["twins"], found[0][3]["twins"], found[0][4]["twins"]) == (
        [[3, 0.95, 0.5]],
        [[2, 0.95, 0.5]],
        [],
    )
    dead = found[0][0]
    assert (dead["contexts"], dead["near"], dead["elsewhere"]) == ([], [], [])


def test_pair_without_a_chat_model_moves_no_tokens(tmp_path: Path) -> None:
    training = write_training(tmp_path, 10, "l1")
    directions = pd.read_parquet(training.directions).assign(
        promoted=None, promoted_by=None, suppressed=None, suppressed_by=None
    )
    directions.to_parquet(training.directions)
    [chunk] = chunks(training, 10, Vocabulary(), ["l1.seed0"])
    assert not any(latent["promoted"] or latent["suppressed"] for latent in chunk)


def test_contexts_are_the_strongest_and_a_few_of_each_quantile_whole(tmp_path: Path) -> None:
    examples, vocabulary = example_rows([3, 5]), Vocabulary()
    found = contexts(write_examples(tmp_path, examples), 0, 5, vocabulary)
    assert list(found) == [3]
    assert [(context["strongest"], context["quantile"]) for context in found[3]] == [(True, None)] + [
        (False, 0.5)
    ] * SAMPLED
    wanted = examples[(examples.latent == 3) & examples.sampled].sort_values("document").head(SAMPLED)
    peaks = [max(value for _, value in context["active"]) for context in found[3][1:]]
    # They are drawn by document and shown by strength.
    assert peaks == pytest.approx(sorted(wanted.peak, reverse=True), rel=1e-3)
    first = found[3][0]
    assert [WORDS[vocabulary.ids[token]] for token in first["tokens"]] == WORDS[:6]
    assert first["template"] == "120000"
    assert first["active"] == [(3, 8.0), (5, 1.0)]


@settings(max_examples=30)
@given(st.data())
def test_activations_stay_with_their_tokens_whatever_the_lengths(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    lengths = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=8))
    rows = example_rows([1]).iloc[[0] * len(lengths)].copy()
    drawn = [
        data.draw(st.lists(st.sampled_from([0.0, 1.0, 2.5]), min_size=length, max_size=length))
        for length in lengths
    ]
    rows["tokens"] = [list(range(length)) for length in lengths]
    rows["template"] = [[0] * length for length in lengths]
    rows["activations"] = drawn
    vocabulary = Vocabulary()
    found = contexts(write_examples(tmp_path_factory.mktemp("made"), rows), 0, 4, vocabulary)[1]
    assert [
        [vocabulary.ids[token] for token in context["tokens"]] for context in found
    ] == rows.tokens.tolist()
    for context, activations in zip(found, drawn, strict=True):
        assert context["active"] == [(place, value) for place, value in enumerate(activations) if value]


def test_whole_page_links_its_pieces_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    page = write_page(tmp_path, {"batchtopk": 100, "l1": 10})
    files = page.parent / "files"
    index = content(files / "index.js")
    assert [(entry["link"], entry["latents"]) for entry in index["trainings"]] == [
        ("batchtopk", 100),
        ("l1", 10),
    ]
    assert len(content(files / "batchtopk.seed0/64.js")) == 36
    vocabulary = content(files / "vocabulary.js")
    assert HOSTILE in vocabulary
    assert "\u21b5" in vocabulary and "\n" not in vocabulary
    html = page.read_text()
    for address in re.findall(r'(?:src|href)="([^"#]+)', html):
        assert address == "../index.html" or (page.parent / address).is_file(), address
    assert not re.search(r"https?://", html)
    assert not re.search(
        r"https?:|innerHTML|eval\(|document\.write",
        "".join(Path(a).read_text() for a in ASSETS if "/report/browser/" in a),
    )


def test_static_part_escapes_names_and_shows_undefined_ratios_as_a_dash(tmp_path: Path) -> None:
    betas = beta_table(5)
    betas["relative_norm_difference"] = [0.9, 0.8, 0.1, 0.1, 0.1]
    betas.loc[[0, 1], "class"] = ["base-only", "chat-only"]
    betas.loc[0, "mirrored_nu_error"] = 0.13
    betas.loc[1, ["nu_error", "nu_error_low", "nu_error_high"]] = np.nan
    training = write_training(tmp_path, 5, "l1", betas=betas)
    html = render(TEMPLATE, "a & b", {("l1", 0): training}, named(("l1", 0, 1, HOSTILE, False)))
    assert "Latents of a &amp; b" in html
    assert HOSTILE not in html
    assert "<td>1</td><td>&lt;script&gt;" in html
    rows = re.sub(r">\s+<", "><", html)
    assert "<td>0.80</td><td>\u2013</td><td>\u2013 to \u2013</td>" in rows
    assert "<td>0.90</td><td>0.13</td><td>\u2013 to \u2013</td>" in rows  # mirrored, as the verdict is


def test_scripts_are_small_enough_to_read() -> None:
    for path in (ROOT / "report/browser").iterdir():
        assert len(path.read_text().splitlines()) < 250, path
