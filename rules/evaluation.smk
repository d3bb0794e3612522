"""Evaluation.

Takes crosscoders, their scaling tables and held-out activations. Gives the beta table with classes, headline numbers and a table that puts the
losses side by side.
"""


rule measure_reconstruction:
    """FVE, L0 and how often each latent fires, on validation tokens."""
    input:
        **pairs("validation"),
        weights="results/{pair}/layer{layer}/{crosscoder}/seed{seed}/weights.safetensors",
        config="results/{pair}/layer{layer}/{crosscoder}/seed{seed}/config.json",
    output:
        quality="results/{pair}/layer{layer}/{crosscoder}/seed{seed}/reconstruction.json",
        fired="results/{pair}/layer{layer}/{crosscoder}/seed{seed}/fired.parquet",
    log:
        "logs/{pair}/measure_reconstruction/layer{layer}.{crosscoder}.seed{seed}.log",
    conda:
        "../envs/environment.yaml"
    resources:
        **request("measure_reconstruction"),
    params:
        code=code_digest("measure_reconstruction"),
    message:
        "Measuring the reconstruction of {wildcards.crosscoder}, seed {wildcards.seed}"
    script:
        "../workflow_scripts/measure_reconstruction.py"


rule evaluate_crosscoder:
    """Classes of all latents and the headline numbers."""
    input:
        scaling="results/{pair}/layer{layer}/{crosscoder}/seed{seed}/scaling.parquet",
        quality="results/{pair}/layer{layer}/{crosscoder}/seed{seed}/reconstruction.json",
        fired="results/{pair}/layer{layer}/{crosscoder}/seed{seed}/fired.parquet",
    output:
        betas="results/{pair}/layer{layer}/{crosscoder}/seed{seed}/betas.parquet",
        csv="results/{pair}/layer{layer}/{crosscoder}/seed{seed}/betas.csv",
        evaluation="results/{pair}/layer{layer}/{crosscoder}/seed{seed}/evaluation.json",
    log:
        "logs/{pair}/evaluate_crosscoder/layer{layer}.{crosscoder}.seed{seed}.log",
    localrule: True
    conda:
        "../envs/environment.yaml"
    params:
        settings=settings("classes", *NU_THRESHOLDS),
        code=code_digest("evaluate_crosscoder"),
    message:
        "Evaluating {wildcards.crosscoder}, seed {wildcards.seed}"
    script:
        "../workflow_scripts/evaluate_crosscoder.py"


rule compare_crosscoders:
    """One row per crosscoder and seed."""
    input:
        per_crosscoder("evaluation.json"),
    output:
        "results/{pair}/tables/crosscoders.csv",
    log:
        "logs/{pair}/compare_crosscoders.log",
    localrule: True
    conda:
        "../envs/environment.yaml"
    params:
        names=[[crosscoder, seed] for crosscoder in CONFIG.crosscoders for seed in CONFIG.seeds],
        code=code_digest("compare_crosscoders"),
    message:
        "Putting the crosscoders side by side"
    script:
        "../workflow_scripts/compare_crosscoders.py"
