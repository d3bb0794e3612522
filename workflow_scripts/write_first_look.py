"""Write the page of the first look."""

from crossdiff.provenance.recorded_settings import RecordedSettings, recorded_settings
from crossdiff.provenance.storage import atomic_path
from crossdiff.report.first_look import FirstLookInputs, render
from crossdiff.workflow.job import job


def main(
    inputs: FirstLookInputs, tokenizer: str, recorded: RecordedSettings, template: str, page: str
) -> None:
    with atomic_path(page) as temporary:
        temporary.write_text(render(inputs, tokenizer, recorded, template), encoding="utf-8")


if __name__ == "__main__":
    with job(snakemake):
        given = snakemake.input
        inputs = FirstLookInputs.of(given.first_look)
        assert inputs is not None
        main(
            inputs=inputs,
            tokenizer=given.tokenizer,
            recorded=recorded_settings(given),
            template=given.template,
            page=snakemake.output[0],
        )
