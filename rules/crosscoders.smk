"""Crosscoders.

These rules give weights, their configuration and a training log for every entry of the config and every seed.
``train_crosscoder`` takes both models' training caches. With ``activations.store: none`` there is
``train_live`` in its place, which takes both models and the training tokens. With it, and with
``train_together``, the jobs of a pair and layer run one at a time, and the first one trains the crosscoders
of the others, too. ``import_crosscoder`` takes the files of a crosscoder that others trained.
"""

if not CONFIG.activations.are_live:

    rule train_crosscoder:
        """Train one crosscoder from one seed."""
        input:
            unpack(held_out),
            **pairs("train"),
        output:
            weights=trained("weights.safetensors"),
            config=trained("config.json"),
            log=trained("training.csv"),
        log:
            trained("train_crosscoder.log", "logs"),
        benchmark:
            trained("train_crosscoder.benchmark.tsv", "logs")
        wildcard_constraints:
            crosscoder=one_of(CONFIG.trained),
        conda:
            "../envs/environment.yaml"
        resources:
            **request("train_crosscoder"),
            **TURNS,
        params:
            settings=settings("crosscoders.{crosscoder}"),
            modules=lambda w: [loss_module(w.crosscoder)],
            code=lambda w: code_digest("train_crosscoder", loss_module(w.crosscoder)),
        message:
            f"Training crosscoder {{wildcards.crosscoder}}, seed {{wildcards.seed}}{AT}"
        script:
            "../workflow_scripts/train_crosscoder.py"

else:

    rule train_live:
        """Train one crosscoder from one seed while both models run over the training tokens."""
        input:
            unpack(held_out),
            tokens=token_shards("train"),
            texts=lambda w: ancient(texts_read(RUN.of(w), "train")),
            base=model("base"),
            chat=model("chat"),
            proved=proved("base", "chat"),
            summary=of_layer("summary.json"),
        output:
            weights=trained("weights.safetensors"),
            config=trained("config.json"),
            log=trained("training.csv"),
        log:
            trained("train_live.log", "logs"),
        benchmark:
            trained("train_live.benchmark.tsv", "logs")
        wildcard_constraints:
            crosscoder=one_of(CONFIG.trained),
        conda:
            "../envs/environment.yaml"
        threads: workflow.cores or 1
        resources:
            **request("train_live"),
            **TURNS,
            batch_tokens=BATCH_TOKENS,
        params:
            settings=settings("crosscoders.{crosscoder}", "activations.statistics_tokens"),
            replacements=lambda w: RUN.replacements(RUN.of(w).pair.model_name("base")),
            modules=lambda w: [loss_module(w.crosscoder)],
            code=lambda w: code_digest("train_live", loss_module(w.crosscoder)),
        message:
            f"Training crosscoder {{wildcards.crosscoder}}, seed {{wildcards.seed}}{AT}"
        script:
            "../workflow_scripts/train_live.py"


rule import_crosscoder:
    """Take a crosscoder that others trained."""
    input:
        files=imported_files,
        pair=of_layer("pair.json"),
    output:
        weights=trained("weights.safetensors"),
        config=trained("config.json"),
    log:
        trained("import_crosscoder.log", "logs"),
    wildcard_constraints:
        crosscoder=one_of(CONFIG.imported),
    priority: 100
    conda:
        "../envs/environment.yaml"
    resources:
        **request("import_crosscoder"),
    params:
        settings=settings("crosscoders.{crosscoder}"),
        code=code_digest("import_crosscoder"),
    message:
        f"Importing crosscoder {{wildcards.crosscoder}}{AT}"
    script:
        "../workflow_scripts/import_crosscoder.py"


localrules:
    crosscoders,


rule crosscoders:
    """Train every crosscoder of the config from every seed, and import those of others."""
    input:
        everywhere(*every_training("weights.safetensors")),
