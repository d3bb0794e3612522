"""Crossdiff asks what fine-tuning did to a language model. Stages are included in the order data flows."""

from snakemake.utils import min_version

min_version("9.19")


# Every config is complete. One that is given with --configfile replaces the default and is not merged with
# it.
if not workflow.overwrite_configfiles:

    configfile: "config.yaml"


include: "rules/common.smk"
include: "rules/models.smk"
include: "rules/tokens.smk"
include: "rules/activations.smk"
include: "rules/planted.smk"
include: "rules/crosscoders.smk"
include: "rules/scaling.smk"
include: "rules/evaluation.smk"
include: "rules/latents.smk"
include: "rules/causal.smk"
include: "rules/explanations.smk"
include: "rules/browser.smk"
include: "rules/steering.smk"
include: "rules/paper.smk"
include: "rules/figures.smk"
include: "rules/report.smk"


localrules:
    all,
    models,
    activations,
    crosscoders,


rule all:
    """Build everything, down to the report."""
    default_target: True
    input:
        REPORT,
        BROWSER,
        LATENTS,
        CAUSAL,
        EXPLANATIONS,
        PLANTED,


rule models:
    """Build both models and, if the config names requests, the table of refusals."""
    input:
        MODEL.values(),
        REFUSALS,


rule activations:
    """Build the token shards and both models' activation caches."""
    input:
        [caches(split, role) for split in SPLITS for role in MODELS],


rule crosscoders:
    """Train every crosscoder of the config from every seed."""
    input:
        every_training("weights.safetensors"),


# A result counts only if its record agrees with it (docs/audit.md).
planned_jobs.start(workflow, [*result_folders(CONFIG), *SHARED], config, GIVEN)


onstart:
    try:
        resources.check_cores(workflow)
        slurm.check(workflow)
        gpu.check(workflow)
        kept_shards.look_again(workflow)
        together.announce(workflow, CONFIG)
    except UserError as error:
        raise WorkflowError(str(error))


onsuccess:
    if Path(REPORT).exists():
        print(f"The report is at {Path(REPORT).resolve()}")
