"""Write the report page."""

from typing import Any

from crossdiff.provenance.recorded_settings import recorded_settings
from crossdiff.provenance.storage import atomic_path
from crossdiff.report.first_look import FirstLookInputs
from crossdiff.report.page import Inputs, render
from crossdiff.report.shown_latents import LatentFiles, ListedFiles
from crossdiff.report.steering import SteeringInputs
from crossdiff.report.template import ShownFigure
from crossdiff.workflow.job import job

# Inputs that have one file per crosscoder, named as in Inputs.
BY_CROSSCODER = ("groups", "recurrences", "kl", "template_tokens", "tokens_read", "directions")


def of_steering(given: Any, names: list[str]) -> SteeringInputs | None:
    if not given.steering_effects:
        return None
    return SteeringInputs(
        *(dict(zip(names, given[f"steering_{table}"], strict=True)) for table in SteeringInputs._fields)
    )


def latent_files(given: Any, names: list[str]) -> dict[str, LatentFiles]:
    there = [name for name in LatentFiles._fields if given.get(name)]
    tables = zip(*(given[name] for name in there), strict=True)
    return {name: LatentFiles(*files) for name, files in zip(names, tables, strict=True)}


def other_seeds(given: Any, trainings: list[tuple[str, int]]) -> dict[tuple[str, int], ListedFiles]:
    there = [name for name in ListedFiles._fields if given.get(f"other_{name}")]
    tables = zip(*(given[f"other_{name}"] for name in there), strict=True)
    return {(name, seed): ListedFiles(*files) for (name, seed), files in zip(trainings, tables, strict=True)}


def shown_figures(
    drawings: list[str], captions: list[str], figures: list[tuple[str, str, str]]
) -> list[ShownFigure]:
    """``figures``: section, table and question of each, in the same order."""
    files = zip(drawings, captions, figures, strict=True)
    return [ShownFigure.of(drawing, caption, *shown) for drawing, caption, shown in files]


def main(inputs: Inputs, template: str, page: str) -> None:
    with atomic_path(page) as temporary:
        temporary.write_text(render(inputs, template), encoding="utf-8")


if __name__ == "__main__":
    with job(snakemake) as settings:
        names = snakemake.params.crosscoders
        main(
            inputs=Inputs(
                recorded=recorded_settings(snakemake.input),
                shown=settings.report,
                tokenizer=snakemake.input.tokenizer,
                facts=snakemake.input.checked,
                summary=snakemake.input.summary,
                read=list(snakemake.input.read),
                refusals=snakemake.input.get("refusals") or None,
                tables=list(snakemake.input.tables),
                evaluations=dict(zip(names, snakemake.input.evaluations, strict=True)),
                latents=latent_files(snakemake.input, names),
                figures=shown_figures(
                    snakemake.input.figures, snakemake.input.captions, snakemake.params.figures
                ),
                sections=snakemake.params.sections,
                names=snakemake.input.get("names") or None,
                other_seeds=other_seeds(snakemake.input, snakemake.params.other_seeds),
                seed=snakemake.params.seed,
                seeds=snakemake.params.seeds,
                **{
                    table: dict(zip(names, snakemake.input[table], strict=True))
                    for table in BY_CROSSCODER
                    if snakemake.input.get(table)
                },
                steering=of_steering(snakemake.input, names),
                sessions=list(snakemake.input.get("sessions", [])),
                weights=dict(
                    zip(snakemake.params.trainings, snakemake.input.get("weights", []), strict=True)
                ),
                first_look=FirstLookInputs.of(snakemake.input.first_look, snakemake.input.first_look_asked),
            ),
            template=snakemake.input.template,
            page=snakemake.output[0],
        )
