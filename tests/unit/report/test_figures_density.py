"""The figure of how often latents fire."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from crossdiff.config import Density
from crossdiff.provenance.storage import read_json
from crossdiff.report.figures.density import density
from crossdiff.report.figures.drawing import write

FREQUENCY = np.geomspace(1e-6, 0.9, 40)
CLASSES = np.array(["shared", "other", "chat-only", "dead"])[np.arange(40) % 4]


def betas(frequency: np.ndarray, classes: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame({"frequency": frequency, "class": classes})


def test_every_live_latent_is_in_a_bin_of_its_class() -> None:
    (ax,) = density({"l1": betas(FREQUENCY, CLASSES)}, Density()).axes
    assert ax.get_title(loc="left") == "l1: 5 of 30 dense"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "shared (10)",
        "other (10)",
        "chat-only (10)",
    ]
    for patch in ax.patches:
        heights = patch.get_xy()[:, 1]
        assert heights.max() > 0


@pytest.mark.parametrize("classes", [["dead"], ["shared"]], ids=["no live latent", "one latent"])
def test_few_latents_are_drawn_too(classes: list[str]) -> None:
    (ax,) = density({"l1": betas(np.array([0.2]), np.array(classes))}, Density()).axes
    assert ax.get_title(loc="left").endswith("dense")


def test_drawing_and_caption_are_written_side_by_side(tmp_path: Path) -> None:
    paths = [str(tmp_path / f"density.{ending}") for ending in ("svg", "png")]
    write(
        density,
        paths,
        str(tmp_path / "density.json"),
        betas={"l1": betas(FREQUENCY, CLASSES)},
        density=Density(),
    )
    assert all(Path(path).stat().st_size > 1000 for path in paths)
    caption = read_json(tmp_path / "density.json")
    assert set(caption) == {"alt", "text"}
    assert "dense" in caption["text"]
