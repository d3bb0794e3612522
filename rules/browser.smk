"""The latent browser, and the catalogue of names if the config has one.

These rules take crosscoders, the tables about their latents, and the file of names that a person edits.
They give a table of names, each checked against the weights that it was given to. They also give a page
that shows all latents of all crosscoders. It opens from disk, and loads what it needs from a folder next to
it.
"""

BROWSER = of_layer("report/latents/index.html")
# The page's own scripts and styles, and the libraries that it loads.
ASSETS = [
    str(path)
    for folder in ("browser", "vendor")
    for path in sorted(Path(shipped("report"), folder).rglob("*"))
    if path.is_file()
]
NAMES = of_layer("tables/names.csv") if CONFIG.catalogue else []

if CONFIG.catalogue:
    try:
        for seen in RUN.comparisons:
            read_catalogue(seen.config.catalogue, [tuple(training) for training in TRAININGS])
    except UserError as error:
        raise WorkflowError(str(error))

    rule check_catalogue:
        """Check the names of latents. A name is stale if it was given to other weights."""
        input:
            catalogue=lambda w: RUN.of(w).config.catalogue,
            weights=every_training("weights.safetensors"),
            config=every_training("config.json"),
        output:
            shown(of_layer("tables/names.csv")),
        log:
            of_layer("check_catalogue.log", "logs"),
        localrule: True
        conda:
            "../envs/environment.yaml"
        params:
            trainings=TRAININGS,
            code=code_digest("check_catalogue"),
        message:
            f"Checking the catalogue{AT}"
        script:
            "../workflow_scripts/check_catalogue.py"


rule read_directions:
    """Find each latent's promoted and suppressed tokens, neighbours, and matches in other trainings."""
    input:
        weights=every_training("weights.safetensors"),
        config=every_training("config.json"),
        betas=every_training("betas.parquet"),
        chat=[] if CONFIG.planted else model("chat"),
    output:
        directions=every_training("directions.parquet"),
        recurrences=every_training("recurrences.parquet"),
    log:
        of_layer("read_directions.log", "logs"),
    benchmark:
        of_layer("read_directions.benchmark.tsv", "logs")
    conda:
        "../envs/environment.yaml"
    resources:
        **request("read_directions"),
    params:
        trainings=TRAININGS,
        settings=settings("seed_agreement"),
        code=code_digest("read_directions"),
    message:
        f"Reading the directions of all latents{AT}"
    script:
        "../workflow_scripts/read_directions.py"


rule write_browser:
    """Write the page and the folder of its data and scripts."""
    input:
        **{file: every_training(f"{file}.parquet") for file in EXPLAINERS.values()},
        template=shipped("report/browser.html.jinja"),
        assets=ASSETS,
        names=NAMES,
        tokenizer=tokenizer,
        weights=every_training("weights.safetensors"),
        betas=every_training("betas.parquet"),
        template_tokens=every_training("template_tokens.csv"),
        examples=every_training("examples.parquet"),
        twins=every_training("twins.csv"),
        directions=every_training("directions.parquet"),
        recurrences=every_training("recurrences.parquet"),
        kl=every_training("kl.csv") if CONFIG.causal else [],
        kl_sets=every_training("kl_sets.csv") if CONFIG.causal else [],
    output:
        page=of_layer("report/latents/index.html"),
        files=directory(of_layer("report/latents/files")),
    log:
        of_layer("write_browser.log", "logs"),
    localrule: True
    conda:
        "../envs/environment.yaml"
    params:
        trainings=TRAININGS,
        code=code_digest("write_browser"),
    message:
        f"Writing the latent browser{AT}"
    script:
        "../workflow_scripts/write_browser.py"
