"""Make a plain Hugging Face folder of one model."""

from pathlib import Path

from crossdiff.config import ModelSource
from crossdiff.models.prepare import prepare
from crossdiff.provenance.storage import atomic_path
from crossdiff.workflow.job import job


def main(
    source: ModelSource, archive: str | None, base: tuple[Path, ModelSource] | None, key: str, folder: str
) -> None:
    with atomic_path(folder) as temporary:
        prepare(source, Path(temporary), archive, base, key)


if __name__ == "__main__":
    with job(snakemake) as settings:
        name, base = snakemake.wildcards.model, snakemake.input.get("base")
        main(
            source=settings.models[name],
            archive=snakemake.input.get("archive") or None,
            base=(Path(base), settings.models[Path(base).name]) if base else None,
            key=settings.key_of(name),
            folder=snakemake.output[0],
        )
