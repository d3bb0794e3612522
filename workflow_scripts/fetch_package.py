"""Download one pinned wheel and check its hash."""

from pathlib import Path

from crossdiff.config import Package
from crossdiff.job import job
from crossdiff.texts.archives import download


def main(package: dict, wheel: str) -> None:
    download(Package(**package), Path(wheel))


if __name__ == "__main__":
    with job(snakemake):
        main(package=snakemake.params.package, wheel=snakemake.output[0])
