"""Check that a model has its weights, the layer and the tokenizer's vocabulary."""

from crossdiff.models.check import check_model
from crossdiff.provenance.storage import write_json
from crossdiff.workflow.job import job


def main(model: str, tokenizer: str, layer: int, facts: str) -> None:
    write_json(facts, check_model(model, tokenizer, layer))


if __name__ == "__main__":
    with job(snakemake) as settings:
        main(
            model=snakemake.input.model,
            tokenizer=snakemake.input.tokenizer,
            layer=settings.pair.layer,
            facts=snakemake.output[0],
        )
