"""Download one pinned wheel and check its hash."""

from pathlib import Path

from crossdiff.texts.archives import download
from crossdiff.workflow.job import job


def main(package: str, sha256: str, wheel: str) -> None:
    download(package, sha256, Path(wheel))


if __name__ == "__main__":
    with job(snakemake):
        main(package=snakemake.wildcards.package, sha256=snakemake.params.sha256, wheel=snakemake.output[0])
