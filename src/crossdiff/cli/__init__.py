"""The ``crossdiff`` command: begin, forecast and watch runs; audit, accept, explore and export results.

Its commands are in modules of this package, which are imported when one is called. So ``crossdiff --help``
takes little time.

Exit codes: 0, all is well. 1, something is wrong. 2, the command could not do its work. 3, an audit found
nothing that differs, but not everything is here to be compared. 141, nobody reads its output any more.
"""

import argparse
import math
import os
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from crossdiff.errors import UserError

OF_THE_RUN = "the run's config; the default is config.yaml"
# Format of an export: what it is.
EXPORTS = {
    "hub": "hub: a folder for the Hugging Face hub, with a model card",
    "authors": "authors: as the paper's authors publish crosscoders",
    "neuronpedia": "neuronpedia: features and activations for its interface for uploads",
    "delphi": "delphi: a latent cache for Delphi",
}
READER_GONE = 141  # the exit code of other programs that print into a closed pipe


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    try:
        try:
            given = list(sys.argv[1:] if arguments is None else arguments)
            # What stands behind -- is Snakemake's.
            end = given.index("--") if given[:1] == ["run"] and "--" in given else len(given)
            options = command_parser().parse_args(given[:end], argparse.Namespace(words=given[end + 1 :]))
            module, _, name = options.run.partition(".")
            return getattr(import_module(f"crossdiff.cli.{module}"), name)(options)
        finally:
            print(end="", flush=True)  # here, because nobody catches an error of this write after main
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # Python flushes what is left in the buffer when it ends. That must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_GONE


def command_parser() -> argparse.ArgumentParser:
    """What the command understands. docs/command-line.md is made from it."""
    parser = argparse.ArgumentParser(
        prog="crossdiff",
        description="Begin and forecast runs. Check, accept, explore and export results. Clean up.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_beginning(commands)
    audit = commands.add_parser(
        "audit", help="show where a result comes from and check that it is still true"
    )
    what = audit.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "result",
        type=Path,
        nargs="?",
        help="a figure, a table or any other result, also a copy that was mailed, or a folder for the hub",
    )
    what.add_argument("--all", action="store_true", help="check every result below results/")
    what.add_argument(
        "--diff",
        type=Path,
        nargs=2,
        metavar=("A", "B"),
        help="find where the histories of two results first differ",
    )
    deep = "read and hash every file again, even if its modification time has not changed"
    audit.add_argument("--deep", action="store_true", help=deep)
    audit.add_argument("--json", action="store_true", help="print JSON for other programs")
    compared = "compare with this config, not with the one that the records name"
    _add_configfile(audit, compared)
    audit.set_defaults(run="results.audit")
    take = commands.add_parser(
        "accept", help="keep results of older code without a rerun, if only their code has changed"
    )
    take.add_argument(
        "rules",
        nargs="*",
        metavar="RULE",
        help="accept only the results of these rules; the default is all rules",
    )
    take.add_argument("--deep", action="store_true", help=f"first {deep}")
    _add_configfile(take, compared)
    take.set_defaults(run="results.accept_older")
    export = commands.add_parser("export-crate", help="write a run as a Workflow Run RO-Crate")
    export.add_argument("crate", type=Path, help="the folder to write")
    _add_configfile(export, OF_THE_RUN)
    export.set_defaults(run="results.export_crate")
    share = commands.add_parser("export", help="write a trained crosscoder in another format")
    share.add_argument("training", type=Path, help="results/PAIR/layerN/CROSSCODER/seedS")
    share.add_argument("--to", required=True, choices=EXPORTS, help="; ".join(EXPORTS.values()))
    share.add_argument("folder", type=Path, help="the folder to write; a new one")
    share.add_argument("--push", metavar="OWNER/NAME", help="with --to hub, put the folder on the hub, too")
    share.set_defaults(run="results.export_crosscoder")
    table = commands.add_parser(
        "compare-table", help="put the authors' published numbers of latents next to those of a run"
    )
    table.add_argument("published", type=Path, metavar="FEATURES.csv", help="their feature_df.csv")
    table.add_argument(
        "training", type=Path, help="results/PAIR/layerN/CROSSCODER/seedS, the same crosscoder"
    )
    table.add_argument("file", type=Path, metavar="FILE.csv", help="the table of both to write")
    table.set_defaults(run="results.compare_table")
    plan = commands.add_parser(
        "plan", help="forecast what a run will take: jobs, tokens, disk, memory, hours"
    )
    _add_configfile(plan, OF_THE_RUN)
    device = plan.add_mutually_exclusive_group()
    device.add_argument(
        "--card",
        help="a card of data/cards such as h100, or a file that --calibrate wrote; "
        "without this option the device here is measured roughly",
    )
    device.add_argument(
        "--calibrate",
        type=_record,
        metavar="FILE.json",
        help="measure the device here in about a minute and write its record to this file",
    )
    plan.add_argument(
        "--gpus",
        type=_count,
        metavar="N",
        help="the number of such GPUs; by default those found here, or with --card as many as a job needs",
    )
    plan.add_argument(
        "--disk",
        type=_bytes,
        metavar="SIZE",
        help="the disk you have, such as 300GB: suggest settings that fit",
    )
    plan.add_argument("--hours", type=_hours, help="the hours you have: suggest settings that fit")
    plan.set_defaults(run="runs.plan")
    collect = commands.add_parser(
        "gc", help="list results that no config needs any more, with their sizes, and delete them on demand"
    )
    collect.add_argument(
        "configs",
        type=Path,
        nargs="+",
        metavar="CONFIG",
        help="a config, or a folder of configs; a.yaml+b.yaml stands for a run with both files",
    )
    collect.add_argument("--delete", action="store_true", help="delete what is listed")
    collect.set_defaults(run="runs.collect")
    took = commands.add_parser("times", help="show how long each stage took that a result was made from")
    took.add_argument("result", type=Path, help="the report, a figure, a table or any other result")
    took.set_defaults(run="results.show_times")
    look = commands.add_parser(
        "watch", help="show the jobs that run in this folder now: progress, rate, losses and time left"
    )
    look.set_defaults(run="runs.watch_jobs")
    explore = commands.add_parser(
        "explore", help="serve a page on this machine to try prompts and steer latents of a finished run"
    )
    explore.add_argument(
        "results", type=Path, metavar="RESULTS", help="results/PAIR, or results/PAIR/layerN of several layers"
    )
    explore.add_argument(
        "--host",
        default="127.0.0.1",
        help="the address to listen on; the default is only reached from this machine",
    )
    explore.add_argument("--port", type=_port, default=0, help="the default is a free one")
    explore.add_argument(
        "--sessions", type=Path, metavar="FOLDER", help="where saved sessions go; the default is sessions/"
    )
    explore.add_argument("--stale", action="store_true", help="take results that are stale, too")
    explore.set_defaults(run="results.explore")
    clean = commands.add_parser(
        "slurm-clean", help="cancel the SLURM jobs that a killed run in this folder left behind"
    )
    clean.set_defaults(run="runs.clean_slurm")
    return parser


def _add_beginning(commands: Any) -> None:
    """Add the commands that begin a run in any folder."""
    init = commands.add_parser("init", help="write a commented config for two models that you name")
    model = "a folder, or OWNER/NAME on the hub"
    init.add_argument(
        "config",
        type=Path,
        nargs="?",
        default=Path("config.yaml"),
        metavar="FILE.yaml",
        help="the file to write; the default is config.yaml",
    )
    init.add_argument("--base", required=True, metavar="MODEL", help=f"the base model: {model}")
    init.add_argument(
        "--chat", required=True, metavar="MODEL", help=f"its fine-tune: {model}, or the folder of a LoRA"
    )
    init.add_argument(
        "--layer", type=_layer, help="the 0-based block whose output is compared; the default is the middle"
    )
    files = "files, folders or globs in quotes"
    init.add_argument("--texts", nargs="+", default=[], metavar="FILE", help=f"documents: {files}")
    init.add_argument("--chats", nargs="+", default=[], metavar="FILE", help=f"conversations: {files}")
    init.add_argument(
        "--profile", choices=["slurm"], help="also write slurm/config.yaml, to be fitted to your cluster"
    )
    init.set_defaults(run="runs.init")
    run = commands.add_parser(
        "run",
        help="run Snakemake with Crossdiff's workflow in this folder",
        usage="%(prog)s [--configfile CONFIG] [--profile NAME] [TARGET ...] [-- OPTION OF SNAKEMAKE ...]",
    )
    run.add_argument(
        "targets",
        nargs="*",
        metavar="TARGET",
        help="what to make, such as first_look, tokens, or a file below results/; the default is everything",
    )
    run.add_argument("--profile", metavar="NAME", help="slurm, or a profile of your own")
    _add_configfile(run, OF_THE_RUN)
    run.set_defaults(run="runs.run")


class _Version(argparse.Action):
    """Print the installed version. Other commands skip the package's metadata and start faster."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import version

        print(parser.prog, version("crossdiff"))
        parser.exit()


def _add_configfile(command: argparse.ArgumentParser, help: str) -> None:
    """The option takes one path each time, so that a result or rule after it is not read as a config."""
    command.add_argument(
        "--configfile",
        type=Path,
        action="append",
        metavar="CONFIG",
        help=f"{help}; repeat the option to merge several",
    )


def _record(text: str) -> Path:
    if not text.endswith(".json"):
        raise argparse.ArgumentTypeError(f"found {text}, allowed: a file whose name ends in .json")
    return Path(text)


def _bytes(text: str) -> float:
    """Read a size such as 300GB or 1.5T."""
    found = re.fullmatch(r"([\d.]+)\s*([MGT])B?", text.strip(), re.IGNORECASE)
    if not found:
        raise argparse.ArgumentTypeError(f"found {text}, allowed: a size such as 300GB or 1.5TB")
    return _hours(found[1]) * {"M": 1e6, "G": 1e9, "T": 1e12}[found[2].upper()]


def _hours(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"found {text}, allowed: a number above 0")
    return value


def _layer(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"found {text}, allowed: a 0-based block, such as 13")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text}, allowed: an integer above 0")
    return int(text)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"found {text}, allowed: 0 to 65535, and 0 takes a free one")
    return int(text)
