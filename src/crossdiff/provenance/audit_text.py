"""Print an audit as text (the tree of a result, the list of all results, a summary) or as JSON."""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from crossdiff.provenance.audit import (
    ACCEPTED,
    DIFFERS,
    INPUT_NOT_HERE,
    MISSING,
    NOT_COMPARED,
    REMOVED,
    VERIFIED,
    Audit,
    Node,
    settings,
)
from crossdiff.provenance.records import RecordedFile, is_result

# In a tree, what is said of a file, the worst first.
LABELS = {
    DIFFERS: "NOT VERIFIED",
    MISSING: "not here",
    INPUT_NOT_HERE: "inputs not here",
    NOT_COMPARED: NOT_COMPARED,
    REMOVED: REMOVED,
    ACCEPTED: ACCEPTED,
}
NAMED = 3  # missing inputs that the summary names


def as_json(nodes: dict[str, Node], audit: Audit) -> dict[str, Any]:
    """Everything that audit found, with complete records.

    ``verified`` is true if all files are verified, ``accepted`` if some are accepted and all others verified.
    ``counts``: how many files have which standing.
    """
    clean = not any(node.findings for node in nodes.values())
    accepted = any(node.accepted for node in nodes.values())
    return {
        "root": str(audit.root),
        "verified": clean and not accepted,
        "accepted": clean and accepted,
        "counts": Counter(node.standing for node in nodes.values()),
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
    """Lines for each result that isn't verified, those that differ first. Others share lines."""
    groups: dict[str, list[str]] = {}
    for path, node in nodes.items():
        groups.setdefault(node.standing if node.findings else "", []).append(path)
    for path in groups.pop(DIFFERS, []):
        yield from _notes([path], nodes, "")
    for standing in (MISSING, INPUT_NOT_HERE, NOT_COMPARED, ""):
        yield from _notes(groups.get(standing, []), nodes, "")


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
    counts = Counter(nodes[path].standing for path in group)
    worst = next((standing for standing in LABELS if counts[standing]), None)
    if worst is None:
        return VERIFIED
    return LABELS[worst] if len(group) == 1 else f"{counts[worst]} of {len(group)} {LABELS[worst]}"


def _notes(group: list[str], nodes: dict[str, Node], indent: str) -> Iterator[str]:
    """Lines that say why files aren't verified. Files with the same verdict and details share a line.

    Each line begins with a mark: ``!`` for files that differ, ``?`` for files that can't be compared because
    something is not here, ``~`` for all others.
    """
    lines: dict[tuple[str, str], list[str]] = {}
    for path in group:
        node = nodes[path]
        mark = "!" if node.standing == DIFFERS else "?" if node.findings else "~"
        verdicts: dict[str, list[str]] = {}
        for finding in node.verdicts:
            verdicts.setdefault(finding.verdict, []).append(finding.detail)
        for verdict, details in verdicts.items():
            if verdict != VERIFIED:
                lines.setdefault((mark, f"{verdict} ({'; '.join(details)})"), []).append(path)
    for (mark, line), paths in lines.items():
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


def summary(nodes: dict[str, Node], audit: Audit) -> Iterator[str]:
    """Lines that say what could be verified, what could not and why. The last tells how this was checked."""
    count = Counter(node.standing for node in nodes.values())
    gone = f", {count[REMOVED]} {REMOVED}" if count[REMOVED] else ""
    bad = sum(bool(node.findings) for node in nodes.values())
    if bad:
        yield from _unverified(nodes, count)
        accepted = f", {count[ACCEPTED]} accepted" if count[ACCEPTED] else ""
        meaning = "" if count[DIFFERS] else "; nothing that is here contradicts its record"
        yield f"{bad} of {len(nodes)} files not verified{accepted}{gone}{meaning}; {_how(audit)}."
        return
    also = gone + (f", {count[ACCEPTED]} accepted: older code made them" if count[ACCEPTED] else "")
    verified = count[VERIFIED]
    told = f"{verified} of {len(nodes)} files verified{also}" if also else f"All {verified} files verified"
    yield f"{told}; {_how(audit)}."


def _unverified(nodes: dict[str, Node], count: Counter[str]) -> Iterator[str]:
    if count[VERIFIED]:
        yield f"Verified: {count[VERIFIED]}. Each is as recorded, and so are its inputs, config and code."
    if count[DIFFERS]:
        yield f"Differing: {count[DIFFERS]}. The lines with ! say what is not as recorded."
    if count[NOT_COMPARED]:
        yield f"As recorded, with inputs and code, but not compared with a config: {count[NOT_COMPARED]}."
    if count[INPUT_NOT_HERE]:
        yield (
            f"As recorded, but not all their inputs are here: {count[INPUT_NOT_HERE]}. "
            f"Their history can't be followed further here. Missing: {_named(_lacking(nodes))}."
        )
    taken_over = [node for node in nodes.values() if node.record and node.record.accepted]
    if among := sum(node.standing in (INPUT_NOT_HERE, NOT_COMPARED) for node in taken_over):
        yield f"Accepted among those that are as recorded: {among}. Older code made them."
    if count[MISSING]:
        missing = [path for path, node in nodes.items() if node.standing == MISSING]
        yield f"Not here, so nothing is said of their bytes: {count[MISSING]}, {_named(missing)}."
    for reason, number in Counter(_reasons(nodes)).items():
        yield f"Not compared with a config: {number}, because: {reason}."


def _lacking(nodes: dict[str, Node]) -> list[str]:
    """Missing inputs, those that most results were made from first."""
    found = Counter(
        finding.detail
        for node in nodes.values()
        for finding in node.findings
        if finding.verdict == INPUT_NOT_HERE
    )
    return [path for path, _ in found.most_common()]


def _reasons(nodes: dict[str, Node]) -> Iterator[str]:
    return (
        finding.detail
        for node in nodes.values()
        for finding in node.findings
        if finding.verdict == NOT_COMPARED
    )


def _named(paths: list[str]) -> str:
    more = f" and {len(paths) - NAMED} more" if len(paths) > NAMED else ""
    return ", ".join(paths[:NAMED]) + more


def _how(audit: Audit) -> str:
    if audit.hashes.deep:
        return "read and hashed again"
    by_stamp = "checked by size, times and inode (--deep reads them again)"
    read = len(audit.hashes.read)
    return f"{read} read and hashed, the others {by_stamp}" if read else by_stamp
