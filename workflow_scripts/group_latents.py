"""Group the confirmed latents of one crosscoder by what they stand for."""

import pandas as pd

from crossdiff.config import BASE, CHAT
from crossdiff.crosscoders.model import load_crosscoder
from crossdiff.latents.evaluation import confirmed_latents
from crossdiff.latents.groups import group_table
from crossdiff.provenance.storage import write_csv
from crossdiff.texts.shards import read_shard
from crossdiff.workflow.job import job


def main(
    tokens: list[str], datasets: list[str], active: str, weights: str, config: str, betas: str, groups: str
) -> None:
    confirmed = confirmed_latents(pd.read_parquet(betas)).sort_values("latent")
    side = [BASE if name == "base-only" else CHAT for name in confirmed["class"]]
    decoder = load_crosscoder(weights, config).decoder
    directions = decoder[confirmed.latent.to_numpy(copy=True), side].float().numpy()
    shards = [read_shard(path) for path in tokens]
    write_csv(groups, group_table(confirmed, directions, active, shards, datasets))


if __name__ == "__main__":
    with job(snakemake):
        main(
            tokens=list(snakemake.input.tokens),
            datasets=snakemake.params.datasets,
            active=snakemake.input.active,
            weights=snakemake.input.weights,
            config=snakemake.input.config,
            betas=snakemake.input.betas,
            groups=snakemake.output[0],
        )
