"""Latents.

Takes crosscoders, their beta tables and activations. Gives what each latent fires on (contexts, counts by group of token), twins, and tables of
template shares, twins and agreement across seeds over all crosscoders.
"""

LATENTS = [
    *per_crosscoder("examples.parquet"),
    *expand("results/{pair}/tables/{table}.csv", pair=PAIR, table=["template_tokens", "twins", "seed_agreement"]),
    f"results/{PAIR}/figures/template_tokens.svg",
]


rule read_latents:
    """Strongest and sampled contexts of every latent, random ones in which it may not fire, and its activations by group of token, in one pass."""
    input:
        **pairs("train"),
        weights="results/{pair}/layer{layer}/{crosscoder}/seed{seed}/weights.safetensors",
        config="results/{pair}/layer{layer}/{crosscoder}/seed{seed}/config.json",
        scaling="results/{pair}/layer{layer}/{crosscoder}/seed{seed}/scaling.parquet",
    output:
        examples="results/{pair}/layer{layer}/{crosscoder}/seed{seed}/examples.parquet",
        background="results/{pair}/layer{layer}/{crosscoder}/seed{seed}/background.parquet",
        template_tokens="results/{pair}/layer{layer}/{crosscoder}/seed{seed}/template_tokens.csv",
        tokens_read="results/{pair}/layer{layer}/{crosscoder}/seed{seed}/tokens_read.json",
    log:
        "logs/{pair}/read_latents/layer{layer}.{crosscoder}.seed{seed}.log",
    benchmark:
        "logs/{pair}/read_latents/layer{layer}.{crosscoder}.seed{seed}.benchmark.tsv"
    conda:
        "../envs/environment.yaml"
    resources:
        **request("read_latents"),
    params:
        settings=settings("examples"),
        code=code_digest("read_latents"),
    message:
        "Reading the latents of {wildcards.crosscoder}, seed {wildcards.seed}"
    script:
        "../workflow_scripts/read_latents.py"


rule find_twins:
    """Chat-only and base-only latents of one direction, and whether they fire in the same places, on validation tokens."""
    input:
        **pairs("validation"),
        weights="results/{pair}/layer{layer}/{crosscoder}/seed{seed}/weights.safetensors",
        config="results/{pair}/layer{layer}/{crosscoder}/seed{seed}/config.json",
        betas="results/{pair}/layer{layer}/{crosscoder}/seed{seed}/betas.parquet",
    output:
        "results/{pair}/layer{layer}/{crosscoder}/seed{seed}/twins.csv",
    log:
        "logs/{pair}/find_twins/layer{layer}.{crosscoder}.seed{seed}.log",
    conda:
        "../envs/environment.yaml"
    resources:
        **request("find_twins"),
    params:
        settings=settings("twins"),
        code=code_digest("find_twins"),
    message:
        "Finding twins of {wildcards.crosscoder}, seed {wildcards.seed}"
    script:
        "../workflow_scripts/find_twins.py"


rule compare_latents:
    """Twins, and shares of template tokens, of every crosscoder and seed."""
    input:
        betas=per_crosscoder("betas.parquet"),
        twins=per_crosscoder("twins.csv"),
        template_tokens=per_crosscoder("template_tokens.csv"),
        tokens_read=per_crosscoder("tokens_read.json"),
    output:
        twins="results/{pair}/tables/twins.csv",
        template_tokens="results/{pair}/tables/template_tokens.csv",
    log:
        "logs/{pair}/compare_latents.log",
    localrule: True
    conda:
        "../envs/environment.yaml"
    params:
        names=[[crosscoder, seed] for crosscoder in CONFIG.crosscoders for seed in CONFIG.seeds],
        settings=settings("classes.top"),
        code=code_digest("compare_latents"),
    message:
        "Putting the crosscoders' latents side by side"
    script:
        "../workflow_scripts/compare_latents.py"


rule compare_seeds:
    """How many latents of each crosscoder another seed finds again; no rows with one seed."""
    input:
        weights=per_crosscoder("weights.safetensors"),
        config=per_crosscoder("config.json"),
        betas=per_crosscoder("betas.parquet"),
    output:
        "results/{pair}/tables/seed_agreement.csv",
    log:
        "logs/{pair}/compare_seeds.log",
    localrule: len(CONFIG.seeds) == 1  # nothing to compare
    conda:
        "../envs/environment.yaml"
    resources:
        **request("compare_seeds"),
    params:
        names=[[crosscoder, seed] for crosscoder in CONFIG.crosscoders for seed in CONFIG.seeds],
        settings=settings("classes.top", "seed_agreement"),
        code=code_digest("compare_seeds"),
    message:
        "Comparing the seeds"
    script:
        "../workflow_scripts/compare_seeds.py"
