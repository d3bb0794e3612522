"""Several LoRAs of one base in one config: the base is there once, and a wrong base is named."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Checkout
from helpers_adapters import write_adapter
from helpers_folders import random_model

from crossdiff.models.load import load_model
from crossdiff.models.weight_files import read_config


@pytest.fixture
def config(checkout: Checkout, tmp_path: Path) -> dict[str, Any]:
    """Two LoRAs of one base, without tokenizers of their own."""
    base = random_model(tmp_path / "base", layers=3)
    for name in ("first", "second"):
        write_adapter(base, tmp_path / name)
    values = yaml.safe_load((checkout.folder / "configs/tiny-pairs.yaml").read_text())
    values["models"] = {
        "start": {"folder": str(base)},
        "first": {"adapter": {"folder": str(tmp_path / "first"), "base": "start"}},
        "second": {"adapter": {"folder": str(tmp_path / "second"), "base": "start"}},
    }
    values["pairs"] = {
        name: {"base": "start", "chat": name, "layers": [0, 1]} for name in ("first", "second")
    }
    values["tokens"]["chat_template"] = "data/plain.jinja"
    return values


def written(checkout: Checkout, values: dict[str, Any]) -> str:
    (checkout.folder / "configs/loras.yaml").write_text(yaml.safe_dump(values))
    return "configs/loras.yaml"


def test_adapters_share_their_base_and_no_merged_copy_is_written(checkout: Checkout, config) -> None:
    result = checkout.snakemake("models", "tokens", "--configfile", written(checkout, config))
    assert result.returncode == 0, result.stdout
    models = checkout.folder / "results/models"
    assert [path.parent.name for path in models.glob("*/model*.safetensors")] == ["start"]
    assert read_config(models / "first")["num_hidden_layers"] == 3
    first, second = (load_model(models / name, None) for name in ("first", "second"))
    assert type(first) is type(second)
    assert len(list((checkout.folder / "results/tokens").iterdir())) == 1


def test_base_that_an_adapter_does_not_name_is_refused_before_any_job(
    checkout: Checkout, config, tmp_path: Path
) -> None:
    random_model(tmp_path / "another", layers=3)
    config["models"]["other"] = {"folder": str(tmp_path / "another")}
    config["models"]["second"]["adapter"]["base"] = "other"
    result = checkout.snakemake("--configfile", written(checkout, config))
    assert result.returncode == 1
    line = (
        f"models.second.adapter: adapter_config.json names the base {tmp_path / 'base'}, but the base here is"
    )
    assert line in result.stdout
    assert not (checkout.folder / "results").exists()
