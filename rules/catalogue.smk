"""Catalogue of named latents. Only where the config names one.

Takes the file that a person edits and the crosscoders. Gives a table of names, each checked against the weights that it was given to.
"""

TRAININGS = [[crosscoder, seed] for crosscoder in CONFIG.crosscoders for seed in CONFIG.seeds]
NAMES = f"results/{PAIR}/tables/names.csv" if CONFIG.catalogue else []

if CONFIG.catalogue:
    try:
        read_catalogue(CONFIG.catalogue, [tuple(training) for training in TRAININGS])
    except UserError as error:
        raise WorkflowError(str(error))

    rule check_catalogue:
        """Names of latents, and which are stale: given to other weights."""
        input:
            catalogue=CONFIG.catalogue,
            weights=per_crosscoder("weights.safetensors"),
            config=per_crosscoder("config.json"),
        output:
            "results/{pair}/tables/names.csv",
        log:
            "logs/{pair}/check_catalogue.log",
        localrule: True
        conda:
            "../envs/environment.yaml"
        params:
            names=TRAININGS,
            code=code_digest("check_catalogue"),
        message:
            "Checking the catalogue"
        script:
            "../workflow_scripts/check_catalogue.py"
