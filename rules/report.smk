"""Report.

This rule takes tables, figures and examples. It gives one page that opens from disk. The page reads
settings from the records of these files.
"""


report: "../report/captions/run.rst"


REPORT = of_layer("report/index.html")
TIMES = of_layer("times.js", "logs")  # what the page says of how long everything took
THERE = {
    "steering": CONFIG.steering,
    "first_look": FIRST_LOOK,
    "tried": CONFIG.report.sessions,
}
SECTIONS = [section for section in PAGE if THERE.get(section, True)]
SECTION_FILES = [f"report/sections/{section}.html.jinja" for section in SECTIONS]

try:
    # (pair, layer) -> the saved sessions that the page of that pair and layer shows.
    SESSIONS = sessions_by_place(
        CONFIG.report.sessions, [(pair.name, pair.layer) for pair in COMPARISONS], map(tuple, TRAININGS)
    )
except UserError as error:
    raise WorkflowError(str(error))


rule write_report:
    """Write the report: what was compared, what was found, and what is too small to conclude."""
    input:
        template=shipped("report/page.html.jinja"),
        parts=[
            shipped(f"report/{part}.html.jinja")
            for part in (
                "context",
                "figure",
                "limits",
                "term",
                *(f"sections/{section}" for section in SECTIONS),
            )
        ],
        tokenizer=tokenizer,
        checked=of_layer("pair.json"),
        summary=of_layer("summary.json"),
        read=lambda w: [next_place(shard) for shard in token_shards("train")(w)],
        refusals=REFUSALS,
        tables=TABLES,
        evaluations=every_training("evaluation.json", FIRST_SEED),
        betas=every_training("betas.parquet", FIRST_SEED),
        examples=every_training("examples.parquet", FIRST_SEED),
        patterns=every_training("patterns.parquet", FIRST_SEED),
        explanations=every_training("explanations.parquet", FIRST_SEED) if CONFIG.explanations else [],
        groups=every_training("groups.csv", FIRST_SEED),
        recurrences=every_training("recurrences.parquet", FIRST_SEED),
        template_tokens=every_training("template_tokens.csv", FIRST_SEED),
        tokens_read=every_training("tokens_read.json", FIRST_SEED),
        directions=every_training("directions.parquet", FIRST_SEED),
        kl=every_training("kl.csv", FIRST_SEED) if CONFIG.causal else [],
        other_betas=every_training("betas.parquet", OTHER_SEEDS),
        other_patterns=every_training("patterns.parquet", OTHER_SEEDS),
        other_explanations=(
            every_training("explanations.parquet", OTHER_SEEDS) if CONFIG.explanations else []
        ),
        figures=[of_layer(f"figures/{figure}.svg") for figure in EVALUATIONS],
        captions=[of_layer(f"figures/{figure}.json") for figure in EVALUATIONS],
        names=NAMES,
        sessions=lambda w: SESSIONS[w.pair, int(w.layer)],
        weights=every_training("weights.safetensors") if CONFIG.report.sessions else [],
        first_look=FIRST_LOOK_SHOWN,
        first_look_asked=FIRST_LOOK_ASKED,
        steering_effects=STEERING_TABLES["steering.csv"],
        steering_candidates=STEERING_TABLES["steering_candidates.csv"],
        steering_answers=STEERING_TABLES["steering_answers.parquet"],
    output:
        shown(REPORT),
    log:
        of_layer("write_report.log", "logs"),
    localrule: True
    conda:
        "../envs/environment.yaml"
    params:
        crosscoders=list(CONFIG.crosscoders),
        sections=SECTIONS,
        figures=[[one.section, one.table, one.question] for one in EVALUATIONS.values()],
        trainings=[training_name(*training) for training in TRAININGS] if CONFIG.report.sessions else [],
        seed=CONFIG.seeds[0],
        other_seeds=[[name, seed] for name, seed in TRAININGS if seed in OTHER_SEEDS],
        seeds=len({seed for _, seed in TRAININGS}),
        settings=settings("report.latents", "report.examples"),
        code=code_digest("write_report"),
    message:
        f"Writing the report{AT}"
    script:
        "../workflow_scripts/write_report.py"
