"""Draw one figure from tables of every crosscoder, and write its caption."""

from collections.abc import Mapping
from pkgutil import resolve_name
from typing import Any

from crossdiff.latents.catalogue import names_of
from crossdiff.provenance.storage import read_table
from crossdiff.report.figures.drawing import write
from crossdiff.workflow.job import job


def main(
    draw: str,
    files: Mapping[str, Mapping[str, str]],
    others: Mapping[str, Any],
    drawing: list[str],
    caption: str,
) -> None:
    tables = {
        argument: {name: read_table(path) for name, path in of_crosscoders.items()}
        for argument, of_crosscoders in files.items()
    }
    write(resolve_name(draw), drawing, caption, **tables, **others)


if __name__ == "__main__":
    with job(snakemake) as settings:
        crosscoders, evaluation = snakemake.params.crosscoders, snakemake.params.evaluation
        names = {"names": names_of(snakemake.input.get("names") or None, crosscoders, snakemake.params.seed)}
        main(
            draw=evaluation["draw"],
            files={
                name: dict(zip(crosscoders, snakemake.input[name], strict=True))
                for name in evaluation["files"]
            },
            others={name: getattr(settings, name) for name in evaluation["sections"]}
            | (names if evaluation["named"] else {}),
            drawing=list(snakemake.output.drawing),
            caption=snakemake.output.caption,
        )
