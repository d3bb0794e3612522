"""The plan: every job that Snakemake would run today, with its files and params. `crossdiff audit` reads it.

Asking Snakemake takes seconds, so the plan is kept in a file. It holds for one state of config, rules and the
modules that rules use. Any snakemake run or dry-run of the default target writes it.
"""

import atexit
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from crossdiff.config import load
from crossdiff.config.local_files import missing_files
from crossdiff.config.stores import ranges_file, tokens_file
from crossdiff.config.text_files import expanded
from crossdiff.config.yaml_files import read_yaml
from crossdiff.errors import UserError
from crossdiff.provenance import code, trust
from crossdiff.provenance.json_cache import FOLDER
from crossdiff.provenance.parts import parts_of
from crossdiff.provenance.storage import atomic_path

if TYPE_CHECKING:
    from snakemake.workflow import Workflow

PLAN = FOLDER / "plan.json"
OF_TOKENIZERS = (".json", ".jinja", ".txt", ".model", ".tiktoken")  # endings of files; others are weights


class PlannedJob(NamedTuple):
    """A job as the rules of today describe it."""

    rule: str
    params: dict[str, Any]
    inputs: list[str]
    order_only: list[str]  # inputs whose content does not count


def read_config(paths: list[Path]) -> dict[str, Any]:
    """The values of config files, each merged into those before it, as Snakemake merges them.

    Raises UserError for a file that can't be read, that does not hold keys and their values, or in which a
    key stands twice.
    """
    values: dict[str, Any] = {}
    for path in paths:
        found = read_yaml(path)
        if not isinstance(found, dict):
            what = "nothing" if found is None else type(found).__name__
            allowed = "keys and their values; name a config with --configfile"
            raise UserError(f"{path}: can't be read as a config: found {what}, allowed: {allowed}")
        _merge(values, found)
    return values


def _merge(values: dict[str, Any], others: Mapping[str, Any]) -> None:
    for key, value in others.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            _merge(values[key], value)
        else:
            values[key] = value


def state(values: Mapping[str, Any], root: Path, home: Path | None = None) -> str:
    """Digest of all that decides which jobs there are.

    That is the config, the rules, the modules that rules use, and the names of the files in local folders of
    models, crosscoders and stored activations, and in folders and globs of texts. It is also the content of
    the files that tell whether models share a tokenizer. ``home`` is the folder of the Snakefile if it is not
    ``root``, in which the run works.
    """
    home = home or root
    rules = [home / "Snakefile", *sorted((home / "rules").glob("*.smk"))]
    names = ["workflow/run", "workflow/evaluations", "workflow/harvests"]
    names += ["provenance/planned_jobs", "provenance/trust"]
    modules = code.closure([code.LIBRARY / f"{name}.py" for name in names])
    pair, models = values.get("pair") or {}, values.get("models") or {}
    sources = [pair.get("base") or {}, pair.get("chat") or {}, *models.values()]
    imports = [(entry or {}).get("import") or {} for entry in (values.get("crosscoders") or {}).values()]
    folders = [source.get("folder") for source in (*sources, *imports)]
    # Their content decides which of the models share a tokenizer (workflow.tokenizer_names).
    templates = [(source.get("finetune") or {}).get("chat_template") for source in models.values()]
    tokenizers = [
        path
        for source in models.values()
        for folder in (source.get("folder"), (source.get("adapter") or {}).get("folder"))
        if folder
        for path in sorted((root / Path(folder).expanduser()).glob("*"))
        if path.suffix in OF_TOKENIZERS
    ]
    contents = [*(root / template for template in templates if template), *tokenizers]
    parts = [
        json.dumps(values, sort_keys=True, default=str),
        *(path.read_text(encoding="utf-8") for path in rules),
        *code.parts_of(modules).values(),
        *(
            str(sorted(path.name for path in (root / Path(folder).expanduser()).glob("*")))
            for folder in folders
            if folder
        ),
        *(hashlib.sha256(path.read_bytes()).hexdigest() for path in contents if path.is_file()),
        *(
            str([*_text_files(source or {}, root), *_stored_files(source or {}, root)])
            for source in (values.get("datasets") or {}).values()
        ),
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _text_files(source: Mapping[str, Any], root: Path) -> list[str]:
    """The files below ``root`` that a data set's texts are read from. Empty if they can't be told."""
    named = [str(root / Path(name).expanduser()) for name in source.get("files") or []]
    try:
        return [os.path.relpath(path, root) for path in expanded(named, "files")]
    except UserError:
        return []


def _stored_files(source: Mapping[str, Any], root: Path) -> list[str]:
    """The files of activations that others stored for a data set. Empty if they can't be told."""
    splits = source.get("activations")
    named = (
        [models for models in splits.values() if isinstance(models, dict)] if isinstance(splits, dict) else []
    )
    folders = [root / Path(str(folder)).expanduser() for models in named for folder in models.values()]
    return [
        os.path.relpath(path, root)
        for folder in folders
        for path in (*sorted(folder.glob("*")), tokens_file(folder), ranges_file(folder))
        if path.is_file()
    ]


def start(
    workflow: "Workflow",
    own: list[str],
    folders: list[str],
    values: Mapping[str, Any],
    given: Mapping[str, Any],
) -> dict[str, int]:
    """Prepare records, trust and plan. Called at the end of the Snakefile, before the DAG is built.

    Returns ``Reconciled.first_made``. It is empty where no DAG of the whole run is built.

    ``folders`` contain the results that jobs of this run may read or make. Those in ``own`` contain the
    results of this run alone. ``given`` are the values of the config files. In ``values``, paths of files
    that come with the workflow are where this run finds them.
    """
    # Jobs see the values of the config but not its files, which their records name.
    os.environ["CROSSDIFF_CONFIG"] = os.pathsep.join(map(os.path.relpath, workflow.configfiles))
    if not workflow.is_main_process:
        return {}
    results, first_made = trust.reconcile(workflow, folders)
    code.parsed_before().save()
    atexit.register(
        _finish,
        workflow,
        values,
        state(given, Path(), Path(workflow.basedir)),
        [path for path in results if path.startswith(tuple(f"{folder}/" for folder in own))],
    )
    return first_made


def _finish(workflow: "Workflow", values: Mapping[str, Any], now: str, results: list[str]) -> None:
    """Write the plan, and report results that no job makes.

    Runs when Snakemake ends, because the DAG does not exist before. If Snakemake could build no DAG, a file
    may be missing: print which key of the config names it.
    """
    dag, settings = workflow.dag, workflow.dag_settings
    if dag is None or not dag.targetjobs:
        print("".join(f"{line}\n" for line in missing_files(load(values))), end="", file=sys.stderr)
        return
    if settings.targets or settings.until or settings.omit_from or settings.batch:
        return  # this DAG is only a part of the plan
    made = {str(output) for job in dag.jobs for output in job.output}
    if orphans := sorted(path for path in results if path not in made):
        found = f"{len(orphans)} results belong to no job of this config, such as {orphans[0]}"
        print(f"{found}; crossdiff audit --all names them.", file=sys.stderr)
    if _read(PLAN)[0] != now:
        jobs = dict(planned for job in dag.jobs for planned in _planned(job))
        try:
            with atomic_path(PLAN) as temporary:
                temporary.write_text(now + "\n" + json.dumps(jobs))
        except UserError as error:
            print(error, file=sys.stderr)


def _planned(job: Any) -> Iterator[tuple[str, PlannedJob]]:
    """(output, job) for every output of a job. Outputs of different parts have jobs of their own."""
    ancient = {str(path) for path in job.input if path.is_ancient}
    for part in parts_of(job.rule.name, job):
        inputs = [str(path) for _, path in part.inputs]
        order_only = [path for path in inputs if path in ancient]
        for _, output in part.outputs:
            yield str(output), PlannedJob(part.rule, part.params, sorted(inputs), order_only)


def _read(path: Path) -> tuple[str, str]:
    """The state for which a plan was made, and its jobs as JSON. Both are empty if there is no plan."""
    try:
        now, _, jobs = path.read_text().partition("\n")
    except OSError:
        return "", ""
    return now, jobs


def plan(root: Path, configs: list[Path], fresh: bool = False) -> dict[str, PlannedJob]:
    """Output -> job, for the config files ``configs`` (below ``root``) as they are now.

    Asks Snakemake, which takes some seconds, only if config or rules have changed since the last run, or
    always (``fresh``).
    Raises UserError if there is no workflow, or if Snakemake can't plan.
    """
    home = code.home(root)
    if home != root and not (root / ".snakemake/log").exists():  # Snakemake has not run here either
        compared = "results can be compared with their records, but not with a config"
        raise UserError(f"{root}: no Snakefile here, so {compared}")
    wanted = state(read_config([root / path for path in configs]), root, home)
    if fresh:
        (root / PLAN).unlink(missing_ok=True)
    now, jobs = _read(root / PLAN)
    if now != wanted:
        snakemake = [sys.executable, "-m", "snakemake", "--dry-run", "--quiet"]
        elsewhere = [] if home == root else ["--snakefile", str(home / "Snakefile")]
        command = [*snakemake, *elsewhere, "--configfile", *map(str, configs)]
        result = subprocess.run(command, cwd=root, capture_output=True, text=True)
        now, jobs = _read(root / PLAN)
        if now != wanted:
            # A dry-run prints errors of the Snakefile to standard output, and other errors to the other one.
            lines = (result.stdout + result.stderr).splitlines()
            lines = [line for line in lines if not line.startswith(("Using ", "WorkflowError in file "))]
            said = " ".join([line.strip() for line in lines if line.strip()][:2]) or "it made no plan"
            raise UserError(f"{', '.join(map(str, configs))}: Snakemake can't plan this run ({said})")
    return {output: PlannedJob(*job) for output, job in json.loads(jobs).items()}
