"""Commands about runs: begin, forecast and watch them, and clean up after them."""

import argparse
import sys
import time
from pathlib import Path

from crossdiff.config import load
from crossdiff.provenance.code import home
from crossdiff.provenance.planned_jobs import read_config
from crossdiff.workflow import commands, gc, launch, machine_gpus, slurm, watch
from crossdiff.workflow.cards import CARDS, Card, find_card, read_card, write_card
from crossdiff.workflow.first_config import Given, first_config, write
from crossdiff.workflow.plan import report
from crossdiff.workflow.shipped import config_files, find_shipped

CLEAR = "\033[H\033[2J"  # cursor to the top left, screen empty
REFRESHED = 2.0  # seconds between two looks of watch


def init(options: argparse.Namespace) -> int:
    given = Given(options.base, options.chat, options.layer, options.texts, options.chats)
    text, to_fill_in = first_config(given)
    write(options.config, text, options.profile)
    print(f"written: {options.config}")
    print(*to_fill_in, sep="\n", end="\n" if to_fill_in else "")
    print(f"What it will take: {commands.crossdiff('plan', [options.config], '--card', 'h100')}")
    print(f"A first look, which suggests a layer: {commands.run([options.config], 'first_look')}")
    print(f"All of it: {commands.run([options.config])}")
    return 0


def run(options: argparse.Namespace) -> int:
    """Become Snakemake. Comes back only with an error."""
    configs = config_files(options.configfile)
    read_config(configs)  # what can't be read is one line
    launch.start(configs, [*options.targets, *options.words], options.profile)


def plan(options: argparse.Namespace) -> int:
    configs = config_files(options.configfile)
    values, root = read_config(configs), Path.cwd()
    find_shipped(values, home(root))
    load(values)  # before anything is measured
    card = _card(options, configs, root)
    here = not options.card
    gpus = options.gpus or (len(machine_gpus.usable()) or None if here else None)
    found = report(values, configs, root, card, here, options.disk, options.hours, gpus)
    print(*found.forecast, *found.wrong, sep="\n")
    if found.next:
        print("", *found.next, sep="\n")
    if not (options.card or options.calibrate):
        elsewhere = commands.crossdiff("plan", configs, "--card", "h100")
        print(f"On another machine: {elsewhere}, or another card of {CARDS}")
    return 1 if found.wrong else 0


def _card(options: argparse.Namespace, configs: list[Path], root: Path) -> Card:
    """Return the named card. Without one measure the device here: in full for --calibrate, else roughly."""
    if options.card:
        return find_card(options.card, root)
    from crossdiff.workflow.calibrate import at_hand, calibrated  # with torch

    if not options.calibrate:
        return at_hand()
    write_card(options.calibrate, calibrated(root))
    again = commands.crossdiff("plan", configs, "--card", str(options.calibrate))
    print(f"written: {options.calibrate}; from now on: {again}\n")
    return read_card(options.calibrate)


def watch_jobs(_options: argparse.Namespace) -> int:
    """Print once, or again every few seconds in a terminal until Ctrl-C."""
    try:
        while sys.stdout.isatty():
            lines = list(watch.report(Path.cwd()))
            print(CLEAR + "\n".join(lines), flush=True)
            time.sleep(REFRESHED)
        print(*watch.report(Path.cwd()), sep="\n")
    except KeyboardInterrupt:
        pass  # how a user ends it
    return 0


def collect(options: argparse.Namespace) -> int:
    root = Path.cwd()
    collected = gc.collect(root, options.configs)
    print(*gc.listing(collected), sep="\n", flush=True)
    if collected.found.unneeded and options.delete:
        gc.delete(root, collected.found)
        print("What no config needs is deleted.")
    elif collected.found.unneeded:
        print("Nothing is deleted yet. To delete what no config needs, add --delete.")
    return 0


def clean_slurm(_options: argparse.Namespace) -> int:
    cancelled = slurm.clean(Path.cwd())
    for job in cancelled:
        print(f"cancelled: SLURM job {job.id} ({job.comment}, {job.state})")
    todo = "give the command of the run Snakemake's option --unlock, then start the run again"
    print(f"{len(cancelled)} jobs cancelled; {todo}")
    return 0
