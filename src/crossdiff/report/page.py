"""The report is one HTML page with everything inlined, so that it opens from disk and can be mailed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from crossdiff.config import FEWEST_ACTIVE_BLOCKS, MODELS, Report
from crossdiff.explanations import comparison
from crossdiff.latents.catalogue import current, read_names
from crossdiff.latents.evaluation import NU_RANGE, explained, notes_of
from crossdiff.latents.strongest_groups import of_findings, read_groups
from crossdiff.models.chat_tokenizer import load_chat_tokenizer
from crossdiff.provenance.recorded_settings import RecordedSettings
from crossdiff.provenance.storage import read_json, record_mark
from crossdiff.report.findings import findings, limits
from crossdiff.report.first_look import FirstLookInputs, first_look_section, promoted_tokens, read_where
from crossdiff.report.glossary import GLOSSARY
from crossdiff.report.halves import halves
from crossdiff.report.limits import FEW_LATENTS, LOW_FVE, MANY_DEAD, unequal_l0
from crossdiff.report.marks import Known, seen_too
from crossdiff.report.shown_latents import LatentFiles, ListedFiles, listed_latents, shown_latents
from crossdiff.report.steering import SteeringInputs, steering_section
from crossdiff.report.template import ShownFigure, number, page_template, percent
from crossdiff.report.this_run import about_crosscoders, about_models, is_imported
from crossdiff.report.tried import tried_section
from crossdiff.texts.counts import added


class Inputs(NamedTuple):
    """Paths of everything that the page shows, the settings in their records, and how much is shown.

    Mappings go from crosscoder name to path.
    """

    recorded: RecordedSettings
    shown: Report
    tokenizer: str
    facts: str
    summary: str
    read: list[str]  # what was read for each training shard
    refusals: str | None
    tables: list[str]
    evaluations: Mapping[str, str]
    latents: Mapping[str, LatentFiles]
    figures: list[ShownFigure]
    sections: list[str]  # sections of the page, in order
    names: str | None = None
    other_seeds: Mapping[tuple[str, int], ListedFiles] = {}  # (crosscoder, seed) -> tables
    seed: int = 0  # the seed of all other files
    seeds: int = 1  # seeds of the run
    groups: Mapping[str, str] = {}
    recurrences: Mapping[str, str] = {}
    kl: Mapping[str, str] = {}
    template_tokens: Mapping[str, str] = {}
    tokens_read: Mapping[str, str] = {}
    directions: Mapping[str, str] = {}
    steering: SteeringInputs | None = None
    first_look: FirstLookInputs | None = None
    sessions: Sequence[str] = ()
    weights: Mapping[str, str] = {}  # name of a training -> path of its weights; needed for sessions alone


def render(inputs: Inputs, template: str | Path) -> str:
    """Return the page as HTML. The template engine escapes all text that comes from data."""
    tokenizer = load_chat_tokenizer(inputs.tokenizer)
    evaluations = {name: read_json(path) for name, path in inputs.evaluations.items()}
    tables = {Path(path).stem: pd.read_csv(path) for path in inputs.tables}
    named = read_names(inputs.names)
    names = {name: current(named, name, inputs.seed) for name in inputs.latents}
    refusals = pd.read_csv(inputs.refusals).to_dict("records") if inputs.refusals else []
    groups = {name: read_groups(path) for name, path in inputs.groups.items()}
    latents = {
        name: shown_latents(
            files, tokenizer, inputs.shown, names[name], of_findings(groups[name]) if name in groups else ()
        )
        for name, files in inputs.latents.items()
    }
    other_seeds: dict[str, dict[int, Any]] = {name: {} for name in inputs.latents}
    for (name, other), files in inputs.other_seeds.items():
        other_seeds[name][other] = listed_latents(files, current(named, name, other))
    kl = {name: pd.read_csv(path) for name, path in inputs.kl.items()}
    known = {name: _known(inputs, name)._replace(kl=kl.get(name)) for name in inputs.latents}
    where = read_where(inputs.first_look.where) if inputs.first_look else None
    measured = {"causal": bool(kl), "steering": inputs.steering is not None}
    unequal = unequal_l0({name: evaluation["l0"] for name, evaluation in evaluations.items()})
    warned = cautions(evaluations, inputs.recorded["classes.chat_only_above"]) + unequal
    warned += [
        f"{name}: others trained it, so no other seed can show what is chance."
        for name in evaluations
        if inputs.seeds > 1 and is_imported(inputs.recorded, name)
    ]
    facts = read_json(inputs.facts)
    layer, seed = inputs.recorded["pair.layer"], inputs.seed if inputs.seeds > 1 else None
    sizes = {name: evaluation["latents"] for name, evaluation in evaluations.items()}
    return page_template(template).render(
        run_models=about_models(inputs.recorded, facts),
        run_crosscoders=about_crosscoders(inputs.recorded, facts, sizes),
        seeds=inputs.seeds,
        glossary=GLOSSARY,
        record=" ".join(record_mark().values()),
        recorded=inputs.recorded,
        lowest_nu=NU_RANGE[0],
        fewest_blocks=FEWEST_ACTIVE_BLOCKS,
        facts=facts,
        summary=read_json(inputs.summary),
        read=added(inputs.read),
        models=MODELS,
        refusals=refusals,
        findings=findings(evaluations, latents, groups, refusals, kl, known, facts, layer, where, seed),
        unequal=unequal,
        limits=limits(warned, inputs.seeds, measured),
        tables={name: table.to_dict("records") for name, table in tables.items()},
        published=bool(tables["paper"].filter(like="paper_").notna().any(axis=None)),
        evaluations=evaluations,
        few_explained=comparison.cautions(tables["explanations"]),
        latents=latents,
        other_seeds=other_seeds,
        seed=inputs.seed,
        halves=halves(kl),
        stale=named[named.stale].to_dict("records"),
        sections=inputs.sections,
        figures=inputs.figures,
        steering=steering_section(inputs.steering, names) if inputs.steering else None,
        tried=tried_section(inputs.sessions, inputs.weights),
        look=first_look_section(inputs.first_look, tokenizer) if inputs.first_look else None,
    )


def _known(inputs: Inputs, name: str) -> Known:
    """Read what the marks of a crosscoder's latents are made from."""
    template, steering = inputs.template_tokens.get(name), inputs.steering
    look, directions = inputs.first_look, inputs.directions.get(name)
    return Known(
        seeds=1 if is_imported(inputs.recorded, name) else inputs.seeds,
        again=_found_again(inputs.recurrences[name], name) if name in inputs.recurrences else {},
        template=pd.read_csv(template) if template else None,
        read=read_json(inputs.tokens_read[name]) if template else {},
        steering=pd.read_csv(steering.effects[name]) if steering and name in steering.effects else None,
        seen=seen_too(pd.read_parquet(directions), promoted_tokens(look)) if look and directions else {},
    )


def _found_again(recurrences: str, crosscoder: str) -> dict[int, int]:
    """Count, for each latent, the other seeds of its crosscoder that found it again."""
    table = pd.read_parquet(recurrences)
    matched = table[(table.crosscoder == crosscoder) & table.matched]
    return {int(latent): int(count) for latent, count in matched.latent.value_counts().items()}


def cautions(evaluations: Mapping[str, Mapping[str, Any]], chat_only_above: float) -> list[str]:
    """Return one sentence for everything that the run is too small, or too weak, to conclude.

    What a loss itself does to the numbers comes first.
    """
    found = []
    for name, evaluation in evaluations.items():
        chat_only, sure = evaluation["classes"]["chat-only"], evaluation["chat_only_confirmed"]
        found += [f"{name}: {note}." for note in notes_of(evaluation)]
        if chat_only == 0:
            largest = number(evaluation["largest_norm_difference"])
            found.append(
                f"{name}: no latent reaches a relative decoder norm difference of {chat_only_above} "
                f"(the largest is {largest}). By this threshold nothing is chat-only, "
                "and only ranks can be compared."
            )
        elif chat_only is not None and sure < FEW_LATENTS:
            found.append(
                f"{name}: latent scaling confirms {sure} of {chat_only} chat-only latents. "
                "These are too few to compare losses."
            )
        dead = evaluation["classes"]["dead"] / evaluation["latents"]
        if dead > MANY_DEAD:
            found.append(f"{name}: {percent(dead)} of the latents never fire on held-out text.")
        if min(explained(evaluation)) < LOW_FVE:
            found.append(
                f"{name}: the crosscoder explains less than 60 % of the variance. "
                "The rest may hold the difference."
            )
    return found
