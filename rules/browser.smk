"""Latent browser, and the catalogue of names where the config has one.

Takes crosscoders, what was read and measured of their latents, and the file of names that a person edits. Gives a table of names, each checked
against the weights that it was given to, and a page that shows all latents of all crosscoders and opens from disk: all it loads lies in a
folder beside it.
"""

TRAININGS = [[crosscoder, seed] for crosscoder in CONFIG.crosscoders for seed in CONFIG.seeds]
BROWSER = f"results/{PAIR}/report/latents/index.html"
# The page's own files and the libraries that come with it, which it loads from there.
ASSETS = [str(path) for folder in ("browser", "vendor") for path in sorted(Path("report", folder).rglob("*")) if path.is_file()]
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


rule read_directions:
    """Tokens that each latent's direction raises and lowers in the chat model, its neighbours, and its likes in other trainings."""
    input:
        weights=per_crosscoder("weights.safetensors"),
        config=per_crosscoder("config.json"),
        betas=per_crosscoder("betas.parquet"),
        chat=[] if CONFIG.pair.chat.planted else f"results/{PAIR}/models/chat",
    output:
        directions=per_crosscoder("directions.parquet"),
        recurrences=per_crosscoder("recurrences.parquet"),
    log:
        f"logs/{PAIR}/read_directions.log",
    benchmark:
        f"logs/{PAIR}/read_directions.benchmark.tsv"
    conda:
        "../envs/environment.yaml"
    resources:
        **request("read_directions"),
    params:
        names=TRAININGS,
        settings=settings("seed_agreement"),
        code=code_digest("read_directions"),
    message:
        "Reading the directions of all latents"
    script:
        "../workflow_scripts/read_directions.py"


rule write_browser:
    """The page, and the folder of its data and scripts."""
    input:
        **{file: per_crosscoder(f"{file}.parquet") for file in EXPLAINERS.values()},
        template="report/browser.html.jinja",
        assets=ASSETS,
        names=NAMES,
        tokenizer="results/{pair}/tokenizer",
        weights=per_crosscoder("weights.safetensors"),
        betas=per_crosscoder("betas.parquet"),
        template_tokens=per_crosscoder("template_tokens.csv"),
        examples=per_crosscoder("examples.parquet"),
        twins=per_crosscoder("twins.csv"),
        directions=per_crosscoder("directions.parquet"),
        recurrences=per_crosscoder("recurrences.parquet"),
        kl=per_crosscoder("kl.csv") if CONFIG.causal else [],
        kl_sets=per_crosscoder("kl_sets.csv") if CONFIG.causal else [],
    output:
        page="results/{pair}/report/latents/index.html",
        files=directory("results/{pair}/report/latents/files"),
    log:
        "logs/{pair}/write_browser.log",
    localrule: True
    conda:
        "../envs/environment.yaml"
    params:
        names=TRAININGS,
        code=code_digest("write_browser"),
    message:
        "Writing the latent browser"
    script:
        "../workflow_scripts/write_browser.py"
