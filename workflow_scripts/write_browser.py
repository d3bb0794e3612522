"""Write the latent browser: its page, and the folder of its data and scripts."""

from pathlib import Path

from crossdiff.browser import Training, copy_assets, static_rows, training_name, write_pieces
from crossdiff.catalogue import current, read_names, weights_digest
from crossdiff.job import job
from crossdiff.models.load import load_tokenizer
from crossdiff.report import page_template
from crossdiff.storage import atomic_path, record_mark


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
    digests = {name: weights_digest(path) for name, path in weights.items()}
    named = read_names(names)
    with atomic_path(files) as temporary:
        write_pieces(temporary, pair, trainings, named, digests, load_tokenizer(tokenizer))
        copy_assets(temporary, assets, Path(template).parent)
    static = {training_name(*name): static_rows(training.betas, current(named, *name)) for name, training in trainings.items()}
    with atomic_path(page) as temporary:
        html = page_template(template).render(record=" ".join(record_mark().values()), pair=pair, trainings=static)
        temporary.write_text(html, encoding="utf-8")


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
