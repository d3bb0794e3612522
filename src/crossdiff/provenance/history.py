"""Compare two histories step by step: why do two results differ?"""

from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

from crossdiff.provenance.audit import flat_params
from crossdiff.provenance.hashing import Hashes, is_plain
from crossdiff.provenance.records import Record, RecordedFile, RecordError, read_record

Made = tuple[Path, str, Record]  # a result: root, path below it, record


def first_difference(a: Made, b: Made) -> str | None:
    """One line about the first step at which two histories differ. None if they agree.

    The first step is the one that is nearest to the sources.
    """
    pairs = {(a[2].id, b[2].id): (a, b)}
    order: TopologicalSorter[tuple[str, str]] = TopologicalSorter()
    waiting = list(pairs)
    for step in waiting:  # the list grows in the loop
        order.add(step)
        first, second = pairs[step]
        for one, other in _aligned(first[2], second[2]):
            maker, other_maker = _producer(first[0], one), _producer(second[0], other)
            if maker and other_maker and not _same(first[0], one, second[0], other):
                below = maker[2].id, other_maker[2].id
                order.add(step, below)
                if below not in pairs:
                    pairs[below] = maker, other_maker
                    waiting.append(below)
    return next(
        (difference for step in order.static_order() for difference in _own_differences(*pairs[step])), None
    )


def _aligned(a: Record, b: Record) -> list[tuple[RecordedFile, RecordedFile]]:
    """Pairs of inputs of two jobs that correspond: same name, same place among the inputs of that name."""
    return [
        pair
        for name in dict.fromkeys(entry.name for entry in a.inputs)
        for pair in zip(
            (e for e in a.inputs if e.name == name), (e for e in b.inputs if e.name == name), strict=False
        )
    ]


def _producer(root: Path, entry: RecordedFile) -> Made | None:
    """The result that an input was, with its record. None if there is no record of the same content."""
    try:
        record = read_record(root / entry.path)
    except RecordError:
        return None
    made = record.output(entry.path)
    return (root, entry.path, record) if made and _same(root, made, root, entry) else None


def _same(root_a: Path, one: RecordedFile, root_b: Path, other: RecordedFile) -> bool:
    """Whether two records describe the same bytes.

    If only one of them has a tree hash, its file is hashed again without one.
    """
    if is_plain(one.digest) == is_plain(other.digest):
        return one.digest == other.digest
    root, tree, plain = (root_a, one, other) if is_plain(other.digest) else (root_b, other, one)
    return tree.size == plain.size and Hashes(root, {}).now(tree.path, plain) == plain.digest


def _own_differences(first: Made, second: Made) -> Iterator[str]:
    """Lines about what differs at one step itself, not further up. The best explanation comes first."""
    (root_a, path_a, a), (root_b, path_b, b) = first, second
    step = f"{path_a} and {path_b}" if path_a != path_b else path_a
    if a.rule != b.rule:
        yield f"{step}: made by different rules, {a.rule} and {b.rule}"
        return
    for one, other in _aligned(a, b):
        if not _same(root_a, one, root_b, other) and not (
            _producer(root_a, one) and _producer(root_b, other)
        ):
            paths = f"{one.path} and {other.path}" if one.path != other.path else one.path
            digests = f"{one.digest[:20]} in one and {other.digest[:20]} in the other"
            yield f"{paths}: read by {a.rule}, with digest {digests}"
    if len(a.inputs) != len(b.inputs):
        yield f"{step} ({a.rule}): made from {len(a.inputs)} files and from {len(b.inputs)}"
    values = [flat_params(record.params) for record in (a, b)]
    for key in sorted(values[0].keys() | values[1].keys()):
        here, there = (value.get(key, "not used") for value in values)
        if here != there:
            yield f"{step} ({a.rule}): {key} is {here!r} in one and {there!r} in the other"
    if a.wildcards != b.wildcards:
        changed = [key for key in a.wildcards if a.wildcards[key] != b.wildcards.get(key)]
        yield f"{step} ({a.rule}): " + ", ".join(
            f"{key} is {a.wildcards[key]} in one and {b.wildcards.get(key)} in the other" for key in changed
        )
    code = sorted(
        file for file in a.made_by.keys() | b.made_by.keys() if a.made_by.get(file) != b.made_by.get(file)
    )
    if code:
        yield f"{step} ({a.rule}): other code, {', '.join(code)}"
    made, other_made = a.output(path_a), b.output(path_b)
    if made and other_made and not _same(root_a, made, root_b, other_made):
        facts = [
            record.run["packages"] | {key: record.run[key] for key in ("python", "device", "threads", "host")}
            for record in (a, b)
        ]
        changed = [key for key in facts[0] if facts[0][key] != facts[1].get(key)]
        why = ", ".join(f"{key} {facts[0][key]} and {facts[1].get(key)}" for key in changed)
        why = why or "the rule is not deterministic"
        yield f"{step} ({a.rule}): same inputs, settings and code, other bytes; {why}"
