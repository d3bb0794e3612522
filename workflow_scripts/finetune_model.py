"""Fine-tune a model from another one."""

from crossdiff.config import Finetuning, TextSource, taught_source
from crossdiff.models.finetune import finetune, training_sequences
from crossdiff.models.tokenizers import load_tokenizer
from crossdiff.provenance.storage import atomic_path
from crossdiff.workflow.job import job


def main(
    base: str,
    tokenizer: str,
    settings: Finetuning,
    sources: dict[str, TextSource],
    archives: dict[str, str | None],
    model: str,
    training_log: str,
) -> None:
    loaded = load_tokenizer(tokenizer)
    sequences = training_sequences(sources, archives, loaded, settings)
    with atomic_path(model) as folder, atomic_path(training_log) as log:
        finetune(base, loaded, sequences, settings, folder, log)


if __name__ == "__main__":
    with job(snakemake) as settings:
        finetuning = settings.models[snakemake.wildcards.model].finetune
        main(
            base=snakemake.input.base,
            tokenizer=snakemake.input.tokenizer,
            settings=finetuning,
            sources={
                name: settings.datasets[name]
                if name in snakemake.params.archives
                else taught_source(settings.organisms.texts, name)
                for name in finetuning.data
            },
            archives={name: snakemake.params.archives.get(name) or None for name in finetuning.data},
            model=snakemake.output.model,
            training_log=snakemake.output.log,
        )
