"""Exports a run as a Workflow Run RO-Crate (Provenance Run profile).

The crate has all files with their digests, and all jobs with their inputs, outputs and settings.
"""

import json
import mimetypes
from pathlib import Path
from typing import Any

from rocrate.model import ContextEntity
from rocrate.rocrate import ROCrate

from crossdiff.errors import UserError
from crossdiff.provenance.audit import INPUT_CHANGED, INPUT_NOT_HERE, REMOVED, Audit, Node, settings
from crossdiff.provenance.code import home
from crossdiff.provenance.hashing import TREE, file_sha256, is_plain
from crossdiff.provenance.planned_jobs import plan, read_config
from crossdiff.provenance.records import Record, RecordedFile, record_path

PROFILES = {
    f"https://w3id.org/ro/wfrun/{name}/0.5": f"{name.capitalize()} Run Crate"
    for name in ("process", "workflow", "provenance")
}
LICENCE = (
    "The workflow is under the MIT licence (LICENSE). "
    "Texts and models, and what was made from them, keep the licences of their sources."
)
TREE_HASH = f"{TREE} and the SHA-256 of what this prints: split -b 64M --filter=sha256sum FILE"


def export(root: Path, configs: list[Path], target: Path) -> None:
    """Write the run of a config to the folder ``target``: metadata and copies of all files.

    If ``target`` is the checkout itself, only metadata are written. Accepted results are exported too. Their
    records and the descriptions of their jobs say that older code made them. Raises UserError if any other
    file is not verified, because a crate vouches for what it holds.
    """
    if home(root) != root:
        raise UserError(f"{root}: not a checkout of Crossdiff, and a crate also holds the code; run in one")
    audit = Audit(root, configs)
    nodes: dict[str, Node] = {}
    for output in plan(root, configs):
        if output not in nodes:
            nodes |= audit.chain(output)
    bad = [node for node in nodes.values() if node.findings]
    if bad:
        # Name a file that was changed or lost itself rather than one that was made from it.
        worst = min(bad, key=lambda node: node.findings[0].verdict in (INPUT_CHANGED, INPUT_NOT_HERE))
        first = worst.findings[0]
        found = f"such as {worst.path}: {first.verdict} ({first.detail})"
        raise UserError(f"{len(bad)} files are not verified, {found}; run the workflow first")
    _Crate(root, configs, nodes).crate.write(target)


class _Crate:
    """Builds the crate: first the files, then the workflow and its steps, then the jobs that ran."""

    def __init__(self, root: Path, configs: list[Path], nodes: dict[str, Node]) -> None:
        self.root, self.crate = root, ROCrate(version="1.1")  # the version that the profiles need
        self.crate.metadata.extra_terms["sha256"] = "http://schema.org/sha256"
        self.records = {node.record.id: node.record for node in nodes.values() if node.record}
        self.files = {path: self._file_or_folder(node) for path, node in nodes.items()}
        self.values = {key: self._property(key, values[0]) for key, values in settings(nodes).items()}
        for path in configs:
            self.files[str(path)] = self._file(
                str(path), file_sha256(root / path), description="the run's config"
            )
        self._describe(read_config([root / path for path in configs])["pair"]["name"])
        self.workflow = self._workflow()
        self._runs(configs)

    def _describe(self, pair: str) -> None:
        self.crate.name = f"Crossdiff: {pair}"
        self.crate.description = (
            "Crosscoders with latent scaling show what fine-tuning did to a language model. "
            "A Snakemake workflow made them."
        )
        self.crate.license = self._entity(
            "#licence", "CreativeWork", name="Licences of the parts", description=LICENCE
        )
        profiles = [
            self._entity(url, "CreativeWork", name=name, version="0.5") for url, name in PROFILES.items()
        ]
        wroc = self._entity(
            "https://w3id.org/workflowhub/workflow-ro-crate/1.0",
            "CreativeWork",
            name="Workflow RO-Crate",
            version="1.0",
        )
        self.crate.root_dataset["conformsTo"] = [*profiles, wroc]

    def _entity(self, identifier: str, kind: str | list[str], **properties: Any) -> ContextEntity:
        return self.crate.add(ContextEntity(self.crate, identifier, {"@type": kind} | properties))

    def _property(self, key: str, value: Any) -> ContextEntity:
        return self._entity(f"#setting/{key}", "PropertyValue", name=key, value=json.dumps(value))

    def _file(self, path: str, digest: str, **properties: Any) -> Any:
        return self.crate.add_file(
            self.root / path, path, properties=self._of_file(path, digest) | properties
        )

    def _of_file(self, path: str, digest: str) -> dict[str, Any]:
        kind = mimetypes.guess_type(path)[0] or "application/octet-stream"
        known = {"sha256": digest} if is_plain(digest) else {"identifier": self._tree_hash(digest)}
        return {
            "name": path,
            "contentSize": str((self.root / path).stat().st_size),
            "encodingFormat": kind,
        } | known

    def _tree_hash(self, digest: str) -> ContextEntity:
        """Add the hash of a large file, which has no plain SHA-256."""
        return self._entity(
            f"#digest/{digest}", "PropertyValue", name="tree hash", value=digest, description=TREE_HASH
        )

    def _file_or_folder(self, node: Node) -> Any:
        made: RecordedFile | None = node.record and node.record.output(node.path)
        if made:
            record = record_path(node.path).as_posix()
            self._file(record, file_sha256(self.root / record), description=f"record of {node.path}")
        if made and node.removed:
            return self._removed(made)
        if made is None or made.files is None:
            return self._file(node.path, node.digest or file_sha256(self.root / node.path))
        folder = self.crate.add_dataset(dest_path=node.path, properties={"name": node.path})
        folder["hasPart"] = [self._file(f"{node.path}/{name}", digest) for name, digest in made.files.items()]
        return folder

    def _removed(self, made: RecordedFile) -> ContextEntity:
        """Add what is known of a file that was removed as configured. The crate has its record."""
        known = (
            {"sha256": made.digest} if is_plain(made.digest) else {"identifier": self._tree_hash(made.digest)}
        )
        return self._entity(
            f"#removed/{made.path}",
            "CreativeWork",
            name=made.path,
            size=f"{made.size} bytes",
            description=f"{REMOVED}, so it is not in this crate",
            **known,
        )

    def _workflow(self) -> Any:
        code = {file for record in self.records.values() for file in record.code}
        rules = sorted(path.relative_to(self.root).as_posix() for path in (self.root / "rules").glob("*.smk"))
        sources = {
            file: self._file(file, file_sha256(self.root / file), **{"@type": ["File", "SoftwareSourceCode"]})
            for file in [*sorted(code), *rules]
            # The code of a loss from another package lies elsewhere. Its digest is in the record.
            if (self.root / file).exists()
        }
        self.tools = {rule: sources[f"workflow_scripts/{rule}.py"] for rule in self._rules()}
        self.steps = {
            rule: self._entity(
                f"#step/{rule}", "HowToStep", name=rule, position=str(number), workExample=self.tools[rule]
            )
            for number, rule in enumerate(self.tools, 1)
        }
        workflow = self.crate.add_workflow(
            self.root / "Snakefile",
            "Snakefile",
            main=True,
            lang="snakemake",
            properties=self._of_file("Snakefile", file_sha256(self.root / "Snakefile"))
            | {
                "@type": ["File", "SoftwareSourceCode", "ComputationalWorkflow", "HowTo"],
                "name": "Crossdiff",
            },
        )
        workflow["hasPart"] = list(self.tools.values())
        workflow["step"] = list(self.steps.values())
        return workflow

    def _rules(self) -> list[str]:
        """Return the rules that ran, in the order in which they began."""
        return list(dict.fromkeys(record.rule for record in self._in_order()))

    def _in_order(self) -> list[Record]:
        return sorted(self.records.values(), key=lambda record: record.run["started"])

    def _runs(self, configs: list[Path]) -> None:
        records = self._in_order()
        made = {entry.path for record in records for entry in record.outputs}
        read = {entry.path for record in records for entry in record.inputs}
        commits = sorted({record.run["git"]["commit"] for record in records if record.run["git"]})
        run = self.crate.add_action(
            self.workflow,
            identifier="#run",
            object=[
                *(self.files[path] for path in sorted(read - made)),
                *(self.files[str(path)] for path in configs),
                *self.values.values(),
            ],
            result=[self.files[path] for path in sorted(made - read)],
            properties={
                "name": "the whole run",
                "startTime": min(record.run["started"] for record in records),
                "endTime": max(record.run["finished"] for record in records),
                "description": f"git commit {', '.join(commits) or 'unknown'}",
            },
        )
        controls = [
            self._entity(
                f"#control/{record.id}",
                "ControlAction",
                name=record.rule,
                instrument=self.steps[record.rule],
                object=self._job(record),
            )
            for record in records
        ]
        versions = sorted({record.run["packages"]["snakemake"] for record in records})
        engine = self._entity(
            "#snakemake", "SoftwareApplication", name="Snakemake", softwareVersion=", ".join(versions)
        )
        organise = self._entity(
            "#organise", "OrganizeAction", name="Snakemake", instrument=engine, object=controls, result=run
        )
        self.crate.root_dataset["mentions"] = [
            organise,
            run,
            *(self.crate.dereference(f"#job/{record.id}") for record in records),
        ]

    def _job(self, record: Record) -> ContextEntity:
        where = ", ".join(
            f"{key} {record.run[key]}" for key in ("host", "device", "slurm_job") if record.run[key]
        )
        accepted = [f"older code {entry.digest} was accepted on {entry.when}" for entry in record.accepted]
        return self.crate.add_action(
            self.tools[record.rule],
            identifier=f"#job/{record.id}",
            object=[
                *(self.files[entry.path] for entry in record.inputs),
                *(self.values[key] for key in record.settings),
            ],
            result=[self.files[entry.path] for entry in record.outputs],
            properties={
                "name": " ".join([record.rule, *record.wildcards.values()]),
                "startTime": record.run["started"],
                "endTime": record.run["finished"],
                "description": "; ".join([where, *accepted, "the record next to the result has the rest"]),
            },
        )
