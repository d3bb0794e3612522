"""Write the methods of a paper, the package versions and the bibliography."""

from pathlib import Path

import pandas as pd

from crossdiff.provenance.recorded_settings import recorded_settings, upstream
from crossdiff.provenance.storage import read_json, write_csv
from crossdiff.report.latex import write
from crossdiff.report.methods import Run, methods, versions
from crossdiff.report.references import References, read_references
from crossdiff.workflow.job import job


def main(run: Run, references: References, place: str, text: str, packages: str, bibliography: str) -> None:
    write(text, methods(run, references, place))
    write_csv(packages, versions(run.records))
    write(bibliography, references.bibliography())


if __name__ == "__main__":
    with job(snakemake):
        given, made = snakemake.input, snakemake.output
        main(
            run=Run(
                recorded=recorded_settings(given),
                records=upstream(given),
                facts=read_json(given.facts),
                summary=read_json(given.summary),
                proofs={Path(path).parts[2]: read_json(path) for path in given.proofs},
                crosscoders=pd.read_csv(given.crosscoders),
            ),
            references=read_references(given.papers, given.citation),
            place=str(Path(made.text).parents[1]),
            text=made.text,
            packages=made.packages,
            bibliography=made.bibliography,
        )
