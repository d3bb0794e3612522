"""The local files that a configuration names. Those of models are not among them: ``Run.model_files``."""

from pathlib import Path

from crossdiff.config.imported import IMPORT
from crossdiff.config.stores import STORED
from crossdiff.config.whole import Config


def local_files(config: Config) -> list[tuple[str, str]]:
    """(key, path) of every local file or folder that the configuration names, without models.

    Raises UserError for a folder or glob that does not say which texts to read, and for a folder that holds
    no crosscoder or no stored activations.
    """
    named = {
        f"datasets.{name}.files": dataset.local_files(f"datasets.{name}")
        for name, dataset in config.datasets.items()
    }
    for model, source in config.models.items():
        made = {"random": source.random, "finetune": source.finetune}
        named |= {
            f"{config.key_of(model)}.{kind}.chat_template": [part.chat_template]
            for kind, part in made.items()
            if part
        }
    for name, entry in config.imported.items():
        if entry.given.folder:
            key = f"crosscoders.{name}.{IMPORT}.folder"
            named[key] = [str(path) for path in entry.given.local_files(key)] or [entry.given.folder]
    for name, stores in config.stores.items():
        named |= stores.local_files(f"datasets.{name}.{STORED}")
    if config.tokens.template_file:
        named["tokens.chat_template"] = [config.tokens.template_file]
    if config.behaviour:
        named["behaviour.requests"] = [config.behaviour.requests]
    if config.explanations and config.explanations.model.folder:
        named["explanations.model.folder"] = [config.explanations.model.folder]
    named["report.sessions"] = list(config.report.sessions)
    if config.organisms:
        named["organisms.texts"] = [config.organisms.texts]
    if config.catalogue:
        paths = [config.of(pair).catalogue for pair in config.comparisons]
        named["catalogue"] = [path for path in dict.fromkeys(paths) if path]
    return [(key, path) for key, paths in named.items() for path in paths]


def missing_files(config: Config) -> list[str]:
    """A line for every one of ``local_files`` that does not exist."""
    return [
        f"config: {key}: found {path}, which is not there"
        for key, path in local_files(config)
        if not Path(path).exists()
    ]
