"""Explanations.

These rules take contexts of latents. They give, per crosscoder and seed, each latent in words, and scores
of how well the words tell where it fires. Patterns of tokens are always made. A language model explains
latents if the config has a section ``explanations``. One table and one figure compare sets of latents.
"""

# Name of each explainer -> its file.
EXPLAINERS = {"patterns": "patterns"} | ({"language model": "explanations"} if CONFIG.explanations else {})
EXPLANATION_KEYS = [f"explanations.{key}" for key in Explanations.model_fields if key != "prices"]
EXPLANATIONS = [
    *(path for file in EXPLAINERS.values() for path in every_training(f"{file}.parquet")),
    of_layer("tables/explanations.csv"),
]


rule find_patterns:
    """Find a pattern of tokens for each latent on half of the documents, and score it on the others."""
    input:
        examples=trained("examples.parquet"),
        background=trained("background.parquet"),
        scaling=trained("scaling.parquet"),
        tokens=token_shards(STORED),
        tokenizer=tokenizer,
    output:
        patterns=trained("patterns.parquet"),
        quantiles=trained("patterns_quantiles.parquet"),
    log:
        trained("find_patterns.log", "logs"),
    benchmark:
        trained("find_patterns.benchmark.tsv", "logs")
    conda:
        "../envs/environment.yaml"
    resources:
        **request("find_patterns"),
    params:
        sampled=STORED == SAMPLE,
        code=code_digest("find_patterns"),
    message:
        f"Finding patterns of {{wildcards.crosscoder}}, seed {{wildcards.seed}}{AT}"
    script:
        "../workflow_scripts/find_patterns.py"


if CONFIG.explanations:

    rule explain_latents:
        """Let a language model explain chosen latents, and score that by detection and fuzzing."""
        input:
            examples=trained("examples.parquet"),
            background=trained("background.parquet"),
            betas=trained("betas.parquet"),
            groups=trained("groups.csv"),
            tokens=token_shards(STORED),
            tokenizer=tokenizer,
            model=CONFIG.explanations.model.folder or [],
        output:
            explanations=trained("explanations.parquet"),
            quantiles=trained("explanations_quantiles.parquet"),
        log:
            trained("explain_latents.log", "logs"),
        benchmark:
            trained("explain_latents.benchmark.tsv", "logs")
        localrule: CONFIG.explanations.model.folder is None  # nodes often have no network
        conda:
            "../envs/environment.yaml"
        resources:
            **request("explain_latents"),
        params:
            answers="results/.answers",  # this store only grows, so nothing is asked twice
            settings=settings("classes.top", *EXPLANATION_KEYS),
            code=code_digest("explain_latents"),
        message:
            f"Explaining latents of {{wildcards.crosscoder}}, seed {{wildcards.seed}}{AT}"
        script:
            "../workflow_scripts/explain_latents.py"


rule compare_explanations:
    """Compare detection scores of chat-specific and shared latents, and of those with low and high nu."""
    input:
        betas=[path for _ in EXPLAINERS for path in every_training("betas.parquet")],
        latents=[path for file in EXPLAINERS.values() for path in every_training(f"{file}.parquet")],
    output:
        shown(of_layer("tables/explanations.csv")),
    log:
        of_layer("compare_explanations.log", "logs"),
    localrule: True
    conda:
        "../envs/environment.yaml"
    params:
        explained=[[explainer, *training] for explainer in EXPLAINERS for training in TRAININGS],
        settings=settings("classes.top"),
        code=code_digest("compare_explanations"),
    message:
        f"Comparing explanations{AT}"
    script:
        "../workflow_scripts/compare_explanations.py"
