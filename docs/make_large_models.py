"""Print the tables of docs/large-models-forecast.md: `python docs/make_large_models.py`. Torch-free."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from crossdiff.config import Config, load
from crossdiff.workflow.cards import find_card
from crossdiff.workflow.forecast_run import forecast
from crossdiff.workflow.gpus_needed import LIVE, turns
from crossdiff.workflow.machine import Machine
from crossdiff.workflow.shapes import shape
from crossdiff.workflow.sizes import Need, kept, peak

ROOT = Path(__file__).parents[1]
PAPER = "configs/gemma2-2b.yaml"
LATENTS = 73_728  # as in the paper
CARDS = ("h100", "h200")
# Base model, chat model, layer: the middle one, as in the paper.
PAIRS = {
    "Llama 3.1 8B": ("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B-Instruct", 16),
    "Gemma 2 27B": ("google/gemma-2-27b", "google/gemma-2-27b-it", 23),
    "Llama 3.1 70B": ("meta-llama/Llama-3.1-70B", "meta-llama/Llama-3.1-70B-Instruct", 40),
}
MODES: dict[str, dict[str, Any]] = {
    "kept": {},
    "for a while (`keep: false`)": {"keep": False},
    "none (`store: none`)": {"store": "none"},
}
KEPT, _, NONE = MODES


def config_of(pair: str, mode: str) -> Config:
    """Return the paper's run with another pair, and with one of the MODES of keeping caches."""
    values = yaml.safe_load((ROOT / PAPER).read_text())
    base, chat, layer = PAIRS[pair]
    hubs = {"base": base, "chat": chat}
    models = {role: {"hub": {"name": name, "revision": "main"}} for role, name in hubs.items()}
    values["pair"] = {"name": "pair", "layer": layer, **models}
    values["activations"] |= MODES[mode]
    for crosscoder in values["crosscoders"].values():
        del crosscoder["expansion"]
        crosscoder["latents"] = LATENTS
    return load(values)


def needs_of(pair: str, mode: str) -> tuple[Config, dict[str, Need]]:
    """Return the config of a pair and mode, and what its run takes."""
    config = config_of(pair, mode)
    model = shape(config, ROOT)
    assert model is not None
    return config, forecast(config, model)


def tables() -> Iterator[str]:
    """Yield the lines of both tables, in Markdown."""
    yield "| pair | caches | disk that stays, GB | its peak, GB |"
    yield "| --- | --- | --- | --- |"
    for pair in PAIRS:
        for mode in MODES:
            every = needs_of(pair, mode)[1].values()
            yield f"| {pair} | {mode} | {kept(every) / 1e9:,.0f} | {peak(every) / 1e9:,.0f} |"
    yield ""
    yield "| pair | card | caches | GPUs of a harvest | of a training | at most | main memory, GB | hours |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for pair in PAIRS:
        for name in CARDS:
            for mode in (KEPT, NONE):
                config, needs = needs_of(pair, mode)
                machine = Machine.of(find_card(name, ROOT), config)
                assert not any(machine.lacks(rule, need) for rule, need in needs.items())
                gpus = {rule: machine.gpus_of(rule, need) for rule, need in needs.items()}
                training = LIVE if mode == NONE else "train_crosscoder"
                in_turns = len(turns(needs[training], machine.memory))
                trained = f"{gpus[training]}{f', in {in_turns} turns' if in_turns > 1 else ''}"
                host = max(machine.host(rule, need) for rule, need in needs.items())
                numbers = (gpus["harvest_activations"], trained, max(gpus.values()), f"{host / 1e9:.0f}")
                cells = (pair, name, mode, *numbers, f"{machine.all_hours(needs):.1f}")
                yield f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    print(*tables(), sep="\n")
