"""Steering. These rules exist only if the config has a section ``steering``.

They take both models, requests, crosscoders of the first seed and their beta tables. They give, per
crosscoder, what happens to the chat model's answers when latents are turned up, turned down or ablated.
"""

STEERING_TABLES = {
    table: every_training(table, FIRST_SEED) if CONFIG.steering else []
    for table in ("steering.csv", "steering_candidates.csv", "steering_answers.parquet")
}

STEERING_KEYS = [f"steering.{key}" for key in SteeringGrid.model_fields]

if CONFIG.steering:

    localrules:
        steering,

    rule steering:
        """Build the figure and tables of what turning latents up and down does to the answers."""
        input:
            everywhere(of_layer("figures/steering.svg")),
            [everywhere(*files) for files in STEERING_TABLES.values()],

    rule steer_latents:
        """Let the chat model answer held-out requests under every direction and strength."""
        input:
            base=model("base"),
            chat=model("chat"),
            tokenizer=tokenizer,
            requests=CONFIG.behaviour.requests,
            weights=trained("weights.safetensors"),
            config=trained("config.json"),
            betas=trained("betas.parquet"),
            summary=of_layer("summary.json"),
            proved=proved("base", "chat"),
        output:
            candidates=trained("steering_candidates.csv"),
            effects=trained("steering.csv"),
            answers=trained("steering_answers.parquet"),
        log:
            trained("steer_latents.log", "logs"),
        benchmark:
            trained("steer_latents.benchmark.tsv", "logs")
        conda:
            "../envs/environment.yaml"
        resources:
            **request("steer_latents"),
        params:
            latents=lambda w: CONFIG.steering.latents.get(w.crosscoder, []),
            settings=settings(*STEERING_KEYS, "classes.top", "pair.layer", "tokens.base_replacements"),
            code=code_digest("steer_latents"),
        message:
            f"Steering latents of {{wildcards.crosscoder}}, seed {{wildcards.seed}}{AT}"
        script:
            "../workflow_scripts/steer_latents.py"
