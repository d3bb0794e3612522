"""Activations.

Takes both models and the token shards. Gives one HDF5 cache per shard and model, and a summary: which tokens count and how activations are scaled.
"""


rule harvest_activations:
    """One pass of one model over one shard, stopped at the layer."""
    input:
        model=lambda w: f"results/{w.pair}/models/{HARVESTED[w.model]}",
        tokens="results/{pair}/tokens/{dataset}.{split}/{shard}.parquet",
        checked=ancient("results/{pair}/pair.json"),
    output:
        "results/{pair}/activations/layer{layer}/{dataset}.{split}/{shard}.{model}.h5",
    log:
        "logs/{pair}/harvest_activations/layer{layer}.{dataset}.{split}.{shard}.{model}.log",
    benchmark:
        "logs/{pair}/harvest_activations/layer{layer}.{dataset}.{split}.{shard}.{model}.benchmark.tsv"
    wildcard_constraints:
        model=one_of(HARVESTED),
    conda:
        "../envs/environment.yaml"
    resources:
        **request("harvest_activations"),
        batch_tokens=BATCH_TOKENS,
    params:
        settings=settings("pair.layer"),
        code=code_digest("harvest_activations"),
    message:
        "Harvesting {wildcards.model} activations of {wildcards.dataset}, {wildcards.split} shard {wildcards.shard}"
    script:
        "../workflow_scripts/harvest_activations.py"


rule summarise_activations:
    """Median norms, the tokens that count, means and scales."""
    input:
        tokens=token_shards("train"),
        base=caches("train", ["base"]),
        chat=caches("train", ["chat"]),
    output:
        "results/{pair}/activations/layer{layer}/summary.json",
    log:
        "logs/{pair}/summarise_activations/layer{layer}.log",
    conda:
        "../envs/environment.yaml"
    params:
        settings=settings("activations.skip_first", "activations.max_norm_ratio", "activations.statistics_tokens"),
        code=code_digest("summarise_activations"),
    message:
        "Summarising activations"
    script:
        "../workflow_scripts/summarise_activations.py"
