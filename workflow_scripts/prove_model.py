"""Prove on a few short texts that what jobs compute with a model is what the model computes itself."""

from crossdiff.device import fast_dtype
from crossdiff.interventions.proof import proof_texts, prove
from crossdiff.models.chat_tokenizer import load_chat_tokenizer
from crossdiff.models.load import load_model
from crossdiff.models.replacements import with_replacements
from crossdiff.provenance.storage import write_json
from crossdiff.workflow.job import job


def main(
    model: str,
    tokenizer: str,
    layer: int,
    parts: list[str],
    replacements: dict[int, int],
    differences: str,
) -> None:
    texts = proof_texts(load_chat_tokenizer(tokenizer))
    loaded = with_replacements(load_model(model, fast_dtype()), replacements)
    write_json(differences, prove(loaded, model, texts, layer, parts))


if __name__ == "__main__":
    with job(snakemake) as settings:
        main(
            model=snakemake.input.model,
            tokenizer=snakemake.input.tokenizer,
            layer=settings.pair.layer,
            parts=snakemake.params.parts,
            replacements=dict(snakemake.params.replacements),
            differences=snakemake.output[0],
        )
