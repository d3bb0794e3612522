"""The descriptions of files: how they are read, expanded and found, and that each says what it has to."""

import re

import pytest
from conftest import ROOT

from crossdiff.errors import UserError
from crossdiff.results.described import PART, Column, common, describe, expanded, file_of, files

PARTS = {"of": {"base": "base", "chat": "chat"}, "end": {"low": "lower", "high": "upper"}}


def names(column: str) -> list[str]:
    return [found.name for found in expanded([Column(column, "f", "")], PARTS)]


def test_column_without_parts_stays_as_it_is() -> None:
    column = Column("latent", "id", "Number of {of}", "method.md 1", "only then")
    assert [*expanded([column], PARTS)] == [column]


def test_every_part_takes_every_value() -> None:
    assert names("nu_{of}_{end}") == ["nu_base_low", "nu_base_high", "nu_chat_low", "nu_chat_high"]
    assert names("{of}") == ["base", "chat"]


def test_part_that_is_not_given_stays_in_braces() -> None:
    assert names("{crosscoder}_{of}") == ["{crosscoder}_base", "{crosscoder}_chat"]


def test_sentence_has_the_words_for_a_value_and_all_else_is_kept() -> None:
    [low, high] = expanded(
        [Column("nu_{end}", "ratio", "The {end} end of {of}", "method.md 9", "then")], PARTS
    )
    assert low == Column("nu_low", "ratio", "The lower end of {of}", "method.md 9", "then")
    assert high.means == "The upper end of {of}"


def test_beta_table_has_what_latent_scaling_and_evaluation_write() -> None:
    columns = describe("results/some-pair/layer3/l1/seed0/betas.parquet")
    assert len(columns) == 1 + 4 + 2 + 4 * (3 * 2 + 2 + 2) + 3 + 1 + 5 + 3
    assert columns["nu_error_low"].unit == "ratio"
    assert columns["nu_error_low"].source == "method.md 9"
    assert columns["nu_error_low"].means.startswith("The lower end of the 95 % interval of nu of the error")
    assert columns["norm_chat"].means == "L2 norm of the decoder direction of the chat model"
    assert all(name == column.name for name, column in columns.items())


def test_columns_of_another_file_come_along_but_for_some() -> None:
    of_one, of_all = describe("evaluation.json"), describe("tables/crosscoders.csv")
    assert of_all["l0"] == of_one["l0"]
    assert of_one.keys() - of_all.keys() == {"classes", "limits"}
    assert {"crosscoder", "seed", "chat_only", "dead"} <= of_all.keys()
    taken = describe("steering_candidates.csv").keys() & describe("scaling.parquet").keys()
    assert taken == {"latent", "relative_norm_difference", "does_not_apply"}


@pytest.mark.parametrize("path", ["{}", "/some/where/{}", "some/where/{}"])
def test_file_is_found_by_any_path_to_it(path: str) -> None:
    found = file_of(path.format("results/pair/layer3/batchtopk/seed1/twins.csv"))
    assert found.patterns == ("results/{pair}/layer{layer}/{crosscoder}/seed{seed}/twins.csv",)


def test_pattern_that_says_more_is_chosen() -> None:
    assert file_of("results/models/some").rules == ("prepare_model", "finetune_model")
    assert file_of("results/models/some.training.csv").rules == ("finetune_model",)
    assert file_of("results/p/layer1/tables/twins.csv").rules == ("compare_latents",)


def test_every_pattern_finds_its_own_file() -> None:
    for file in files():
        for pattern in file.patterns:
            assert file_of(pattern) is file


def test_path_of_no_file_is_refused() -> None:
    with pytest.raises(UserError, match=r"^results/pair/betas\.parquet: not a file that a run writes; docs"):
        describe("results/pair/betas.parquet")


def test_end_of_several_patterns_is_refused_with_what_it_may_be() -> None:
    with pytest.raises(
        UserError, match=r"it may be results/.*seed{seed}/twins\.csv or .*tables/twins\.csv; "
    ):
        describe("twins.csv")


COLUMNS = [
    pytest.param(column, id=f"{file.patterns[0]}-{column.name}") for file in files() for column in file.own
] + [pytest.param(column, id=column.name) for column in common().columns.values()]


@pytest.mark.parametrize("column", COLUMNS)
def test_column_has_a_unit_a_meaning_and_a_source_that_is_there(column: Column) -> None:
    kinds = {*common().units, *common().counts}
    assert column.unit.removesuffix("²") in kinds or set(column.unit.split(" / ")) <= kinds
    assert len(column.means.split()) >= 2 or column.means == "`base` or `chat`"
    assert not column.means.endswith(".")
    parts = set(PART.findall(column.means.replace("`{}`", "")))
    assert parts <= set(PART.findall(column.name)), "a sentence names parts of its own column"
    if column.source:
        page, _, number = column.source.partition(" ")
        text = (ROOT / "docs" / page).read_text(encoding="utf-8")
        assert not number or re.search(rf"^(\*\*|#+ ){number}\. ", text, re.MULTILINE)


def test_every_file_says_what_it_is_and_nothing_is_described_in_vain() -> None:
    for file in files():
        assert file.means.endswith(".") and len(file.means.split()) > 2, file.patterns
    used = {column for file in files() for column in (*file.own, *file.shared)}
    assert {*common().columns.values()} <= used
    assert {part for column in used for part in PART.findall(column.name)} - {"crosscoder"} == {
        *common().parts
    }
    assert {part for file in files() for path in file.patterns for part in PART.findall(path)} == {
        *common().paths
    }
    units = {part.removesuffix("²") for column in used for part in column.unit.split(" / ")}
    assert units == {*common().units, *common().counts}
