"""The methods say what settings and records hold, in LaTeX that compiles, and name what these do not hold."""

from typing import Any

import pandas as pd
import pytest
from conftest import ROOT
from helpers_latex import faults

from crossdiff.provenance.recorded_settings import RecordedSettings
from crossdiff.provenance.records import Record, RecordedFile
from crossdiff.report.methods import Run, methods, versions
from crossdiff.report.references import read_references

SETTINGS = {
    "pair.layer": 12,
    "pair.base.name": "my_base",
    "pair.chat.name": "50%&#1",
    "models.my_base.hub.name": "owner/my_base",
    "models.my_base.hub.revision": "main",
    "models.50%&#1.folder": "/home/me/secret_place",
    "datasets.we_b.kind": "documents",
    "datasets.we_b.tokens": 2_000_000,
    "datasets.we_b.hub.name": "owner/we_b",
    "datasets.we_b.hub.revision": "a" * 40,
    "tokens.context": 1024,
    "crosscoders.top_k.loss": "batchtopk",
    "crosscoders.top_k.k": 100,
    "crosscoders.top_k.k_max": None,
    "crosscoders.top_k.auxiliary_k": 512,
    "crosscoders.top_k.batch": 2048,
    "crosscoders.top_k.tokens": 24_000_000,
    "crosscoders.top_k.learning_rate": 3e-5,
    "crosscoders.top_k.warmup_steps": 1000,
    "crosscoders.top_k.normalisation.kind": "none",
    "latent_scaling.nu_error_below": 0.2,
    "latent_scaling.nu_reconstruction_below": 0.5,
    "latent_scaling.bootstrap.blocks": 50,
    "latent_scaling.bootstrap.samples": 200,
    "latent_scaling.bootstrap.seed": 3,
}
RUN = {
    "python": "3.11.7",
    "packages": {"torch": "2.13.0+cpu", "transformers": "5.23.0", "snakemake": "9.27.1"},
    "device": "NVIDIA_H200",
    "git": {"commit": "c0ffee" * 6 + "c0ff", "changed_files": ["src/my_file.py"]},
}
WEIGHTS = "results/p/layer12/top_k/seed0/weights.safetensors"
SHARD = "results/tokens/t/we_b.validation/0000.parquet"


def record(
    number: int, rule: str, output: str, digest: str, inputs: dict[str, str], **changes: Any
) -> Record:
    """A record of a job with one output."""
    read = [RecordedFile("", path, of_input, 1, "") for path, of_input in inputs.items()]
    made = [RecordedFile("", output, digest, 1, "")]
    found = Record(f"{number:032x}", rule, {}, {}, {}, read, made, RUN)
    return found._replace(**changes)


def run(**changes: Any) -> Run:
    shard = {"wildcards": {"dataset": "we_b", "split": "validation"}, "params": {"tokens": 100_000}}
    records = [
        record(1, "prepare_model", "results/models/my_base", "1234567890abcdef99", {}),
        record(2, "tokenise", SHARD, "a", {}, **shard),
        record(3, "train_crosscoder", WEIGHTS, "w", {SHARD: "a"}),
    ]
    table = pd.DataFrame(
        {"crosscoder": ["top_k"] * 2, "seed": [0, 1], "latents": 73_728, "l0": [99.96, 101.0]}
    )
    found = Run(
        recorded=RecordedSettings(SETTINGS),
        records={entry.outputs[0].path: entry for entry in records},
        facts={"base": {"layers": 26, "d_model": 2304}},
        summary={"skip_first": 0, "max_norm_ratio": None, "tokens": 2_000_000},
        proofs={"my_base": {"harvest": 6.02e-7}},
        crosscoders=table,
    )
    return found._replace(**changes)


def text(found: Run) -> str:
    references = read_references(ROOT / "data/references.bib", ROOT / "CITATION.cff")
    said = methods(found, references, "results/p/layer12")
    assert not faults(said)
    assert max(map(len, said.splitlines())) <= 110
    return " ".join(said.split())


@pytest.mark.parametrize(
    "sentence",
    [
        r"The base model is my\_base (owner/my\_base, revision main).",
        r"The chat model is 50\%\&\#1 (local folder).",
        r"The files of my\_base have the digest \texttt{1234567890abcdef}.",
        "Activations are the outputs of block 12 (0-based) of 26 blocks, of width 2,304.",
        r"\texttt{we\_b} (documents, \texttt{owner/we\_b}, revision \texttt{"
        + "a" * 40
        + "}) gives 2,000,000 "
        "training and 100,000 held-out tokens.",
        r"and 73,728 latents, \texttt{k} 100, \texttt{auxiliary\_k} 512.",
        r"Adam's learning rate is $3 \times 10^{-5}$, after 1,000 steps of warm-up.",
        "Training takes 11,718 steps of 2,048 pairs of activations, as they are.",
        "With seeds 0 and 1, L0 on held-out tokens is 100 and 101.",
        r"$\nu_\mathrm{error} < 0.2$ and $\nu_\mathrm{reconstruction} < 0.5$, neither below $-0.1$.",
        "by a bootstrap with 200 draws of 50 blocks of documents (seed 3).",
        "ran 3 jobs, with PyTorch 2.13.0+cpu",
        r"trained on the device NVIDIA\_H200.",
        r"The code is that of commit \texttt{c0ffeec0ffee}.",
        r"Files that had changed since: \texttt{src/my\_file.py}.",
        "All of the 3 results that this rests on have a record, and by their records they agree.",
        r"(harvest): the largest relative difference is $6 \times 10^{-7}$.",
    ],
)
def test_what_is_recorded_is_said(sentence: str) -> None:
    assert sentence in text(run())


def test_what_is_not_recorded_is_named() -> None:
    said = text(run())
    assert said.split("No record says ")[1].startswith(
        "on what data the chat model was fine-tuned; "
        r"which commit of my\_base the revision \texttt{main} was; "
        r"which revision the local files of 50\%\&\#1 are."
    )
    assert "secret" not in said  # a path says nothing on another machine


def test_branches_of_data_sets_and_adapters_are_named() -> None:
    settings = {name: value for name, value in SETTINGS.items() if not name.endswith("1.folder")}
    settings |= {"datasets.we_b.hub.revision": "main"}
    settings |= {"models.50%&#1.adapter.hub.name": "owner/lora", "models.50%&#1.adapter.hub.revision": "v1"}
    said = text(run(recorded=RecordedSettings(settings)))
    assert r"which commit of \texttt{we\_b} the revision \texttt{main} was" in said
    assert r"which commit of 50\%\&\#1 the revision \texttt{v1} was" in said
    assert "LoRA adapter owner/lora, revision v1" in said and "local files of 50" not in said


def test_activations_that_others_stored_are_said_without_their_folder() -> None:
    settings = SETTINGS | {"datasets.we_b.activations.train.my_base": "/home/me/secret_place/layer_12_out"}
    said = text(run(recorded=RecordedSettings(settings)))
    assert r"The activations on \texttt{we\_b} are not computed here: they are files that" in said
    assert r"how others computed the activations on \texttt{we\_b}" in said and "secret" not in said
    assert "that others made" not in text(run())


def test_result_that_was_made_again_with_other_bits_is_said() -> None:
    found = run()
    again = record(2, "tokenise", SHARD, "other", {}, **{"wildcards": {"dataset": "x", "split": "train"}})
    said = text(found._replace(records={**found.records, SHARD: again}))
    assert r"1 of them were made again with other bits after they had been read, such as" in said


def test_loss_of_another_package_is_cited_by_nothing_and_named() -> None:
    said = text(run(recorded=RecordedSettings(SETTINGS | {"crosscoders.top_k.loss": "my_loss"})))
    assert r"\texttt{my\_loss} and 73,728 latents" in said
    assert r"which paper the loss \texttt{my\_loss} comes from" in said


def test_crosscoder_of_others_names_its_source_and_no_training_of_this_run() -> None:
    own = {name: value for name, value in SETTINGS.items() if not name.startswith("crosscoders.")}
    key = "crosscoders.top_k.import."
    hub = {f"{key}hub.name": "owner/their_s", f"{key}hub.revision": "main", f"{key}loss": "batchtopk"}
    said = text(run(recorded=RecordedSettings(own | hub)))
    assert r"\texttt{top\_k} was trained by others with the loss \texttt{batchtopk}" in said
    assert r"taken from \texttt{owner/their\_s}, revision \texttt{main}. It has 73,728 latents. L0 on" in said
    assert "learning rate" not in said and "steps of" not in said
    assert r"which commit of \texttt{owner/their\_s} the revision \texttt{main} was" in said
    local = text(run(recorded=RecordedSettings(own | {f"{key}folder": "/home/me/secret_place"})))
    assert (
        r"\texttt{top\_k} was trained by others and taken from local files." in local
        and "secret" not in local
    )


def test_planted_pair_has_no_chat_model() -> None:
    settings = SETTINGS | {"pair.chat.planted.seed": 0, "pair.chat.name": "my_base"}
    said = text(run(recorded=RecordedSettings(settings)))
    assert "There is no chat model: known concepts are planted" in said
    assert "fine-tuned" not in said


def test_noise_in_place_of_activations_has_no_model() -> None:
    settings = SETTINGS | {"pair.chat.planted.noise.d_model": 2304, "pair.chat.name": "my_base"}
    said = text(run(recorded=RecordedSettings(settings)))
    assert "There are no models: known concepts are planted into noise of width 2,304." in said
    assert "The base model is" not in said and "outputs of block" not in said


def test_latent_scaling_is_left_out_where_it_does_not_apply() -> None:
    found = run()
    table = found.crosscoders.assign(does_not_apply="there is no base decoder")
    assert "Latent scaling." not in text(found._replace(crosscoders=table))


def test_versions_count_the_jobs_that_ran_with_each() -> None:
    found = run()
    newer = RUN | {"packages": RUN["packages"] | {"torch": "2.14.0"}}
    records = {**found.records, WEIGHTS: found.records[WEIGHTS]._replace(run=newer)}
    table = versions(records)
    assert table[table.package == "torch"].to_numpy().tolist() == [
        ["torch", "2.13.0+cpu", 2],
        ["torch", "2.14.0", 1],
    ]
    assert table[table.package == "python"].jobs.tolist() == [3]
    assert "PyTorch 2.13.0+cpu and 2.14.0" in text(found._replace(records=records))
