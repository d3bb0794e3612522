"""Audit as text: the tree of a result, the list of all results, a summary; and the same as JSON."""

import json
from collections.abc import Iterator
from typing import Any

from crossdiff.provenance.audit import VERIFIED, Audit, Node, settings
from crossdiff.provenance.records import RecordedFile, is_result


def as_json(nodes: dict[str, Node], audit: Audit) -> dict[str, Any]:
    """All that audit found, with complete records. ``accepted``: nothing is worse than accepted."""
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
    """The results that aren't verified, one by one; those that are accepted, as many in a line as were accepted together."""
    for path, node in nodes.items():
        if node.findings:
            yield from _notes([path], nodes, "")
    yield from _notes([path for path, node in nodes.items() if node.accepted], nodes, "")


def tree(path: str, nodes: dict[str, Node]) -> Iterator[str]:
    """The chain from a result to its sources. Inputs of one name share a line; what a job was made from is shown once."""
    shown: set[str] = set()

    def lines(group: list[str], name: str, first: str, rest: str) -> Iterator[str]:
        jobs = {node.record.id for node in map(nodes.get, group) if node.record}
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
    return f"{name + ': ' if name else ''}{group[0]}{more}{f'  by {record.rule}' if record else ''}  [{_verdict(group, nodes)}]"


def _verdict(group: list[str], nodes: dict[str, Node]) -> str:
    """The worst verdict in a group of files, and how many of them have it."""
    bad = sum(bool(nodes[path].findings) for path in group)
    accepted = sum(nodes[path].accepted for path in group)
    if not bad and not accepted:
        return "verified"
    number, verdict = (bad, "NOT VERIFIED") if bad else (accepted, "accepted")
    return verdict if len(group) == 1 else f"{number} of {len(group)} {verdict}"


def _notes(group: list[str], nodes: dict[str, Node], indent: str) -> Iterator[str]:
    """Why files aren't verified, after a mark: ! or, for accepted ones, ~. One line per file and verdict; files with the same share it."""
    lines: dict[str, list[str]] = {}
    for path in group:
        verdicts: dict[str, list[str]] = {}
        for finding in nodes[path].verdicts:
            verdicts.setdefault(finding.verdict, []).append(finding.detail)
        for verdict, details in verdicts.items():
            if verdict != VERIFIED:
                lines.setdefault(f"{verdict} ({'; '.join(details)})", []).append(path)
    for line, paths in lines.items():
        mark = "~" if nodes[paths[0]].accepted else "!"
        yield f"{indent}{mark} {paths[0] if len(paths) == 1 else f'{len(paths)} files, {paths[0]} first'}: {line}"


def used_settings(nodes: dict[str, Node], audit: Audit) -> Iterator[str]:
    """The settings that mattered, with their values."""
    used = settings(nodes)
    known = audit.keys() | used.keys()
    yield f"Settings that mattered, {len(used)} of {len(known)}:"
    for key, values in used.items():
        yield f"  {key}: {', '.join(json.dumps(value) for value in values)}"
    yield ""


def summary(nodes: dict[str, Node], audit: Audit) -> str:
    """One line: how many files are verified, accepted, neither, and how that was checked."""
    bad = sum(bool(node.findings) for node in nodes.values())
    accepted = sum(node.accepted for node in nodes.values())
    how = (
        "read and hashed again"
        if audit.hashes.deep
        else "checked by size, times and inode (--deep reads them again)"
    )
    if bad:
        return (
            f"{bad} of {len(nodes)} files not verified{f', {accepted} accepted' if accepted else ''}; {how}."
        )
    if accepted:
        return f"{len(nodes) - accepted} of {len(nodes)} files verified, {accepted} accepted: older code made them; {how}."
    return f"All {len(nodes)} files verified; {how}."
