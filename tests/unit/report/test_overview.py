"""The page over all pairs and layers: each kind of sentence, links, escaping and cautions."""

import re
from pathlib import Path

import pandas as pd
import pytest
from helpers_overview import SETTINGS, html, numbers, page_of, place, shared
from helpers_report import HOSTILE, Page

from crossdiff.errors import UserError
from crossdiff.report.figures.overview import layers
from crossdiff.report.overview import alone, cautions, overlap_cautions

TWO = [place("one", 12), place("two", 12)]
BOTH = [shared("one", "two"), shared("two", "one", confirmed=8, matched=5)]


def text_of(folder: Path, compared: list, tables: list, rows: list | None = None) -> str:
    return page_of(folder, compared, tables, rows or []).text


# What was compared


def test_two_pairs_of_one_base_at_one_layer(tmp_path: Path) -> None:
    text = text_of(tmp_path, TWO, [numbers(), numbers()], BOTH)
    assert "What did each fine-tune add?" in text
    assert "2 pairs of a base and a chat model at layer 12 (0-based, the output of a block)." in text
    assert "All pairs have the base model base." in text
    assert "one base one-chat 12 shared two base two-chat 12 shared" in text
    assert "pages (documents, 40,000), talk (chats, 60,000)." in text
    assert "All pairs read the same token shards, made by the tokenizer shared." in text
    assert "token shards of their own" not in text


def test_pairs_that_read_other_token_shards_are_named(tmp_path: Path) -> None:
    compared = [*TWO, place("three", 12, tokenizer="three-chat")]
    rows = [
        *BOTH,
        shared("one", "three", co_active=None, median_co_activation=None, control_co_active=None),
    ]
    text = text_of(tmp_path, compared, [numbers()] * 3, rows)
    assert "one and two read the same token shards, made by the tokenizer shared." in text
    assert "three reads token shards of its own, made by the tokenizer three-chat." in text
    assert "Chat models with another vocabulary or chat template need token shards of their own." in text
    assert "A dash says that two pairs read different token shards" in text
    assert "one three batchtopk 0 20 12 7 \u2013 0.81 \u2013 44 of 50 \u2013" in text


def test_pairs_of_several_bases_say_so(tmp_path: Path) -> None:
    compared = [*TWO, place("three", 12, base="another")]
    text = text_of(tmp_path, compared, [numbers()] * 3, BOTH)
    assert "The pairs have 2 base models. Latents are compared only between pairs of one base." in text
    assert "No other pair has the layer and the base model of three at layer 12." in text


def test_one_pair_with_two_layers(tmp_path: Path) -> None:
    compared = [place("one", 8), place("one", 12)]
    page = page_of(tmp_path, compared, [numbers(6), numbers(20)])
    assert "At which layer does the difference live? one" in page.text
    assert "1 pair of a base and a chat model at 2 layers (0-based" in page.text
    assert "one base one-chat 8, 12 shared" in page.text
    assert "All layers read the same token shards, made by the tokenizer shared." in page.text
    assert "There is one pair, so there is nothing to compare with." in page.text
    assert "found again" not in page.text
    confirmed = "latent scaling confirms 6 latents at layer 8 and 20 latents at layer 12 (mean over 2 seeds)."
    assert f"one, batchtopk : {confirmed} The most are at layer 12." in page.text
    assert [tag for tag, _ in page.tags].count("img") == 1


def test_layers_with_equal_numbers_do_not_stand_out(tmp_path: Path) -> None:
    compared = [place("one", layer) for layer in (8, 12, 18)]
    text = text_of(tmp_path, compared, [numbers(9), numbers(9), numbers(9)])
    assert "9 latents at layer 8, 9 latents at layer 12 and 9 latents at layer 18" in text
    assert "No layer stands out." in text
    text = text_of(tmp_path, compared, [numbers(9), numbers(14), numbers(14)])
    assert "The most are at layer 12 and 18." in text


def test_pairs_without_a_common_layer(tmp_path: Path) -> None:
    page = page_of(tmp_path, [place("one", 8), place("two", 12)], [numbers()] * 2)
    assert "No two pairs have a layer and a base model in common" in page.text
    assert "batchtopk : latent scaling confirms" not in page.text  # no pair has two layers


def test_one_layer_has_no_figure_and_no_headings_of_layers(tmp_path: Path) -> None:
    page = page_of(tmp_path, TWO, [numbers()] * 2, BOTH)
    assert "img" not in [tag for tag, _ in page.tags]
    assert "Layer 12" not in page.text


def test_several_layers_have_a_table_each(tmp_path: Path) -> None:
    compared = [*TWO, place("one", 8), place("two", 8)]
    text = text_of(tmp_path, compared, [numbers()] * 4, [shared("one", "two", 8), shared("one", "two", 12)])
    assert text.index("Layer 8 confirmed in") < text.index("Layer 12 confirmed in")


# The numbers


def test_rows_are_those_of_the_tables_and_lead_to_their_reports(tmp_path: Path) -> None:
    compared = [place("one", 8), place("two", 12)]
    page = page_of(tmp_path, compared, [numbers(20, seeds=(3,)), numbers(7, dead=99, seeds=(3,))])
    assert "one 8 batchtopk 3 0.85 0.80 31.2 2304 12 31 17 20 0.34 0.56 report , latents" in page.text
    assert "two 12 batchtopk 3 0.85 0.80 31.2 2304 99 31 4 7 0.34 0.56 report , latents" in page.text
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert links[:4] == [
        "../one/layer8/report/index.html",
        "../one/layer8/report/latents/index.html",
        "../two/layer12/report/index.html",
        "../two/layer12/report/latents/index.html",
    ]
    assert links[4:] == ["tables/pairs.csv", "tables/overlap.csv"]


def test_overlap_is_shaded_by_its_share(tmp_path: Path) -> None:
    page = page_of(tmp_path, TWO, [numbers()] * 2, [*BOTH, shared("one", "two", confirmed=0, matched=0)])
    assert "one two batchtopk 0 20 12 7 9 0.81 0.74 44 of 50 41" in page.text
    assert "two one batchtopk 0 8 5 7 9 0.81 0.74 44 of 50 41" in page.text
    shades = [attributes["style"].split()[-1] for _, attributes in page.tags if "style" in attributes]
    assert shades == ["0.27)", "0.28)", "0.00)"]


def test_no_confirmed_latent_at_all_says_that_the_overlap_says_nothing(tmp_path: Path) -> None:
    nothing = {"confirmed": 0, "matched": 0, "matched_confirmed": 0, "co_active": 0}
    rows = [
        shared(*names, **nothing, median_cosine=None, median_co_activation=None)
        for names in (("one", "two"), ("two", "one"))
    ]
    page = page_of(tmp_path, TWO, [numbers(3)] * 2, rows)
    assert "one two batchtopk 0 0 0 0 0 \u2013 \u2013 44 of 50 41" in page.text
    assert page.cautions[-1].startswith("Nothing to look for. No latent of these pairs is confirmed")
    assert "Nothing to look for" not in text_of(tmp_path, TWO, [numbers()] * 2, BOTH)


# Cautions


def table_of(confirmed: int = 20, **changes: object) -> pd.DataFrame:
    table = numbers(confirmed, **changes).assign(pair="one", layer=12, confirmed=confirmed)
    return table


def test_good_run_needs_no_caution() -> None:
    assert list(cautions(table_of())) == []


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (table_of(seeds=(0,)), "trained from one seed"),
        (table_of(4), "batchtopk (one at layer 12): fewer than 5 latents are confirmed."),
        (table_of(fve_base=0.59), "batchtopk (one at layer 12): the crosscoder explains less than 60 %"),
        (table_of(fve_chat=0.59), "batchtopk (one at layer 12): the crosscoder explains less than 60 %"),
        (table_of(dead=577), "batchtopk (one at layer 12): more than a quarter of the latents never fire"),
    ],
)
def test_weak_run_gets_exactly_its_caution(table: pd.DataFrame, said: str) -> None:
    (caution,) = cautions(table)
    assert said in caution


def test_weak_trainings_are_named_together() -> None:
    table = pd.concat(
        [
            table_of(2, crosscoders=("batchtopk", "l1")),
            table_of(20).assign(pair="two"),
            table_of(2).assign(layer=8),
        ]
    )
    (caution,) = cautions(table)
    assert caution.startswith(
        "batchtopk (one at layer 12, one at layer 8); l1 (one at layer 12): fewer than 5"
    )


def test_crosscoders_that_agree_on_little_are_named() -> None:
    rows = pd.DataFrame([shared("one", "two"), shared("two", "one", control_matched=24)])
    (caution,) = overlap_cautions(rows)
    assert caution.startswith("batchtopk, seed 0, layer 12: one has only 24 of 50 shared latents of two.")
    assert list(overlap_cautions(rows.assign(control_matched=25))) == []
    assert list(overlap_cautions(rows.assign(control=0, control_matched=0))) == []


def test_random_models_are_called_meaningless(tmp_path: Path) -> None:
    random = SETTINGS | {"pair.chat.random.layers": 3}
    page = page_of(tmp_path, TWO, [numbers()] * 2, BOTH, recorded=[SETTINGS, random])
    assert any("meaningless" in caution for caution in page.cautions)
    assert page_of(tmp_path, TWO, [numbers()] * 2, BOTH).cautions == []


def test_other_thresholds_are_refused(tmp_path: Path) -> None:
    other = SETTINGS | {"classes.top": 20}
    with pytest.raises(UserError, match=r"^classes\.top: found 50 and 20 among results of this page; run"):
        html(tmp_path, TWO, [numbers()] * 2, BOTH, recorded=[SETTINGS, other])


def test_pairs_that_stand_alone() -> None:
    last = place("three", 12, base="another")
    assert alone([*TWO, place("one", 8), last]) == [place("one", 8), last]


# What it must not do


def test_text_from_data_is_escaped(tmp_path: Path) -> None:
    compared = [place(HOSTILE, 8, HOSTILE, HOSTILE), place("one", 8, HOSTILE), place("two", 12, HOSTILE)]
    tables = [numbers(1, crosscoders=(HOSTILE,))] * 3
    rows = [shared(HOSTILE, "one", 8, crosscoder=HOSTILE, control_matched=1)]
    settings = SETTINGS | {f"datasets.{HOSTILE}.kind": HOSTILE, f"datasets.{HOSTILE}.tokens": 1}
    page = page_of(tmp_path, compared, tables, rows, recorded=[settings] * 3)
    assert {"script", "b"}.isdisjoint(tag for tag, _ in page.tags)
    assert page.text.count(HOSTILE) > 15


def test_page_fetches_nothing(tmp_path: Path) -> None:
    written = html(tmp_path, [place("one", 8), place("one", 12)], [numbers()] * 2)
    for tag, attributes in Page(written).tags:
        for name, value in attributes.items():
            if name in ("src", "href", "srcset", "action", "data", "poster"):
                assert value.startswith(("data:", "../", "tables/", "#")), (tag, name, value)
    assert "@import" not in written and "url(" not in written


def test_same_inputs_give_the_same_page(tmp_path: Path) -> None:
    compared, tables = [place("one", 8), place("one", 12)], [numbers()] * 2
    assert html(tmp_path / "a", compared, tables) == html(tmp_path / "b", compared, tables)


# The figure


def test_figure_has_a_line_per_pair_and_a_point_per_training() -> None:
    table = pd.concat(
        [
            numbers(count, crosscoders=("batchtopk", "l1")).assign(pair=pair, layer=layer, confirmed=count)
            for pair, layer, count in (("one", 8, 4), ("one", 12, 10), ("two", 12, 7))
        ]
    )
    axes = layers(table).axes
    assert [ax.get_title("left") for ax in axes[:2]] == ["batchtopk", "l1"]
    one, two = axes[5].lines
    assert one.get_xydata().tolist() == [[8, 4], [12, 10]]
    assert two.get_xydata().tolist() == [[12, 7]]
    assert axes[5].collections[0].get_offsets().tolist() == [[8, 4], [8, 4], [12, 10], [12, 10]]
    assert re.fullmatch("FVE, (base|chat)", axes[0].get_ylabel())
    assert axes[4].get_ylabel() == "confirmed latents"
