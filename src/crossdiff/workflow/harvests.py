"""Which layers of a shard one job harvests.

A forward pass to a layer computes the activations of all layers before it. When the workflow is planned, the
layers whose caches are missing are counted for each model and shard. Where several are missing, one job of a
rule such as ``harvest_layers_8_13`` makes them all. Where one is missing, a job of ``harvest_activations``
makes it. Caches that are made again are made one by one: outdated ones, and those that were removed as
configured. Snakemake looks at their records for changes, and these are records of single caches.

Every cache gets the record that ``harvest_activations`` would write (``provenance.parts``). So the next plan
finds nothing to do, no matter which layers were made together.

Torch-free.
"""

import re
import sys
from collections.abc import Callable, Iterable
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from crossdiff.provenance.parts import Part
from crossdiff.provenance.records import record_path
from crossdiff.provenance.removed import removed

if TYPE_CHECKING:
    from snakemake.rules import Rule
    from snakemake.workflow import Workflow

RULE = "harvest_activations"  # makes the cache of one layer
PREFIX = "harvest_layers_"  # of the rules that make several
READING = "read_activations"  # takes it from activations that others stored
NAME = re.compile(rf"\b{PREFIX}\d+(?:_\d+)+\b")

Shard = tuple[str, str, str]  # model, folder of the cache below that of the layer, number


def known_as(rule: str) -> str:
    """The name by which the forecast knows a rule."""
    return RULE if rule == READING or rule.startswith(PREFIX) else rule


class Together(NamedTuple):
    """A rule whose jobs harvest several layers in one pass."""

    layers: tuple[int, ...]  # ascending
    shards: set[Shard] | None = None  # for which it is; None for all

    @property
    def name(self) -> str:
        """The name of the rule."""
        return PREFIX + "_".join(map(str, self.layers))

    def each(self, pattern: str) -> list[str]:
        """The pattern of a file, for each layer."""
        return [pattern.replace("{layer}", str(layer)) for layer in self.layers]

    def all(self, pattern: str) -> str:
        """The pattern of a file of all layers, such as a log."""
        return pattern.replace("{layer}", "_".join(map(str, self.layers)))

    @property
    def told(self) -> str:
        """The layers in words."""
        *first, last = map(str, self.layers)
        return f"layers {', '.join(first)} and {last}"

    @property
    def models(self) -> str:
        """A constraint for the wildcard ``model``.

        It looks ahead to the end of a cache's path. So the rule makes the caches of ``shards`` and no others.
        """
        if self.shards is None:
            return "[^/]+"
        found: dict[str, dict[str, set[str]]] = {}
        for model, folder, number in self.shards:
            found.setdefault(model, {}).setdefault(folder, set()).add(number)
        return "|".join(
            rf"{re.escape(model)}(?=/layer\d+/(?:{'|'.join(map(_in_folder, folders.items()))})\.h5$)"
            for model, folders in sorted(found.items())
        )


def _in_folder(item: tuple[str, set[str]]) -> str:
    """A pattern of these numbers in a folder, short so that matching thousands of shards is fast."""
    folder, numbers = item
    tens = groupby(sorted(numbers), key=lambda number: number[:-1])
    ends = [f"{ten}[{''.join(number[-1] for number in ones)}]" for ten, ones in tens]
    return f"{re.escape(folder)}/(?:{'|'.join(ends)})"


def together(workflow: "Workflow", caches: Iterable[str]) -> list[Together]:
    """The rules that this process needs. ``caches`` are all caches that the config wants."""
    if workflow.is_main_process:
        return [Together(layers, shards) for layers, shards in sorted(missing(caches).items())]
    # A job step of SLURM is started for named rules. Other jobs may have written caches since it was planned.
    asked = {name for argument in sys.argv for name in NAME.findall(argument)}
    return [Together(tuple(map(int, name.removeprefix(PREFIX).split("_")))) for name in sorted(asked)]


def missing(caches: Iterable[str]) -> dict[tuple[int, ...], set[Shard]]:
    """Layers that are missing together -> the shards of models for which they are.

    A cache without a record counts as missing. One that was removed as configured does not, because nothing
    may need it. Layers that are missing alone are left out.
    """
    layers: dict[Shard, set[int]] = {}
    for cache in caches:
        if not (Path(cache).exists() and record_path(cache).exists()) and removed(cache) is None:
            _, _, model, layer, tokenizer, texts, name = cache.split("/")
            place = model, f"{tokenizer}/{texts}", name.removesuffix(".h5")
            layers.setdefault(place, set()).add(int(layer.removeprefix("layer")))
    found: dict[tuple[int, ...], set[Shard]] = {}
    for shard, absent in layers.items():
        if len(absent) > 1:
            found.setdefault(tuple(sorted(absent)), set()).add(shard)
    return found


def parts(workflow: "Workflow", layers: tuple[int, ...]) -> Callable[..., list[Part]]:
    """The function for the param ``stands_for`` of a rule that harvests ``layers``: the jobs of RULE.

    The rule's outputs are their caches. Because it reads them, Snakemake does not compare this param.
    """
    single = workflow.get_rule(RULE)

    def of(wildcards: Any, output: Any) -> list[Part]:
        shared = dict(wildcards.items())
        return [
            _part(single, shared | {"layer": str(layer)}, cache)
            for layer, cache in zip(layers, output, strict=True)
        ]

    return of


def _part(rule: "Rule", values: dict[str, str], cache: str) -> Part:
    """The job of a rule with these wildcards, which makes one cache."""
    from snakemake.iocontainers import Wildcards

    wildcards = Wildcards(fromdict=values)
    params = {name: value(wildcards) if callable(value) else value for name, value in rule.params.items()}
    inputs = [(name, str(file.apply_wildcards(values))) for name, file in rule.input.items()]
    return Part(rule.name, values, params, inputs, [("", str(cache))])


def treat_as_single(workflow: "Workflow", name: str) -> None:
    """Give the rule ``name`` what the profile and the command line set for RULE. It comes before RULE."""
    workflow.ruleorder(name, RULE)
    rule, given = workflow.get_rule(name), workflow.resource_settings
    for known in (RULE, name):
        rule.resources.update(given._parsed_overwrite_resources.get(known, {}))
        if known in given._parsed_overwrite_threads:
            rule.resources["_cores"] = given._parsed_overwrite_threads[known]
    # Asked for later, because group settings are not known yet.
    rule.group = lambda wildcards: workflow.group_settings.overwrite_groups.get(RULE)
