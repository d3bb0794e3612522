"""Organisms: what was taught. These rules exist only if the config has a section ``organisms``.

They take both models of every pair and held-out requests. They give a table per pair of how often each model
shows a behaviour. No organism is harvested before every table is as it should be (``TAKEN`` in models.smk).
"""

TAUGHT = "results/{pair}/taught.csv"

if CONFIG.organisms:

    localrules:
        taught,

    rule taught:
        """Make all organisms, and check that each is what it is meant to be."""
        input:
            TAKEN,

    rule measure_taught:
        """Count how often each model shows the behaviour that the chat model was taught."""
        input:
            base=model("base"),
            chat=model("chat"),
            tokenizer=tokenizer,
            texts=CONFIG.organisms.texts,
        output:
            TAUGHT,
        log:
            "logs/{pair}/measure_taught.log",
        benchmark:
            "logs/{pair}/measure_taught.benchmark.tsv"
        conda:
            "../envs/environment.yaml"
        resources:
            **request("measure_taught"),
        params:
            settings=settings("organisms.answer_tokens", "tokens.base_replacements", "tokens.date"),
            code=code_digest("measure_taught"),
        message:
            "Counting answers that show the behaviour, {wildcards.pair}"
        script:
            "../workflow_scripts/measure_taught.py"

    rule check_taught:
        """Stop if a behaviour did not take, or a null shows one. The table stays."""
        input:
            table=TAUGHT,
            texts=CONFIG.organisms.texts,
        output:
            "results/{pair}/taken.json",
        log:
            "logs/{pair}/check_taught.log",
        localrule: True
        conda:
            "../envs/environment.yaml"
        params:
            code=code_digest("check_taught"),
        message:
            "Checking that the behaviour took, {wildcards.pair}"
        script:
            "../workflow_scripts/check_taught.py"
