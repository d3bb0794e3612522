"""Overview. These rules exist only if the config has more than one pair or layer.

They take every pair's table, crosscoders and active entries. They give tables over all pairs and layers, a
figure over the layers, and one page that opens from disk and leads to every report.
"""

OVERVIEW = [f"results/{CONFIG.overview}/index.html"] if len(COMPARISONS) > 1 else []


if OVERVIEW:
    COMPARED = [
        {
            "pair": seen.pair.name,
            "layer": seen.pair.layer,
            "base": seen.pair.model_name("base"),
            "chat": seen.pair.model_name("chat"),
            "tokenizer": seen.tokenizer_name,
        }
        for seen in RUN.comparisons
    ]
    OVER_LAYERS = ["layers"] if len({pair.layer for pair in COMPARISONS}) > 1 else []

    rule compare_pairs:
        """Put the numbers of all pairs side by side, and find latents that two pairs have in common."""
        input:
            numbers=everywhere(of_layer("tables/crosscoders.csv")),
            weights=everywhere(*every_training("weights.safetensors")),
            config=everywhere(*every_training("config.json")),
            betas=everywhere(*every_training("betas.parquet")),
            active=everywhere(*every_training("active.validation.parquet")),
        output:
            pairs=shown(of_overview("tables/pairs.csv")),
            overlap=shown(of_overview("tables/overlap.csv")),
        log:
            of_overview("compare_pairs.log", "logs"),
        conda:
            "../envs/environment.yaml"
        resources:
            **request("compare_pairs"),
        params:
            compared=COMPARED,
            trainings=TRAININGS,
            settings=settings("classes.top", "seed_agreement"),
            code=code_digest("compare_pairs"),
        message:
            "Comparing all pairs and layers"
        script:
            "../workflow_scripts/compare_pairs.py"

    rule write_overview:
        """Write the page over all pairs and layers."""
        input:
            template=shipped("report/overview.html.jinja"),
            parts=[shipped(f"report/{part}.html.jinja") for part in ("figure", "limits")],
            numbers=everywhere(of_layer("tables/crosscoders.csv")),
            pairs=of_overview("tables/pairs.csv"),
            overlap=of_overview("tables/overlap.csv"),
            figures=[of_overview(f"figures/{figure}.svg") for figure in OVER_LAYERS],
            captions=[of_overview(f"figures/{figure}.json") for figure in OVER_LAYERS],
            linked=everywhere(REPORT, BROWSER),
        output:
            shown(OVERVIEW),
        log:
            of_overview("write_overview.log", "logs"),
        localrule: True
        conda:
            "../envs/environment.yaml"
        params:
            compared=COMPARED,
            code=code_digest("write_overview"),
        message:
            "Writing the page over all pairs and layers"
        script:
            "../workflow_scripts/write_overview.py"

    if OVER_LAYERS:

        rule draw_layers:
            """Draw FVE and confirmed latents of every pair against the layer."""
            input:
                pairs=of_overview("tables/pairs.csv"),
            output:
                drawing=shown(multiext(of_overview("figures/layers"), ".svg", ".pdf", ".png")),
                caption=of_overview("figures/layers.json"),
            log:
                of_overview("draw_layers.log", "logs"),
            localrule: True
            conda:
                "../envs/environment.yaml"
            params:
                code=code_digest("draw_layers"),
            message:
                "Drawing all pairs over the layers"
            script:
                "../workflow_scripts/draw_layers.py"
