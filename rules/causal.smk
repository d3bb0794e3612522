"""The causal effect of latents. These rules exist only if the config has a section ``causal``.

They take both models, chats, crosscoders and their beta tables. They give the chat model's answers and, per
crosscoder and seed, the KL of every patched run: how near it brings the base model to the chat model's
predictions.
"""

CAUSAL = every_training("kl.csv") if CONFIG.causal else []

PATCHING_KEYS = [f"causal.{key}" for key in Patching.model_fields]

if CONFIG.causal:

    rule generate_answers:
        """Let the chat model answer the first user turns of a data set's validation chats, greedily."""
        input:
            model=model("chat"),
            tokenizer=tokenizer,
            archive=lambda w: archive(CONFIG.datasets[w.dataset].package),
            files=lambda w: RUN.text_files(w.dataset),
        output:
            "results/{pair}/answers/{dataset}.parquet",
        log:
            "logs/{pair}/answers/{dataset}.log",
        benchmark:
            "logs/{pair}/answers/{dataset}.benchmark.tsv"
        wildcard_constraints:
            dataset=one_of(CONFIG.causal.datasets),
        conda:
            "../envs/environment.yaml"
        resources:
            **request("generate_answers"),
        params:
            settings=settings(
                "causal.conversations",
                "causal.answer_tokens",
                "tokens.context",
                *RUN.text_keys("{dataset}", "long", "rewritten"),
            ),
            code=code_digest("generate_answers"),
        message:
            f"Generating the chat model's answers to {{wildcards.dataset}}{OF_PAIR}"
        script:
            "../workflow_scripts/generate_answers.py"

    rule measure_causal_effect:
        """Measure the KL of every patched run to the chat model. All share one prefix and encoding."""
        input:
            base=model("base"),
            chat=model("chat"),
            conversations=answers,
            weights=trained("weights.safetensors"),
            config=trained("config.json"),
            betas=trained("betas.parquet"),
            groups=trained("groups.csv"),
            summary=of_layer("summary.json"),
            proved=proved("chat"),
        output:
            kl=trained("kl.csv"),
            sets=trained("kl_sets.csv"),
        log:
            trained("measure_causal_effect.log", "logs"),
        benchmark:
            trained("measure_causal_effect.benchmark.tsv", "logs")
        conda:
            "../envs/environment.yaml"
        resources:
            **request("measure_causal_effect"),
            batch_tokens=BATCH_TOKENS,
        params:
            # The data set of each input shard.
            datasets=[
                dataset
                for dataset in CONFIG.causal.datasets
                for _ in ([0] if CONFIG.causal.answers == "generated" else RUN.shards(dataset, "validation"))
            ],
            settings=settings(*PATCHING_KEYS, "classes.top", "pair.layer", "tokens.base_replacements"),
            code=code_digest("measure_causal_effect"),
        message:
            f"Measuring the causal effect of {{wildcards.crosscoder}}, seed {{wildcards.seed}}{AT}"
        script:
            "../workflow_scripts/measure_causal_effect.py"
