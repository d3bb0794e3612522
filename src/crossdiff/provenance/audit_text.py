"""Print an audit as text (the tree of a result, the list of all results, a summary) or as JSON."""

import json
from collections.abc import Iterator
from typing import Any

from crossdiff.provenance.audit import ACCEPTED, REMOVED, VERIFIED, Audit, Node, settings
from crossdiff.provenance.records import RecordedFile, is_result


def as_json(nodes: dict[str, Node], audit: Audit) -> dict[str, Any]:
    """Everything that audit found, with complete records.

    ``verified`` is true if all files are verified, ``accepted`` if some are accepted and all others verified.
    """
    clean = not any(node.findings for node in nodes.values())
    accepted = any(node.accepted for node in nodes.values())
    return {
        "root": str(audit.root),
        "verified": clean and not accepted,
        "accepted": clean and accepted,
        "settings": settings(nodes),
        "nodes": [
            {
                "path": node.path,
                "kind": "result" if is_result(node.path) else "source",
                "verdicts": [finding._asdict() for finding in node.verdicts],
                "digest": node.digest,
                "record": node.record
                and {
                    **node.record._asdict(),
                    "inputs": [e._asdict() for e in node.record.inputs],
                    "outputs": [e._asdict() for e in node.record.outputs],
                    "accepted": [e._asdict() for e in node.record.accepted],
                },
            }
            for node in nodes.values()
        ],
    }


def listing(nodes: dict[str, Node]) -> Iterator[str]:
    """Lines for each result that isn't verified. Results that were accepted or removed together share one."""
    for path, node in nodes.items():
        if node.findings:
            yield from _notes([path], nodes, "")
    yield from _notes([path for path, node in nodes.items() if not node.findings], nodes, "")


def tree(path: str, nodes: dict[str, Node]) -> Iterator[str]:
    """Lines for the chain from a result to its sources.

    Inputs of one name share a line. The inputs of a job are shown once.
    """
    shown: set[str] = set()

    def lines(group: list[str], name: str, first: str, rest: str) -> Iterator[str]:
        records = [nodes[member].record for member in group]
        jobs = {record.id for record in records if record}
        seen = bool(jobs) and jobs <= shown
        yield f"{first}{_label(group, name, nodes)}{'  (see above)' if seen else ''}"
        if seen:
            return
        yield from _notes(group, nodes, rest + "  ")
        shown.update(jobs)
        below = list(_groups([entry for member in group for entry in nodes[member].inputs], nodes).items())
        for number, (part, members) in enumerate(below, 1):
            branch, trunk = ("└─ ", "   ") if number == len(below) else ("├─ ", "│  ")
            yield from lines(members, part.partition("\0")[0], rest + branch, rest + trunk)

    yield from lines([path], "", "", "")


def _groups(inputs: list[RecordedFile], nodes: dict[str, Node]) -> dict[str, list[str]]:
    """Group inputs by their name in the rule and by the rule that made them. Each source is its own group."""
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
    label, maker = f"{name}: " if name else "", f"  by {record.rule}" if record else ""
    return f"{label}{group[0]}{more}{maker}  [{_verdict(group, nodes)}]"


def _verdict(group: list[str], nodes: dict[str, Node]) -> str:
    """The worst verdict in a group of files, and how many of them have it."""
    counts = {
        "NOT VERIFIED": sum(bool(nodes[path].findings) for path in group),
        REMOVED: sum(nodes[path].removed for path in group),
        ACCEPTED: sum(nodes[path].accepted for path in group),
    }
    verdict, number = next((item for item in counts.items() if item[1]), (VERIFIED, len(group)))
    return verdict if verdict == VERIFIED or len(group) == 1 else f"{number} of {len(group)} {verdict}"


def _notes(group: list[str], nodes: dict[str, Node], indent: str) -> Iterator[str]:
    """Lines that say why files aren't verified. Files with the same verdict and details share a line.

    Each line begins with a mark: ``!`` for files that aren't verified, ``~`` for all others.
    """
    lines: dict[str, list[str]] = {}
    for path in group:
        verdicts: dict[str, list[str]] = {}
        for finding in nodes[path].verdicts:
            verdicts.setdefault(finding.verdict, []).append(finding.detail)
        for verdict, details in verdicts.items():
            if verdict != VERIFIED:
                lines.setdefault(f"{verdict} ({'; '.join(details)})", []).append(path)
    for line, paths in lines.items():
        mark = "!" if nodes[paths[0]].findings else "~"
        which = paths[0] if len(paths) == 1 else f"{len(paths)} files, {paths[0]} first"
        yield f"{indent}{mark} {which}: {line}"


def used_settings(nodes: dict[str, Node], audit: Audit) -> Iterator[str]:
    """Lines for the settings that mattered, with their values."""
    used = settings(nodes)
    known = audit.keys() | used.keys()
    yield f"Settings that mattered, {len(used)} of {len(known)}:"
    for key, values in used.items():
        yield f"  {key}: {', '.join(json.dumps(value) for value in values)}"
    yield ""


def summary(nodes: dict[str, Node], audit: Audit) -> str:
    """One line that says how many files have which verdict, and how this was checked."""
    bad = sum(bool(node.findings) for node in nodes.values())
    gone = sum(node.removed for node in nodes.values())
    accepted = sum(node.accepted and not node.removed for node in nodes.values())
    how = "checked by size, times and inode (--deep reads them again)"
    if audit.hashes.deep:
        how = "read and hashed again"
    also = f", {gone} {REMOVED}" if gone else ""
    if bad:
        also = (f", {accepted} accepted" if accepted else "") + also
        return f"{bad} of {len(nodes)} files not verified{also}; {how}."
    verified = len(nodes) - accepted - gone
    if accepted:
        also = f"{also}, {accepted} accepted: older code made them"
    told = f"{verified} of {len(nodes)} files verified{also}" if also else f"All {verified} files verified"
    return f"{told}; {how}."
