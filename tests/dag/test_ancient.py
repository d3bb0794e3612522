"""A job with changes of its own is planned, also if a check above it runs again."""

import re

import pytest
from conftest import ROOT, TINY, Checkout, planned


def test_change_of_the_harvests_code_redoes_the_harvest_along_with_the_proof(ours: Checkout) -> None:
    ours.edit("src/crossdiff/models/parts.py", "HEAD_POSITIONS = 512", "HEAD_POSITIONS = 256")
    jobs = planned(ours.snakemake("--dry-run", "--configfile", TINY).stdout)
    assert jobs["prove_model"] == 2
    assert jobs["harvest_activations"] == len([*ours.folder.glob("results/activations/**/*.h5")])


def test_change_of_the_proofs_code_redoes_the_proof_and_what_tells_of_it(ours: Checkout) -> None:
    ours.edit("src/crossdiff/interventions/proof.py", "CLOSE = 2", "CLOSE = 3")
    jobs = planned(ours.snakemake("--dry-run", "--configfile", TINY).stdout)
    assert jobs.keys() - {"all"} == {"prove_model", "write_methods"}


def test_no_shard_is_harvested_before_all_texts_were_read(checkout: Checkout) -> None:
    cache = "results/activations/tiny-base/layer1/tiny-chat/requests.train/0000.h5"
    jobs = planned(checkout.snakemake(cache, "--dry-run", "--configfile", TINY).stdout)
    assert (jobs["harvest_activations"], jobs["check_texts"], jobs["tokenise"]) == (1, 1, 2)


def test_larger_budget_reads_texts_and_keeps_caches(ours: Checkout) -> None:
    config = ours.changed(TINY, {"datasets.requests.tokens": 18000})
    jobs = planned(ours.snakemake("--dry-run", "--configfile", config).stdout)
    # One shard more, for both models.
    assert (jobs["tokenise"], jobs["check_texts"], jobs["harvest_activations"]) == (1, 1, 2)


@pytest.mark.parametrize("file", ["checked.json", "proved.json", "pair.json", "read.json"])
def test_file_of_an_ancient_input_stays_while_it_is_made_again(file: str) -> None:
    """Snakemake looks at the plan again when a shard is tokenised. A file that is missing then, because its
    job runs, would make all jobs below it run, although their input is ancient."""
    rules = "".join(path.read_text() for path in sorted((ROOT / "rules").glob("*.smk")))
    made = re.findall(rf"    output:\n +(.*{re.escape(file)}.*)\n", rules)
    assert made and all(line.startswith("update(") for line in made)
