"""Tokens.

Takes the texts of the data sets and the chat tokenizer. Gives token shards: ids, document, position, role and template part of every token.
"""

if workflow.is_main_process:  # an error here is one line, in the rule it would not be
    try:
        RUN.check_texts()
    except UserError as error:
        raise WorkflowError(str(error))


# A checkpoint, so that Snakemake looks again at what depends on a shard when the shard was made. If a text has changed, every shard of
# its data set is made again. Those whose tokens stay keep their file, and then their activations are not harvested again.
checkpoint tokenise:
    """One shard. It goes on where the one before it ended, so growing a data set keeps the old shards."""
    input:
        tokenizer=TOKENIZER,
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
    priority: 50
    conda:
        "../envs/environment.yaml"
    resources:
        **request("tokenise"),
        unusable_per_million=round(CONFIG.tokens.unusable * 1e6),  # no setting: it decides only whether a run stops
    params:
        settings=settings("tokens.context", *RUN.text_keys("{dataset}")),
        tokens=lambda w: RUN.shard_tokens(w.dataset, w.split, w.shard),
        code=code_digest("tokenise"),
    message:
        "Tokenising {wildcards.dataset}, {wildcards.split} shard {wildcards.shard}"
    script:
        "../workflow_scripts/tokenise.py"
