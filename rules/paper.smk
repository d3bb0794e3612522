"""The paper's tables and figures.

This rule takes tables of all crosscoders. It gives the paper's headline values next to those of the run.
`snakemake paper` builds every table and figure of the paper.
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


rule compare_with_paper:
    """Write the first seed's values, and the paper's next to them if the run is the paper's."""
    input:
        published=shipped("data/paper.yaml"),
        evaluations=every_training("evaluation.json", FIRST_SEED),
        twins=of_layer("tables/twins.csv"),
        template_tokens=of_layer("tables/template_tokens.csv"),
        kl=every_training("kl.csv", FIRST_SEED) if CONFIG.causal else [],
    output:
        of_layer("tables/paper.csv"),
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


localrules:
    paper,


rule paper:
    """Build every table and figure of the paper."""
    input:
        everywhere(*TABLES, *PAPER_FIGURES),
