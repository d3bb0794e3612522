"""Latent scaling.

This rule takes a crosscoder and the training caches. It gives norms, betas and nu ratios of every latent.
It also gives the file of active entries, which says what latents are active on each token. All rules read
it that need codes and no activations.
"""


rule scale_latents:
    """Encode the training tokens in one pass, and scale all latents to both models and all four targets."""
    input:
        **pairs(STORED),
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
        f"Scaling the latents of {{wildcards.crosscoder}}, seed {{wildcards.seed}}{AT}"
    script:
        "../workflow_scripts/scale_latents.py"
