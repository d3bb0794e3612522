"""Results of the path layout of version 0.1."""

from pathlib import Path

import pytest
import yaml
from conftest import ROOT, TINY, Checkout

from crossdiff.config import load
from crossdiff.errors import UserError
from crossdiff.workflow.run import check_layout

CONFIG = load(yaml.safe_load((ROOT / TINY).read_text()))


@pytest.mark.parametrize(
    "old", ["models/base", "tokenizer", "tokens/readme.train", "activations/layer1", "tables", "figures"]
)
def test_old_layout_is_named(tmp_path: Path, old: str) -> None:
    (tmp_path / "results/tiny" / old).mkdir(parents=True)
    with pytest.raises(UserError) as caught:
        check_layout(CONFIG, tmp_path)
    found = f"found {old.split('/')[0]}/, which has the path layout before 0.2 (CHANGELOG.md)"
    said = f"results/tiny: {found}; nothing reads it any more: "
    assert str(caught.value) == said + "delete the folder, or give the pair another name"


def test_results_of_today_and_of_other_pairs_say_nothing(tmp_path: Path) -> None:
    for folder in (
        "results/tiny/layer1/tables",
        "results/tiny/answers",
        "results/models/tiny-base",
        "results/other/tables",
    ):
        (tmp_path / folder).mkdir(parents=True)
    check_layout(CONFIG, tmp_path)


def test_old_layout_stops_snakemake_with_one_line(checkout: Checkout) -> None:
    (checkout.folder / "results/tiny/tables").mkdir(parents=True)
    result = checkout.snakemake("--dry-run", "--configfile", TINY)
    assert result.returncode == 1
    assert "results/tiny: found tables/, which has the path layout before 0.2" in result.stdout
    assert "Traceback" not in result.stdout
