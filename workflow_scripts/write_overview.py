"""Write the page over all pairs and layers."""

from collections.abc import Mapping
from typing import Any

from crossdiff.provenance.recorded_settings import RecordedSettings, recorded_settings
from crossdiff.provenance.records import read_record
from crossdiff.provenance.storage import atomic_path
from crossdiff.report.overview import Compared, render
from crossdiff.report.template import ShownFigure
from crossdiff.workflow.job import job


def main(
    compared: list[Mapping[str, Any]],
    recorded: list[RecordedSettings],
    pairs: str,
    overlap: str,
    cosine_above: float,
    figures: list[ShownFigure],
    template: str,
    page: str,
) -> None:
    places = [Compared(**one) for one in compared]
    html = render(places, recorded, pairs, overlap, cosine_above, figures, template)
    with atomic_path(page) as temporary:
        temporary.write_text(html, encoding="utf-8")


if __name__ == "__main__":
    with job(snakemake):
        given = snakemake.input
        main(
            compared=snakemake.params.compared,
            recorded=[recorded_settings([path]) for path in given.numbers],
            pairs=given.pairs,
            overlap=given.overlap,
            cosine_above=read_record(given.overlap).settings["seed_agreement.cosine_above"],
            figures=[ShownFigure.of(*paths) for paths in zip(given.figures, given.captions, strict=True)],
            template=given.template,
            page=snakemake.output[0],
        )
