"""Figures.

Takes tables of latents and training logs, of the first seed. Gives one SVG, one PNG and one caption per figure. Which there are, and in which
order the page shows them, stands in src/crossdiff/workflow/evaluations.py.
"""


rule draw_figure:
    """One figure and its caption."""
    input:
        unpack(
            lambda w: {
                name: every_training(file, FIRST_SEED) for name, file in EVALUATIONS[w.figure].files.items()
            }
        ),
        names=lambda w: NAMES if EVALUATIONS[w.figure].named else [],
    output:
        drawing=multiext(of_layer("figures/{figure}"), ".svg", ".png"),
        caption=of_layer("figures/{figure}.json"),
    log:
        of_layer("figures/{figure}.log", "logs"),
    wildcard_constraints:
        figure=one_of(EVALUATIONS),
    localrule: True
    conda:
        "../envs/environment.yaml"
    params:
        crosscoders=list(CONFIG.crosscoders),
        seed=CONFIG.seeds[0],
        evaluation=lambda w: EVALUATIONS[w.figure].params(),
        modules=lambda w: [EVALUATIONS[w.figure].module],
        settings=lambda w: settings(*EVALUATIONS[w.figure].settings)(w),
        code=lambda w: code_digest("draw_figure", EVALUATIONS[w.figure].module),
    message:
        "Drawing {wildcards.figure}"
    script:
        "../workflow_scripts/draw_figure.py"
