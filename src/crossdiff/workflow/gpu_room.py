"""This module refuses a run whose jobs need more of this machine's GPUs than there is. Torch-free."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossdiff.config import MODELS, Config, ModelSource
from crossdiff.errors import UserError
from crossdiff.workflow.gpu_requests import GB, allowed, limited
from crossdiff.workflow.harvests import known_as
from crossdiff.workflow.machine_gpus import DEVICES, ON_GPU, card_bytes
from crossdiff.workflow.resources import TRAINING, Requests
from crossdiff.workflow.shapes import listed

if TYPE_CHECKING:
    from snakemake.workflow import Workflow

ALL_ROLES, CHAT = tuple(MODELS), ("chat",)
# Rules that hold all weights of these models at the same time. prove_model holds those of its wildcard.
HOLDING = {
    "compare_models": ALL_ROLES,
    "generate_answers": CHAT,
    "measure_refusals": CHAT,
    "measure_taught": CHAT,
    "list_items": ALL_ROLES,
    "score_items": CHAT,
    "measure_causal_effect": ALL_ROLES,
    "steer_latents": ALL_ROLES,
}
BITS = (8, 4)
STORED_IN_FEW_BITS = ("openai/gpt-oss-", "deepseek-ai/DeepSeek-V3")  # of data/model-shapes.yaml


def check(workflow: "Workflow", requests: Requests, devices: Path = DEVICES) -> None:
    """Raise UserError for a job that asks for more GPUs than this machine has, or whose models fit nowhere.

    Snakemake calls this when the DAG is known and no job has started. Only weights are counted here, so a
    model that hardly fits may still be refused when it is loaded (``models.placement``).
    """
    if workflow.executor_plugin.name != "local" or not (limit := allowed(workflow, devices)):
        return
    config = requests.config
    card = limited(card_bytes(devices), config.gpus.memory)
    for job in workflow.dag.needrun_jobs():
        rule = known_as(job.rule.name)
        if (asked := _asked(workflow, job)) > limit:
            is_setting = rule == TRAINING and asked == config.gpus.training
            found = f"gpus.training: found {asked}" if is_setting else f"rule {rule}: {ON_GPU}: found {asked}"
            raise UserError(f"{found}, allowed on this machine: up to {limit}")
        if card is not None and not config.gpus.offload:
            _check_weights(job, rule, requests, limit, card)


def _asked(workflow: "Workflow", job: Any) -> int:
    """The number of GPUs that a job asks for. In ``job.resources`` Snakemake has cut it to the limit."""
    if ON_GPU not in job.rule.resources:
        return 0
    context = {"input": job.input, "attempt": 1, "threads": job.threads, "rulename": job.rule.name}
    resource = job.rule.resources[ON_GPU]
    return resource.evaluate(job.wildcards, **context, async_run=workflow.async_run).value or 0


def _check_weights(job: Any, rule: str, requests: Requests, number: int, card: float) -> None:
    wildcards = dict(job.wildcards.items())
    config = requests.config.seen_by(wildcards)
    names = [config.pair.model_name(role) for role in HOLDING.get(rule, ())]
    if rule == "prove_model":
        names = [wildcards["model"]]
    model = requests.models[config.pair.name]
    if model is None:
        return
    sizes = {
        bits: sum(_bytes(config, name, model.parameters(), bits) for name in names) for bits in (None, *BITS)
    }
    room = number * card
    if sizes[None] <= room:
        return
    keys = " and ".join(config.key_of(name) for name in names)
    fitting = [f"bits: {bits} ({sizes[bits] / GB:.1f} GB)" for bits in BITS if sizes[bits] <= room]
    without = ["first_look.take: false"] if rule == "compare_models" else []
    would = f"it would fit: {', or '.join([*fitting, 'gpus.offload: true', *without])}"
    needs = f"{rule} needs {sizes[None] / GB:.1f} GB for weights"
    raise UserError(f"{keys}: {needs}, this machine's GPUs have {number} x {card / GB:.1f} GB; {would}")


def _bytes(config: Config, name: str, parameters: float, bits: int | None) -> float:
    """The least that a model's weights take, with ``bits`` or as the config has it."""
    source = config.models[name]
    return parameters * min(_least_bits(source, Path(f"results/models/{name}")), bits or 16) / 8


def _least_bits(source: ModelSource, made: Path) -> int:
    """Bits of each weight. The least that is usual, if it is not known how the model is stored."""
    if source.bits:
        return source.bits
    if (made / "config.json").exists():
        return 4 if "quantization_config" in json.loads((made / "config.json").read_text()) else 16
    hub = source.hub.name if source.hub else ""
    return 16 if listed(hub, Path()) and not hub.startswith(STORED_IN_FEW_BITS) else 4
