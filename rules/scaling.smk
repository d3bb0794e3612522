"""Latent scaling.

Takes a crosscoder and the training caches. Gives norms, betas and nu ratios of every latent, and the file of active entries: the latents that
are active on each token, for all rules that need codes and no activations.
"""


rule scale_latents:
    """All latents, both models, all four targets, in one pass over the tokens, which are encoded here and nowhere else."""
    input:
        **pairs("train"),
        weights=trained("weights.safetensors"),
        config=trained("config.json"),
    output:
        scaling=trained("scaling.parquet"),
        active=trained("active.train.parquet"),
    log:
        trained("scale_latents.log", "logs"),
    benchmark:
        trained("scale_latents.benchmark.tsv", "logs")
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
