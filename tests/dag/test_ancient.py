"""A job with changes of its own is planned, also if a check above it runs again."""

from conftest import TINY, Checkout, planned


def test_change_of_the_harvests_code_redoes_the_harvest_along_with_the_proof(ours: Checkout) -> None:
    path = ours.folder / "src/crossdiff/models/forward.py"
    path.write_text(path.read_text().replace("HEAD_POSITIONS = 512", "HEAD_POSITIONS = 256"))
    jobs = planned(ours.snakemake("--dry-run", "--configfile", TINY).stdout)
    assert jobs["prove_model"] == 2
    assert jobs["harvest_activations"] == len([*ours.folder.glob("results/activations/**/*.h5")])


def test_change_of_the_proofs_code_redoes_the_proof_alone(ours: Checkout) -> None:
    path = ours.folder / "src/crossdiff/interventions/proof.py"
    path.write_text(path.read_text().replace("CLOSE = 2", "CLOSE = 3"))
    jobs = planned(ours.snakemake("--dry-run", "--configfile", TINY).stdout)
    assert jobs.keys() - {"all"} == {"prove_model"}
