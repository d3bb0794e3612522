"""The methods of a paper in LaTeX, and package versions: what records and settings say of a run.

What no record says is left out, and the last sentence names it (docs/for-a-paper.md).
"""

import re
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pandas as pd

from crossdiff.config import CrosscoderSettings
from crossdiff.latents.applies import DOES_NOT_APPLY
from crossdiff.latents.evaluation import NU_RANGE
from crossdiff.provenance.recorded_settings import RecordedSettings
from crossdiff.provenance.records import Record, is_result
from crossdiff.report.latex import code, escaped, number
from crossdiff.report.references import SOFTWARE, References
from crossdiff.report.template import listed
from crossdiff.report.this_run import UNKNOWN, about_models, fine_tune, is_imported

NAMED = {"torch": "PyTorch", "transformers": "Transformers", "snakemake": "Snakemake"}
TRAINERS = ("train_crosscoder", "train_live")
COMMIT = re.compile("[0-9a-f]{40}")
WIDTH = 100  # characters of a line


class Run(NamedTuple):
    """What the methods are written from."""

    recorded: RecordedSettings
    records: Mapping[str, Record]  # path -> record of all results that count (``upstream``)
    facts: Mapping[str, Any]  # pair.json
    summary: Mapping[str, Any]  # summary.json
    proofs: Mapping[str, Mapping[str, float]]  # model -> its proved.json
    crosscoders: pd.DataFrame  # tables/crosscoders.csv


def methods(run: Run, references: References, place: str) -> str:
    """Return the methods in LaTeX, one paragraph per subject. ``place``: what they are of, for a comment.

    ``references`` keeps in mind what is cited.
    """
    missing: list[str] = []
    paragraphs = {
        "Models": _models(run, missing),
        "Texts": _texts(run, missing),
        "Crosscoders": _crosscoders(run, references, missing),
        "Latent scaling": _latent_scaling(run),
        "Records": _records(run, references, missing),
    }
    told = {title: list(sentences) for title, sentences in paragraphs.items()}
    if missing:
        told["Records"].append(f"No record says {'; '.join(missing)}.")
    blocks = [
        textwrap.fill(
            rf"\paragraph{{{title}.}} " + " ".join(sentences),
            WIDTH,
            break_long_words=False,
            break_on_hyphens=False,
        )
        for title, sentences in told.items()
        if sentences
    ]
    head = f"% Methods of {place}, from the settings and records of its results."
    return "\n\n".join([head, *blocks]) + "\n"


def versions(records: Mapping[str, Record]) -> pd.DataFrame:
    """Return the versions of Python and of the packages that Crossdiff requires, as jobs recorded them.

    A row per ``package`` and ``version``, with the number of ``jobs`` that ran with it.
    """
    jobs = {record.id: record for record in records.values()}
    found = Counter(
        pair
        for record in jobs.values()
        for pair in {**record.run["packages"], "python": record.run["python"]}.items()
    )
    rows = [(*pair, count) for pair, count in sorted(found.items())]
    return pd.DataFrame(rows, columns=["package", "version", "jobs"])


def _models(run: Run, missing: list[str]) -> Iterator[str]:
    rows, recorded = dict(about_models(run.recorded, run.facts)), run.recorded
    layer, width = escaped(rows["layer"]), number(run.facts["base"]["d_model"])
    if recorded.given("pair.chat.planted.noise"):
        yield f"There are no models: known concepts are planted into noise of width {width}."
        yield f"Texts are tokenised for {escaped(rows['base model'])}."
        return
    yield f"The base model is {escaped(rows['base model'])}."
    if recorded.given("pair.chat.planted"):
        yield "There is no chat model: known concepts are planted into the base model's activations."
    else:
        yield f"The chat model is {escaped(rows['chat model'])}."
        tuned = fine_tune(recorded, recorded.get("pair.chat.name", UNKNOWN))
        if tuned:
            yield f"It was fine-tuned on {escaped(rows['data of the fine-tune'])}; {escaped(tuned)}."
        else:
            missing.append("on what data the chat model was fine-tuned")
    for name in dict.fromkeys(
        recorded[key] for key in ("pair.base.name", "pair.chat.name") if key in recorded
    ):
        made = run.records.get(f"results/models/{name}")
        entry = made and made.output(f"results/models/{name}")
        if entry:
            yield f"The files of {escaped(name)} have the digest {code(entry.digest[:16])}."
        sources = (f"models.{name}.hub.revision", f"models.{name}.adapter.hub.revision")
        revision = next((recorded[key] for key in sources if recorded.get(key)), None)
        if revision and not COMMIT.fullmatch(revision):
            missing.append(f"which commit of {escaped(name)} the revision {code(revision)} was")
        elif not revision and any(recorded.given(f"models.{name}.{kind}") for kind in ("folder", "adapter")):
            missing.append(f"which revision the local files of {escaped(name)} are")
    yield f"Activations are the outputs of block {layer} blocks, of width {width}."


def _texts(run: Run, missing: list[str]) -> Iterator[str]:
    recorded, summary = run.recorded, run.summary
    for name in recorded.texts():
        key = f"datasets.{name}."
        held_out = sum(
            record.params["tokens"]
            for path, record in run.records.items()
            if record.rule == "tokenise"
            and path.endswith(".parquet")
            and (record.wildcards["dataset"], record.wildcards["split"]) == (name, "validation")
        )
        counts = f"{number(recorded[key + 'tokens'])} training and {number(held_out)} held-out tokens"
        yield f"{code(name)} ({recorded[key + 'kind']}, {_source(recorded, key)}) gives {counts}."
        revision = recorded.get(key + "hub.revision")
        if revision and not COMMIT.fullmatch(revision):
            missing.append(f"which commit of {code(name)} the revision {code(revision)} was")
        if not recorded.given(key + "hub") and not recorded.given(key + "package"):
            missing.append(f"where the local files of {code(name)} come from")
        if recorded.given(key + "activations"):
            yield f"The activations on {code(name)} are not computed here: they are files that others made."
            missing.append(f"how others computed the activations on {code(name)}")
    if "tokens.context" in recorded:
        yield f"Sequences have at most {number(recorded['tokens.context'])} tokens."
    if "sample" in recorded:
        yield f"Activations of {number(recorded['sample'])} training tokens were stored."
    left_out = [
        f"{number(summary['skipped_as_first'])} at the start of their sequence "
        f"({code('skip_first')} {summary['skip_first']})"
        if summary["skip_first"]
        else "",
        f"{number(summary['skipped_by_norm'])} whose norm exceeds {number(summary['max_norm_ratio'])} "
        "times the median"
        if summary["max_norm_ratio"]
        else "",
    ]
    if any(left_out):
        told = " and ".join(filter(None, left_out))
        yield f"Of {number(summary['tokens'])} training tokens, {told} are left out."


def _source(recorded: RecordedSettings, key: str) -> str:
    if recorded.given(key + "hub"):
        return f"{code(recorded[key + 'hub.name'])}, revision {code(recorded[key + 'hub.revision'])}"
    if recorded.given(key + "package"):
        return f"package {code(recorded[key + 'package.name'])} {escaped(recorded[key + 'package.version'])}"
    return "local files"


def _crosscoders(run: Run, references: References, missing: list[str]) -> Iterator[str]:
    yield f"Crosscoders and latent scaling follow Minder et al.{references.cite('method')}."
    for name, trained in run.crosscoders.groupby("crosscoder", sort=False):
        key = f"crosscoders.{name}."
        given = {
            full.removeprefix(key): value for full, value in run.recorded.items() if full.startswith(key)
        }
        make = _imported if is_imported(run.recorded, str(name)) else _trained
        yield from make(code(str(name)), given, trained, references, missing)
        l0 = [number(round(value, 1)) for value in trained.l0]
        seeds = [str(seed) for seed in trained.seed]
        with_seeds = (
            "" if make is _imported else f"With {'seed' if len(seeds) == 1 else 'seeds'} {listed(seeds)}, "
        )
        yield f"{with_seeds}L0 on held-out tokens is {listed(l0)}."


def _trained(
    name: str, given: Mapping[str, Any], table: pd.DataFrame, references: References, missing: list[str]
) -> Iterator[str]:
    cited = references.cite(f"loss {given['loss']}")
    if not cited:
        missing.append(f"which paper the loss {code(given['loss'])} comes from")
    own = [
        f"{code(of_loss)} {_value(value)}"
        for of_loss, value in sorted(given.items(), key=lambda item: item[0] != "k")  # k first
        if of_loss.split(".")[0] not in (*CrosscoderSettings.model_fields, "loss") and value is not None
    ]
    latents = f"{number(table.latents.iloc[0])} latents"
    yield f"{name} has the loss {code(given['loss'])}{cited} and {', '.join([latents, *own])}."
    steps, batch = given["tokens"] // given["batch"], number(given["batch"])
    rate = f"Adam's learning rate is {number(given['learning_rate'])}"
    yield f"{rate}, after {number(given['warmup_steps'])} steps of warm-up."
    yield f"Training takes {number(steps)} steps of {batch} pairs of activations, {_scaled(given)}."


def _imported(
    name: str, given: Mapping[str, Any], table: pd.DataFrame, references: References, missing: list[str]
) -> Iterator[str]:
    hub, revision = given.get("import.hub.name", ""), given.get("import.hub.revision", "")
    source = f"{code(hub)}, revision {code(revision)}" if hub else "local files"
    loss = given.get("import.loss")
    told = f" with the loss {code(loss)}{references.cite(f'loss {loss}')}" if loss else ""
    latents = number(table.latents.iloc[0])
    yield f"{name} was trained by others{told} and taken from {source}. It has {latents} latents."
    missing.append(f"on what data {name} was trained")
    if hub and not COMMIT.fullmatch(revision):
        missing.append(f"which commit of {code(hub)} the revision {code(revision)} was")


def _scaled(given: Mapping[str, Any]) -> str:
    kind = given["normalisation.kind"]
    return "as they are" if kind == "none" else f"centred and scaled ({code(kind)})"


def _latent_scaling(run: Run) -> Iterator[str]:
    recorded = run.recorded
    if DOES_NOT_APPLY in run.crosscoders and run.crosscoders[DOES_NOT_APPLY].notna().all():
        return
    below = [number(recorded[f"latent_scaling.nu_{of}_below"]) for of in ("error", "reconstruction")]
    yield (
        rf"A latent is confirmed if $\nu_\mathrm{{error}} < {below[0]}$ and "
        rf"$\nu_\mathrm{{reconstruction}} < {below[1]}$, neither below {number(NU_RANGE[0])}."
    )
    blocks, samples, seed = (
        recorded[f"latent_scaling.bootstrap.{key}"] for key in ("blocks", "samples", "seed")
    )
    yield (
        rf"Intervals are of 95\,\%, by a bootstrap with {number(samples)} draws of {number(blocks)} blocks "
        f"of documents (seed {seed})."
    )


def _records(run: Run, references: References, missing: list[str]) -> Iterator[str]:
    jobs = {record.id: record for record in run.records.values()}
    found = versions(run.records)
    tools = []
    for package, name in NAMED.items():
        there = found[found.package == package].version
        tools.append(f"{name} {escaped(' and '.join(there))}{references.cite(f'package {package}')}")
    yield f"Crossdiff{references.cite(SOFTWARE)} ran {number(len(jobs))} jobs, with {listed(tools)}."
    devices = sorted({record.run["device"] for record in jobs.values() if record.rule in TRAINERS})
    if devices:
        yield f"Crosscoders were trained on the device {listed([escaped(device) for device in devices])}."
    states = [record.run["git"] for record in jobs.values()]
    commits = sorted({state["commit"] for state in states if state})
    if commits:
        yield f"The code is that of commit {listed([code(commit[:12]) for commit in commits])}."
    edited = sorted({file for state in states if state for file in state["changed_files"]})
    if edited:
        yield f"Files that had changed since: {listed([code(file) for file in edited])}."
    if not all(states):
        missing.append("which commit of the code ran")
    yield _chain(run.records)
    for model, proof in run.proofs.items():
        worst = number(float(f"{max(proof.values()):.2g}"))
        yield (
            f"What jobs compute with {escaped(model)} was compared with its own forward pass "
            f"({listed([escaped(part) for part in proof])}): the largest relative difference is {worst}."
        )


def _chain(records: Mapping[str, Record]) -> str:
    """Say whether the records agree: what a job read is what another job wrote, byte for byte."""
    others = {
        entry.path
        for record in records.values()
        for entry in record.inputs
        if is_result(entry.path) and (made := records[entry.path].output(entry.path))
        if made.digest != entry.digest
    }
    results = f"{number(len(records))} results"
    if not others:
        return f"All of the {results} that this rests on have a record, and by their records they agree."
    return (
        f"All of the {results} that this rests on have a record, but {number(len(others))} of them were made "
        f"again with other bits after they had been read, such as {code(min(others))}."
    )


def _value(value: Any) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return number(value)
    return ", ".join(map(_value, value)) if isinstance(value, list) else code(str(value))
