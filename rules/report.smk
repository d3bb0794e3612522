"""Report.

Takes tables, figures and examples. Gives one page that opens from disk. What it says of settings stands in the records of these.
"""

REPORT = here("report/index.html")
SECTIONS = [section for section in PAGE if CONFIG.steering or section != "steering"]


rule write_report:
    """What was compared, what was found, what is too small to conclude."""
    input:
        template=shipped("report/page.html.jinja"),
        parts=[
            shipped(f"report/{part}.html.jinja")
            for part in ("figure", *(f"sections/{section}" for section in SECTIONS))
        ],
        tokenizer=TOKENIZER,
        checked=here("pair.json"),
        summary=here("summary.json"),
        refusals=REFUSALS,
        tables=TABLES,
        evaluations=every_training("evaluation.json", FIRST_SEED),
        betas=every_training("betas.parquet", FIRST_SEED),
        examples=every_training("examples.parquet", FIRST_SEED),
        figures=[here(f"figures/{figure}.svg") for figure in EVALUATIONS],
        captions=[here(f"figures/{figure}.json") for figure in EVALUATIONS],
        names=NAMES,
        steering_effects=STEERING_TABLES["steering.csv"],
        steering_candidates=STEERING_TABLES["steering_candidates.csv"],
        steering_answers=STEERING_TABLES["steering_answers.parquet"],
    output:
        REPORT,
    log:
        here("write_report.log", "logs"),
    localrule: True
    conda:
        "../envs/environment.yaml"
    params:
        crosscoders=list(CONFIG.crosscoders),
        sections=SECTIONS,
        figures=[[evaluation.section, evaluation.table] for evaluation in EVALUATIONS.values()],
        seed=CONFIG.seeds[0],
        settings=settings("report"),
        code=code_digest("write_report"),
    message:
        "Writing the report"
    script:
        "../workflow_scripts/write_report.py"
