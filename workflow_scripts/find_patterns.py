"""Explain every latent of one crosscoder by a pattern of tokens, and score the pattern on other documents."""

from pathlib import Path

import pandas as pd
from tokenizers import Tokenizer

from crossdiff.explanations.contexts import Text, read_background
from crossdiff.explanations.patterns import PatternExplainer
from crossdiff.provenance.storage import write_parquet
from crossdiff.workflow.job import job


def main(
    examples: str,
    background: str,
    scaling: str,
    tokens: list[str],
    sampled: bool,
    tokenizer: str,
    patterns: str,
    quantiles: str,
) -> None:
    text, words = Text.of(tokens, sampled), Tokenizer.from_file(str(Path(tokenizer) / "tokenizer.json"))
    explainer = PatternExplainer(
        text, read_background(background, text), lambda ids: words.decode(ids, skip_special_tokens=False)
    )
    latents, by_quantile = explainer.explain(examples, len(pd.read_parquet(scaling, columns=["latent"])))
    write_parquet(patterns, latents)
    write_parquet(quantiles, by_quantile)


if __name__ == "__main__":
    with job(snakemake):
        main(
            examples=snakemake.input.examples,
            background=snakemake.input.background,
            scaling=snakemake.input.scaling,
            tokens=list(snakemake.input.tokens),
            sampled=snakemake.params.sampled,
            tokenizer=snakemake.input.tokenizer,
            patterns=snakemake.output.patterns,
            quantiles=snakemake.output.quantiles,
        )
