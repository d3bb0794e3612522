"""Compare the directions of all crosscoders with the chat model's tokens, their neighbours and each other."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from crossdiff.config import CHAT, SeedAgreement
from crossdiff.crosscoders.model import load_crosscoder
from crossdiff.device import device, fast_dtype
from crossdiff.latents.directions import COLUMNS, Live, live, neighbours, recurrences
from crossdiff.models.load import load_model
from crossdiff.models.logit_lens import promoted_tokens
from crossdiff.provenance.storage import write_parquet
from crossdiff.workflow.job import job


class DirectionFiles(NamedTuple):
    """A crosscoder from one seed: its files, and those to write."""

    weights: str
    config: str
    betas: str
    directions: str
    recurrences: str


def main(trainings: dict[tuple[str, int], DirectionFiles], chat: str | None, settings: SeedAgreement) -> None:
    model = load_model(chat, fast_dtype()) if chat else None  # a planted pair has none
    found: dict[tuple[str, int], Live] = {}
    for name, training in trainings.items():
        decoder = load_crosscoder(training.weights, training.config).decoder.detach().to(device())
        found[name] = live(decoder, pd.read_parquet(training.betas, columns=["class"]))
        table = pd.DataFrame({"latent": np.arange(len(decoder))})
        if model is not None:
            table = table.join(promoted_tokens(model, decoder[:, CHAT]))
        table = table.merge(neighbours(found[name]), on="latent", how="left")
        write_parquet(training.directions, table.reindex(columns=list(COLUMNS)))
    for name, table in recurrences(found, settings.cosine_above).items():
        write_parquet(trainings[name].recurrences, table)


if __name__ == "__main__":
    with job(snakemake) as settings:
        files = zip(
            snakemake.input.weights,
            snakemake.input.config,
            snakemake.input.betas,
            snakemake.output.directions,
            snakemake.output.recurrences,
            strict=True,
        )
        main(
            trainings={
                tuple(name): DirectionFiles(*paths)
                for name, paths in zip(snakemake.params.trainings, files, strict=True)
            },
            chat=snakemake.input.get("chat") or None,
            settings=settings.seed_agreement,
        )
