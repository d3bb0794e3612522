"""Organisms: what is verified before anything is diffed."""

import pytest
from conftest import Checkout, planned

CONFIG = "configs/organisms.yaml"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "organisms", "losses"),
    [("organisms", 10, 4), ("organisms-grid", 10, 9), ("organisms-second", 4, 9)],
)
def test_every_organism_is_scored(checkout: Checkout, name: str, organisms: int, losses: int) -> None:
    jobs = planned(
        checkout.snakemake("organisms", "--dry-run", "--configfile", f"configs/{name}.yaml").stdout
    )
    assert jobs["list_items"] == jobs["score_items"] == jobs["finetune_model"] == organisms
    assert jobs["train_crosscoder"] == losses * organisms
    assert jobs["harvest_activations"] == (1 + organisms) * jobs["check_texts"]  # one base
    assert jobs["compare_methods"] == 1 and jobs["typeset_overview"] == 3
    assert not {"write_report", "draw_figure", "find_patterns"} & set(jobs)


@pytest.mark.slow
def test_no_organism_is_harvested_before_all_are_verified(checkout: Checkout) -> None:
    """The harvest of one organism waits for every organism's table. The base is harvested once."""
    target = "results/quillon/layer12/summary.json"
    jobs = planned(checkout.snakemake(target, "--dry-run", "--configfile", CONFIG).stdout)
    assert jobs["finetune_model"] == jobs["measure_taught"] == jobs["check_taught"] == 10
    assert jobs["harvest_activations"] == 2 * jobs["check_texts"] == 2 * 6  # both models, six data sets


def test_base_is_harvested_without_any_organism(checkout: Checkout) -> None:
    folder = "results/activations/smollm2-135m-instruct/layer12/smollm2-135m-instruct-67e30272"
    target = f"{folder}/dialogue.train/0000.h5"
    jobs = planned(checkout.snakemake(target, "--dry-run", "--configfile", CONFIG).stdout)
    assert jobs["harvest_activations"] == 1
    assert not {"finetune_model", "measure_taught"} & set(jobs)
