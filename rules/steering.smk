"""Steering. Only with a section ``steering``.

Takes both models, requests, crosscoders of the first seed and their beta tables. Gives, per crosscoder, what happens to the chat model's answers
when latents are turned up, turned down or projected out; one figure.
"""

STEERING_FIGURE = f"results/{PAIR}/figures/steering.svg" if CONFIG.steering else []
STEERING_TABLES = {
    table: per_crosscoder(table, FIRST_SEED) if CONFIG.steering else []
    for table in ("steering.csv", "steering_candidates.csv", "steering_answers.parquet")
}

STEERING_KEYS = [f"steering.{key}" for key in SteeringGrid.model_fields]

if CONFIG.steering:

    localrules:
        steering,

    rule steering:
        """What turning latents up and down does to the chat model's answers."""
        input:
            STEERING_FIGURE,
            STEERING_TABLES.values(),

    rule steer_latents:
        """The chat model's answers to held-out requests under every direction and strength."""
        input:
            base="results/{pair}/models/base",
            chat="results/{pair}/models/chat",
            tokenizer="results/{pair}/tokenizer",
            requests=CONFIG.behaviour.requests,
            weights="results/{pair}/layer{layer}/{crosscoder}/seed{seed}/weights.safetensors",
            config="results/{pair}/layer{layer}/{crosscoder}/seed{seed}/config.json",
            betas="results/{pair}/layer{layer}/{crosscoder}/seed{seed}/betas.parquet",
            summary="results/{pair}/activations/layer{layer}/summary.json",
        output:
            candidates="results/{pair}/layer{layer}/{crosscoder}/seed{seed}/steering_candidates.csv",
            effects="results/{pair}/layer{layer}/{crosscoder}/seed{seed}/steering.csv",
            answers="results/{pair}/layer{layer}/{crosscoder}/seed{seed}/steering_answers.parquet",
        log:
            "logs/{pair}/steer_latents/layer{layer}.{crosscoder}.seed{seed}.log",
        benchmark:
            "logs/{pair}/steer_latents/layer{layer}.{crosscoder}.seed{seed}.benchmark.tsv"
        conda:
            "../envs/environment.yaml"
        resources:
            **request("steer_latents"),
        params:
            latents=lambda w: CONFIG.steering.latents.get(w.crosscoder, []),
            settings=settings(*STEERING_KEYS, "classes.top", "pair.layer"),
            code=code_digest("steer_latents"),
        message:
            "Steering latents of {wildcards.crosscoder}, seed {wildcards.seed}"
        script:
            "../workflow_scripts/steer_latents.py"

    rule figure_steering:
        """Refusals, KL and perplexity against the strength, of the first seed."""
        input:
            effects=STEERING_TABLES["steering.csv"],
            names=NAMES,
        output:
            multiext("results/{pair}/figures/steering", ".svg", ".png"),
        log:
            "logs/{pair}/figure_steering.log",
        localrule: True
        conda:
            "../envs/environment.yaml"
        params:
            names=list(CONFIG.crosscoders),
            seed=CONFIG.seeds[0],
            code=code_digest("figure_steering"),
        message:
            "Drawing steering"
        script:
            "../workflow_scripts/figure_steering.py"
