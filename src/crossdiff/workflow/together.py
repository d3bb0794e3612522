"""Which trainings a run plans, so that the first one to start can train the others with it. Torch-free.

Only if the config trains together (``Config.trains_together``). The rule's jobs stay as they are: one per
crosscoder and seed. Nothing here is among their params or inputs.
"""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from crossdiff.config import Config, load
from crossdiff.config.declared import only
from crossdiff.crosscoders import handover
from crossdiff.crosscoders.handover import Order, Outputs
from crossdiff.errors import UserError
from crossdiff.provenance.json_cache import FOLDER
from crossdiff.provenance.parts import named_files
from crossdiff.provenance.recording import identify
from crossdiff.provenance.records import RecordError, read_record, record_path
from crossdiff.provenance.storage import write_json

if TYPE_CHECKING:
    from snakemake.workflow import Workflow

PLANNED = FOLDER / "trainings.json"
RULES = ("train_crosscoder", "train_live")  # a config has one of them

log = logging.getLogger(__name__)


class PlannedTraining(NamedTuple):
    """A job of the rule that this run plans."""

    rule: str
    wildcards: dict[str, str]
    params: dict[str, Any]
    inputs: list[tuple[str, str]]  # name, path
    outputs: list[tuple[str, str]]
    made: list[str]  # the inputs that this run makes


def turns(
    workflow: "Workflow", config: Config, places: Sequence[tuple[str, int]]
) -> dict[str, Callable[..., int]]:
    """Return the resources by which trainings of one pair and layer run one at a time, for the rule.

    ``places`` are (pair, layer). There is one resource for each, and its limit is 1, also for jobs on a
    cluster. There is none unless the config trains together.
    """
    if not config.trains_together:
        return {}
    found = {f"training_{number}": _turn(*place) for number, place in enumerate(places)}
    for name in found:
        workflow.register_resource(name, 1)
    return found


def _turn(pair: str, layer: int) -> Callable[..., int]:
    return lambda wildcards: int((wildcards.pair, wildcards.layer) == (pair, str(layer)))


def announce(workflow: "Workflow", config: Config) -> None:
    """Write down the trainings of this run. Snakemake calls this when no job has started."""
    if not workflow.is_main_process:
        return
    PLANNED.unlink(missing_ok=True)
    if not config.trains_together:
        return
    jobs = list(workflow.dag.needrun_jobs())
    made = {str(path) for job in jobs for path in job.output}
    planned = [
        PlannedTraining(
            job.rule.name,
            dict(job.wildcards.items()),
            dict(job.params.items()),
            list(named_files(job.input)),
            list(named_files(job.output)),
            sorted(made.intersection(map(str, job.input))),
        )
        for job in jobs
        if job.rule.name in RULES
    ]
    write_json(PLANNED, [training._asdict() for training in planned])


def own_order(snakemake: Any, config: Config, identity: str) -> Order:
    """Return the training of the running job. ``config`` is what the job's frame gives."""
    return _order(dict(snakemake.wildcards.items()), config, identity, snakemake.input, snakemake.output)


def other_orders(snakemake: Any) -> Iterator[Order]:
    """Yield the trainings of the running job's pair and layer that the run plans too and that are not made.

    A training that reads what the run has not made yet is left out.
    """
    if not PLANNED.exists():
        return
    own, config = dict(snakemake.wildcards.items()), load(snakemake.config)
    for values in json.loads(PLANNED.read_text()):
        training = PlannedTraining(**values)
        wildcards = training.wildcards
        if wildcards == own or any(wildcards[name] != own[name] for name in ("pair", "layer")):
            continue
        if late := [path for path in training.made if not _is_new(path)]:
            log.info("%s: trains by itself, because %s is not made yet", _name(wildcards), late[0])
            continue
        files, outputs = [(name, path) for name, path in training.inputs], dict(training.outputs)
        try:
            identity = identify(training.rule, wildcards, training.params, files, list(outputs.values()))
        except UserError as error:
            log.info("%s: trains by itself: %s", _name(wildcards), error)
            continue
        if _is_made(outputs["weights"], identity.id):
            continue
        settings = only(config.seen_by(wildcards), training.params["settings"].keys(), training.rule)
        order = _order(wildcards, settings, identity.id, _by_name(files), outputs)
        if not handover.is_left(order):
            yield order._replace(read=tuple(identity.inputs))


def _order(wildcards: dict[str, str], config: Config, identity: str, inputs: Any, outputs: Any) -> Order:
    return Order(
        _name(wildcards),
        config.trained[wildcards["crosscoder"]],
        int(wildcards["seed"]),
        identity,
        inputs,
        Outputs(outputs["weights"], outputs["config"], outputs["log"]),
    )


def _name(wildcards: dict[str, str]) -> str:
    return f"{wildcards['crosscoder']} seed {wildcards['seed']}"


def _by_name(files: list[tuple[str, str]]) -> dict[str, Any]:
    """Return the inputs as a script gets them: lists by name, and the summary, which is one file."""
    found: dict[str, Any] = {}
    for name, path in files:
        found.setdefault(name, []).append(path)
    return found | {"summary": found["summary"][0]}


def _is_new(path: str) -> bool:
    """Whether a file has been made since the run began."""
    return Path(path).exists() and Path(path).stat().st_mtime >= PLANNED.stat().st_mtime


def _is_made(weights: str, identity: str) -> bool:
    """Whether this run has already made a training's results."""
    try:
        return read_record(weights).id == identity and _is_new(str(record_path(weights)))
    except RecordError:
        return False
