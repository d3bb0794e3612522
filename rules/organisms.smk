"""Organisms: what is found. These rules exist only if the config has a section ``organisms``.

They take crosscoders, caches and both models of every pair. They give what each method hands in, and by the
rule of docs/organisms.md whether the taught behaviour is in it. `snakemake organisms` builds the tables
and a figure.
"""

if CONFIG.organisms:
    FOUND = of_layer("organisms/methods.csv")
    ORGANISMS = [
        *(
            of_overview(f"tables/{table}.{end}")
            for table in ("taught", "organisms", "organisms_summary")
            for end in ("csv", "tex")
        ),
        of_overview("figures/organisms.svg"),
    ]

    localrules:
        organisms,

    rule organisms:
        """Make all organisms and methods, and find out which behaviours are found."""
        input:
            ORGANISMS,

    rule list_items:
        """List what every method hands in for an organism, the strongest first."""
        input:
            **pairs(STORED),
            first_tokens=first_token_shards(CONFIG.datasets, "train"),
            base_model=model("base"),
            chat_model=model("chat"),
            betas=every_training("betas.parquet"),
        output:
            handed=of_layer("organisms/items.parquet"),
            directions=of_layer("organisms/directions.safetensors"),
        log:
            of_layer("organisms/list_items.log", "logs"),
        benchmark:
            of_layer("organisms/list_items.benchmark.tsv", "logs")
        conda:
            "../envs/environment.yaml"
        resources:
            **request("list_items"),
            batch_tokens=BATCH_TOKENS,
        params:
            trainings=TRAININGS,
            datasets=list(CONFIG.datasets),
            settings=settings(*NU_THRESHOLDS, "tokens.base_replacements", "pair.layer"),
            code=code_digest("list_items"),
        message:
            "Listing what every method hands in, {wildcards.pair}"
        script:
            "../workflow_scripts/list_items.py"

    rule score_items:
        """Judge all items on taught tokens and on probes that no method saw."""
        input:
            texts=CONFIG.organisms.texts,
            tokenizer=tokenizer,
            tokens=token_shards(STORED),
            base=model("base"),
            chat=model("chat"),
            handed=of_layer("organisms/items.parquet"),
            directions=of_layer("organisms/directions.safetensors"),
            weights=every_training("weights.safetensors"),
            config=every_training("config.json"),
            betas=every_training("betas.parquet"),
            promoted=every_training("directions.parquet"),
        output:
            methods=FOUND,
            judged=of_layer("organisms/judged.csv"),
        log:
            of_layer("organisms/score_items.log", "logs"),
        benchmark:
            of_layer("organisms/score_items.benchmark.tsv", "logs")
        conda:
            "../envs/environment.yaml"
        resources:
            **request("score_items"),
        params:
            trainings=TRAININGS,
            settings=settings("pair.layer", "tokens.base_replacements"),
            code=code_digest("score_items"),
        message:
            "Judging what every method hands in, {wildcards.pair}"
        script:
            "../workflow_scripts/score_items.py"

    rule compare_methods:
        """Put all organisms and methods side by side, and sum them up."""
        input:
            taught=everywhere(TAUGHT),
            methods=everywhere(FOUND),
            texts=CONFIG.organisms.texts,
        output:
            taught=shown(of_overview("tables/taught.csv")),
            organisms=shown(of_overview("tables/organisms.csv")),
            summary=shown(of_overview("tables/organisms_summary.csv")),
        log:
            of_overview("compare_methods.log", "logs"),
        localrule: True
        conda:
            "../envs/environment.yaml"
        params:
            in_text=[data.field for data in CONFIG.datasets.values() if data.format == "organism"],
            code=code_digest("compare_methods"),
        message:
            "Comparing what methods find"
        script:
            "../workflow_scripts/compare_methods.py"

    rule draw_found:
        """Draw which organisms every method finds."""
        input:
            table=of_overview("tables/organisms.csv"),
        output:
            drawing=shown(multiext(of_overview("figures/organisms"), ".svg", ".pdf", ".png")),
            caption=of_overview("figures/organisms.json"),
        log:
            of_overview("draw_found.log", "logs"),
        localrule: True
        conda:
            "../envs/environment.yaml"
        params:
            code=code_digest("draw_found"),
        message:
            "Drawing what methods find"
        script:
            "../workflow_scripts/draw_found.py"
