"""Two histories side by side: why do two results differ?"""

from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

from crossdiff.provenance.audit import flat_params
from crossdiff.provenance.hashing import Hashes, is_plain
from crossdiff.provenance.records import Record, RecordedFile, RecordError, read_record

Made = tuple[Path, str, Record]  # root, path below it, record


def first_difference(a: Made, b: Made) -> str | None:
    """One line on the first step, from the sources on, at which two histories part; None where they do not. Raises RecordError."""
    pairs = {(a[2].id, b[2].id): (a, b)}
    order: TopologicalSorter[tuple[str, str]] = TopologicalSorter()
    waiting = list(pairs)
    for step in waiting:  # grows
        order.add(step)
        first, second = pairs[step]
        for one, other in _aligned(first[2], second[2]):
            made = _producer(first[0], one), _producer(second[0], other)
            if all(made) and not _same(first[0], one, second[0], other):
                below = made[0][2].id, made[1][2].id
                order.add(step, below)
                if below not in pairs:
                    pairs[below] = made
                    waiting.append(below)
    return next(
        (difference for step in order.static_order() for difference in _own_differences(*pairs[step])), None
    )


def _aligned(a: Record, b: Record) -> list[tuple[RecordedFile, RecordedFile]]:
    """Inputs of two jobs that play the same part: same name, same place among those of that name."""
    return [
        pair
        for name in dict.fromkeys(entry.name for entry in a.inputs)
        for pair in zip(
            (e for e in a.inputs if e.name == name), (e for e in b.inputs if e.name == name), strict=False
        )
    ]


def _producer(root: Path, entry: RecordedFile) -> Made | None:
    """The job that made an input, if its record is still of the same content."""
    try:
        record = read_record(root / entry.path)
    except RecordError:
        return None
    made = record.output(entry.path)
    return (root, entry.path, record) if made and _same(root, made, root, entry) else None


def _same(root_a: Path, one: RecordedFile, root_b: Path, other: RecordedFile) -> bool:
    """Whether two records tell of the same bytes. If only one has a tree hash, its file is hashed as for the other."""
    if is_plain(one.digest) == is_plain(other.digest):
        return one.digest == other.digest
    root, tree, plain = (root_a, one, other) if is_plain(other.digest) else (root_b, other, one)
    return tree.size == plain.size and Hashes(root, {}).now(tree.path, plain) == plain.digest


def _own_differences(first: Made, second: Made) -> Iterator[str]:
    """What differs at one step itself, not further up; what explains the result best comes first."""
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
            yield f"{paths}: read by {a.rule}, with digest {one.digest[:20]} in one and {other.digest[:20]} in the other"
    if len(a.inputs) != len(b.inputs):
        yield f"{step} ({a.rule}): made from {len(a.inputs)} files and from {len(b.inputs)}"
    values = [flat_params(record.params) for record in (a, b)]
    for key in sorted(values[0].keys() | values[1].keys()):
        was, other = (value.get(key, "not used") for value in values)
        if was != other:
            yield f"{step} ({a.rule}): {key} is {was!r} in one and {other!r} in the other"
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
    made, other = a.output(path_a), b.output(path_b)
    if made and other and not _same(root_a, made, root_b, other):
        facts = [
            record.run["packages"] | {key: record.run[key] for key in ("python", "device", "threads", "host")}
            for record in (a, b)
        ]
        changed = [key for key in facts[0] if facts[0][key] != facts[1].get(key)]
        said = ", ".join(f"{key} {facts[0][key]} and {facts[1].get(key)}" for key in changed)
        yield f"{step} ({a.rule}): same inputs, settings and code, other bytes; {said or 'the rule is not deterministic'}"
