"""The page over all pairs and layers: each kind of sentence, links, escaping and cautions."""

from pathlib import Path

import pandas as pd
import pytest
from helpers_overview import SETTINGS, OverviewPage, html, numbers, page_of, place, shared
from helpers_report import HOSTILE

from crossdiff.errors import UserError
from crossdiff.report.figures.overview import layers
from crossdiff.report.overview import alone, cautions

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
    assert "For two pairs that read different token shards this can't be measured, and a dash" in text
    assert "one three batchtopk 0 20 12 7 \u2013 0.81 \u2013 44 of 50" in text


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
    assert "layer 8 layer 12 the most one batchtopk 6 20 at layer 12" in page.text
    assert [tag for tag, _ in page.tags].count("img") == 1


@pytest.mark.parametrize(
    ("confirmed", "said"),
    [
        ([9, 9, 9], "9 9 9 no layer stands out"),
        ([9, 14, 14], "9 14 14 at layer 12 and 18"),
        ([0, 4, 1], "0 4 1 no layer stands out"),  # too few
        ([5, 0, 1], "5 0 1 at layer 8"),
    ],
)
def test_layers_with_the_most_confirmed_latents(tmp_path: Path, confirmed: list[int], said: str) -> None:
    compared = [place("one", layer) for layer in (8, 12, 18)]
    assert f"one batchtopk {said}" in text_of(tmp_path, compared, [numbers(count) for count in confirmed])


def test_confirmed_latents_by_layer_are_means_over_seeds_of_pairs_with_several(tmp_path: Path) -> None:
    compared = [place("one", 8), place("one", 12), place("two", 12), place("three", 12), place("three", 18)]
    seeds = pd.concat([numbers(4, seeds=(0,)), numbers(9, seeds=(1,))])
    text = text_of(tmp_path, compared, [numbers(6), seeds, numbers(1), numbers(8), numbers(3)])
    assert "one batchtopk 6 6.5 \u2013 at layer 12 three batchtopk \u2013 8 3 at layer 12 In" in text


def test_pairs_without_a_common_layer(tmp_path: Path) -> None:
    page = page_of(tmp_path, [place("one", 8), place("two", 12)], [numbers()] * 2)
    assert "No two pairs have a layer and a base model in common" in page.text
    assert "the most" not in page.text  # no pair has two layers


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
    assert "one 8 batchtopk 3 0.85 0.80 31.2 2304 12 31 15 20 17 0.34 0.56" in page.text
    assert "two 12 batchtopk 3 0.85 0.80 31.2 2304 99 31 2 7 4 0.34 0.56" in page.text
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
    assert "one two batchtopk 0 20 12 7 9 0.81 0.74 44 of 50" in page.text
    assert "two one batchtopk 0 8 5 7 9 0.81 0.74 44 of 50" in page.text
    shades = [attributes["style"].split()[-1] for _, attributes in page.tags if "style" in attributes]
    assert shades == ["0.27)", "0.28)", "0.00)"]


def test_no_confirmed_latent_at_all_says_that_the_overlap_says_nothing(tmp_path: Path) -> None:
    nothing = {"confirmed": 0, "matched": 0, "matched_confirmed": 0, "co_active": 0}
    rows = [
        shared(*names, **nothing, median_cosine=None, median_co_activation=None)
        for names in (("one", "two"), ("two", "one"))
    ]
    page = page_of(tmp_path, TWO, [numbers(3)] * 2, rows)
    assert "one two batchtopk 0 0 0 0 0 \u2013 \u2013 44 of 50" in page.text
    assert page.cautions[-1].startswith("Nothing to look for. No latent of these pairs is confirmed")
    assert "Nothing to look for" not in text_of(tmp_path, TWO, [numbers()] * 2, BOTH)


# Cautions


def table_of(confirmed: int = 20, **changes: object) -> pd.DataFrame:
    return numbers(confirmed, **changes).assign(pair="one", layer=12)


def test_good_run_needs_no_caution() -> None:
    assert list(cautions(table_of())) == []
    assert list(cautions(pd.concat([table_of(), table_of(crosscoders=("l1",), l0=36.0)]))) == []


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (table_of(seeds=(0,)), "trained from one seed"),
        (table_of(4), "In 2 of 2 trainings fewer than 5 latents are confirmed."),
        (table_of(fve_base=0.59), "In 2 of 2 trainings the crosscoder explains less than 60 %"),
        (table_of(fve_chat=0.59), "In 2 of 2 trainings the crosscoder explains less than 60 %"),
        (table_of(dead=577), "In 2 of 2 trainings more than a quarter of the latents never fire"),
        (
            pd.concat([table_of(), table_of(crosscoders=("l1",), l0=48.0)]),
            "In 2 of 2 cases the crosscoders of one pair, layer and seed have unequal numbers of active",
        ),
    ],
)
def test_weak_run_gets_exactly_its_caution(table: pd.DataFrame, said: str) -> None:
    (caution,) = cautions(table)
    assert said in caution


def test_weak_trainings_are_counted_and_marked(tmp_path: Path) -> None:
    compared = [place("one", 8), place("one", 12), place("two", 12)]
    page = page_of(tmp_path, compared, [numbers(2), numbers(20, dead=900), numbers(fve_chat=0.5)])
    assert [" ".join(caution.split()[:7]) for caution in page.cautions] == [
        "In 2 of 6 trainings fewer than",
        "In 2 of 6 trainings the crosscoder",
        "In 2 of 6 trainings more than",
    ]
    assert page.marked == ["marked", *["2"] * 2, *["900"] * 2, *["0.50"] * 2]


def test_crosscoders_that_agree_on_little_are_counted_and_marked(tmp_path: Path) -> None:
    rows = [shared("one", "two"), shared("two", "one", control_matched=24)]
    page = page_of(tmp_path, TWO, [numbers()] * 2, rows)
    (caution,) = page.cautions
    assert " ".join(caution.split()).startswith(
        "In 1 of 2 rows fewer than half of the shared latents are found again"
    )
    assert page.marked == ["marked", "24 of 50"]
    for good in ({"control_matched": 25}, {"control": 0, "control_matched": 0}):
        assert page_of(tmp_path, TWO, [numbers()] * 2, [shared("one", "two", **good)]).cautions == []


def test_random_models_are_called_meaningless(tmp_path: Path) -> None:
    random = SETTINGS | {"models.one-chat.random.layers": 3}
    page = page_of(tmp_path, TWO, [numbers()] * 2, BOTH, recorded=[SETTINGS, random])
    assert any("meaningless" in caution for caution in page.cautions)
    assert page_of(tmp_path, TWO, [numbers()] * 2, BOTH).cautions == []


def test_planted_concepts_are_no_chat_model(tmp_path: Path) -> None:
    compared = [place("one", 8), place("one", 12)]
    planted = SETTINGS | {"pair.chat.planted.seed": 0}
    page = page_of(tmp_path, compared, [numbers()] * 2, recorded=[planted] * 2)
    (caution,) = page.cautions
    assert caution.startswith("No chat model. The chat activations are the base model's")


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
    for tag, attributes in OverviewPage(written).tags:
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
            numbers(count, crosscoders=("batchtopk", "l1")).assign(pair=pair, layer=layer)
            for pair, layer, count in (("one", 8, 4), ("one", 12, 10), ("two", 12, 7))
        ]
    )
    axes = layers(table).axes
    assert [ax.get_title("left") for ax in axes[:3]] == [
        "FVE, base model",
        "FVE, chat model",
        "confirmed latents",
    ]
    assert [axes[0].get_ylabel(), axes[3].get_ylabel()] == ["batchtopk", "l1"]
    one, two = axes[5].lines
    assert one.get_xydata().tolist() == [[8, 4], [12, 10]]
    assert two.get_xydata().tolist() == [[12, 7]]
    assert axes[5].collections[0].get_offsets().tolist() == [[8, 4], [8, 4], [12, 10], [12, 10]]
    assert axes[3].get_ylim() == (0.5, 1)


def test_figure_shows_low_fve_and_no_confirmed_latent() -> None:
    table = pd.concat([numbers(0, fve_chat=-0.2).assign(pair="one", layer=layer) for layer in (8, 12)])
    axes = layers(table).axes
    assert axes[0].get_ylim() == axes[1].get_ylim() == pytest.approx((-0.23, 1))
    assert axes[2].get_ylim() == (0, 1)
