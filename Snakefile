"""Crossdiff asks what fine-tuning did to a language model. Stages are included in the order data flows."""

from snakemake.utils import min_version

min_version("9.19")


# Every config is complete. One that is given with --configfile replaces the default and is not merged with
# it.
if not workflow.overwrite_configfiles:

    configfile: "config.yaml"


include: "rules/common.smk"
include: "rules/models.smk"
include: "rules/taught.smk"
include: "rules/tokens.smk"
include: "rules/first_look.smk"
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
include: "rules/overview.smk"
include: "rules/organisms.smk"


localrules:
    all,


rule all:
    """Build everything, down to the report."""
    default_target: True
    input:
        everywhere(*FIRST_LOOK, REPORT, BROWSER, *LATENTS, *CAUSAL, *EXPLANATIONS, *PLANTED, *PAPER),
        OVERVIEW,
        PAPER_OVERVIEW,


# All rules are there now.
gpu_requests.settle(workflow, request)

# A result counts only if its record agrees with it (docs/audit.md).
FOLDERS = own_folders(CONFIG), [*result_folders(CONFIG), *SHARED]
made_again.stop_at_caches(workflow, planned_jobs.start(workflow, *FOLDERS, config, GIVEN))
bounded_disk.remove_at_end(workflow, CONFIG)


onstart:
    try:
        scratch.link_caches(CONFIG)
        resources.check_cores(workflow)
        slurm.check(workflow)
        gpu.check(workflow)
        gpu_room.check(workflow, request)
        gpu_claims.announce(workflow)
        kept_shards.look_again(workflow)
        together.announce(workflow, CONFIG)
        bounded_disk.remove_while_running(workflow, CONFIG)
    except UserError as error:
        raise WorkflowError(str(error))


onsuccess:
    shown = {"first look": everywhere(*FIRST_LOOK), "report": everywhere(REPORT), "overview": OVERVIEW}
    for what, pages in shown.items():
        for page in dict.fromkeys(pages):
            if Path(page).exists():
                print(f"The {what} is at {Path(page).resolve()}")
    times.write_scripts(zip(everywhere(REPORT), everywhere(TIMES)), Path())
