"""Python imports this module by itself where the tests put its folder on PYTHONPATH: it notes which settings each workflow script reads.

Writes one JSON file per job into the folder CROSSDIFF_TRACE: the rule, the keys that it declares, what was read of them (keys of
dictionaries, and fields of typed settings as [class, field]; what validation reads does not count), and the modules that were loaded.
"""

import functools
import json
import os
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

keys: set[str] = set()
fields: set[tuple[str, str]] = set()
validating = 0


class Reading(dict):
    """Section that note which of their keys are read one by one; unpacking them into a typed section is not yet reading."""

    def __init__(self, values: Mapping[str, Any], prefix: str = "") -> None:
        super().__init__({key: Reading(value, f"{prefix}{key}.") if isinstance(value, dict) else value for key, value in values.items()})
        self.prefix = prefix

    def __getitem__(self, key: str) -> Any:
        keys.add(self.prefix + key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        keys.add(self.prefix + key)
        return super().get(key, default)


def owner(section: type, field: str) -> str:
    """The class that first has a field: Dataset inherits the fields of TextSource."""
    return next(base.__name__ for base in reversed(section.__mro__) if field in getattr(base, "model_fields", {}))


def not_reading(function: Callable) -> Callable:
    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        global validating
        validating += 1
        try:
            return function(*args, **kwargs)
        finally:
            validating -= 1

    return wrapped


def modules() -> list[str]:
    """The files of the library that are loaded."""
    return sorted(module.__file__ for name, module in sys.modules.items() if name.split(".")[0] == "crossdiff")


def install() -> None:
    from crossdiff import config
    from crossdiff.workflow import job, run

    get = config.Section.__getattribute__

    def getattribute(self: config.Section, name: str) -> Any:
        if not validating and not name.startswith("_") and name in type(self).model_fields:
            fields.add((owner(type(self), name), name))
        return get(self, name)

    config.Section.__getattribute__ = getattribute
    config.Section.__init__ = not_reading(config.Section.__init__)
    config.crosscoder_settings = not_reading(config.crosscoder_settings)

    section = run.section
    run.section = lambda settings, *path: Reading(section(settings, *path), ".".join(path) + ".")

    original = job.job

    @contextmanager
    def traced(snakemake: Any) -> Iterator[Mapping[str, Any]]:
        with original(snakemake) as settings:
            yield Reading(settings)
        found = {"rule": snakemake.rule, "declared": sorted(settings), "keys": sorted(keys), "fields": sorted(fields), "modules": modules()}
        Path(os.environ["CROSSDIFF_TRACE"], f"{uuid.uuid4().hex}.json").write_text(json.dumps(found))

    job.job = traced


if "CROSSDIFF_TRACE" in os.environ:
    install()
