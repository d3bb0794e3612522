"""Let a language model explain chosen latents of one crosscoder, and score what it says."""

from pathlib import Path

import pandas as pd
from tokenizers import Tokenizer

from crossdiff.config import Explanations
from crossdiff.explanations.answers import KnownAnswers
from crossdiff.explanations.contexts import Text, read_background
from crossdiff.explanations.excerpts import ExcerptMaker
from crossdiff.explanations.judging import Judge
from crossdiff.explanations.language_models import language_model
from crossdiff.explanations.selection import chosen
from crossdiff.latents.strongest_groups import read_groups
from crossdiff.provenance.storage import write_parquet
from crossdiff.workflow.job import job


def main(
    examples: str,
    background: str,
    betas: str,
    groups: str,
    tokens: list[str],
    tokenizer: str,
    settings: Explanations,
    top: int,
    answers: str,
    explanations: str,
    quantiles: str,
) -> None:
    model = KnownAnswers(answers, language_model(settings.model))
    text, words, table = (
        Text.of(tokens),
        Tokenizer.from_file(str(Path(tokenizer) / "tokenizer.json")),
        pd.read_parquet(betas),
    )
    contexts = pd.read_parquet(background, columns=["tokens"]).tokens
    maker = ExcerptMaker(
        text,
        read_background(background, text),
        contexts,
        lambda ids: words.decode(ids, skip_special_tokens=False),
        settings,
    )
    asked = chosen(table, read_groups(groups), settings.latents, top)
    excerpts = {latent: maker.of(latent, examples) for latent in asked}
    latents, by_quantile = Judge(model, settings.per_request).explain(excerpts, len(table))
    write_parquet(explanations, latents)
    write_parquet(quantiles, by_quantile)


if __name__ == "__main__":
    with job(snakemake) as settings:
        main(
            examples=snakemake.input.examples,
            background=snakemake.input.background,
            betas=snakemake.input.betas,
            groups=snakemake.input.groups,
            tokens=list(snakemake.input.tokens),
            tokenizer=snakemake.input.tokenizer,
            settings=settings.explanations,
            top=settings.classes.top,
            answers=snakemake.params.answers,
            explanations=snakemake.output.explanations,
            quantiles=snakemake.output.quantiles,
        )
