"""Latent scaling.

Takes a crosscoder and the training caches. Gives norms, betas and nu ratios of every latent.
"""


rule scale_latents:
    """All latents, both models, all four targets, in one pass over the tokens."""
    input:
        **pairs("train"),
        weights="results/{pair}/layer{layer}/{crosscoder}/seed{seed}/weights.safetensors",
        config="results/{pair}/layer{layer}/{crosscoder}/seed{seed}/config.json",
    output:
        "results/{pair}/layer{layer}/{crosscoder}/seed{seed}/scaling.parquet",
    log:
        "logs/{pair}/scale_latents/layer{layer}.{crosscoder}.seed{seed}.log",
    benchmark:
        "logs/{pair}/scale_latents/layer{layer}.{crosscoder}.seed{seed}.benchmark.tsv"
    conda:
        "../envs/environment.yaml"
    resources:
        **request("scale_latents"),
    params:
        settings=settings("latent_scaling.bootstrap"),
        code=code_digest("scale_latents"),
    message:
        "Scaling the latents of {wildcards.crosscoder}, seed {wildcards.seed}"
    script:
        "../workflow_scripts/scale_latents.py"
