"""``crossdiff accept``: take over results that older code made, without a rerun.

After an edit of the code, audit says "code differs now" of its results, and Snakemake would make them again.
The user may know that the edit changes no result. If inputs and settings are still those of the record,
``accept`` writes today's code into the record, and keeps there the digests of the older code and the time.
The result's id stays. Audit then calls the result accepted, never verified.
"""

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from crossdiff.errors import UserError
from crossdiff.provenance.audit import (
    CODE_DIFFERS,
    INPUT_CHANGED,
    INPUT_NOT_HERE,
    ORPHAN,
    Audit,
    Finding,
    Node,
    code_now,
)
from crossdiff.provenance.code import parts_digest
from crossdiff.provenance.lock import refuse_while_snakemake_runs
from crossdiff.provenance.records import Acceptance, Record, write_record


class Outcome(NamedTuple):
    """How many results were accepted, and how many were not. The counters count results by rule.

    ``upstream`` and ``older`` count results of older code whose rules were not named. Accepted results were
    made from those in ``upstream``, and none was made from those in ``older``.
    """

    accepted: Counter[str]
    upstream: Counter[str]
    older: Counter[str]
    orphans: int
    unrecorded: int  # their records are missing or can't be read


def accept(root: Path, rules: list[str], configs: list[Path] | None = None, deep: bool = False) -> Outcome:
    """Accept the results below ``root`` that differ from today's state in their code only.

    ``rules`` restricts this to the results of these rules. An empty list means all rules. Each result is
    compared with the config that its record names, or with ``configs``. Orphans (no job of the config makes
    them) have no settings to compare with, and results without a record have nothing to update: both are
    counted and left as they are. A missing input does not stop the acceptance, because Snakemake would not
    run anything for it.

    Raises UserError, and writes nothing, if one of the results differs in anything else, or if today's code
    is gone. Also if there are no results, or none of a named rule, and while Snakemake runs.
    """
    refuse_while_snakemake_runs(root)
    audit = Audit(root, configs, deep)
    nodes = audit.everything()
    audit.remembered.save()
    recorded = [(node, node.record) for node in nodes.values() if node.record]
    _refuse_unknown(rules, {record.rule for _, record in recorded})
    differing = [(n, record) for n, record in recorded if _verdicts(n) and not _is_orphan(n)]
    chosen = [(node, record) for node, record in differing if not rules or record.rule in rules]
    chosen_nodes = [node for node, _ in chosen]
    _refuse_other_differences(chosen_nodes)
    refuse_while_snakemake_runs(root)  # again, because the audit may have taken long
    when = datetime.now(UTC).isoformat(timespec="seconds")
    # All records are computed before the first is written.
    updated = {node.path: _with_code_of_today(node.path, record, when) for node, record in chosen}
    for path, record in updated.items():
        _write(root / path, record)
    older = [
        (node, record)
        for node, record in differing
        if node.path not in updated and CODE_DIFFERS in _verdicts(node)
    ]
    upstream = _made_from(chosen_nodes, nodes)
    return Outcome(
        accepted=Counter(record.rule for _, record in chosen),
        upstream=Counter(record.rule for node, record in older if node.path in upstream),
        older=Counter(record.rule for node, record in older if node.path not in upstream),
        orphans=sum(_is_orphan(node) for node, _ in recorded),
        unrecorded=sum(node.record is None and node.digest is not None for node in nodes.values()),
    )


def _with_code_of_today(path: str, record: Record, when: str) -> Record:
    """The record with today's code, which keeps the older code under ``accepted``.

    Raises UserError if today's code is gone.
    """
    code = code_now(record)
    if not code:
        missing = f"the script of {record.rule}, or a module that its config names, is gone"
        raise UserError(f"{path}: {missing}; put it back, then accept again")
    older = Acceptance(when, record.code, record.params["code"])
    return record._replace(
        code=code, params=record.params | {"code": parts_digest(code)}, accepted=(*record.accepted, older)
    )


def _write(output: Path, record: Record) -> None:
    try:
        write_record(output, record)
    except OSError as error:
        raise UserError(
            f"{output}: its record can't be written ({error.strerror}); make it writable, then accept again"
        ) from error


def _verdicts(node: Node) -> set[str]:
    """What differs. An input that is not here does not count."""
    return {finding.verdict for finding in node.findings} - {INPUT_NOT_HERE}


def _made_from(chosen: list[Node], nodes: dict[str, Node]) -> set[str]:
    """Paths of everything that the chosen results were made from, directly or not."""
    found: set[str] = set()
    waiting = list(chosen)
    while waiting:
        new = {entry.path for entry in waiting.pop().inputs} - found
        found |= new
        waiting += [nodes[path] for path in new if path in nodes]
    return found


def _is_orphan(node: Node) -> bool:
    return ORPHAN in _verdicts(node)


def _refuse_unknown(rules: list[str], known: set[str]) -> None:
    if unknown := [rule for rule in rules if rule not in known]:
        allowed = ", ".join(sorted(known))
        raise UserError(
            f"{unknown[0]}: no rule of this name made any of the results here, allowed: {allowed}"
        )


def _refuse_other_differences(nodes: list[Node]) -> None:
    """Raise UserError for the first difference that is not one of code.

    A change of the result itself comes before a change of its inputs.
    """
    others: list[tuple[Node, Finding]] = [
        (node, finding)
        for node in nodes
        for finding in node.findings
        if finding.verdict in _verdicts(node) - {CODE_DIFFERS}
    ]
    if others:
        node, finding = min(others, key=lambda other: other[1].verdict == INPUT_CHANGED)
        number = len({other.path for other, _ in others})
        more = f", the first of {number} results that differ" if number > 1 else ""
        raise UserError(
            f"{node.path}: {finding.verdict} ({finding.detail}){more}; only code may differ, so nothing was "
            "accepted: undo the change, make it again with snakemake, or name the rules to accept"
        )
