"""Tokens.

This rule takes the texts of the data sets and the chat tokenizer. It gives token shards: ids, document,
position, role and template part of every token.
"""

if workflow.is_main_process:
    kept_shards.tell(workflow)


rule tokenise:
    """Write one token shard. It starts where the last one ended, so a larger data set keeps old shards."""
    input:
        tokenizer="results/tokenizers/{tokenizer}",
        archive=lambda w: archive(CONFIG.datasets[w.dataset].package),
        files=lambda w: RUN.text_files(w.dataset),
        previous=lambda w: (
            f"results/tokens/{w.tokenizer}/{w.dataset}.{w.split}/{int(w.shard) - 1:04d}.next.json"
            if int(w.shard)
            else []
        ),
    output:
        shard=update("results/tokens/{tokenizer}/{dataset}.{split}/{shard}.parquet"),
        next="results/tokens/{tokenizer}/{dataset}.{split}/{shard}.next.json",
    log:
        "logs/tokens/{tokenizer}/{dataset}.{split}/{shard}.log",
    wildcard_constraints:
        split=one_of(SPLITS),
    priority: 50
    conda:
        "../envs/environment.yaml"
    resources:
        **request("tokenise"),
        # No setting: it decides only whether a run stops.
        unusable_per_million=round(CONFIG.tokens.unusable * 1e6),
    params:
        settings=settings("tokens.context", *RUN.text_keys("{dataset}")),
        tokens=lambda w: RUN.shard_tokens(w.dataset, w.split, w.shard),
        code=code_digest("tokenise"),
    message:
        "Tokenising {wildcards.dataset}, {wildcards.split} shard {wildcards.shard}"
    script:
        "../workflow_scripts/tokenise.py"


rule check_texts:
    """Say what was read of a split when all its shards are there. No shard is harvested before."""
    input:
        lambda w: next_place(
            f"results/tokens/{w.tokenizer}/{w.dataset}.{w.split}/{RUN.shards(w.dataset, w.split)[-1]}.parquet"
        ),
    output:
        update("results/tokens/{tokenizer}/{dataset}.{split}/read.json"),
    log:
        "logs/tokens/{tokenizer}/{dataset}.{split}/check_texts.log",
    wildcard_constraints:
        split=one_of(SPLITS),
    priority: 50
    localrule: True
    conda:
        "../envs/environment.yaml"
    params:
        code=code_digest("check_texts"),
    message:
        "Checking the texts of {wildcards.dataset}, {wildcards.split}"
    script:
        "../workflow_scripts/check_texts.py"


if CONFIG.activations.are_live:

    SAMPLED = [f"results/tokens/{{tokenizer}}/{dataset}.{SAMPLE}" for dataset in CONFIG.datasets]

    rule draw_sample:
        """Draw sequences of the training tokens. Later stages read the activations of these alone."""
        input:
            tokens=[
                f"results/tokens/{{tokenizer}}/{dataset}.train/{shard}.parquet"
                for dataset, shard in shards_of("train")
            ],
            texts=[f"results/tokens/{{tokenizer}}/{dataset}.train/read.json" for dataset in CONFIG.datasets],
        output:
            shards=[f"{folder}/0000.parquet" for folder in SAMPLED],
            texts=update([f"{folder}/read.json" for folder in SAMPLED]),
        log:
            "logs/tokens/{tokenizer}/draw_sample.log",
        priority: 50
        conda:
            "../envs/environment.yaml"
        resources:
            **request("draw_sample"),
            # No setting: it decides only whether a run stops.
            fewest_documents=CONFIG.latent_scaling.bootstrap.blocks,
        params:
            datasets=[dataset for dataset, _ in shards_of("train")],  # of each input shard
            tokens=[[dataset, sampled(CONFIG, dataset)] for dataset in CONFIG.datasets],
            code=code_digest("draw_sample"),
        message:
            "Drawing a sample of the training tokens"
        script:
            "../workflow_scripts/draw_sample.py"


localrules:
    tokens,


# Not --until tokenise: a shard goes on from another one, and --until ends at the first.
rule tokens:
    """Build all token shards."""
    input:
        [shard for seen in RUN.comparisons for split in SPLITS for shard in shard_files(seen, split)],
