"""The page over all pairs and layers: when it has jobs, and where it lies."""

import pytest
from conftest import TINY, Checkout, planned

PAIRS = "configs/tiny-pairs.yaml"
OWN = {"compare_pairs", "draw_layers", "write_overview", "typeset_overview"}


def test_one_pair_at_one_layer_has_no_page(checkout: Checkout) -> None:
    jobs = planned(checkout.snakemake("--dry-run", "--configfile", TINY).stdout)
    assert jobs["write_report"] == 1 and not OWN & set(jobs)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, OWN),
        ({"pairs.tiny.layers": [0], "pairs.tiny-second.layers": [0]}, OWN - {"draw_layers"}),
        ({"pairs.tiny-second": None}, OWN),
        ({"pairs.tiny-second": None, "pairs.tiny.layers": [1]}, set()),
    ],
)
def test_jobs_follow_the_pairs_and_layers(
    checkout: Checkout, changes: dict[str, object], expected: set[str]
) -> None:
    config = checkout.changed(PAIRS, changes | {"overview": "side-by-side"})
    result = checkout.snakemake("--dry-run", "--configfile", config)
    assert result.returncode == 0, result.stdout
    jobs = planned(result.stdout)
    numbers = dict.fromkeys(expected, 1) | ({"typeset_overview": 2} if expected else {})  # pairs and overlap
    assert {rule: jobs[rule] for rule in OWN & set(jobs)} == numbers
    assert ("Missing output files: results/side-by-side/index.html" in result.stdout) == bool(expected)
