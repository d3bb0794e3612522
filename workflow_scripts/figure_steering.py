"""Draw what steering does to refusals, predictions and perplexity."""

import pandas as pd

from crossdiff.latents.catalogue import current, read_names
from crossdiff.report.figures.drawing import save
from crossdiff.report.figures.steering import steering
from crossdiff.workflow.job import job


def main(tables: dict[str, str], names: str | None, seed: int, paths: list[str]) -> None:
    named = read_names(names)
    effects = {name: pd.read_csv(path) for name, path in tables.items()}
    save(steering(effects, {name: current(named, name, seed) for name in effects}), paths)


if __name__ == "__main__":
    with job(snakemake):
        main(
            tables=dict(zip(snakemake.params.crosscoders, snakemake.input.effects, strict=True)),
            names=snakemake.input.get("names") or None,
            seed=snakemake.params.seed,
            paths=list(snakemake.output),
        )
