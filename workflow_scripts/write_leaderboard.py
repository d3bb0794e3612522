"""Write the leaderboard page."""

from crossdiff.provenance.recorded_settings import RecordedSettings, recorded_settings
from crossdiff.provenance.storage import atomic_path
from crossdiff.report.leaderboard import render
from crossdiff.report.template import ShownFigure
from crossdiff.workflow.job import job


def main(
    recorded: RecordedSettings,
    concepts: str,
    summary: str,
    tables: list[str],
    figures: list[ShownFigure],
    template: str,
    page: str,
) -> None:
    with atomic_path(page) as temporary:
        temporary.write_text(render(recorded, concepts, summary, tables, figures, template), encoding="utf-8")


if __name__ == "__main__":
    with job(snakemake):
        main(
            recorded=recorded_settings(snakemake.input),
            concepts=snakemake.input.concepts,
            summary=snakemake.input.summary,
            tables=list(snakemake.input.tables),
            figures=[
                ShownFigure.of(*paths)
                for paths in zip(snakemake.input.figures, snakemake.input.captions, strict=True)
            ],
            template=snakemake.input.template,
            page=snakemake.output[0],
        )
