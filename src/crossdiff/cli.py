"""The ``crossdiff`` command audits, accepts, explores and exports results, forecasts a run and cleans up.

Exit codes: 0, all is well. 1, something is wrong. 2, the command could not do its work. 141, nobody reads its
output any more.
"""

import argparse
import json
import math
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from crossdiff.config import load
from crossdiff.errors import UserError
from crossdiff.provenance import audit_text, times
from crossdiff.provenance.accept import Outcome, accept
from crossdiff.provenance.audit import Audit, Finding, locate
from crossdiff.provenance.history import first_difference
from crossdiff.provenance.planned_jobs import read_config
from crossdiff.provenance.records import read_record
from crossdiff.workflow import commands, gc, machine_gpus, slurm, watch
from crossdiff.workflow.cards import CARDS, Card, find_card, read_card, write_card

DEFAULT_CONFIG = Path("config.yaml")
CLEAR = "\033[H\033[2J"  # cursor to the top left, screen empty
REFRESHED = 2.0  # seconds between two looks of watch
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
            options = command_parser().parse_args(arguments)
            return options.run(options)
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
        description="Check, accept, explore and export results. Forecast a run and clean up after it.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    audit = commands.add_parser(
        "audit", help="show where a result comes from and check that it is still true"
    )
    what = audit.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "result",
        type=Path,
        nargs="?",
        help="a figure, a table or any other result, also a copy that was mailed",
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
    audit.set_defaults(run=_audit)
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
    take.set_defaults(run=_accept)
    export = commands.add_parser("export-crate", help="write a run as a Workflow Run RO-Crate")
    export.add_argument("crate", type=Path, help="the folder to write")
    _add_configfile(export, f"the run's config; the default is {DEFAULT_CONFIG}")
    export.set_defaults(run=_export)
    share = commands.add_parser("export", help="write a trained crosscoder in another format")
    share.add_argument("training", type=Path, help="results/PAIR/layerN/CROSSCODER/seedS")
    share.add_argument("--to", required=True, choices=EXPORTS, help="; ".join(EXPORTS.values()))
    share.add_argument("folder", type=Path, help="the folder to write; a new one")
    share.add_argument("--push", metavar="OWNER/NAME", help="with --to hub, put the folder on the hub, too")
    share.set_defaults(run=_share)
    table = commands.add_parser(
        "compare-table", help="put the authors' published numbers of latents next to those of a run"
    )
    table.add_argument("published", type=Path, metavar="FEATURES.csv", help="their feature_df.csv")
    table.add_argument(
        "training", type=Path, help="results/PAIR/layerN/CROSSCODER/seedS, the same crosscoder"
    )
    table.add_argument("file", type=Path, metavar="FILE.csv", help="the table of both to write")
    table.set_defaults(run=_compare_table)
    plan = commands.add_parser(
        "plan", help="forecast what a run will take: jobs, tokens, disk, memory, hours"
    )
    _add_configfile(plan, f"the run's config; the default is {DEFAULT_CONFIG}")
    device = plan.add_mutually_exclusive_group()
    device.add_argument(
        "--card",
        help=f"a card of {CARDS} such as h100, or a file that --calibrate wrote; "
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
    plan.set_defaults(run=_plan)
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
    collect.set_defaults(run=_collect)
    took = commands.add_parser("times", help="show how long each stage took that a result was made from")
    took.add_argument("result", type=Path, help="the report, a figure, a table or any other result")
    took.set_defaults(run=_times)
    look = commands.add_parser(
        "watch", help="show the jobs that run in this folder now: progress, rate, losses and time left"
    )
    look.set_defaults(run=_watch)
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
    explore.set_defaults(run=_explore)
    clean = commands.add_parser(
        "slurm-clean", help="cancel the SLURM jobs that a killed run in this folder left behind"
    )
    clean.set_defaults(run=_clean)
    return parser


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


def _audit(options: argparse.Namespace) -> int:
    if options.diff:
        return _diff(*options.diff)
    found: list[Finding] = []
    root = Path.cwd()
    if options.all:
        audit = Audit(root, options.configfile, options.deep)
        nodes = audit.everything()
    else:
        root, path, found = locate(options.result, root)
        audit = Audit(root, options.configfile, options.deep)
        nodes = audit.chain(path)
        nodes[path] = nodes[path]._replace(findings=found + nodes[path].findings)
    audit.remembered.save()
    if options.json:
        print(json.dumps(audit_text.as_json(nodes, audit), indent=1))
    else:
        lines = audit_text.listing(nodes) if options.all else audit_text.tree(path, nodes)
        used = [] if options.all else audit_text.used_settings(nodes, audit)
        print(*lines, "", *used, audit_text.summary(nodes, audit), sep="\n")
    return 1 if any(node.findings for node in nodes.values()) else 0


def _times(options: argparse.Namespace) -> int:
    root, path, _ = locate(options.result, Path.cwd())
    print(*times.lines(times.stages(path, root)), sep="\n")
    return 0


def _diff(a: Path, b: Path) -> int:
    places = [locate(path, Path.cwd())[:2] for path in (a, b)]
    difference = first_difference(*((root, path, read_record(root / path)) for root, path in places))
    print(difference or "the two have the same history")
    return 1 if difference else 0


def _accept(options: argparse.Namespace) -> int:
    found = accept(Path.cwd(), options.rules, options.configfile, options.deep)
    print(*_outcome(found), sep="\n")
    return 0


def _outcome(found: Outcome) -> Iterator[str]:
    if found.accepted:
        yield f"accepted: {_by_rule(found.accepted)}"
    else:
        where = " of the named rules" if found.older else ""
        yield f"nothing to accept: the records{where} name today's code"
    if found.upstream:
        yield f"older code also made the inputs of these results: {_by_rule(found.upstream)}"
        yield "  accept these inputs too, or snakemake will rerun them and then the accepted results"
    if found.older:
        said = "not accepted because their code has changed, so snakemake will rerun them"
        yield f"{said}: {_by_rule(found.older)}"
    if found.orphans:
        yield f"left as they are: orphans, which no job of their config makes ({found.orphans})"
    if found.unrecorded:
        yield f"left as they are: results whose record is missing or can't be read ({found.unrecorded})"


def _by_rule(results: Counter[str]) -> str:
    by_rule = ", ".join(f"{number} of {rule}" for rule, number in sorted(results.items()))
    return f"{results.total()} results ({by_rule})"


def _export(options: argparse.Namespace) -> int:
    from crossdiff.exchange.crate import export

    export(Path.cwd(), options.configfile or [DEFAULT_CONFIG], options.crate)
    print(f"written: {options.crate}")
    return 0


def _share(options: argparse.Namespace) -> int:
    from crossdiff.exchange import authors, delphi, hub, neuronpedia
    from crossdiff.exchange.training import Training, new_folder

    if options.push and options.to != "hub":
        raise UserError(f"--push: found --to {options.to}, allowed: --to hub")
    writers = {
        "hub": hub.write_hub_folder,
        "authors": authors.write_authors,
        "neuronpedia": neuronpedia.write_neuronpedia,
        "delphi": delphi.write_delphi,
    }
    training = Training(options.training)
    with new_folder(options.folder) as folder:
        said = writers[options.to](training, folder)
    print(f"written: {options.folder}: {said}")
    if options.push:
        print(f"on the hub: {hub.push(options.folder, options.push)}")
    return 0


def _compare_table(options: argparse.Namespace) -> int:
    from crossdiff.exchange.published_table import write_comparison
    from crossdiff.exchange.training import Training

    betas = Training(options.training).table("betas.parquet")
    print(*write_comparison(options.published, betas, options.file), sep="\n")
    print(f"written: {options.file}")
    return 0


def _plan(options: argparse.Namespace) -> int:
    from crossdiff.workflow.plan import report

    configs = options.configfile or [DEFAULT_CONFIG]
    values, root = read_config(configs), Path.cwd()
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


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text}, allowed: an integer above 0")
    return int(text)


def _watch(_options: argparse.Namespace) -> int:
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


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"found {text}, allowed: 0 to 65535, and 0 takes a free one")
    return int(text)


def _explore(options: argparse.Namespace) -> int:
    """Serve until Ctrl-C."""
    from crossdiff.report.live.serve import serve  # with torch and FastAPI
    from crossdiff.workflow.shipped import shipped

    front = shipped("report", Path())
    try:
        serve(options.results, front, options.host, options.port, options.sessions, not options.stale)
    except UserError as error:
        raise UserError(str(error).replace("give check=False", "add --stale")) from error
    except KeyboardInterrupt:
        pass  # how a user ends it
    return 0


def _collect(options: argparse.Namespace) -> int:
    root = Path.cwd()
    collected = gc.collect(root, options.configs)
    print(*gc.listing(collected), sep="\n", flush=True)
    if collected.found.unneeded and options.delete:
        gc.delete(root, collected.found)
        print("What no config needs is deleted.")
    elif collected.found.unneeded:
        print("Nothing is deleted yet. To delete what no config needs, add --delete.")
    return 0


def _clean(_options: argparse.Namespace) -> int:
    cancelled = slurm.clean(Path.cwd())
    for job in cancelled:
        print(f"cancelled: SLURM job {job.id} ({job.comment}, {job.state})")
    print(f"{len(cancelled)} jobs cancelled; run snakemake --unlock, then start the run again")
    return 0
