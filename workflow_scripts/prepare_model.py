"""Make a plain Hugging Face folder of one model."""

from pathlib import Path

from crossdiff.config import ModelSource
from crossdiff.models.prepare import prepare
from crossdiff.provenance.storage import atomic_path
from crossdiff.workflow.job import job


def main(source: ModelSource, archive: str | None, folder: str) -> None:
    with atomic_path(folder) as temporary:
        prepare(source, Path(temporary), archive)


if __name__ == "__main__":
    with job(snakemake) as settings:
        main(
            source=settings.pair.source(snakemake.params.role),
            archive=snakemake.input.get("archive") or None,
            folder=snakemake.output[0],
        )
