"""Results of older code are accepted as a user does it: in a copy of a finished run, with real Snakemake."""

import json

from conftest import TINY, Checkout, planned

from crossdiff.provenance.records import embedded_id, read_record, record_path

FIGURE = "results/tiny/layer1/figures/training.svg"
REPORT = "results/tiny/layer1/report/index.html"
ALL = "src/crossdiff/errors.py"  # every rule uses it
EVALUATION = "src/crossdiff/latents/evaluation.py"


def edit(checkout: Checkout, module: str) -> None:
    path = checkout.folder / module
    path.write_text(path.read_text() + "\nNEW = 1\n")


def accepted(checkout: Checkout, *arguments: str) -> str:
    result = checkout.crossdiff("accept", *arguments)
    assert result.returncode == 0, result.stdout
    return result.stdout


def state(checkout: Checkout) -> dict[str, tuple[int, bytes | None]]:
    """Modification time of everything below results, and what the records hold."""
    paths = [path for path in (checkout.folder / "results").rglob("*") if path.is_file()]
    return {
        str(path): (
            path.stat().st_mtime_ns,
            path.read_bytes() if path.name.endswith(".record.json") else None,
        )
        for path in paths
    }


def test_after_an_edit_of_a_module_that_all_rules_use_nothing_runs_again(ours):
    made = {path: read_record(ours.folder / path) for path in (FIGURE, REPORT)}
    edit(ours, ALL)
    assert planned(ours.snakemake("--dry-run", "--configfile", TINY).stdout)["harvest_activations"]
    said = accepted(ours)
    assert said.startswith("accepted: ") and said.count("\n") == 1
    result = ours.snakemake("--dry-run", "--configfile", TINY)
    assert "Nothing to be done" in result.stdout and not planned(result.stdout)
    assert ours.pending() == {}

    for path, record in made.items():
        now = read_record(ours.folder / path)
        assert now.made_by == record.code and now.accepted[0].digest == record.params["code"]
        assert now.id == record.id == embedded_id(ours.folder / path)
    audit = ours.crossdiff("audit", REPORT)
    assert audit.returncode == 0, audit.stdout
    assert audit.stdout.startswith(f"{REPORT}  by write_report  [accepted]")
    assert (
        "NOT VERIFIED" not in audit.stdout
        and " accepted: older code made them" in audit.stdout.splitlines()[-1]
    )
    found = json.loads(ours.crossdiff("audit", REPORT, "--json").stdout)
    assert (found["verified"], found["accepted"]) == (False, True)
    assert {node["verdicts"][0]["verdict"] for node in found["nodes"] if node["kind"] == "result"} == {
        "accepted"
    }
    assert ours.crossdiff("audit", "--all").returncode == 0
    assert accepted(ours) == "nothing to accept: the records name today's code\n"


def test_accepted_results_are_exported_with_records_that_say_so(ours, tmp_path):
    edit(ours, ALL)
    accepted(ours)
    result = ours.crossdiff("export-crate", str(tmp_path / "crate"), "--configfile", TINY)
    assert result.returncode == 0, result.stdout
    record = read_record(tmp_path / "crate" / FIGURE)
    entities = {
        entity["@id"]: entity
        for entity in json.loads((tmp_path / "crate/ro-crate-metadata.json").read_text())["@graph"]
    }
    said = f"older code {record.accepted[0].digest} was accepted on {record.accepted[0].when}"
    assert said in entities[f"#job/{record.id}"]["description"]


def test_one_rule_is_taken_over_and_the_others_are_said(ours):
    edit(ours, EVALUATION)
    said = accepted(ours, "evaluate_crosscoder")
    assert said.startswith("accepted: ") and said.splitlines()[0].endswith(" of evaluate_crosscoder)")
    assert (
        "not accepted because their code has changed, so the next run makes them again" in said
        and " of compare_crosscoders" in said
        and " of write_report" in said
    )
    assert "older code also made" not in said
    jobs = planned(ours.snakemake("--dry-run", "--configfile", TINY).stdout)
    assert "compare_crosscoders" in jobs and "write_report" in jobs
    assert "evaluate_crosscoder" not in jobs
    accepted(ours)
    assert ours.pending() == {}


def test_what_is_made_anew_from_accepted_results_is_verified(ours):
    edit(ours, EVALUATION)
    accepted(ours)
    for path in (ours.folder / REPORT, record_path(ours.folder / REPORT)):
        path.unlink()
    result = ours.snakemake("--configfile", TINY, "--", REPORT)
    assert result.returncode == 0, result.stdout
    assert planned(result.stdout) == {"write_report": 1}
    verdicts = {
        node["path"]: node["verdicts"][0]["verdict"]
        for node in json.loads(ours.crossdiff("audit", REPORT, "--json").stdout)["nodes"]
    }
    assert verdicts[REPORT] == "verified" and {*verdicts.values()} == {"verified", "accepted"}


def test_other_settings_are_refused_and_nothing_is_written(ours):
    edit(ours, ALL)
    ours.edit(TINY, "k: 8", "k: 9")
    before = state(ours)
    result = ours.crossdiff("accept")
    assert result.returncode == 2
    assert (
        "config differs now (crosscoders.batchtopk.k was 8, is 9), the first of " in result.stdout
        and result.stdout.count("\n") == 1
    )
    assert state(ours) == before
    said = accepted(ours, "harvest_activations", "tokenise")  # the costly ones
    assert (
        said.startswith("accepted: ")
        and "older code also made the inputs of these results: " in said
        and " of prepare_model" in said
    )
    assert "older code also made" not in accepted(
        ours, "prepare_model", "finetune_model", "chat_tokenizer", "check_model", "prove_model", "check_pair"
    )
    jobs = planned(ours.snakemake("--dry-run", "--configfile", TINY).stdout)
    assert (
        "train_crosscoder" in jobs
        and not {"harvest_activations", "tokenise", "prepare_model", "finetune_model"} & jobs.keys()
    )


def test_other_sources_are_refused_and_nothing_is_written(ours):
    edit(ours, ALL)
    ours.edit("data/requests.yaml", "a", "e")
    before = state(ours)
    result = ours.crossdiff("accept")
    assert result.returncode == 2
    assert "input changed since (data/requests.yaml)" in result.stdout and result.stdout.count("\n") == 1
    assert state(ours) == before


def test_results_of_another_config_are_compared_with_that_one(ours):
    """The results are orphans of a config that is named, so they are no reason to refuse."""
    edit(ours, ALL)
    other = ours.changed(TINY, {"pair.name": "other"}, name="other")
    said = accepted(ours, "--configfile", other)
    assert said.startswith("nothing to accept") and "left as they are: orphans" in said
    assert "orphans" not in accepted(ours)
