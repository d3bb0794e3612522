"""``crossdiff accept``: take over results that older code made, without a rerun.

Every edit of the code makes its results "code differs now", and Snakemake would make them anew. Where inputs and settings are still those
of the record, a person may know better: that the edit changes no result. The record then names the code of today, and keeps the digests
of the older code and the time. The result's id stays. Audit calls such a result accepted, never verified.
"""

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from crossdiff.errors import UserError
from crossdiff.provenance.audit import CODE_DIFFERS, ORPHAN, Audit, Finding, Node, code_now
from crossdiff.provenance.code import parts_digest
from crossdiff.provenance.records import Acceptance, Record, write_record


class Outcome(NamedTuple):
    """What was taken over, and what was not. Numbers of results."""

    accepted: Counter[str]  # by rule
    upstream: Counter[
        str
    ]  # by rule: made by older code, too, and accepted ones were made from them, but their rules were not named
    older: Counter[str]  # by rule: made by older code, too, and nothing accepted was made from them
    orphans: int
    unrecorded: int  # without a record that can be read


def accept(root: Path, rules: list[str], configs: list[Path] | None = None, deep: bool = False) -> Outcome:
    """Take over the results below ``root`` from which only their code differs; those of ``rules`` only, if any are named.

    Each result is compared with the config that its record names, or with ``configs``. A result that no job of that config makes (an
    orphan) has no settings to compare with, and one without a record has nothing to keep: both are left as they are and counted. An input
    that is gone can't be compared either; it does not stop the acceptance, as it does not make Snakemake run anything.

    Raises UserError, and writes nothing, where another difference is found in any of the results, for a rule that made none of them, where
    there are no results, where the code of today is gone, and while Snakemake runs.
    """
    _refuse_while_snakemake_runs(root)
    audit = Audit(root, configs, deep)
    nodes = audit.everything()
    audit.remembered.save()
    recorded = [node for node in nodes.values() if node.record]
    _refuse_unknown(rules, {node.record.rule for node in recorded})
    differing = [node for node in recorded if node.findings and not _is_orphan(node)]
    chosen = [node for node in differing if not rules or node.record.rule in rules]
    _refuse_other_differences(chosen)
    _refuse_while_snakemake_runs(root)  # again: with many results, or deep, some time has passed
    when = datetime.now(UTC).isoformat(timespec="seconds")
    records = {
        node.path: _taken_over(node, when) for node in chosen
    }  # all of them before the first is written
    for path, record in records.items():
        _write(root / path, record)
    older = [node for node in differing if node.path not in records and CODE_DIFFERS in _verdicts(node)]
    upstream = _made_from(chosen, nodes)
    return Outcome(
        accepted=Counter(node.record.rule for node in chosen),
        upstream=Counter(node.record.rule for node in older if node.path in upstream),
        older=Counter(node.record.rule for node in older if node.path not in upstream),
        orphans=sum(_is_orphan(node) for node in recorded),
        unrecorded=len(nodes) - len(recorded),
    )


def _taken_over(node: Node, when: str) -> Record:
    """Its record, now of the code of today; it keeps the older code aside. Raises UserError where there is no code of today."""
    record, code = node.record, code_now(node.record)
    if not code:
        raise UserError(
            f"{node.path}: the script of {record.rule}, or a module that its config names, is gone; put it back, then accept again"
        )
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
    return {finding.verdict for finding in node.findings}


def _made_from(chosen: list[Node], nodes: dict[str, Node]) -> set[str]:
    """Paths of all that the chosen results were made from, directly or not."""
    found: set[str] = set()
    waiting = list(chosen)
    while waiting:
        new = {entry.path for entry in waiting.pop().inputs} - found
        found |= new
        waiting += [nodes[path] for path in new if path in nodes]
    return found


def _is_orphan(node: Node) -> bool:
    return ORPHAN in _verdicts(node)


def _refuse_while_snakemake_runs(root: Path) -> None:
    """Raises UserError: jobs that run now write records, too."""
    if lock := next((root / ".snakemake/locks").glob("*"), None):
        raise UserError(
            f"{lock}: Snakemake runs in this folder; wait for its end, or, after a killed run, call snakemake --unlock"
        )


def _refuse_unknown(rules: list[str], known: set[str]) -> None:
    if unknown := [rule for rule in rules if rule not in known]:
        raise UserError(
            f"{unknown[0]}: no rule of this name made any of the results here, allowed: {', '.join(sorted(known))}"
        )


def _refuse_other_differences(nodes: list[Node]) -> None:
    """Raises UserError with the first difference that is not one of code; what was changed itself comes before what was made from it."""
    others: list[tuple[Node, Finding]] = [
        (n, finding) for n in nodes for finding in n.findings if finding.verdict != CODE_DIFFERS
    ]
    if others:
        node, finding = min(others, key=lambda other: other[1].verdict == "input changed since")
        number = len({other.path for other, _ in others})
        raise UserError(
            f"{node.path}: {finding.verdict} ({finding.detail}){f', the first of {number} results that differ' if number > 1 else ''}; "
            "only code may differ, so nothing was accepted: undo the change, make it anew with snakemake, or name the rules to accept"
        )
