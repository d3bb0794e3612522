"""The ``crossdiff`` command: audit, accept, export, forecast, clean up.

Exit code 0: all is well; 1: something is not; 2: it can't be said, or done; 141: nobody reads on.
"""

import argparse
import json
import math
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from crossdiff.config import load
from crossdiff.errors import UserError
from crossdiff.provenance import audit_text
from crossdiff.provenance.accept import Outcome, accept
from crossdiff.provenance.audit import Audit, Finding, locate
from crossdiff.provenance.history import first_difference
from crossdiff.provenance.planned_jobs import read_config
from crossdiff.provenance.records import read_record
from crossdiff.workflow import commands, slurm
from crossdiff.workflow.cards import CARDS, Card, find_card, read_card, write_card

DEFAULT_CONFIG = Path("config.yaml")
READER_GONE = 141  # the exit code of other programs that print into a closed pipe


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; gives its exit code."""
    try:
        try:
            options = _parser().parse_args(arguments)
            return options.run(options)
        finally:
            print(end="", flush=True)  # here, not when Python ends, when nobody could answer the error
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # what is still in the buffer goes nowhere, without a complaint
        return READER_GONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="crossdiff",
        description="Trace, check, accept and export the results of the workflow; forecast a run, clean up after one.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    audit = commands.add_parser("audit", help="where a result comes from, and whether it is still true")
    what = audit.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "result", type=Path, nargs="?", help="a figure, table or any other result; may have been mailed"
    )
    what.add_argument("--all", action="store_true", help="every result below results/")
    what.add_argument(
        "--diff",
        type=Path,
        nargs=2,
        metavar=("A", "B"),
        help="the first difference between two results' histories",
    )
    audit.add_argument(
        "--deep", action="store_true", help="read and hash every file again, whatever its modification time"
    )
    audit.add_argument("--json", action="store_true", help="for machines")
    _add_configfile(audit, "compare with this config instead of the one that the records name")
    audit.set_defaults(run=_audit)
    take = commands.add_parser(
        "accept", help="take over results of older code without a rerun, if only their code differs now"
    )
    take.add_argument(
        "rules", nargs="*", metavar="RULE", help="take over the results of these rules; of all if left out"
    )
    take.add_argument(
        "--deep",
        action="store_true",
        help="read and hash every file again before, whatever its modification time",
    )
    _add_configfile(take, "compare with this config instead of the one that the records name")
    take.set_defaults(run=_accept)
    export = commands.add_parser("export-crate", help="a run as a Workflow Run RO-Crate")
    export.add_argument("crate", type=Path, help="folder to write")
    _add_configfile(export, f"the run's config; {DEFAULT_CONFIG} if left out")
    export.set_defaults(run=_export)
    plan = commands.add_parser("plan", help="what a run will take: jobs, tokens, disk, memory, hours")
    _add_configfile(plan, f"the run's config; {DEFAULT_CONFIG} if left out")
    device = plan.add_mutually_exclusive_group()
    device.add_argument(
        "--card",
        help=f"a card of {CARDS} such as h100, or a file that --calibrate wrote; measured here, roughly, if left out",
    )
    device.add_argument(
        "--calibrate",
        type=_record,
        metavar="FILE.json",
        help="measure the device here in about a minute, and write its record",
    )
    plan.add_argument(
        "--disk",
        type=_bytes,
        metavar="SIZE",
        help="disk that there is, such as 300GB: suggest settings that fit",
    )
    plan.add_argument("--hours", type=_hours, help="time that there is: suggest settings that fit")
    plan.set_defaults(run=_plan)
    clean = commands.add_parser(
        "slurm-clean", help="cancel the SLURM jobs that a killed run in this folder has left behind"
    )
    clean.set_defaults(run=_clean)
    return parser


def _add_configfile(command: argparse.ArgumentParser, help: str) -> None:
    """One path per option, so that a file or rule that follows is not taken for a config."""
    command.add_argument(
        "--configfile",
        type=Path,
        action="append",
        metavar="CONFIG",
        help=f"{help}; repeat it to merge several",
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
        yield f"nothing to accept: the records{where} name the code of today"
    if found.upstream:
        yield f"older code also made what they were made from: {_by_rule(found.upstream)}"
        yield "  snakemake makes these anew, and then the accepted ones, too, unless you accept these as well"
    if found.older:
        yield f"not accepted, and snakemake makes them anew, as their code differs now: {_by_rule(found.older)}"
    if found.orphans:
        yield f"left as they are: orphans, which no job of their config makes ({found.orphans})"
    if found.unrecorded:
        yield f"left as they are: results without a record that can be read ({found.unrecorded})"


def _by_rule(results: Counter[str]) -> str:
    return f"{results.total()} results ({', '.join(f'{number} of {rule}' for rule, number in sorted(results.items()))})"


def _export(options: argparse.Namespace) -> int:
    from crossdiff.exchange.crate import export

    export(Path.cwd(), options.configfile or [DEFAULT_CONFIG], options.crate)
    print(f"written: {options.crate}")
    return 0


def _plan(options: argparse.Namespace) -> int:
    from crossdiff.workflow.plan import report

    configs = options.configfile or [DEFAULT_CONFIG]
    values, root = read_config(configs), Path.cwd()
    load(values)  # before anything is measured
    card = _card(options, configs, root)
    found = report(values, configs, root, card, not options.card, options.disk, options.hours)
    print(*found.forecast, *found.wrong, sep="\n")
    if found.next:
        print("", *found.next, sep="\n")
    if not (options.card or options.calibrate):
        print(
            f"On another machine: {commands.crossdiff('plan', configs, '--card', 'h100')}, or another card of {CARDS}"
        )
    return 1 if found.wrong else 0


def _card(options: argparse.Namespace, configs: list[Path], root: Path) -> Card:
    """The card that is named, or the device here: measured roughly, or for its record."""
    if options.card:
        return find_card(options.card, root)
    from crossdiff.workflow.calibrate import at_hand, calibrated  # with torch

    if not options.calibrate:
        return at_hand()
    write_card(options.calibrate, calibrated(root))
    print(
        f"written: {options.calibrate}; from now on: {commands.crossdiff('plan', configs, '--card', str(options.calibrate))}\n"
    )
    return read_card(options.calibrate)


def _record(text: str) -> Path:
    if not text.endswith(".json"):
        raise argparse.ArgumentTypeError(f"found {text}, allowed: a file whose name ends in .json")
    return Path(text)


def _bytes(text: str) -> float:
    """Of a size such as 300GB or 1.5T."""
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


def _clean(_options: argparse.Namespace) -> int:
    cancelled = slurm.clean(Path.cwd())
    for job in cancelled:
        print(f"cancelled: SLURM job {job.id} ({job.comment}, {job.state})")
    print(f"{len(cancelled)} jobs cancelled; snakemake --unlock, then go on")
    return 0
