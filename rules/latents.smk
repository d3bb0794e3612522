"""Latents.

These rules take crosscoders, their beta tables and active entries. They give what each latent fires on
(contexts, counts by group of token) and its twins. Tables over all crosscoders compare template shares,
twins, density, and agreement across seeds.
"""

LATENTS = [
    *every_training("examples.parquet"),
    *(
        of_layer(f"tables/{table}.csv")
        for table in ("template_tokens", "twins", "seed_agreement", "stability")
    ),
]


rule read_latents:
    """Collect contexts of every latent, random contexts for comparison, and activations by group of token."""
    input:
        tokens=token_shards(STORED),
        active=trained("active.train.parquet"),
        scaling=trained("scaling.parquet"),
    output:
        examples=trained("examples.parquet"),
        background=trained("background.parquet"),
        template_tokens=trained("template_tokens.csv"),
        tokens_read=trained("tokens_read.json"),
    log:
        trained("read_latents.log", "logs"),
    benchmark:
        trained("read_latents.benchmark.tsv", "logs")
    conda:
        "../envs/environment.yaml"
    resources:
        **request("read_latents"),
    params:
        settings=settings("examples"),
        code=code_digest("read_latents"),
    message:
        f"Reading the latents of {{wildcards.crosscoder}}, seed {{wildcards.seed}}{AT}"
    script:
        "../workflow_scripts/read_latents.py"


rule find_twins:
    """Find chat-only and base-only latents of one direction, and whether they fire together."""
    input:
        active=trained("active.validation.parquet"),
        weights=trained("weights.safetensors"),
        config=trained("config.json"),
        betas=trained("betas.parquet"),
    output:
        trained("twins.csv"),
    log:
        trained("find_twins.log", "logs"),
    conda:
        "../envs/environment.yaml"
    resources:
        **request("find_twins"),
    params:
        settings=settings("twins"),
        code=code_digest("find_twins"),
    message:
        f"Finding twins of {{wildcards.crosscoder}}, seed {{wildcards.seed}}{AT}"
    script:
        "../workflow_scripts/find_twins.py"


rule group_latents:
    """Group confirmed latents that have nearly one direction, or fire in the same texts."""
    input:
        tokens=token_shards(STORED),
        active=trained("active.train.parquet"),
        weights=trained("weights.safetensors"),
        config=trained("config.json"),
        betas=trained("betas.parquet"),
    output:
        trained("groups.csv"),
    log:
        trained("group_latents.log", "logs"),
    conda:
        "../envs/environment.yaml"
    resources:
        **request("group_latents"),
    params:
        datasets=[dataset for dataset, _ in shards_of(STORED)],
        code=code_digest("group_latents"),
    message:
        f"Grouping confirmed latents of {{wildcards.crosscoder}}, seed {{wildcards.seed}}{AT}"
    script:
        "../workflow_scripts/group_latents.py"


rule compare_latents:
    """Count twins and shares of template tokens for every crosscoder and seed."""
    input:
        betas=every_training("betas.parquet"),
        twins=every_training("twins.csv"),
        template_tokens=every_training("template_tokens.csv"),
        tokens_read=every_training("tokens_read.json"),
    output:
        twins=shown(of_layer("tables/twins.csv")),
        template_tokens=shown(of_layer("tables/template_tokens.csv")),
    log:
        of_layer("compare_latents.log", "logs"),
    localrule: True
    conda:
        "../envs/environment.yaml"
    params:
        trainings=TRAININGS,
        settings=settings("classes.top"),
        code=code_digest("compare_latents"),
    message:
        f"Comparing the crosscoders' latents{AT}"
    script:
        "../workflow_scripts/compare_latents.py"


rule compare_seeds:
    """Count how many latents another seed finds again. With one seed the tables have no rows."""
    input:
        weights=every_training("weights.safetensors"),
        config=every_training("config.json"),
        betas=every_training("betas.parquet"),
    output:
        agreement=shown(of_layer("tables/seed_agreement.csv")),
        stability=shown(of_layer("tables/stability.csv")),
    log:
        of_layer("compare_seeds.log", "logs"),
    localrule: len(TRAININGS) == len(CONFIG.crosscoders)  # then there is nothing to compare
    conda:
        "../envs/environment.yaml"
    resources:
        **request("compare_seeds"),
    params:
        trainings=TRAININGS,
        settings=settings("classes.top", "seed_agreement"),
        code=code_digest("compare_seeds"),
    message:
        f"Comparing the seeds{AT}"
    script:
        "../workflow_scripts/compare_seeds.py"


rule measure_density:
    """Count the latents of each crosscoder and seed that fire on many tokens, and on few."""
    input:
        every_training("betas.parquet"),
    output:
        shown(of_layer("tables/density.csv")),
    log:
        of_layer("measure_density.log", "logs"),
    localrule: True
    conda:
        "../envs/environment.yaml"
    params:
        trainings=TRAININGS,
        settings=settings("density", "classes.top"),
        code=code_digest("measure_density"),
    message:
        f"Measuring how often latents fire{AT}"
    script:
        "../workflow_scripts/measure_density.py"
