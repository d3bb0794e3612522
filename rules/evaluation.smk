"""Evaluation.

These rules take crosscoders, their scaling tables and held-out activations. They give the beta table with
classes, the headline numbers, and a table that compares the losses.
"""


rule measure_reconstruction:
    """Encode the validation tokens, and measure FVE, L0 and how often each latent fires."""
    input:
        **pairs("validation"),
        weights=trained("weights.safetensors"),
        config=trained("config.json"),
    output:
        quality=trained("reconstruction.json"),
        fired=trained("fired.parquet"),
        active=trained("active.validation.parquet"),
    log:
        trained("measure_reconstruction.log", "logs"),
    priority: 1  # an imported crosscoder that does not fit is found here
    conda:
        "../envs/environment.yaml"
    resources:
        **request("measure_reconstruction"),
    params:
        code=code_digest("measure_reconstruction"),
    message:
        f"Measuring the reconstruction of {{wildcards.crosscoder}}, seed {{wildcards.seed}}{AT}"
    script:
        "../workflow_scripts/measure_reconstruction.py"


rule evaluate_crosscoder:
    """Classify all latents and compute the headline numbers."""
    input:
        scaling=trained("scaling.parquet"),
        quality=trained("reconstruction.json"),
        fired=trained("fired.parquet"),
    output:
        betas=trained("betas.parquet"),
        csv=trained("betas.csv"),
        evaluation=trained("evaluation.json"),
    log:
        trained("evaluate_crosscoder.log", "logs"),
    localrule: True
    conda:
        "../envs/environment.yaml"
    params:
        settings=settings("classes", *NU_THRESHOLDS),
        code=code_digest("evaluate_crosscoder"),
    message:
        f"Evaluating {{wildcards.crosscoder}}, seed {{wildcards.seed}}{AT}"
    script:
        "../workflow_scripts/evaluate_crosscoder.py"


rule compare_crosscoders:
    """Write a table with one row per crosscoder and seed."""
    input:
        every_training("evaluation.json"),
    output:
        shown(of_layer("tables/crosscoders.csv")),
    log:
        of_layer("compare_crosscoders.log", "logs"),
    localrule: True
    conda:
        "../envs/environment.yaml"
    params:
        trainings=TRAININGS,
        code=code_digest("compare_crosscoders"),
    message:
        f"Comparing the crosscoders{AT}"
    script:
        "../workflow_scripts/compare_crosscoders.py"
