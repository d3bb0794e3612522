"""Commands about results: audit, accept, explore and export them."""

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from crossdiff.errors import UserError
from crossdiff.provenance import audit_text, times
from crossdiff.provenance.accept import Outcome, accept
from crossdiff.provenance.audit import DIFFERS, Audit, Node
from crossdiff.provenance.code import home
from crossdiff.provenance.history import first_difference
from crossdiff.provenance.locate import Exported, locate, locate_exported
from crossdiff.provenance.records import read_record
from crossdiff.workflow.shipped import config_files


def audit(options: argparse.Namespace) -> int:
    if options.diff:
        return _diff(*options.diff)
    root, path, first = Path.cwd(), "", []
    exported = None if options.all else locate_exported(options.result, root)
    if not options.all and not exported:
        root, path, findings = locate(options.result, root)
    made = Audit(root, options.configfile, options.deep)
    if options.all:
        nodes = made.everything()
    elif exported:
        nodes, first = _of_exported(exported, made), [exported.said]
    else:
        nodes = made.chain(path)
        nodes[path] = nodes[path]._replace(findings=findings + nodes[path].findings)
    made.remembered.save()
    if options.json:
        print(json.dumps(audit_text.as_json(nodes, made), indent=1))
    else:
        lines = audit_text.tree(path, nodes) if path else audit_text.listing(nodes)
        used = [] if options.all else audit_text.used_settings(nodes, made)
        print(*first, *lines, "", *used, *audit_text.summary(nodes, made), sep="\n")
    return _code(nodes)


def _of_exported(exported: Exported, made: Audit) -> dict[str, Node]:
    """The chains of all results in a folder that was exported, and its files that are of no result."""
    nodes: dict[str, Node] = {}
    for path in exported.found:
        nodes |= made.chain(path)
    for path, findings in exported.found.items():
        nodes[path] = nodes[path]._replace(findings=findings + nodes[path].findings)
    return nodes | {node.path: node for node in exported.others}


def _code(nodes: dict[str, Node]) -> int:
    """The exit code: 1 if anything differs, 3 if only something is not here to be compared, else 0."""
    if any(node.standing == DIFFERS for node in nodes.values()):
        return 1
    return 3 if any(node.findings for node in nodes.values()) else 0


def _diff(a: Path, b: Path) -> int:
    places = [locate(path, Path.cwd())[:2] for path in (a, b)]
    difference = first_difference(*((root, path, read_record(root / path)) for root, path in places))
    print(difference or "the two have the same history")
    return 1 if difference else 0


def show_times(options: argparse.Namespace) -> int:
    root, path, _ = locate(options.result, Path.cwd())
    print(*times.lines(times.stages(path, root)), sep="\n")
    return 0


def accept_older(options: argparse.Namespace) -> int:
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
        yield "  accept these inputs too, or the next run makes them again and then the accepted results"
    if found.older:
        said = "not accepted because their code has changed, so the next run makes them again"
        yield f"{said}: {_by_rule(found.older)}"
    if found.orphans:
        yield f"left as they are: orphans, which no job of their config makes ({found.orphans})"
    if found.unrecorded:
        yield f"left as they are: results whose record is missing or can't be read ({found.unrecorded})"


def _by_rule(results: Counter[str]) -> str:
    by_rule = ", ".join(f"{number} of {rule}" for rule, number in sorted(results.items()))
    return f"{results.total()} results ({by_rule})"


def export_crate(options: argparse.Namespace) -> int:
    from crossdiff.exchange.crate import export

    export(Path.cwd(), config_files(options.configfile), options.crate)
    print(f"written: {options.crate}")
    return 0


def export_crosscoder(options: argparse.Namespace) -> int:
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


def compare_table(options: argparse.Namespace) -> int:
    from crossdiff.exchange.published_table import write_comparison
    from crossdiff.exchange.training import Training

    betas = Training(options.training).table("betas.parquet")
    print(*write_comparison(options.published, betas, options.file), sep="\n")
    print(f"written: {options.file}")
    return 0


def explore(options: argparse.Namespace) -> int:
    """Serve until Ctrl-C."""
    from crossdiff.report.live.serve import serve  # with torch and FastAPI

    front = home(Path()) / "report"
    try:
        serve(options.results, front, options.host, options.port, options.sessions, not options.stale)
    except UserError as error:
        raise UserError(str(error).replace("give check=False", "add --stale")) from error
    except KeyboardInterrupt:
        pass  # how a user ends it
    return 0
