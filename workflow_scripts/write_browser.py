"""Write the latent browser: its page, and the folder of its data and scripts."""

from pathlib import Path

from crossdiff.latents.catalogue import read_names, weights_digest
from crossdiff.models.chat_tokenizer import load_chat_tokenizer
from crossdiff.provenance.storage import atomic_path
from crossdiff.report.browser.contents import TrainingFiles
from crossdiff.report.browser.page import copy_assets, render, write_files
from crossdiff.workflow.job import job


def main(
    pair: str,
    trainings: dict[tuple[str, int], TrainingFiles],
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
        write_files(temporary, pair, trainings, digests, named, load_chat_tokenizer(tokenizer))
        copy_assets(temporary, assets, Path(template).parent)
    with atomic_path(page) as temporary:
        temporary.write_text(render(template, pair, trainings, named), encoding="utf-8")


if __name__ == "__main__":
    with job(snakemake):
        trainings = [tuple(name) for name in snakemake.params.trainings]
        present = {
            name: snakemake.input.get(name) or [None] * len(trainings) for name in TrainingFiles._fields
        }
        main(
            pair=snakemake.wildcards.pair,
            trainings=dict(
                zip(
                    trainings,
                    (TrainingFiles(*paths) for paths in zip(*present.values(), strict=True)),
                    strict=True,
                )
            ),
            weights=dict(zip(trainings, snakemake.input.weights, strict=True)),
            tokenizer=snakemake.input.tokenizer,
            names=snakemake.input.get("names") or None,
            template=snakemake.input.template,
            assets=list(snakemake.input.assets),
            page=snakemake.output.page,
            files=snakemake.output.files,
        )
