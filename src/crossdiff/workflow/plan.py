"""The report of ``crossdiff plan``: the forecast, what a run would refuse, and what is too small for it.

Torch-free.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from crossdiff.config import Config, load
from crossdiff.errors import UserError
from crossdiff.explanations.cost import forecast_lines
from crossdiff.texts.first_record import check_fields
from crossdiff.workflow import scratch
from crossdiff.workflow.cards import Card
from crossdiff.workflow.commands import snakemake
from crossdiff.workflow.disks import full_disks
from crossdiff.workflow.forecast_run import forecast
from crossdiff.workflow.run import Run, check_layout
from crossdiff.workflow.shapes import check_layer, known_shape
from crossdiff.workflow.sizes import Need
from crossdiff.workflow.suggest import suggestion
from crossdiff.workflow.tokenizer_names import told

COLUMNS = "{:<24}{:>7}{:>10}{:>11}{:>13}{:>12}{:>9}"


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
) -> Report:
    """Forecast a run of the config files ``configs``, which hold ``values``, on a card.

    ``here`` says whether the run will be on this machine. If so, its free disk and its memory are checked
    too. ``disk`` (bytes) and ``hours`` are limits. If one is given, the report suggests settings that fit.
    Raises UserError if the model's size is not known.
    """
    config = load(values)
    refused = list(dict.fromkeys(_refused(values, config, root)))
    try:
        pairs = {pair.name: pair for pair in config.comparisons}  # the layer does not matter
        models = {name: known_shape(config.of(pair), root, configs) for name, pair in pairs.items()}
    except UserError as error:
        raise UserError("\n".join([*refused, str(error)])) from None
    needs = forecast(config, models)
    lines = [*_table(needs, card), "", *card.told(needs)]
    lines.append(
        "Memory is that of the largest job. Disk is what stays, without downloaded wheels and the hub's "
        "cache. Figures take some minutes more."
    )
    lines += forecast_lines(config)
    lines += told(config)
    for pair in config.comparisons:
        try:
            check_layer(config, pair, models[pair.name])
            config.check_width(models[pair.name].d_model)
        except UserError as error:
            refused.append(str(error))
    refused = list(dict.fromkeys(refused))
    short = [*_too_much(needs, card, disk, hours), *(_too_little(needs, card, config, root) if here else [])]
    wrong = refused + [f"warning: {line}" for line in short]
    if disk or hours:
        return Report(lines, wrong, list(suggestion(config, models, card, disk, hours, configs)))
    return Report(lines, wrong, [] if wrong else [f"Run it: {snakemake(configs)}"])


def _table(needs: dict[str, Need], card: Card) -> Iterator[str]:
    yield COLUMNS.format("rule", "jobs", "M tokens", "disk GB", "host RAM GB", "device GB", "hours")
    for rule, need in needs.items():
        numbers = (
            f"{need.tokens / 1e6:.2f}",
            f"{need.disk / 1e9:.2f}",
            f"{need.host / 1e9:.1f}",
            f"{need.device / 1e9:.1f}",
        )
        yield COLUMNS.format(rule, need.jobs, *numbers, f"{card.hours(need):.2f}")
    jobs, disk = sum(need.jobs for need in needs.values()), sum(need.disk for need in needs.values())
    yield COLUMNS.format("all", jobs, "", f"{disk / 1e9:.2f}", "", "", f"{card.hours(*needs.values()):.2f}")


def _refused(values: dict[str, Any], config: Config, root: Path) -> Iterator[str]:
    """Yield every complaint that a run would make before its first job."""
    checks: tuple[Callable[[], list[str] | None], ...] = (
        lambda: check_layout(config, root),
        lambda: scratch.check(config, root),
        Run(values).check_models,
        lambda: check_fields(config.datasets),
        config.missing,
    )
    for check in checks:
        try:
            yield from check() or []
        except UserError as error:
            yield str(error)


def _too_much(needs: dict[str, Need], card: Card, disk: float | None, hours: float | None) -> Iterator[str]:
    """Yield where the run exceeds the card's memory, or the disk and hours that the user has."""
    wanted, taken = sum(need.disk for need in needs.values()), card.hours(*needs.values())
    if disk and wanted > disk:
        yield f"disk: the run needs {wanted / 1e9:,.1f} GB, --disk gives {disk / 1e9:,.1f} GB"
    if hours and taken > hours:
        yield f"time: the run needs {taken:,.1f} hours, --hours gives {hours:,.1f}"
    for rule, need in needs.items():
        if card.memory and need.device > card.memory:
            has = f"{card.record['card']} has {card.memory / 1e9:,.1f} GB"
            yield f"GPU memory: {rule} needs {need.device / 1e9:,.1f} GB, {has}"


def _too_little(needs: dict[str, Need], card: Card, config: Config, root: Path) -> Iterator[str]:
    """Yield what this machine lacks. Results that are already on its disk count as written."""
    yield from full_disks(needs, config, root)
    main = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for rule, need in needs.items():
        host = need.host if card.memory else need.memory
        if host > main:
            yield f"memory: {rule} needs {host / 1e9:,.1f} GB, this machine has {main / 1e9:,.1f} GB"
