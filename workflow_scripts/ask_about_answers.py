"""Ask a language model what the fine-tune changed, from both models' answers alone."""

import pandas as pd

from crossdiff.config import Explainer
from crossdiff.explanations.answers import KnownAnswers
from crossdiff.explanations.language_models import language_model
from crossdiff.first_look.asking import ask
from crossdiff.provenance.storage import write_csv
from crossdiff.workflow.job import job


def main(answers: str, model: Explainer, known: str, table: str) -> None:
    write_csv(table, ask(KnownAnswers(known, language_model(model)), pd.read_parquet(answers)))


if __name__ == "__main__":
    with job(snakemake) as settings:
        main(
            answers=snakemake.input.answers,
            model=settings.explanations.model,
            known=snakemake.params.answers,
            table=snakemake.output[0],
        )
