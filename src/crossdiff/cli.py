"""The ``crossdiff`` command: audit, export, forecast, clean up. Exit code 0: all is well; 1: something is not; 2: it can't be said."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from crossdiff.config import load
from crossdiff.errors import UserError
from crossdiff.provenance.audit import Audit, Finding, Node, locate, settings
from crossdiff.provenance.history import first_difference
from crossdiff.provenance.planned_jobs import read_config
from crossdiff.provenance.records import RecordedFile, is_result, read_record
from crossdiff.workflow import slurm


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; gives its exit code."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="crossdiff", description="Trace and check the results of the workflow; forecast a run, clean up after one."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    audit = commands.add_parser("audit", help="where a result comes from, and whether it is still true")
    what = audit.add_mutually_exclusive_group(required=True)
    what.add_argument("result", type=Path, nargs="?", help="a figure, table or any other result; may have been mailed")
    what.add_argument("--all", action="store_true", help="every result below results/")
    what.add_argument("--diff", type=Path, nargs=2, metavar=("A", "B"), help="the first difference between two results' histories")
    audit.add_argument("--deep", action="store_true", help="read and hash every file again, whatever its modification time")
    audit.add_argument("--json", action="store_true", help="for machines")
    audit.add_argument("--configfile", type=Path, nargs="+", help="compare with this config instead of the one that the records name")
    audit.set_defaults(run=_audit)
    export = commands.add_parser("export-crate", help="a run as a Workflow Run RO-Crate")
    export.add_argument("crate", type=Path, help="folder to write")
    export.add_argument("--configfile", type=Path, nargs="+", default=[Path("config.yaml")], help="the run's config")
    export.set_defaults(run=_export)
    plan = commands.add_parser("plan", help="what a run will take: jobs, tokens, disk, memory, hours")
    plan.add_argument("--configfile", type=Path, nargs="+", default=[Path("config.yaml")], help="the run's config")
    plan.add_argument("--flops", type=float, help="operations per second of the device; measured here if left out")
    plan.set_defaults(run=_plan)
    clean = commands.add_parser("slurm-clean", help="cancel the SLURM jobs that a killed run in this folder has left behind")
    clean.set_defaults(run=_clean)
    return parser


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
    verified = not any(node.findings for node in nodes.values())
    if options.json:
        print(json.dumps(_as_json(nodes, audit, verified), indent=1))
    else:
        lines = _list(nodes) if options.all else _tree(path, nodes)
        print(*lines, "", *([] if options.all else _settings(nodes, audit)), _summary(nodes, audit), sep="\n")
    return 0 if verified else 1


def _diff(a: Path, b: Path) -> int:
    places = [locate(path, Path.cwd())[:2] for path in (a, b)]
    difference = first_difference(*((root, path, read_record(root / path)) for root, path in places))
    print(difference or "the two have the same history")
    return 1 if difference else 0


def _export(options: argparse.Namespace) -> int:
    from crossdiff.exchange.crate import export

    export(Path.cwd(), options.configfile, options.crate)
    print(f"written: {options.crate}")
    return 0


def _plan(options: argparse.Namespace) -> int:
    from crossdiff.workflow.plan import report

    lines, warnings = report(load(read_config(options.configfile)), Path.cwd(), options.flops)
    print(*lines, *(f"warning: {warning}" for warning in warnings), sep="\n")
    return 1 if warnings else 0


def _clean(_options: argparse.Namespace) -> int:
    cancelled = slurm.clean(Path.cwd())
    for job in cancelled:
        print(f"cancelled: SLURM job {job.id} ({job.comment}, {job.state})")
    print(f"{len(cancelled)} jobs cancelled; snakemake --unlock, then go on")
    return 0


def _as_json(nodes: dict[str, Node], audit: Audit, verified: bool) -> dict[str, Any]:
    return {
        "root": str(audit.root),
        "verified": verified,
        "settings": settings(nodes),
        "nodes": [
            {
                "path": node.path,
                "kind": "result" if is_result(node.path) else "source",
                "verdicts": [finding._asdict() for finding in node.findings] or [{"verdict": "verified", "detail": ""}],
                "sha256": node.sha256,
                "record": node.record
                and {
                    **node.record._asdict(),
                    "inputs": [e._asdict() for e in node.record.inputs],
                    "outputs": [e._asdict() for e in node.record.outputs],
                },
            }
            for node in nodes.values()
        ],
    }


def _list(nodes: dict[str, Node]) -> Iterator[str]:
    """The results that aren't verified."""
    for path, node in nodes.items():
        yield from _findings([path], {path: node}, "")


def _tree(path: str, nodes: dict[str, Node]) -> Iterator[str]:
    """The chain from a result to its sources. Inputs of one name share a line; what a job was made from is shown once."""
    shown: set[str] = set()

    def lines(group: list[str], name: str, first: str, rest: str) -> Iterator[str]:
        jobs = {node.record.id for node in map(nodes.get, group) if node.record}
        seen = bool(jobs) and jobs <= shown
        yield f"{first}{_label(group, name, nodes)}{'  (see above)' if seen else ''}"
        if seen:
            return
        yield from _findings(group, nodes, rest + "  ")
        shown.update(jobs)
        below = list(_groups([entry for member in group for entry in nodes[member].inputs], nodes).items())
        for number, (part, members) in enumerate(below, 1):
            branch, trunk = ("└─ ", "   ") if number == len(below) else ("├─ ", "│  ")
            yield from lines(members, part.partition("\0")[0], rest + branch, rest + trunk)

    yield from lines([path], "", "", "")


def _groups(inputs: list[RecordedFile], nodes: dict[str, Node]) -> dict[str, list[str]]:
    """Inputs by their name in the rule and the rule that made them; each source stands alone."""
    groups: dict[str, list[str]] = {}
    for entry in inputs:
        record = nodes[entry.path].record
        members = groups.setdefault(f"{entry.name}\0{record.rule if record else entry.path}", [])
        if entry.path not in members:
            members.append(entry.path)
    return groups


def _label(group: list[str], name: str, nodes: dict[str, Node]) -> str:
    record = nodes[group[0]].record
    more = f" and {len(group) - 1} more" if len(group) > 1 else ""
    bad = sum(bool(nodes[path].findings) for path in group)
    verdict = "verified" if not bad else "NOT VERIFIED" if len(group) == 1 else f"{bad} of {len(group)} NOT VERIFIED"
    return f"{name + ': ' if name else ''}{group[0]}{more}{f'  by {record.rule}' if record else ''}  [{verdict}]"


def _findings(group: list[str], nodes: dict[str, Node], indent: str) -> Iterator[str]:
    """One line per file and verdict; one for all files where they have it in common."""
    lines: dict[str, list[str]] = {}
    for path in group:
        verdicts: dict[str, list[str]] = {}
        for finding in nodes[path].findings:
            verdicts.setdefault(finding.verdict, []).append(finding.detail)
        for verdict, details in verdicts.items():
            lines.setdefault(f"{verdict} ({'; '.join(details)})", []).append(path)
    for line, paths in lines.items():
        yield f"{indent}! {paths[0] if len(paths) == 1 else f'{len(paths)} files, {paths[0]} first'}: {line}"


def _settings(nodes: dict[str, Node], audit: Audit) -> Iterator[str]:
    used = settings(nodes)
    known = audit.keys() | used.keys()
    yield f"Settings that mattered, {len(used)} of {len(known)}:"
    for key, values in used.items():
        yield f"  {key}: {', '.join(json.dumps(value) for value in values)}"
    yield ""


def _summary(nodes: dict[str, Node], audit: Audit) -> str:
    bad = sum(bool(node.findings) for node in nodes.values())
    how = "read and hashed again" if audit.hashes.deep else "checked by size, times and inode (--deep reads them again)"
    if bad:
        return f"{bad} of {len(nodes)} files not verified; {how}."
    return f"All {len(nodes)} files verified; {how}."
