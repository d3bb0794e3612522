"""Explanations.

Takes contexts of latents. Gives, per crosscoder and seed, each latent in words and how well these tell where it fires: by patterns of tokens always, by
a language model where the config has a section ``explanations``. One table and one figure compare sets of latents.
"""

EXPLAINERS = {"patterns": "patterns"} | ({"language model": "explanations"} if CONFIG.explanations else {})  # name -> file
EXPLANATION_KEYS = [f"explanations.{key}" for key in Explanations.model_fields if key != "prices"]
EXPLANATIONS = [
    *per_crosscoder([f"{file}.parquet" for file in EXPLAINERS.values()]),
    f"results/{PAIR}/tables/explanations.csv",
    f"results/{PAIR}/figures/explanations.svg",
]


rule find_patterns:
    """What each latent fires on, as a pattern of tokens: fitted on half of the documents, scored on the others."""
    input:
        examples="results/{pair}/layer{layer}/{crosscoder}/seed{seed}/examples.parquet",
        background="results/{pair}/layer{layer}/{crosscoder}/seed{seed}/background.parquet",
        scaling="results/{pair}/layer{layer}/{crosscoder}/seed{seed}/scaling.parquet",
        tokens=token_shards("train"),
        tokenizer="results/{pair}/tokenizer",
    output:
        patterns="results/{pair}/layer{layer}/{crosscoder}/seed{seed}/patterns.parquet",
        quantiles="results/{pair}/layer{layer}/{crosscoder}/seed{seed}/patterns_quantiles.parquet",
    log:
        "logs/{pair}/find_patterns/layer{layer}.{crosscoder}.seed{seed}.log",
    benchmark:
        "logs/{pair}/find_patterns/layer{layer}.{crosscoder}.seed{seed}.benchmark.tsv"
    conda:
        "../envs/environment.yaml"
    resources:
        **request("find_patterns"),
    params:
        code=code_digest("find_patterns"),
    message:
        "Finding patterns of {wildcards.crosscoder}, seed {wildcards.seed}"
    script:
        "../workflow_scripts/find_patterns.py"


if CONFIG.explanations:

    rule explain_latents:
        """Chosen latents explained by a language model, and its explanations scored by detection and fuzzing."""
        input:
            examples="results/{pair}/layer{layer}/{crosscoder}/seed{seed}/examples.parquet",
            background="results/{pair}/layer{layer}/{crosscoder}/seed{seed}/background.parquet",
            betas="results/{pair}/layer{layer}/{crosscoder}/seed{seed}/betas.parquet",
            tokens=token_shards("train"),
            tokenizer="results/{pair}/tokenizer",
            model=CONFIG.explanations.model.folder or [],
        output:
            explanations="results/{pair}/layer{layer}/{crosscoder}/seed{seed}/explanations.parquet",
            quantiles="results/{pair}/layer{layer}/{crosscoder}/seed{seed}/explanations_quantiles.parquet",
        log:
            "logs/{pair}/explain_latents/layer{layer}.{crosscoder}.seed{seed}.log",
        benchmark:
            "logs/{pair}/explain_latents/layer{layer}.{crosscoder}.seed{seed}.benchmark.tsv"
        localrule: CONFIG.explanations.model.folder is None  # nodes often have no network
        conda:
            "../envs/environment.yaml"
        resources:
            **request("explain_latents"),
        params:
            answers=f"results/{PAIR}/.answers",  # a store that only grows: what was asked once is not asked again
            settings=settings("classes.top", *EXPLANATION_KEYS),
            code=code_digest("explain_latents"),
        message:
            "Explaining latents of {wildcards.crosscoder}, seed {wildcards.seed}"
        script:
            "../workflow_scripts/explain_latents.py"


rule compare_explanations:
    """Detection scores of chat-specific and shared latents, and of those with low and high nu."""
    input:
        betas=[path for _ in EXPLAINERS for path in per_crosscoder("betas.parquet")],
        latents=[path for file in EXPLAINERS.values() for path in per_crosscoder(f"{file}.parquet")],
        quantiles=[path for file in EXPLAINERS.values() for path in per_crosscoder(f"{file}_quantiles.parquet")],
    output:
        table="results/{pair}/tables/explanations.csv",
        figures=multiext("results/{pair}/figures/explanations", ".svg", ".png"),
    log:
        "logs/{pair}/compare_explanations.log",
    localrule: True
    conda:
        "../envs/environment.yaml"
    params:
        names=[[explainer, crosscoder, seed] for explainer in EXPLAINERS for crosscoder in CONFIG.crosscoders for seed in CONFIG.seeds],
        settings=settings("classes.top"),
        code=code_digest("compare_explanations"),
    message:
        "Comparing explanations"
    script:
        "../workflow_scripts/compare_explanations.py"
