"""Note which settings each workflow script reads.

Python imports this module by itself where the tests put its folder on PYTHONPATH.

It writes one JSON file per job into the folder CROSSDIFF_TRACE: the rule, the keys that it declares, the
fields of typed settings that were read, as [class, field], and the modules that were loaded.
"""

import json
import os
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

fields: set[tuple[str, str]] = set()
reading = False  # while the script runs: reads by the check of the config do not count


def owner(section: type, field: str) -> str:
    """The class that first has a field: Dataset inherits the fields of TextSource."""
    return next(
        base.__name__ for base in reversed(section.__mro__) if field in getattr(base, "model_fields", {})
    )


def modules() -> list[str]:
    """The files of the library that are loaded, seen from the checkout."""
    return sorted(
        os.path.relpath(module.__file__)
        for name, module in sys.modules.items()
        if name.split(".")[0] == "crossdiff"
    )


def install() -> None:
    from crossdiff import config
    from crossdiff.provenance import parts
    from crossdiff.workflow import job

    get, original = config.Section.__getattribute__, job.jobs

    def getattribute(self: config.Section, name: str) -> Any:
        if reading and not name.startswith("_") and name in type(self).model_fields:
            fields.add((owner(type(self), name), name))
        return get(self, name)

    @contextmanager
    def traced(snakemake: Any) -> Iterator[list[config.Config]]:
        global reading
        with original(snakemake) as settings:
            reading = True
            yield settings
            reading = False
        part = parts.parts_of(snakemake.rule, snakemake)[0]
        declared = sorted(part.params.get("settings", {}))
        found = {"rule": part.rule, "declared": declared, "fields": sorted(fields), "modules": modules()}
        Path(os.environ["CROSSDIFF_TRACE"], f"{uuid.uuid4().hex}.json").write_text(json.dumps(found))

    config.Section.__getattribute__ = getattribute
    job.jobs = traced  # job.job uses it, too


if "CROSSDIFF_TRACE" in os.environ:
    install()
