"""Write the latent browser: its page, and the folder of its data and scripts."""

from pathlib import Path

from crossdiff.browser.contents import Training
from crossdiff.browser.page import copy_assets, render, write_files
from crossdiff.catalogue import read_names, weights_digest
from crossdiff.job import job
from crossdiff.models.load import load_tokenizer
from crossdiff.storage import atomic_path


def main(
    pair: str,
    trainings: dict[tuple[str, int], Training],
    weights: dict[tuple[str, int], str],
    tokenizer: str,
    names: str | None,
    template: str,
    assets: list[str],
    page: str,
    files: str,
) -> None:
    named = read_names(names)
    with atomic_path(files) as temporary:
        digests = {name: weights_digest(path) for name, path in weights.items()}
        write_files(temporary, pair, trainings, digests, named, load_tokenizer(tokenizer))
        copy_assets(temporary, assets, Path(template).parent)
    with atomic_path(page) as temporary:
        temporary.write_text(render(template, pair, trainings, named), encoding="utf-8")


if __name__ == "__main__":
    with job(snakemake):
        trainings = [tuple(name) for name in snakemake.params.names]
        present = {name: snakemake.input.get(name) or [None] * len(trainings) for name in Training._fields}
        main(
            pair=snakemake.wildcards.pair,
            trainings=dict(zip(trainings, (Training(*paths) for paths in zip(*present.values(), strict=True)), strict=True)),
            weights=dict(zip(trainings, snakemake.input.weights, strict=True)),
            tokenizer=snakemake.input.tokenizer,
            names=snakemake.input.get("names") or None,
            template=snakemake.input.template,
            assets=list(snakemake.input.assets),
            page=snakemake.output.page,
            files=snakemake.output.files,
        )
