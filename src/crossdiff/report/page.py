"""The report is one HTML page with everything inlined, so that it opens from disk and can be mailed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from crossdiff.config import FEWEST_ACTIVE_BLOCKS, MODELS, Report
from crossdiff.explanations import comparison
from crossdiff.latents.applies import reason
from crossdiff.latents.catalogue import current, read_names
from crossdiff.latents.evaluation import NU_RANGE, explained, most_chat_leaning, notes_of
from crossdiff.models.chat_tokenizer import load_chat_tokenizer
from crossdiff.provenance.recorded_settings import RecordedSettings
from crossdiff.provenance.storage import read_json, record_mark
from crossdiff.report.first_look import FirstLookInputs, first_look_section
from crossdiff.report.limits import FEW_LATENTS, LOW_FVE, MANY_DEAD
from crossdiff.report.steering import SteeringInputs, steering_section
from crossdiff.report.template import ShownFigure, number, page_template, percent
from crossdiff.texts.chats import CONTENT
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
    betas: Mapping[str, str]
    examples: Mapping[str, str]
    figures: list[ShownFigure]
    sections: list[str]  # sections of the page, in order
    names: str | None = None
    seed: int = 0  # the seed of all these files
    steering: SteeringInputs | None = None
    first_look: FirstLookInputs | None = None


def render(inputs: Inputs, template: str | Path) -> str:
    """Return the page as HTML. The template engine escapes all text that comes from data."""
    tokenizer = load_chat_tokenizer(inputs.tokenizer)
    evaluations = {name: read_json(path) for name, path in inputs.evaluations.items()}
    tables = {Path(path).stem: pd.read_csv(path) for path in inputs.tables}
    named = read_names(inputs.names)
    names = {name: current(named, name, inputs.seed) for name in inputs.betas}
    return page_template(template).render(
        record=" ".join(record_mark().values()),
        recorded=inputs.recorded,
        lowest_nu=NU_RANGE[0],
        fewest_blocks=FEWEST_ACTIVE_BLOCKS,
        facts=read_json(inputs.facts),
        summary=read_json(inputs.summary),
        read=added(inputs.read),
        models=MODELS,
        refusals=pd.read_csv(inputs.refusals).to_dict("records") if inputs.refusals else [],
        tables={name: table.to_dict("records") for name, table in tables.items()},
        published=bool(tables["paper"].filter(like="paper_").notna().any(axis=None)),
        evaluations=evaluations,
        cautions=cautions(evaluations, inputs.recorded["classes.chat_only_above"]),
        few_explained=comparison.cautions(tables["explanations"]),
        latents={
            name: _latents(
                pd.read_parquet(betas), inputs.examples[name], tokenizer, inputs.shown, names[name]
            )
            for name, betas in inputs.betas.items()
        },
        stale=named[named.stale].to_dict("records"),
        sections=inputs.sections,
        figures=inputs.figures,
        steering=steering_section(inputs.steering, names) if inputs.steering else None,
        look=first_look_section(inputs.first_look, tokenizer) if inputs.first_look else None,
    )


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


class Token(NamedTuple):
    """A token of an example, as the page shows it."""

    text: str
    strength: float  # activation divided by the latent's largest one, 0 to 1
    activation: float
    is_template: bool


def _latents(
    betas: pd.DataFrame, examples: str, tokenizer: Any, shown: Report, names: Mapping[int, str]
) -> list[dict[str, Any]]:
    top = most_chat_leaning(betas, shown.latents)
    wanted = [("strongest", "==", True), ("latent", "in", top.latent.tolist())]
    strongest = pd.read_parquet(examples, filters=wanted)
    by_latent = {latent: group.head(shown.examples) for latent, group in strongest.groupby("latent")}
    rows = []
    if reason(top):
        top = top.assign(confirmed=None)
    for row in top.to_dict("records"):
        found = by_latent.get(row["latent"])
        largest = found.peak.max() if found is not None else 1.0
        examples_of = [] if found is None else found.itertuples()
        contexts = [_tokens(example, largest, tokenizer) for example in examples_of]
        rows.append(row | {"contexts": contexts, "name": names.get(row["latent"], "")})
    return rows


def _tokens(example: Any, largest: float, tokenizer: Any) -> list[Token]:
    texts = [tokenizer.decode([token]) for token in example.tokens]
    values = zip(texts, example.activations, example.template, strict=True)
    return [
        Token(text.replace("\n", "\u21b5"), float(value / largest), float(value), bool(part != CONTENT))
        for text, value, part in values
    ]
