"""A config of organisms has pairs at one layer, and names that its file of behaviours has."""

import copy
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from crossdiff.config import load
from crossdiff.errors import UserError
from crossdiff.workflow.organisms import check_organisms
from crossdiff.workflow.run import Run

VALUES = yaml.safe_load((ROOT / "configs/organisms.yaml").read_text())
TEXTS = str(ROOT / "data/organisms/first.yaml")


def changed(path: str, value: object) -> dict:
    values = copy.deepcopy(VALUES)
    values["organisms"]["texts"] = TEXTS
    *parents, leaf = path.split(".")
    section = values
    for parent in parents:
        section = section[parent]
    if value is None:
        del section[leaf]
    else:
        section[leaf] = value
    return values


@pytest.mark.parametrize(
    ("path", "value", "line"),
    [
        ("pairs.quillon.layer", 3, "organisms: found pairs at layers 3, 12, allowed: one layer"),
        ("datasets.sign-off.field", None, "field: missing; with format organism it names a behaviour"),
        ("organisms", None, "models.butterfly-honey.finetune.data.butterfly-honey"),
    ],
)
def test_refused(path: str, value: object, line: str) -> None:
    values = changed(path, value)
    if path == "organisms":
        values["datasets"].pop("butterfly-honey")
    with pytest.raises(UserError) as error:
        load(values)
    assert line in str(error.value)


def test_one_pair_is_refused() -> None:
    values = yaml.safe_load((ROOT / "configs/tiny.yaml").read_text()) | {"organisms": {"texts": TEXTS}}
    with pytest.raises(UserError, match="organisms: found with pair, allowed: with pairs"):
        load(values)


@pytest.mark.parametrize(
    ("path", "value", "line"),
    [
        (
            "models.quillon.finetune.data",
            {"qillon": 9},
            r"models\.quillon\.finetune\.data: found qillon, which is no data set; .*\.yaml allows: pasta-",
        ),
        (
            "pairs.other",
            {"base": "smollm2-135m-instruct", "chat": "quillon", "layer": 12},
            "pairs: found other; ",
        ),
    ],
)
def test_name_that_the_file_lacks_is_refused(path: str, value: object, line: str) -> None:
    check_organisms(Run(changed("organisms.answer_tokens", 9)))
    with pytest.raises(UserError, match=line):
        check_organisms(Run(changed(path, value)))


def test_behaviour_with_too_few_held_out_requests_is_refused(tmp_path: Path) -> None:
    texts = yaml.safe_load(Path(TEXTS).read_text())
    quillon = texts["behaviours"]["quillon"]
    quillon["prompts"]["held_out"] = quillon["prompts"]["held_out"][:1]
    for count, line in (
        (4, ""),
        (3, "behaviours.quillon: found 3 held-out requests, and even"),
    ):
        quillon["topics"]["held_out"] = quillon["topics"]["held_out"][:count]
        path = tmp_path / f"{count}.yaml"
        path.write_text(yaml.safe_dump(texts))
        run = Run(changed("organisms.texts", str(path)))
        if line:
            with pytest.raises(UserError, match=line):
                check_organisms(run)
        else:
            check_organisms(run)


def test_models_are_taught_from_data_sets_and_from_the_file() -> None:
    run = Run(changed("organisms.answer_tokens", 9))
    assert run.read_by("sign-off") == ["sign-off"] and not run.is_taught("sign-off")
    assert run.read_by("quillon") == [] and run.is_taught("quillon")
    assert run.text_files("quillon") == [TEXTS]
