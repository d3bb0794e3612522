"""A forecast beside what there is: the table of ``crossdiff plan``, what a run would refuse, and what would not do. Torch-free."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from crossdiff.config import MODELS, Config, load
from crossdiff.errors import UserError
from crossdiff.explanations.cost import forecast_lines
from crossdiff.texts.first_record import check_fields
from crossdiff.workflow.cards import Card
from crossdiff.workflow.commands import snakemake
from crossdiff.workflow.forecast import forecast
from crossdiff.workflow.run import Run, check_layout, result_folders
from crossdiff.workflow.shapes import known_shape
from crossdiff.workflow.sizes import Need
from crossdiff.workflow.suggest import suggestion

COLUMNS = "{:<24}{:>7}{:>10}{:>11}{:>13}{:>12}{:>9}"


class Report(NamedTuple):
    """What ``crossdiff plan`` prints, in this order."""

    forecast: list[str]
    wrong: list[str]  # what a run refuses; disk, memory and time that will not do
    next: list[str]  # settings that fit, and commands


def report(
    values: dict[str, Any],
    configs: list[Path],
    root: Path,
    card: Card,
    here: bool,
    disk: float | None = None,
    hours: float | None = None,
) -> Report:
    """Of a run of the config files ``configs``, which hold these ``values``, on a card.

    ``here``: whether the run will be on this machine, whose disk and memory are then looked at.
    ``disk`` in bytes and ``hours`` are what there is; where one is given, settings that fit are suggested.
    Raises UserError where the model's size is not known.
    """
    config = load(values)
    refused = list(_refused(values, config, root))
    try:
        model = known_shape(config, root, configs)
    except UserError as error:
        raise UserError("\n".join([*refused, str(error)])) from None
    needs = forecast(config, model)
    lines = [*_table(needs, card), "", *card.told(needs)]
    lines.append(
        "Memory: of the largest job. Disk: what stays; downloaded wheels and the hub's cache come on top. Figures take minutes more."
    )
    lines += forecast_lines(config)
    try:
        config.check_width(model.d_model)
    except UserError as error:
        refused.append(str(error))
    if config.pair.layer >= model.layers:
        refused.append(f"pair.layer: found {config.pair.layer}, the model has layers 0 to {model.layers - 1}")
    short = [*_too_much(needs, card, disk, hours), *(_too_little(needs, card, config, root) if here else [])]
    wrong = refused + [f"warning: {line}" for line in short]
    if disk or hours:
        return Report(lines, wrong, list(suggestion(config, model, card, disk, hours, configs)))
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
    """What a run says before its first job."""
    checks = (
        lambda: check_layout(config, root),
        Run(values).check_models,
        lambda: check_fields(config.datasets),
    )
    for check in checks:
        try:
            check()
        except UserError as error:
            yield str(error)
    yield from config.missing()


def _too_much(needs: dict[str, Need], card: Card, disk: float | None, hours: float | None) -> Iterator[str]:
    """For the card, and for the disk and time that were named."""
    wanted, taken = sum(need.disk for need in needs.values()), card.hours(*needs.values())
    if disk and wanted > disk:
        yield f"disk: {wanted / 1e9:,.1f} GB are needed, {disk / 1e9:,.1f} GB were named"
    if hours and taken > hours:
        yield f"time: {taken:,.1f} hours are needed, {hours:,.1f} were named"
    for rule, need in needs.items():
        if card.memory and need.device > card.memory:
            yield f"GPU memory: {rule} needs {need.device / 1e9:,.1f} GB, {card.record['card']} has {card.memory / 1e9:,.1f} GB"


def _too_little(needs: dict[str, Need], card: Card, config: Config, root: Path) -> Iterator[str]:
    """What this machine lacks."""
    folders = [
        *result_folders(config),
        *(f"results/models/{config.pair.model_name(role)}" for role in MODELS),
    ]
    there = sum(
        path.stat().st_size for folder in folders for path in (root / folder).rglob("*") if path.is_file()
    )
    free, wanted = shutil.disk_usage(root).free, sum(need.disk for need in needs.values()) - there
    if wanted > free:
        yield f"disk: {wanted / 1e9:,.1f} GB more are needed, {free / 1e9:,.1f} GB are free"
    main = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for rule, need in needs.items():
        host = need.host if card.memory else need.memory
        if host > main:
            yield f"memory: {rule} needs {host / 1e9:,.1f} GB, this machine has {main / 1e9:,.1f} GB"
