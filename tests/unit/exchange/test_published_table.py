"""The authors' table of latents: turned norm differences, their names, and what is no such table."""

import numpy as np
import pandas as pd
import pytest

from crossdiff.errors import UserError
from crossdiff.exchange.published_table import agreements, joined, lines, write_comparison

BETAS = pd.DataFrame(
    {
        "latent": range(4),
        "relative_norm_difference": [0.95, 0.5, 0.05, 0.7],
        "nu_error": [0.1, 0.9, np.nan, 0.4],
        "class": ["chat-only", "shared", "base-only", "other"],
        "confirmed": [True, False, False, False],
    }
)
PUBLISHED = pd.DataFrame(
    {
        "dec_norm_diff": [0.05, 0.5, 0.95, 0.2],
        "beta_ratio_error": [0.12, 0.9, 0.3, np.nan],
        "tag": ["IT only", "Shared", "Base only", "Chat only"],
        "something_else": 1,
    }
)


@pytest.fixture
def published(tmp_path):
    path = tmp_path / "feature_df.csv"
    PUBLISHED.to_csv(path)  # as pandas writes an index: the first column has no name
    return path


def test_their_norm_difference_is_turned_and_latents_are_matched_by_number(published):
    PUBLISHED.iloc[[2, 0, 3, 1]].to_csv(published)
    table = joined(published, BETAS)
    assert table.latent.tolist() == [0, 1, 2, 3]
    assert table.published_relative_norm_difference.tolist() == pytest.approx([0.95, 0.5, 0.05, 0.8])
    assert table.published_class.tolist() == ["chat-only", "shared", "base-only", "chat-only"]
    assert "published_something_else" not in table and "confirmed" not in table


def test_agreement_is_of_latents_that_both_have(published):
    norm, nu = agreements(joined(published, BETAS))
    assert (norm.quantity, norm.latents, norm.correlation) == ("relative_norm_difference", 4, 1.0)
    assert norm.median_difference == pytest.approx(0.0, abs=1e-12)
    assert (nu.latents, nu.median_difference) == (2, pytest.approx(0.01)) and np.isnan(nu.correlation)


def test_file_and_lines_hold_both(published, tmp_path):
    told = write_comparison(published, BETAS, tmp_path / "both.csv")
    assert "Classes agree for 75.0% of 4 latents:" in told
    assert pd.read_csv(tmp_path / "both.csv").equals(joined(published, BETAS))
    assert any(line.split()[:2] == ["nu_error", "2"] for line in told)


def test_newer_tables_call_the_chat_model_ft(tmp_path):
    PUBLISHED.assign(beta_error_ft=2.0).to_csv(tmp_path / "new.csv")
    table = joined(tmp_path / "new.csv", BETAS.assign(beta_error_chat=1.0))
    assert table.published_beta_error_chat.tolist() == [2.0] * 4
    assert lines(table)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (PUBLISHED.drop(columns="dec_norm_diff"), "lacks dec_norm_diff; allowed: a feature_df.csv"),
        (PUBLISHED.set_index("tag"), "tag holds no numbers of latents"),
        (PUBLISHED.set_index(pd.Index([0, 1, 2, 9])), "has latent 9, found 4 latents here"),
        (PUBLISHED.assign(dec_norm_diff="a"), "dec_norm_diff: found 'a', allowed: numbers"),
        (PUBLISHED.assign(beta_ratio_error=[1, 2, "x", 3]), "beta_ratio_error: found 'x', allowed: numbers"),
        (PUBLISHED.assign(tag="Odd"), "tag: found Odd, allowed: Chat only, IT only"),
    ],
)
def test_other_tables_are_refused(table, said, tmp_path):
    table.to_csv(tmp_path / "wrong.csv")
    with pytest.raises(UserError, match=r"wrong\.csv: ") as refused:
        write_comparison(tmp_path / "wrong.csv", BETAS, tmp_path / "both.csv")
    assert said in str(refused.value)
    assert not (tmp_path / "both.csv").exists()


def test_latents_without_a_class_do_not_count_as_disagreement(published):
    PUBLISHED.assign(tag=["IT only", "Shared", None, None]).to_csv(published)
    assert "Classes agree for 100.0% of 2 latents:" in lines(joined(published, BETAS))
    PUBLISHED.assign(tag=None).to_csv(published)
    assert not any("Classes" in line for line in lines(joined(published, BETAS)))


def test_columns_that_this_loss_lacks_are_left_out_and_the_published_table_is_never_overwritten(published):
    assert [one.quantity for one in agreements(joined(published, BETAS.drop(columns="nu_error")))] == [
        "relative_norm_difference"
    ]
    before = published.read_text()
    with pytest.raises(UserError, match=r"is the published table; name another file"):
        write_comparison(published, BETAS, published)
    assert published.read_text() == before


def test_file_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"none\.csv: can't be read as a table"):
        joined(tmp_path / "none.csv", BETAS)
    (tmp_path / "there.csv").touch()
    with pytest.raises(UserError, match=r"none\.csv: can't be read as a table"):
        write_comparison(tmp_path / "none.csv", BETAS, tmp_path / "there.csv")
