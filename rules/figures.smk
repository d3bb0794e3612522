"""Figures.

This rule takes tables of latents and training logs of the first seed. It gives one SVG, one PNG and one
caption per figure. src/crossdiff/workflow/evaluations.py lists the figures in the order of the page.
"""


rule draw_figure:
    """Draw one figure and write its caption."""
    input:
        unpack(
            lambda w: {
                name: every_training(file, FIRST_SEED, OF_FIGURE[w.figure])
                for name, file in EVALUATIONS[w.figure].files.items()
            }
        ),
        names=lambda w: NAMES if EVALUATIONS[w.figure].named else [],
    output:
        drawing=shown(multiext(of_layer("figures/{figure}"), ".svg", ".pdf", ".png")),
        caption=of_layer("figures/{figure}.json"),
    log:
        of_layer("figures/{figure}.log", "logs"),
    wildcard_constraints:
        figure=one_of(EVALUATIONS),
    localrule: True
    conda:
        "../envs/environment.yaml"
    params:
        crosscoders=lambda w: list(OF_FIGURE[w.figure]),
        seed=CONFIG.seeds[0],
        evaluation=lambda w: EVALUATIONS[w.figure].params(),
        modules=lambda w: [EVALUATIONS[w.figure].module],
        settings=lambda w: settings(*EVALUATIONS[w.figure].settings)(w),
        code=lambda w: code_digest("draw_figure", EVALUATIONS[w.figure].module),
    message:
        f"Drawing {{wildcards.figure}}{AT}"
    script:
        "../workflow_scripts/draw_figure.py"
