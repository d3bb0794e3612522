"""The settings that a page states for its results: those in their records, not those of today's config."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from crossdiff.errors import UserError
from crossdiff.provenance.records import Record, is_result, read_record


class RecordedSettings(dict[str, Any]):
    """Settings as full key -> value."""

    def names(self, section: str) -> list[str]:
        """The names in a section of named entries, such as ``datasets``, sorted."""
        return sorted({key.split(".")[1] for key in self if key.startswith(f"{section}.")})

    def texts(self) -> list[str]:
        """The data sets of which training tokens were read. A fine-tune may have others."""
        return [name for name in self.names("datasets") if f"datasets.{name}.tokens" in self]

    def given(self, key: str) -> bool:
        """Whether a key, or any key below it, has a value other than None."""
        return any(
            value is not None for name, value in self.items() if name == key or name.startswith(f"{key}.")
        )

    def has_model(self, source: str) -> bool:
        """Whether one of the models comes from this source, such as ``random``."""
        return any(self.given(f"models.{name}.{source}") for name in self.names("models"))


def recorded_settings(paths: Iterable[str], root: Path = Path()) -> RecordedSettings:
    """Full key -> value of every setting that the results at ``paths`` below ``root``, or their inputs, need.

    Also holds ``pair.name``, ``pair.base.name`` and ``pair.chat.name``, if there is one. For each data set
    ``datasets.NAME.tokens`` is the number of training tokens used. If activations were stored of a sample
    alone, ``sample`` is the number of its tokens. Raises UserError if two results were made with different
    values of one setting, or if one has no record.
    """
    settings: dict[str, Any] = {}
    shards: dict[tuple[str, str], int] = {}  # (data set, number) -> tokens; a shard's job has two results
    for path, record in upstream(paths, root).items():
        for key, value in record.settings.items():
            if settings.setdefault(key, value) != value:
                raise UserError(
                    f"{path}: made with {key} {value!r}, another result on this page with {settings[key]!r}; "
                    "make both again"
                )
        if "pair" in record.wildcards:
            settings["pair.name"] = record.wildcards["pair"]
        if record.rule == "check_pair":
            settings |= {f"pair.{entry.name}.name": _model(entry.path) for entry in record.inputs}
        if record.rule == "tokenise" and record.wildcards.get("split") == "train":
            shards[record.wildcards["dataset"], record.wildcards["shard"]] = record.params["tokens"]
        if record.rule == "draw_sample":
            settings["sample"] = sum(count for _, count in record.params["tokens"])
    tokens = Counter[str]()
    for (dataset, _), count in shards.items():
        tokens[f"datasets.{dataset}.tokens"] += count
    return RecordedSettings(settings | tokens)


def _model(path: str) -> str:
    """The name of the model in the path of a file of its activations."""
    return path.split("/")[2]


def upstream(paths: Iterable[str], root: Path = Path()) -> dict[str, Record]:
    """Path -> record of the results at ``paths`` below ``root``, and of all that they were made from.

    Raises RecordError if a result has no record.
    """
    found: dict[str, Record] = {}
    waiting = list(paths)
    while waiting:
        path = waiting.pop()
        if path not in found and is_result(path):
            found[path] = read_record(root / path)
            waiting += [entry.path for entry in found[path].inputs]
    return found
