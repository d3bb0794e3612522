"""Put the results of all organisms side by side, and sum them up."""

import pandas as pd

from crossdiff.organisms.scoring import summarise
from crossdiff.provenance.storage import write_csv
from crossdiff.texts.organisms import read_organisms
from crossdiff.workflow.job import job


def main(
    taught: list[str], methods: list[str], texts: str, in_text: list[str], paths: dict[str, str]
) -> None:
    found = pd.concat(map(pd.read_csv, methods), ignore_index=True)
    found.insert(1, "is_null", found.organism.isin(read_organisms(texts).nulls))
    found.insert(2, "in_text", found.behaviour.isin(in_text))
    found = found.fillna({"crosscoder": "", "not_scored": ""})
    write_csv(paths["taught"], pd.concat(map(pd.read_csv, taught), ignore_index=True))
    write_csv(paths["organisms"], found)
    write_csv(paths["summary"], summarise(found))


if __name__ == "__main__":
    with job(snakemake):
        main(
            taught=list(snakemake.input.taught),
            methods=list(snakemake.input.methods),
            texts=snakemake.input.texts,
            in_text=snakemake.params.in_text,
            paths={name: snakemake.output[name] for name in ("taught", "organisms", "summary")},
        )
