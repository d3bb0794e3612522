"""Report.

Takes tables, figures and examples. Gives one page that opens from disk. What it says of settings stands in the records of these.
"""


rule write_report:
    """What was compared, what was found, what is too small to conclude."""
    input:
        template="report/page.html.jinja",
        tokenizer=f"results/{PAIR}/tokenizer",
        checked=f"results/{PAIR}/pair.json",
        summary=f"results/{PAIR}/activations/layer{LAYER}/summary.json",
        refusals=REFUSALS,
        tables=TABLES,
        evaluations=per_crosscoder("evaluation.json", FIRST_SEED),
        betas=per_crosscoder("betas.parquet", FIRST_SEED),
        examples=per_crosscoder("examples.parquet", FIRST_SEED),
        figures=FIGURES,
        names=NAMES,
        steering_page="report/steering.html.jinja" if CONFIG.steering else [],
        steering=STEERING_FIGURE,
        steering_effects=STEERING_TABLES["steering.csv"],
        steering_candidates=STEERING_TABLES["steering_candidates.csv"],
        steering_answers=STEERING_TABLES["steering_answers.parquet"],
    output:
        REPORT,
    log:
        f"logs/{PAIR}/write_report.log",
    localrule: True
    conda:
        "../envs/environment.yaml"
    params:
        names=list(CONFIG.crosscoders),
        seed=CONFIG.seeds[0],
        settings=settings("report"),
        code=code_digest("write_report"),
    message:
        "Writing the report"
    script:
        "../workflow_scripts/write_report.py"
