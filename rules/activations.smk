"""Activations.

These rules take the models and the token shards. They give one HDF5 cache per shard, model and layer, and a
summary per pair and layer. The summary says which tokens count and how activations are scaled.
"""

CACHE = "results/activations/{model}/layer{layer}/{tokenizer}/{dataset}.{split}/{shard}.h5"


rule harvest_activations:
    """Run one model over one shard, up to the layer, and store its activations."""
    input:
        model="results/models/{model}",
        tokens="results/tokens/{tokenizer}/{dataset}.{split}/{shard}.parquet",
        texts=ancient("results/tokens/{tokenizer}/{dataset}.{split}/read.json"),
        checked=ancient("results/activations/{model}/layer{layer}/{tokenizer}/checked.json"),
        proved=ancient("results/activations/{model}/layer{layer}/{tokenizer}/proved.json"),
    output:
        CACHE,
    log:
        "logs/activations/{model}/layer{layer}/{tokenizer}/{dataset}.{split}/{shard}.log",
    benchmark:
        "logs/activations/{model}/layer{layer}/{tokenizer}/{dataset}.{split}/{shard}.benchmark.tsv"
    wildcard_constraints:
        dataset=one_of(name for name in CONFIG.datasets if name not in CONFIG.stores),
    priority: in_turn()
    conda:
        "../envs/environment.yaml"
    resources:
        **request("harvest_activations"),
        batch_tokens=BATCH_TOKENS,
    params:
        settings=settings("pair.layer"),
        replacements=lambda w: RUN.replacements(w.model),
        code=code_digest("harvest_activations"),
    message:
        "Harvesting {wildcards.model}: {wildcards.dataset}, {wildcards.split} shard {wildcards.shard}"
    script:
        "../workflow_scripts/harvest_activations.py"


# Where caches of several layers are missing, one job makes them all (crossdiff.workflow.harvests).
for TOGETHER in harvests.together(workflow, HARVESTED):

    rule:
        """Run one model over one shard, up to the deepest of several layers, and store all of them."""
        name:
            TOGETHER.name
        input:
            model="results/models/{model}",
            tokens="results/tokens/{tokenizer}/{dataset}.{split}/{shard}.parquet",
            texts=ancient("results/tokens/{tokenizer}/{dataset}.{split}/read.json"),
            checked=ancient(
                TOGETHER.each("results/activations/{model}/layer{layer}/{tokenizer}/checked.json")
            ),
            proved=ancient(TOGETHER.each("results/activations/{model}/layer{layer}/{tokenizer}/proved.json")),
        output:
            TOGETHER.each(CACHE),
        log:
            TOGETHER.all("logs/activations/{model}/layer{layer}/{tokenizer}/{dataset}.{split}/{shard}.log"),
        benchmark:
            TOGETHER.all(
                "logs/activations/{model}/layer{layer}/{tokenizer}/{dataset}.{split}/{shard}.benchmark.tsv"
            )
        wildcard_constraints:
            model=TOGETHER.models,
        priority: in_turn(*TOGETHER.layers)
        conda:
            "../envs/environment.yaml"
        resources:
            **request("harvest_activations"),
            batch_tokens=BATCH_TOKENS,
        params:
            stands_for=harvests.parts(workflow, TOGETHER.layers),
        message:
            f"Harvesting {{wildcards.model}} at {TOGETHER.told}: "
            "{wildcards.dataset}, {wildcards.split} shard {wildcards.shard}"
        script:
            "../workflow_scripts/harvest_activations.py"

    harvests.treat_as_single(workflow, TOGETHER.name)


rule check_store:
    """Check activations that others stored, and hash them once."""
    input:
        files=stored_activations,
        checked="results/activations/{model}/layer{layer}/{tokenizer}/checked.json",
    output:
        "results/activations/{model}/layer{layer}/{tokenizer}/{dataset}.{split}/store.json",
    log:
        "logs/activations/{model}/layer{layer}/{tokenizer}/{dataset}.{split}/check_store.log",
    wildcard_constraints:
        dataset=one_of(CONFIG.stores),
    conda:
        "../envs/environment.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: (2000 + stored_ids_mb(wildcards)) * attempt,
        runtime=lambda wildcards, input, attempt: max(30, int(input.size_mb / 6000)) * attempt,  # 100 MB/s
    params:
        settings=settings("datasets.{dataset}.activations.{split}.{model}"),
        code=code_digest("check_store"),
    message:
        "Checking the stored activations of {wildcards.model}: {wildcards.dataset}, {wildcards.split}"
    script:
        "../workflow_scripts/check_store.py"


rule read_activations:
    """Take the activations of one shard from those that others stored, in place of a harvest."""
    input:
        model="results/models/{model}",
        tokens="results/tokens/{tokenizer}/{dataset}.{split}/{shard}.parquet",
        store="results/activations/{model}/layer{layer}/{tokenizer}/{dataset}.{split}/store.json",
        texts=ancient("results/tokens/{tokenizer}/{dataset}.{split}/read.json"),
        proved=ancient("results/activations/{model}/layer{layer}/{tokenizer}/proved.json"),
    output:
        CACHE,
    log:
        "logs/activations/{model}/layer{layer}/{tokenizer}/{dataset}.{split}/{shard}.log",
    benchmark:
        "logs/activations/{model}/layer{layer}/{tokenizer}/{dataset}.{split}/{shard}.benchmark.tsv"
    wildcard_constraints:
        dataset=one_of(CONFIG.stores),
    priority: in_turn()
    conda:
        "../envs/environment.yaml"
    resources:
        **with_stored_ids(**request("read_activations")),
    params:
        settings=settings("pair.layer", "datasets.{dataset}.activations.{split}.{model}"),
        replacements=lambda w: RUN.replacements(w.model),
        code=code_digest("read_activations"),
    message:
        "Reading {wildcards.model}: {wildcards.dataset}, {wildcards.split} shard {wildcards.shard}"
    script:
        "../workflow_scripts/read_activations.py"


rule summarise_activations:
    """Compute median norms, which tokens count, means and scales."""
    input:
        tokens=token_shards(STORED),
        base=caches(STORED, "base"),
        chat=caches(STORED, "chat"),
        checked=ancient(of_layer("pair.json")),
        differs=ancient(DIFFERS),
    output:
        of_layer("summary.json"),
    log:
        of_layer("summarise_activations.log", "logs"),
    conda:
        "../envs/environment.yaml"
    params:
        settings=settings(
            "activations.skip_first", "activations.max_norm_ratio", "activations.statistics_tokens"
        ),
        code=code_digest("summarise_activations"),
    message:
        f"Summarising activations{AT}"
    script:
        "../workflow_scripts/summarise_activations.py"


localrules:
    activations,


rule activations:
    """Build the token shards and both models' activation caches."""
    input:
        HARVESTED,
