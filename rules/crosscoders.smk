"""Crosscoders.

This rule takes both models' training caches. It gives weights, their configuration and a training log for
every entry of the config and every seed. With ``train_together`` these jobs run one at a time, and the first
one trains the crosscoders of the others, too.
"""


rule train_crosscoder:
    """Train one crosscoder from one seed."""
    input:
        unpack(
            lambda w: (
                {name: f(w) if callable(f) else f for name, f in pairs("validation", "held_out_").items()}
                if CONFIG.crosscoders[w.crosscoder].needs_held_out
                else {}
            )
        ),
        **pairs("train"),
    output:
        weights=trained("weights.safetensors"),
        config=trained("config.json"),
        log=trained("training.csv"),
    log:
        trained("train_crosscoder.log", "logs"),
    benchmark:
        trained("train_crosscoder.benchmark.tsv", "logs")
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
