"""Steering. These rules exist only if the config has a section ``steering``.

They take both models, prompts, crosscoders of the first seed and their beta tables. They give, per
crosscoder, what happens to the chat model's answers when latents are turned up, turned down or ablated.
Answers are kept, so another behaviour is counted without a model.
"""

STEERING_TABLES = {
    table: every_training(table, FIRST_SEED) if CONFIG.steering else []
    for table in ("steering.csv", "steering_candidates.csv", "steering_answers.parquet")
}

if CONFIG.steering:
    STEERED_WITH = CONFIG.steering.prompts  # the data set of the prompts; None: the requests of behaviour
    # Keys that decide which answers there are.
    STEERING_KEYS = [
        *(
            f"steering.{key}"
            for key in SteeringGrid.model_fields
            if key != ("phrasings" if STEERED_WITH else "conversations")
        ),
        *(["tokens.context", *RUN.text_keys(STEERED_WITH, "long", "rewritten")] if STEERED_WITH else []),
    ]
    STEERING_JUDGED = CONFIG.steering.behaviour.judge is not None
    STEERING_JUDGE = CONFIG.explanations.model.folder or [] if STEERING_JUDGED else []

    localrules:
        steering,

    rule steering:
        """Build the figure and tables of what turning latents up and down does to the answers."""
        input:
            everywhere(of_layer("figures/steering.svg")),
            [everywhere(*files) for files in STEERING_TABLES.values()],

    rule steer_latents:
        """Let the chat model answer held-out prompts under every direction and strength."""
        input:
            base=model("base"),
            chat=model("chat"),
            tokenizer=tokenizer,
            requests=[] if STEERED_WITH else CONFIG.behaviour.requests,
            archive=archive(CONFIG.datasets[STEERED_WITH].package) if STEERED_WITH else [],
            files=RUN.text_files(STEERED_WITH) if STEERED_WITH else [],
            weights=trained("weights.safetensors"),
            config=trained("config.json"),
            betas=trained("betas.parquet"),
            summary=of_layer("summary.json"),
            proved=proved("base", "chat"),
        output:
            candidates=trained("steering_candidates.csv"),
            answers=trained("steered.parquet"),
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

    rule judge_steering:
        """Count the steered answers that show the stated behaviour."""
        input:
            steered=trained("steered.parquet"),
            model=STEERING_JUDGE,
        output:
            effects=trained("steering.csv"),
            answers=trained("steering_answers.parquet"),
        log:
            trained("judge_steering.log", "logs"),
        localrule: not STEERING_JUDGE  # nodes often have no network
        conda:
            "../envs/environment.yaml"
        resources:
            **request("judge_steering"),
        params:
            answers="results/.answers",  # as in explain_latents
            settings=settings(
                "steering.behaviour", "steering.seed", *(["explanations.model"] if STEERING_JUDGED else [])
            ),
            code=code_digest("judge_steering"),
        message:
            f"Counting what steered answers do, {{wildcards.crosscoder}}, seed {{wildcards.seed}}{AT}"
        script:
            "../workflow_scripts/judge_steering.py"
