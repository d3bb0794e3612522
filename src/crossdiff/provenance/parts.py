"""One job may stand for several jobs of another rule, and make the result of each of them.

The job's param ``stands_for`` describes these jobs. Each result gets the record that its own job would write.
So it does not matter which results were made together, and Snakemake finds each of them up to date.

Torch-free, because the Snakefile imports this module.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

PARAM = "stands_for"


class Part(NamedTuple):
    """A job as its records describe it. It made some or all outputs of the job that ran."""

    rule: str
    wildcards: dict[str, str]
    params: dict[str, Any]
    inputs: list[tuple[str, str]]  # (name, path), as ``named_files`` gives them
    outputs: list[tuple[str, str]]

    @property
    def paths(self) -> list[str]:
        """The paths of the outputs."""
        return [path for _, path in self.outputs]


def parts_of(rule: str, job: Any) -> list[Part]:
    """The parts of a job of ``rule``. A job without the param is its own only part.

    ``job`` has wildcards, params, input and output as Snakemake gives them.
    """
    params = dict(job.params.items())
    if PARAM in params:
        return params[PARAM]
    return [
        Part(rule, dict(job.wildcards.items()), params, [*named_files(job.input)], [*named_files(job.output)])
    ]


def named_files(files: Any) -> Iterator[tuple[str, str]]:
    """(name, path) of a rule's files. A file may have two names. Files without a name come last, as ""."""
    left = Counter(files)
    for name, value in files.items():
        for path in [value] if isinstance(value, str) else value:
            left[path] -= 1
            yield name, path
    yield from (("", path) for path in left.elements())
