"""Crosscoders.

Takes both models' training caches. Gives, per entry of the config and seed, weights, their configuration and a training log.
"""


rule train_crosscoder:
    """One crosscoder, one seed."""
    input:
        unpack(lambda w: pairs("validation", "held_out_") if CONFIG.crosscoders[w.crosscoder].needs_held_out else {}),
        **pairs("train"),
    output:
        weights="results/{pair}/layer{layer}/{crosscoder}/seed{seed}/weights.safetensors",
        config="results/{pair}/layer{layer}/{crosscoder}/seed{seed}/config.json",
        log="results/{pair}/layer{layer}/{crosscoder}/seed{seed}/training.csv",
    log:
        "logs/{pair}/train_crosscoder/layer{layer}.{crosscoder}.seed{seed}.log",
    benchmark:
        "logs/{pair}/train_crosscoder/layer{layer}.{crosscoder}.seed{seed}.benchmark.tsv"
    conda:
        "../envs/environment.yaml"
    resources:
        **request("train_crosscoder"),
    params:
        settings=settings("crosscoders.{crosscoder}"),
        modules=lambda w: [loss_module(w.crosscoder)],
        code=lambda w: code_digest("train_crosscoder", loss_module(w.crosscoder)),
    message:
        "Training crosscoder {wildcards.crosscoder}, seed {wildcards.seed}"
    script:
        "../workflow_scripts/train_crosscoder.py"
