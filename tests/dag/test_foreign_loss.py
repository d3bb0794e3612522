"""A loss that another package brings is trained like our own."""

from pathlib import Path

import pytest
import yaml
from conftest import Checkout, planned

SETTINGS = """
from typing import Literal
from crossdiff.config import CrosscoderSettings

class Ridge(CrosscoderSettings):
    objective = "ridge.loss:RidgeLoss"
    loss: Literal["ridge"]
    ridge: float
    init_norm: float = 0.1
"""
LOSS = """
from crossdiff.crosscoders.losses.base import Loss, Parts, reconstruction_error

class RidgeLoss(Loss):
    def forward(self, crosscoder, x, step):
        codes = crosscoder.preactivations(x).relu()
        reconstruction = crosscoder.decode(codes)
        error = reconstruction_error(x, reconstruction, squared=True)
        penalty = codes.square().sum(dim=1).mean()
        loss = error + self.settings.ridge * penalty
        return Parts(loss, {"ridge_loss": penalty}, reconstruction, (codes > 0).sum(dim=0))
"""


@pytest.fixture
def with_ridge(checkout: Checkout) -> tuple[Checkout, str]:
    """A checkout next to an installed package "ridge", and a config that names its loss."""
    package = checkout.folder / "src/ridge"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "settings.py").write_text(SETTINGS)
    (package / "loss.py").write_text(LOSS)
    installed = checkout.folder / "src/ridge-1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: ridge\nVersion: 1\n")
    (installed / "entry_points.txt").write_text("[crossdiff.losses]\nridge = ridge.settings:Ridge\n")
    ridge = {"loss": "ridge", "latents": 64, "ridge": 0.01, "batch": 256, "tokens": 5120, "warmup_steps": 5}
    # Steering and the catalogue name crosscoders that are not there.
    changes = {"crosscoders": {"ridge": ridge}, "seeds": [0], "steering": None, "catalogue": None}
    return checkout, checkout.changed("configs/tiny.yaml", changes)


def test_its_settings_are_checked(with_ridge: tuple[Checkout, str]) -> None:
    checkout, config = with_ridge
    path = checkout.folder / config
    values = yaml.safe_load(path.read_text())
    values["crosscoders"]["ridge"]["ridg"] = values["crosscoders"]["ridge"].pop("ridge")
    path.write_text(yaml.safe_dump(values))
    result = checkout.snakemake("--dry-run", "--configfile", config)
    assert result.returncode == 1
    assert "crosscoders.ridge.ridg: unknown key; did you mean ridge?" in result.stdout


def test_it_is_trained_and_an_edit_of_its_file_retrains_it(with_ridge: tuple[Checkout, str]) -> None:
    checkout, config = with_ridge
    weights = "results/tiny/layer1/ridge/seed0/weights.safetensors"
    result = checkout.snakemake(weights, "--configfile", config)
    assert result.returncode == 0, result.stdout
    assert "ridge_loss" in Path(checkout.folder, "results/tiny/layer1/ridge/seed0/training.csv").read_text()
    loss = checkout.folder / "src/ridge/loss.py"
    loss.write_text("# a comment\n" + LOSS)
    assert "train_crosscoder" not in planned(
        checkout.snakemake(weights, "--dry-run", "--configfile", config).stdout
    )
    loss.write_text(LOSS.replace("squared=True", "squared=False"))
    assert (
        planned(checkout.snakemake(weights, "--dry-run", "--configfile", config).stdout)["train_crosscoder"]
        == 1
    )
