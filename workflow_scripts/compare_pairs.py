"""Write the headline numbers of all pairs and layers, and what pairs of one layer have in common."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple

import pandas as pd

from crossdiff.config import CHAT, SeedAgreement
from crossdiff.crosscoders.model import load_crosscoder
from crossdiff.latents.overlap import PairTraining, overlap, overlap_table, pairs_table
from crossdiff.provenance.storage import write_csv
from crossdiff.workflow.job import job

BETAS = ["latent", "class", "relative_norm_difference", "confirmed"]


class TrainingFiles(NamedTuple):
    """Paths of one training."""

    weights: str
    config: str
    betas: str
    active: str

    def read(self, pair: str, tokenizer: str) -> PairTraining:
        directions = load_crosscoder(self.weights, self.config).decoder[:, CHAT].clone()
        return PairTraining(
            pair, directions, pd.read_parquet(self.betas, columns=BETAS), self.active, tokenizer
        )


def main(
    compared: list[Mapping[str, Any]],
    numbers: list[str],
    trainings: list[tuple[str, int]],
    files: list[TrainingFiles],
    top: int,
    settings: SeedAgreement,
    pairs: str,
    table: str,
) -> None:
    """``files``: of all ``trainings`` of the first in ``compared``, then of the second, and so on."""
    write_csv(pairs, pairs_table([pd.read_csv(path) for path in numbers], compared))
    groups = defaultdict(list)
    every = [(place, training) for place in compared for training in trainings]
    for (place, (crosscoder, seed)), paths in zip(every, files, strict=True):
        groups[place["layer"], crosscoder, seed, place["base"]].append((paths, place))
    rows = []
    for (layer, crosscoder, seed, _), members in groups.items():
        if len(members) > 1:
            read = [paths.read(place["pair"], place["tokenizer"]) for paths, place in members]
            names = {"layer": layer, "crosscoder": crosscoder, "seed": seed}
            rows += [names | row for row in overlap(read, top, settings)]
    write_csv(table, overlap_table(sorted(rows, key=lambda row: row["layer"])))


if __name__ == "__main__":
    with job(snakemake) as settings:
        given = snakemake.input
        files = zip(given.weights, given.config, given.betas, given.active, strict=True)
        main(
            compared=snakemake.params.compared,
            numbers=list(given.numbers),
            trainings=[tuple(training) for training in snakemake.params.trainings],
            files=[TrainingFiles(*paths) for paths in files],
            top=settings.classes.top,
            settings=settings.seed_agreement,
            pairs=snakemake.output.pairs,
            table=snakemake.output.overlap,
        )
