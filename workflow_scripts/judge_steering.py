"""Count the steered answers that show the stated behaviour. A language model judges if it has a question."""

from functools import partial

import pandas as pd

from crossdiff.config import Explainer, Stated
from crossdiff.explanations.answers import KnownAnswers
from crossdiff.explanations.language_models import language_model
from crossdiff.explanations.yes_or_no import verdicts
from crossdiff.interventions.steering_effects import effects, judged
from crossdiff.provenance.storage import write_csv, write_parquet
from crossdiff.workflow.job import job


def main(
    steered: str,
    behaviour: Stated,
    model: Explainer | None,
    known: str,
    seed: int,
    table: str,
    answers: str,
) -> None:
    judge = None
    if model is not None:
        judge = partial(verdicts, KnownAnswers(known, language_model(model)), behaviour.judge or "")
    found = judged(pd.read_parquet(steered), behaviour, judge)
    write_csv(table, effects(found, behaviour, seed))
    write_parquet(answers, found)


if __name__ == "__main__":
    with job(snakemake) as settings:
        main(
            steered=snakemake.input.steered,
            behaviour=settings.steering.behaviour,
            model=settings.explanations.model if settings.steering.behaviour.judge else None,
            known=snakemake.params.answers,
            seed=settings.steering.seed,
            table=snakemake.output.effects,
            answers=snakemake.output.answers,
        )
