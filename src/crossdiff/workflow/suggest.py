"""This module suggests settings that fit a disk and a time: data, crosscoder size, passes over the data.

Torch-free.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from crossdiff.config import Config
from crossdiff.config.live import check_live
from crossdiff.workflow.commands import run
from crossdiff.workflow.forecast_data import activation_width
from crossdiff.workflow.forecast_run import CACHING, forecast
from crossdiff.workflow.machine import Machine
from crossdiff.workflow.sizes import Shape, peak

EXPANSIONS = (32, 16, 8, 4, 2)  # latents per residual dimension, the paper's first
PER_LATENT = 2700  # training tokens: 200 M for 73,728 latents in the paper
FEWEST, MOST_EPOCHS = 2, 6  # passes over the data; the paper makes two
VALIDATION = 50  # training tokens for each held-out token, as in the paper
ENOUGH = 0.5  # least share of the paper's training tokens per latent with which an expansion is suggested
LEAST_TOKENS = 100_000  # fewest training tokens that are suggested
KEPT_FREE = 0.1  # share of the disk that stays free
BYTES_PER_TOKEN = 4.5  # text bytes per token, to estimate how much text is needed


class Fit(NamedTuple):
    """Suggested settings and how they compare with the paper's."""

    config: Config
    expansion: int
    data: int  # training tokens on disk
    epochs: int
    wanted: float  # training tokens that the paper's ratio asks for
    bound: str  # the limit that keeps the data below them: "disk" or "hours"; empty if nothing does

    @property
    def trained(self) -> int:
        """Tokens that each training sees, over all epochs."""
        return self.data * self.epochs


def suggestion(
    config: Config,
    models: Mapping[str, Shape],
    machine: Machine,
    disk: float | None,
    hours: float | None,
    configs: Sequence[Path],
) -> Iterator[str]:
    """Yield lines that say what fits into ``disk`` bytes and ``hours``, and why.

    ``models`` has the size of each pair's models. Two commands follow: one writes the settings to a file, the
    other runs with that file.
    """
    if not config.trained:
        yield "Nothing to suggest: the config trains no crosscoder."
        return
    limits = ([f"{disk / 1e9:,.0f} GB"] if disk else []) + ([f"{hours:g} hours"] if hours else [])
    there = f"{' and '.join(limits)} on {machine.card.record['card']}"
    tried: list[Fit] = []
    for expansion in EXPANSIONS:
        if (fit := _fit(config, models, machine, disk, hours, expansion)) is None:
            continue
        tried.append(fit)
        if fit.trained >= ENOUGH * fit.wanted:
            break
    if not tried:
        least = f"{LEAST_TOKENS:,} tokens and an expansion of {EXPANSIONS[-1]}"
        yield f"Nothing fits {there}: {least} take more, or need more memory than the card has."
        return
    fit = tried[-1]
    needs = forecast(fit.config, models)
    gigabytes, taken = peak(needs.values()) / 1e9, machine.all_hours(needs)
    yield f"What fits {there}: {gigabytes:,.1f} GB at its peak, {taken:.1f} hours."
    yield from _reasons(fit, tried)
    text = BYTES_PER_TOKEN * fit.data / 1e6
    yield f"  texts: about {text:,.0f} MB; a shorter data set stops the run and says how much is missing"
    name = f"{config.comparisons[0].name}-fitted.yaml"
    yield from ("", f"cat > {name} <<'END'", "datasets:")
    for key, dataset in fit.config.datasets.items():
        yield f"  {key}: {{tokens: {dataset.tokens}, validation_tokens: {dataset.validation_tokens}}}"
    yield "crosscoders:"
    for key, entry in fit.config.trained.items():
        size = f"latents: {entry.latents}" if entry.latents else f"expansion: {entry.expansion}"
        yield f"  {key}: {{{size}, tokens: {entry.tokens}}}"
    yield from ("END", run([*configs, Path(name)]))


def _reasons(fit: Fit, tried: list[Fit]) -> Iterator[str]:
    largest = {
        "disk": f"the most that the disk holds next to the models, while {KEPT_FREE:.0%} stay free",
        "hours": "the most that the hours allow",
    }
    enough = f"{FEWEST} passes over them are {PER_LATENT:,} training tokens a latent, as in the paper"
    yield f"  tokens {fit.data:,}: {largest.get(fit.bound, enough)}"
    if len(tried) > 1:
        other = tried[-2]
        seen = PER_LATENT * other.trained / other.wanted
        why = (
            f"with {other.expansion} there would be {seen:,.0f} tokens a latent; the paper has {PER_LATENT:,}"
        )
    elif fit.expansion == EXPANSIONS[0]:
        why = "the paper's"
    else:
        why = "a larger one needs more memory than the card has, or more disk or time"
    yield f"  expansion {fit.expansion}: {why}"
    share = f"{fit.trained / fit.wanted:.0%} of the paper's training tokens a latent"
    more = (
        "more passes take more hours"
        if fit.bound == "hours"
        else f"more than {MOST_EPOCHS} passes teach little"
    )
    yield f"  epochs {fit.epochs}: {share}{f'; {more}' if fit.trained < 0.9 * fit.wanted else ''}"


def _fit(
    config: Config,
    models: Mapping[str, Shape],
    machine: Machine,
    disk: float | None,
    hours: float | None,
    expansion: int,
) -> Fit | None:
    """Return the most training that fits, up to the paper's ratio.

    None means that even the smallest training does not fit, or that the GPUs have too little memory.
    """
    width = max(activation_width(config, model) for model in models.values())
    wanted = PER_LATENT * expansion * width

    def taken(data: int, epochs: int) -> tuple[float, float]:
        needs = forecast(_resized(config, data, expansion, epochs, width), models)
        return peak(needs.values()), machine.all_hours(needs)

    def fits_disk(data: int) -> bool:
        return not disk or taken(data, FEWEST)[0] <= (1 - KEPT_FREE) * disk

    def fits_hours(data: int, epochs: int = FEWEST) -> bool:
        return not hours or taken(data, epochs)[1] <= hours

    smallest = _resized(config, LEAST_TOKENS, expansion, FEWEST, width)
    if any(machine.lacks(rule, need) for rule, need in forecast(smallest, models).items()):
        return None
    if not (fits_disk(LEAST_TOKENS) and fits_hours(LEAST_TOKENS)):
        return None
    enough = max(LEAST_TOKENS, round(wanted / FEWEST))
    on_disk = _largest(fits_disk, enough)
    data = _largest(fits_hours, on_disk)
    bound = "hours" if data < on_disk else "disk" if on_disk < enough else ""
    epochs = min(MOST_EPOCHS, max(FEWEST, round(wanted / data)))
    while epochs > FEWEST and not fits_hours(data, epochs):
        epochs -= 1
    resized = _resized(config, data, expansion, epochs, width)
    stored = sum(dataset.tokens for dataset in resized.datasets.values())
    return Fit(resized, expansion, stored, epochs, wanted, bound)


def _largest(fits: Callable[[int], bool], most: int) -> int:
    """Return the largest number of tokens that fits, to within 1 %. LEAST_TOKENS must fit."""
    if fits(most):
        return most
    low, high = LEAST_TOKENS, most
    while high > 1.01 * low:
        middle = round(math.sqrt(low * high))
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _resized(config: Config, data: int, expansion: int, epochs: int, width: int) -> Config:
    """Return the config with ``data`` training tokens and crosscoders of this expansion.

    The tokens are split over the data sets as now, and each crosscoder sees them ``epochs`` times.
    """
    now = sum(dataset.tokens for dataset in config.datasets.values())
    datasets = {}
    for name, dataset in config.datasets.items():
        tokens = _round(data * dataset.tokens / now)
        datasets[name] = dataset.model_copy(
            update={"tokens": tokens, "validation_tokens": _round(tokens / VALIDATION)}
        )
    seen = epochs * sum(dataset.tokens for dataset in datasets.values())
    resized = {
        name: entry.model_copy(
            update={
                "tokens": max(seen, entry.batch),
                **({"latents": expansion * width} if entry.latents else {"expansion": expansion}),
            }
        )
        for name, entry in config.trained.items()
    }
    return config.model_copy(update={"datasets": datasets, "crosscoders": {**config.crosscoders, **resized}})


def _round(tokens: float) -> int:
    """Round down to three digits, since nobody reads more. The result is at least 1000."""
    unit = 10 ** max(0, math.floor(math.log10(max(tokens, 1))) - 2)
    return max(1000, int(tokens // unit * unit))


def without_caches(config: Config, models: Mapping[str, Shape], machine: Machine) -> Iterator[str]:
    """Yield a line that says what the same run takes without caches, if they are most of its disk.

    There is none if the config could not run without caches.
    """
    now = forecast(config, models)
    before, caches = peak(now.values()), peak(now[rule] for rule in CACHING if rule in now)
    if config.activations.are_live or caches < before / 2:
        return
    activations = config.activations.model_copy(update={"store": "none"})
    live = config.model_copy(update={"activations": activations})
    try:
        check_live(live)
    except ValueError:
        return
    needs = forecast(live, models)
    after, times = peak(needs.values()), machine.all_hours(needs) / machine.all_hours(now)
    lacking = [line for rule, need in needs.items() if (line := machine.lacks(rule, need))]
    but = f", but {lacking[0]}" if lacking else ", and later stages read a sample"
    yield (
        f"With activations: {{store: none}} the same run needs {after / 1e9:,.1f} GB at its peak "
        f"and {times:.2f} times the hours{but}."
    )
