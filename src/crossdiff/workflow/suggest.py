"""Settings that fit a disk and a time: data, size of the crosscoders, passes over the data. Torch-free."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from crossdiff.config import Config
from crossdiff.workflow.cards import Card
from crossdiff.workflow.commands import snakemake
from crossdiff.workflow.forecast import activation_width, forecast
from crossdiff.workflow.sizes import Shape

EXPANSIONS = (32, 16, 8, 4, 2)  # latents per residual dimension, the paper's first
PER_LATENT = 2700  # training tokens: 200 M for 73,728 latents in the paper
FEWEST, MOST_EPOCHS = 2, 6  # passes over the data; the paper's are two
VALIDATION = 50  # one held-out token for so many of training, as in the paper
ENOUGH = 0.5  # of the training tokens by the paper's ratio, for an expansion to be suggested
LEAST_TOKENS = 100_000
KEPT_FREE = 0.1  # of the disk
BYTES_PER_TOKEN = 4.5  # of text


class Fit(NamedTuple):
    """Settings, and what they take."""

    config: Config
    expansion: int
    data: int  # training tokens on disk
    epochs: int
    wanted: float  # training tokens by the paper's ratio
    bound: str  # what keeps the training short of them: "disk", "hours"; empty for nothing

    @property
    def trained(self) -> int:
        return self.data * self.epochs


def suggestion(
    config: Config, model: Shape, card: Card, disk: float | None, hours: float | None, configs: Sequence[Path]
) -> Iterator[str]:
    """What fits into ``disk`` bytes and ``hours``, why, and two commands: one writes the settings to a file, one runs with it."""
    limits = ([f"{disk / 1e9:,.0f} GB"] if disk else []) + ([f"{hours:g} hours"] if hours else [])
    there = f"{' and '.join(limits)} on {card.record['card']}"
    tried: list[Fit] = []
    for expansion in EXPANSIONS:
        if (fit := _fit(config, model, card, disk, hours, expansion)) is None:
            continue
        tried.append(fit)
        if fit.trained >= ENOUGH * fit.wanted:
            break
    if not tried:
        least = f"{LEAST_TOKENS:,} tokens and an expansion of {EXPANSIONS[-1]}"
        yield f"Nothing fits {there}: {least} take more, or more memory than the card has."
        return
    fit = tried[-1]
    needs = forecast(fit.config, model).values()
    yield f"What fits {there}: {sum(need.disk for need in needs) / 1e9:,.1f} GB, {card.hours(*needs):.1f} hours."
    yield from _reasons(fit, tried)
    text = BYTES_PER_TOKEN * fit.data / 1e6
    yield f"  texts: about {text:,.0f} MB; a data set that ends earlier stops the run and says how much is missing"
    name = f"{config.pair.name}-fitted.yaml"
    yield from ("", f"cat > {name} <<'END'", "datasets:")
    for key, dataset in fit.config.datasets.items():
        yield f"  {key}: {{tokens: {dataset.tokens}, validation_tokens: {dataset.validation_tokens}}}"
    yield "crosscoders:"
    for key, entry in fit.config.crosscoders.items():
        size = f"latents: {entry.latents}" if entry.latents else f"expansion: {entry.expansion}"
        yield f"  {key}: {{{size}, tokens: {entry.tokens}}}"
    yield from ("END", snakemake([*configs, Path(name)]))


def _reasons(fit: Fit, tried: list[Fit]) -> Iterator[str]:
    largest = {
        "disk": f"the most that the disk holds beside the models, while {KEPT_FREE:.0%} stay free",
        "hours": "the most that the hours allow",
    }
    enough = f"{FEWEST} passes over them are {PER_LATENT:,} training tokens a latent, as in the paper"
    yield f"  tokens {fit.data:,}: {largest.get(fit.bound, enough)}"
    if len(tried) > 1:
        other = tried[-2]
        seen = PER_LATENT * other.trained / other.wanted
        why = f"with {other.expansion} there would be {seen:,.0f} training tokens a latent, in the paper {PER_LATENT:,}"
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
    config: Config, model: Shape, card: Card, disk: float | None, hours: float | None, expansion: int
) -> Fit | None:
    """The most training that fits, up to the paper's ratio; None where the least does not fit, or the card has too little memory."""
    width = activation_width(config, model)
    wanted = PER_LATENT * expansion * width

    def taken(data: int, epochs: int) -> tuple[float, float]:
        needs = forecast(_resized(config, data, expansion, epochs, width), model).values()
        return sum(need.disk for need in needs), card.hours(*needs)

    def fits_disk(data: int) -> bool:
        return not disk or taken(data, FEWEST)[0] <= (1 - KEPT_FREE) * disk

    def fits_hours(data: int, epochs: int = FEWEST) -> bool:
        return not hours or taken(data, epochs)[1] <= hours

    smallest = _resized(config, LEAST_TOKENS, expansion, FEWEST, width)
    if card.memory and max(need.device for need in forecast(smallest, model).values()) > card.memory:
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
    return Fit(
        resized,
        expansion,
        sum(dataset.tokens for dataset in resized.datasets.values()),
        epochs,
        wanted,
        bound,
    )


def _largest(fits: Callable[[int], bool], most: int) -> int:
    """The largest number of tokens that fits, to a hundredth, where LEAST_TOKENS do."""
    if fits(most):
        return most
    low, high = LEAST_TOKENS, most
    while high > 1.01 * low:
        middle = round(math.sqrt(low * high))
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _resized(config: Config, data: int, expansion: int, epochs: int, width: int) -> Config:
    """The config with so many training tokens, shared out as now, and crosscoders of this expansion that see them ``epochs`` times."""
    now = sum(dataset.tokens for dataset in config.datasets.values())
    datasets = {}
    for name, dataset in config.datasets.items():
        tokens = _round(data * dataset.tokens / now)
        datasets[name] = dataset.model_copy(
            update={"tokens": tokens, "validation_tokens": _round(tokens / VALIDATION)}
        )
    seen = epochs * sum(dataset.tokens for dataset in datasets.values())
    crosscoders = {
        name: entry.model_copy(
            update={
                "tokens": max(seen, entry.batch),
                **({"latents": expansion * width} if entry.latents else {"expansion": expansion}),
            }
        )
        for name, entry in config.crosscoders.items()
    }
    return config.model_copy(update={"datasets": datasets, "crosscoders": crosscoders})


def _round(tokens: float) -> int:
    """Down to three digits, since nobody reads more; at least 1000."""
    unit = 10 ** max(0, math.floor(math.log10(max(tokens, 1))) - 2)
    return max(1000, int(tokens // unit * unit))
