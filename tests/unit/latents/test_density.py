"""How often latents fire: the table, against counts by hand."""

import numpy as np
import pandas as pd

from crossdiff.config import Density
from crossdiff.latents.density import density_table

DENSITY = Density(dense_above=0.1, rare_below=0.01)


def betas(frequency: list[float], classes: list[str], difference: list[float]) -> pd.DataFrame:
    columns = {"frequency": frequency, "class": classes, "relative_norm_difference": difference}
    return pd.DataFrame({"latent": range(len(frequency))} | columns)


TABLE = betas(
    frequency=[0.5, 0.1, 0.05, 0.01, 0.001, 0.9],
    classes=["shared", "shared", "other", "chat-only", "chat-only", "dead"],
    difference=[0.5, 0.5, 0.7, 0.95, 0.99, 1.0],
)


def test_latents_beyond_a_bound_count_and_those_on_it_do_not() -> None:
    table = density_table({("l1", 3): TABLE}, DENSITY, top=2).set_index("set")
    # The dead latent fires most, and does not count.
    assert table.loc["all live", ["latents", "dense", "rare"]].tolist() == [5, 1, 1]
    assert table.loc["most chat-leaning", ["latents", "dense", "rare"]].tolist() == [2, 0, 1]
    assert table.loc["shared", ["latents", "dense", "rare"]].tolist() == [2, 1, 0]
    np.testing.assert_allclose(table["median"], [0.05, 0.0055, 0.3])
    assert set(table.crosscoder) == {"l1"} and set(table.seed) == {3}


def test_empty_set_has_no_median() -> None:
    table = density_table({("l1", 0): TABLE[TABLE["class"] == "chat-only"]}, DENSITY, top=2).set_index("set")
    assert table.loc["shared", ["latents", "dense", "rare"]].tolist() == [0, 0, 0]
    assert np.isnan(table["median"]["shared"])


def test_every_training_has_its_rows_in_order() -> None:
    table = density_table({("b", 1): TABLE, ("a", 0): TABLE}, DENSITY, top=2)
    assert table[["crosscoder", "seed"]].drop_duplicates().to_numpy().tolist() == [["b", 1], ["a", 0]]
