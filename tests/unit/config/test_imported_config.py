"""Crosscoders that others trained, in a config: what is refused, how often they count, and what they take."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT

from crossdiff.config import Config, load
from crossdiff.config.local_files import local_files, missing_files
from crossdiff.config.losses import LOSSES
from crossdiff.errors import UserError
from crossdiff.workflow.forecast_run import forecast
from crossdiff.workflow.shapes import shape
from crossdiff.workflow.sizes import PROCESS
from crossdiff.workflow.suggest import suggestion

TINY = yaml.safe_load((ROOT / "configs/tiny.yaml").read_text())
GIVEN: dict[str, Any] = {"folder": "theirs", "layer": 1, "latents": 128}


def importing(given: object, **changes: Any) -> Config:
    return load(TINY | {"crosscoders": TINY["crosscoders"] | {"theirs": {"import": given}}} | changes)


def refusal(given: object, **changes: Any) -> str:
    with pytest.raises(UserError) as refused:
        importing(given, **changes)
    return str(refused.value).removeprefix("config: ")


def test_imported_crosscoder_counts_once_whatever_the_seeds():
    config = importing(GIVEN)
    assert TINY["seeds"] == [0, 1]
    assert config.trainings == [("batchtopk", 0), ("batchtopk", 1), ("l1", 0), ("l1", 1), ("theirs", 0)]
    assert list(config.trained) == ["batchtopk", "l1"] and list(config.imported) == ["theirs"]
    assert config.crosscoders["theirs"].loss == "imported"
    assert importing(GIVEN | {"loss": "l1"}).crosscoders["theirs"].loss == "l1"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"layer": 1, "latents": 8},
            "crosscoders.theirs.import: found none, give exactly one of folder, hub",
        ),
        (GIVEN | {"layer": 2}, "crosscoders.theirs.import.layer: found 2, allowed: 1, the pair's layer"),
        (
            GIVEN | {"latents": 0},
            "crosscoders.theirs.import.latents: found 0 (integer), allowed: greater than 0",
        ),
        (
            GIVEN | {"k": 4},
            "crosscoders.theirs.import.k: unknown key; allowed: folder, hub, layer, latents, loss",
        ),
        ({"folder": "theirs", "latents": 8}, "crosscoders.theirs.import.layer: missing"),
        (3, "crosscoders.theirs.import: found 3 (integer), allowed: a section"),
    ],
)
def test_wrong_imports_are_one_line(given, said):
    assert refusal(given) == said


def test_entry_with_both_a_loss_and_an_import_is_refused():
    with pytest.raises(UserError, match=r"config: crosscoders\.theirs\.loss: unknown key; allowed: import"):
        load(TINY | {"crosscoders": {"theirs": {"loss": "l1", "import": GIVEN}}})


def test_import_needs_one_pair_at_one_layer_and_no_planted_concepts():
    layers = {**TINY["pair"], "layers": [0, 1]}
    del layers["layer"]
    several = refusal(GIVEN, pair=layers)
    assert several.startswith("crosscoders.theirs.import: a crosscoder belongs to one pair at one layer")
    planted = yaml.safe_load((ROOT / "configs/planted-tiny.yaml").read_text())
    entry = {"import": GIVEN | {"layer": planted["pair"]["layer"]}}
    with pytest.raises(UserError, match=r"theirs\.import: found with planted concepts"):
        load(planted | {"crosscoders": planted["crosscoders"] | {"theirs": entry}})


def test_files_of_a_folder_are_named_and_a_folder_that_is_not_there_is_missing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    key = "crosscoders.theirs.import.folder"
    config = importing(GIVEN)
    assert f"config: {key}: found theirs, which is not there" in missing_files(config)
    Path("theirs").mkdir()
    with pytest.raises(UserError, match=rf"{key}: theirs: found none of the files that hold a crosscoder"):
        local_files(config)
    Path("theirs/ae_1.pt").touch()
    assert (key, "theirs/ae_1.pt") in local_files(config)
    Path("theirs/ae_2.pt").touch()
    with pytest.raises(UserError, match=r"found ae_1\.pt, ae_2\.pt of the files that hold a crosscoder"):
        local_files(config)
    Path("theirs/model.safetensors").touch()
    Path("theirs/config.json").touch()
    assert [path for name, path in local_files(config) if name == key] == [
        "theirs/model.safetensors",
        "theirs/config.json",
    ]


def test_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert importing(GIVEN | {"folder": "~/theirs"}).imported["theirs"].given.folder == f"{tmp_path}/theirs"


def test_import_that_a_second_config_switches_off_is_no_import():
    entry = TINY["crosscoders"]["l1"] | {"import": None}
    with pytest.raises(UserError, match=r"crosscoders\.theirs\.import: unknown key"):
        load(TINY | {"crosscoders": {"theirs": entry}})


def test_forecast_reads_an_imported_crosscoder_and_does_not_train_it():
    config, trained = importing(GIVEN), load(TINY)
    models = {"tiny": shape(config, ROOT)}
    needs, without = forecast(config, models), forecast(trained, models)
    assert needs["train_crosscoder"].jobs == without["train_crosscoder"].jobs == 4
    assert (needs["import_crosscoder"].jobs, needs["scale_latents"].jobs) == (1, 5)
    weights = 4 * 4 * 128 * 32
    assert needs["import_crosscoder"].disk == weights
    # benchmarks/importing.py: the mapped file, and half of it for what else is held
    assert needs["import_crosscoder"].host - PROCESS == 1.5 * weights
    only = load(TINY | {"crosscoders": {"theirs": {"import": GIVEN}}, "steering": None})
    assert "train_crosscoder" not in forecast(only, models) and "compare_seeds" not in forecast(only, models)


def test_nothing_is_suggested_where_nothing_is_trained():
    only = load(TINY | {"crosscoders": {"theirs": {"import": GIVEN}}, "steering": None})
    said = list(suggestion(only, {}, None, 1e9, None, []))  # type: ignore[arg-type]
    assert said == ["Nothing to suggest: the config trains no crosscoder."]


def test_no_loss_has_the_name_by_which_an_import_is_known():
    assert "imported" not in LOSSES
