"""For a paper: the paper's tables and figures, and what goes into a paper of your own.

These rules take tables of all crosscoders, and records. They give the paper's headline values next to those
of the run, every table as LaTeX, and the methods with package versions and a bibliography. `snakemake paper`
builds all of it.
"""

TABLES = [
    of_layer(f"tables/{table}.csv")
    for table in (
        *("crosscoders", "twins", "template_tokens", "seed_agreement", "stability", "explanations", "paper"),
        *(evaluation.table for evaluation in EVALUATIONS.values() if evaluation.table),
    )
]
PAPER_FIGURES = [
    of_layer(f"figures/{figure}.svg") for figure, evaluation in EVALUATIONS.items() if evaluation.of_paper
]
# Roles whose model runs. Noise in place of a base model needs none.
HARVESTED_ROLES = [] if CONFIG.planted and CONFIG.planted.noise else ROLES
TYPESET = [*TABLES, *(path for path in PLANTED if path.endswith(".csv"))]  # tables that are LaTeX, too
METHODS = {
    "text": of_layer("paper/methods.tex"),
    "packages": of_layer("paper/versions.csv"),
    "bibliography": of_layer("paper/references.bib"),
}
PAPER = [*(path.removesuffix(".csv") + ".tex" for path in TYPESET), *METHODS.values()]
# Tables over all pairs and layers (overview.smk), as LaTeX.
PAPER_OVERVIEW = (
    [of_overview(f"tables/{table}.tex") for table in ("pairs", "overlap")] if len(COMPARISONS) > 1 else []
)


rule compare_with_paper:
    """Write the first seed's values, and the paper's next to them if the run is the paper's."""
    input:
        published=shipped("data/paper.yaml"),
        evaluations=every_training("evaluation.json", FIRST_SEED),
        twins=of_layer("tables/twins.csv"),
        template_tokens=of_layer("tables/template_tokens.csv"),
        kl=every_training("kl.csv", FIRST_SEED) if CONFIG.causal else [],
    output:
        shown(of_layer("tables/paper.csv")),
    log:
        of_layer("compare_with_paper.log", "logs"),
    localrule: True
    conda:
        "../envs/environment.yaml"
    params:
        losses={name: crosscoder.loss for name, crosscoder in CONFIG.crosscoders.items()},
        pair=lambda w: {
            role: source.hub.name if (source := RUN.of(w).pair.source(role)).hub else None for role in MODELS
        },
        settings=settings("pair.layer"),
        code=code_digest("compare_with_paper"),
    message:
        f"Comparing with the paper's values{AT}"
    script:
        "../workflow_scripts/compare_with_paper.py"


rule typeset_tables:
    """Write every table as LaTeX, next to the CSV file."""
    input:
        TYPESET,
    output:
        [path.removesuffix(".csv") + ".tex" for path in TYPESET],
    log:
        of_layer("typeset_tables.log", "logs"),
    localrule: True
    conda:
        "../envs/environment.yaml"
    params:
        code=code_digest("typeset_tables"),
    message:
        f"Writing tables as LaTeX{AT}"
    script:
        "../workflow_scripts/typeset_tables.py"


rule typeset_overview:
    """Write a table over all pairs and layers as LaTeX, next to the CSV file."""
    input:
        of_overview("tables/{table}.csv"),
    output:
        of_overview("tables/{table}.tex"),
    log:
        of_overview("typeset_overview.{table}.log", "logs"),
    localrule: True
    conda:
        "../envs/environment.yaml"
    params:
        code=code_digest("typeset_overview"),
    message:
        "Writing the table {wildcards.table} of all pairs and layers as LaTeX"
    script:
        "../workflow_scripts/typeset_overview.py"


rule write_methods:
    """Write the methods of a paper from records and settings, with package versions and a bibliography."""
    input:
        papers=shipped("data/references.bib"),
        citation=shipped("CITATION.cff"),
        facts=of_layer("pair.json"),
        summary=of_layer("summary.json"),
        proofs=lambda w: [f"{RUN.of(w).activations(role)}/proved.json" for role in HARVESTED_ROLES],
        crosscoders=of_layer("tables/crosscoders.csv"),
        tables=TABLES,
    output:
        **METHODS,
    log:
        of_layer("write_methods.log", "logs"),
    localrule: True
    conda:
        "../envs/environment.yaml"
    params:
        code=code_digest("write_methods"),
    message:
        f"Writing the methods{AT}"
    script:
        "../workflow_scripts/write_methods.py"


localrules:
    paper,


rule paper:
    """Build every table and figure of the paper, tables as LaTeX, and the methods."""
    input:
        everywhere(*TABLES, *PAPER_FIGURES, *PAPER),
        PAPER_OVERVIEW,
