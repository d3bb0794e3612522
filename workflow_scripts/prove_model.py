"""Prove on a few short texts that what jobs compute with a model is what the model computes itself."""

from crossdiff.device import fast_dtype
from crossdiff.interventions.proof import proof_texts, prove
from crossdiff.models.chat_tokenizer import load_chat_tokenizer
from crossdiff.models.load import load_model
from crossdiff.provenance.storage import write_json
from crossdiff.workflow.job import job


def main(model: str, tokenizer: str, layer: int, parts: list[str], differences: str) -> None:
    texts = proof_texts(load_chat_tokenizer(tokenizer))
    write_json(differences, prove(load_model(model, fast_dtype()), model, texts, layer, parts))


if __name__ == "__main__":
    with job(snakemake) as settings:
        main(
            model=snakemake.input.model,
            tokenizer=snakemake.input.tokenizer,
            layer=settings.pair.layer,
            parts=snakemake.params.parts,
            differences=snakemake.output[0],
        )
