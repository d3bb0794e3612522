"""The report of ``crossdiff plan``: the forecast, what a run would refuse, and what is too small for it.

Torch-free.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from crossdiff.config import Config, load
from crossdiff.config.local_files import missing_files
from crossdiff.errors import UserError
from crossdiff.explanations.cost import forecast_lines
from crossdiff.texts.first_record import check_fields
from crossdiff.workflow import scratch
from crossdiff.workflow.cards import Card
from crossdiff.workflow.commands import run
from crossdiff.workflow.disks import full_disks
from crossdiff.workflow.forecast_run import CACHING, forecast
from crossdiff.workflow.machine import Machine
from crossdiff.workflow.run import Run, check_layout
from crossdiff.workflow.shapes import check_layer, known_shape
from crossdiff.workflow.sizes import Need, kept, peak
from crossdiff.workflow.suggest import suggestion, without_caches
from crossdiff.workflow.tokenizer_names import told

COLUMNS = "{:<24}{:>7}{:>10}{:>11}{:>10}{:>10}{:>9}{:>6}{:>9}"
HEADER = ("rule", "jobs", "M tokens", "disk GB", "peak GB", "host GB", "GPU GB", "GPUs", "hours")


class Report(NamedTuple):
    """What ``crossdiff plan`` prints, in this order."""

    forecast: list[str]
    wrong: list[str]  # what a run would refuse; then warnings about too little disk, memory or time
    next: list[str]  # settings that fit, or the command to run


def report(
    values: dict[str, Any],
    configs: list[Path],
    root: Path,
    card: Card,
    here: bool,
    disk: float | None = None,
    hours: float | None = None,
    gpus: int | None = None,
) -> Report:
    """Forecast a run of the config files ``configs``, which hold ``values``, on a card.

    ``here`` says whether the run will be on this machine. If so, its free disk and its memory are checked
    too. ``disk`` (bytes) and ``hours`` are limits. If one is given, the report suggests settings that fit.
    ``gpus`` is the number of such cards. None means as many as a job needs, and one job at a time. Raises
    UserError if the model's size is not known.
    """
    config = load(values)
    refused = list(dict.fromkeys(_refused(values, config, root)))
    try:
        pairs = {pair.name: pair for pair in config.comparisons}  # the layer does not matter
        models = {name: known_shape(config.of(pair), root, configs) for name, pair in pairs.items()}
    except UserError as error:
        raise UserError("\n".join([*refused, str(error)])) from None
    needs, machine = forecast(config, models), Machine.of(card, config, gpus)
    lines = [*_table(needs, machine), "", *card.told(needs), *machine.told(needs)]
    lines += [*_explained(needs, config), *forecast_lines(config), *told(config)]
    for pair in config.comparisons:
        try:
            check_layer(config, pair, models[pair.name])
            config.check_width(models[pair.name].d_model)
        except UserError as error:
            refused.append(str(error))
    refused = list(dict.fromkeys(refused))
    full = [*_over(needs, disk), *(full_disks(needs, config, root) if here else [])]
    short = [*full, *_too_much(needs, machine, hours), *(_too_little(needs, machine) if here else [])]
    wrong = refused + [f"warning: {line}" for line in short]
    without = list(without_caches(config, models, machine)) if full else []
    if disk or hours:
        fitting = suggestion(config, models, machine, disk, hours, configs)
        return Report(lines, wrong, [*without, *fitting])
    return Report(lines, wrong, without if wrong else [f"Run it: {run(configs)}"])


def _table(needs: dict[str, Need], machine: Machine) -> Iterator[str]:
    yield COLUMNS.format(*HEADER)
    for rule, need in needs.items():
        numbers = (
            f"{need.tokens / 1e6:.2f}",
            f"{need.disk / 1e9:.2f}",
            f"{peak([need]) / 1e9:.2f}",
            f"{machine.host(rule, need) / 1e9:.1f}",
            f"{machine.each(rule, need) / 1e9:.1f}",
            machine.gpus_of(rule, need) or "-",
            f"{machine.hours(rule, need):.2f}",
        )
        yield COLUMNS.format(rule, need.jobs, *numbers)
    every = needs.values()
    disk = (f"{kept(every) / 1e9:.2f}", f"{peak(every) / 1e9:.2f}")
    all_hours = f"{machine.all_hours(needs):.2f}"
    yield COLUMNS.format("all", sum(need.jobs for need in every), "", *disk, "", "", "", all_hours)


def _explained(needs: dict[str, Need], config: Config) -> Iterator[str]:
    """Yield what the columns of disk and memory mean."""
    yield "Memory is that of the largest job, on the host and on each of its GPUs. A CPU has it all."
    yield (
        "Disk is what stays, without downloaded wheels and the hub's cache. Its peak is at most so high: "
        "all temporary files may exist at once. Figures take some minutes more."
    )
    caches = sum(needs[rule].temporary for rule in CACHING if rule in needs) / 1e9
    if not config.activations.keep:
        yield f"Caches, at most {caches:,.1f} GB at once, are removed once all that reads them is made."


def _refused(values: dict[str, Any], config: Config, root: Path) -> Iterator[str]:
    """Yield every complaint that a run would make before its first job."""
    checks: tuple[Callable[[], list[str] | None], ...] = (
        lambda: check_layout(config, root),
        lambda: scratch.check(config, root),
        Run(values).check_models,
        lambda: check_fields(config.datasets),
        lambda: missing_files(config),
    )
    for check in checks:
        try:
            yield from check() or []
        except UserError as error:
            yield str(error)


def _over(needs: dict[str, Need], disk: float | None) -> Iterator[str]:
    """Yield whether the run exceeds the ``disk`` (bytes) that the user has."""
    if disk and (wanted := peak(needs.values())) > disk:
        yield f"disk: at its peak the run needs {wanted / 1e9:,.1f} GB, --disk gives {disk / 1e9:,.1f} GB"


def _too_much(needs: dict[str, Need], machine: Machine, hours: float | None) -> Iterator[str]:
    """Yield where the run exceeds the hours that the user has, or the GPUs."""
    if hours and (taken := machine.all_hours(needs)) > hours:
        yield f"time: the run needs {taken:,.1f} hours, --hours gives {hours:,.1f}"
    yield from filter(None, (machine.lacks(rule, need) for rule, need in needs.items()))


def _too_little(needs: dict[str, Need], machine: Machine) -> Iterator[str]:
    """Yield for which rules this machine has too little main memory."""
    main = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for rule, need in needs.items():
        host = machine.host(rule, need) if machine.card.memory else need.memory
        if host > main:
            yield f"memory: {rule} needs {host / 1e9:,.1f} GB, this machine has {main / 1e9:,.1f} GB"
