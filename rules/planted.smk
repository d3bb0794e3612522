"""Planted concepts. These rules exist only if the config's chat model is ``planted``.

They take token shards and the base model's activations, or noise. They give caches of a pair whose every
difference is known. These take the place of harvested ones. They also give scores of every crosscoder:
`snakemake planted` builds the leaderboard, the claims and their figures.
"""

PLANTED_TABLES = (
    *("leaderboard", "planted_methods", "planted_recall"),
    *("planted_statistics", "planted_scores", "claims"),
)
PLANTED = (
    [
        of_layer("report/leaderboard.html"),
        *(of_layer(f"tables/{table}.csv") for table in PLANTED_TABLES),
    ]
    if CONFIG.planted
    else []
)
PLANTED_FIGURES = ("calls", "recall", "roc", "ratios", "agreement")


if CONFIG.planted:

    localrules:
        planted,

    rule planted:
        """Build the leaderboard, and test the paper's claims where the truth is known."""
        input:
            everywhere(*PLANTED, of_layer("tables/stability.csv")),

    rule draw_concepts:
        """Draw kinds, directions, strengths and contexts of all concepts. Refuse what does not fit."""
        input:
            tokens=token_shards("train"),
            background=[] if CONFIG.planted.noise else harvested("train", "base"),
        output:
            table=of_layer("planted/concepts.csv"),
            directions=of_layer("planted/directions.safetensors"),
        log:
            of_layer("draw_concepts.log", "logs"),
        localrule: True
        conda:
            "../envs/environment.yaml"
        params:
            settings=settings(
                "pair.chat.planted",
                "activations.skip_first",
                "activations.max_norm_ratio",
                "activations.statistics_tokens",
            ),
            code=code_digest("draw_concepts"),
        message:
            f"Drawing concepts{AT}"
        script:
            "../workflow_scripts/draw_concepts.py"

    rule plant_concepts:
        """Write both models' caches of one shard, and every firing in it."""
        input:
            tokens=lambda w: f"{RUN.of(w).tokens}/{w.dataset}.{w.split}/{w.shard}.parquet",
            background=lambda w: (
                []
                if CONFIG.planted.noise
                else f"{RUN.of(w).activations('base')}/{w.dataset}.{w.split}/{w.shard}.h5"
            ),
            table=of_layer("planted/concepts.csv"),
            directions=of_layer("planted/directions.safetensors"),
        output:
            base=of_layer("planted/{dataset}.{split}/{shard}.base.h5"),
            chat=of_layer("planted/{dataset}.{split}/{shard}.chat.h5"),
            firings=of_layer("planted/{dataset}.{split}/{shard}.parquet"),
        log:
            of_layer("planted/{dataset}.{split}/{shard}.log", "logs"),
        conda:
            "../envs/environment.yaml"
        resources:
            **request("plant_concepts"),
        params:
            settings=settings("pair.chat.planted", "pair.layer"),
            code=code_digest("plant_concepts"),
        message:
            f"Planting into {{wildcards.dataset}}, {{wildcards.split}} shard {{wildcards.shard}}{AT}"
        script:
            "../workflow_scripts/plant_concepts.py"

    rule match_concepts:
        """Find the concept that each latent stands for, if any."""
        input:
            active=trained("active.train.parquet"),
            firings=planted_firings("train"),
            table=of_layer("planted/concepts.csv"),
            directions=of_layer("planted/directions.safetensors"),
            weights=trained("weights.safetensors"),
            config=trained("config.json"),
        output:
            trained("concepts.csv"),
        log:
            trained("match_concepts.log", "logs"),
        benchmark:
            trained("match_concepts.benchmark.tsv", "logs")
        conda:
            "../envs/environment.yaml"
        resources:
            **request("match_concepts"),
        params:
            settings=settings("scoring.correlation_above", "scoring.cosine_above"),
            code=code_digest("match_concepts"),
        message:
            f"Matching latents of {{wildcards.crosscoder}}, seed {{wildcards.seed}}, with concepts{AT}"
        script:
            "../workflow_scripts/match_concepts.py"

    rule score_crosscoders:
        """Score every crosscoder, seed and calling rule, compare methods, and judge the paper's claims."""
        input:
            concepts=of_layer("planted/concepts.csv"),
            betas=every_training("betas.parquet"),
            matches=every_training("concepts.csv"),
            quality=of_layer("tables/crosscoders.csv"),
            logs=every_training("training.csv"),
        output:
            scores=shown(of_layer("tables/planted_scores.csv")),
            statistics=shown(of_layer("tables/planted_statistics.csv")),
            leaderboard=shown(of_layer("tables/leaderboard.csv")),
            claims=shown(of_layer("tables/claims.csv")),
            recall=shown(of_layer("tables/planted_recall.csv")),
            methods=shown(of_layer("tables/planted_methods.csv")),
        log:
            of_layer("score_crosscoders.log", "logs"),
        localrule: True
        conda:
            "../envs/environment.yaml"
        params:
            trainings=TRAININGS,
            losses={name: crosscoder.loss for name, crosscoder in CONFIG.crosscoders.items()},
            alone=not CONFIG.trains_together,  # else the time of a job is not that of one training
            settings=settings("scoring", *NU_THRESHOLDS),
            code=code_digest("score_crosscoders"),
        message:
            f"Scoring the crosscoders{AT}"
        script:
            "../workflow_scripts/score_crosscoders.py"

    rule figure_planted:
        """Draw what each rule calls, false members against recall, ROC, and recovered ratios."""
        input:
            concepts=of_layer("planted/concepts.csv"),
            scores=of_layer("tables/planted_scores.csv"),
            betas=every_training("betas.parquet"),
            matches=every_training("concepts.csv"),
        output:
            calls=shown(multiext(of_layer("figures/planted_calls"), ".svg", ".pdf", ".png", ".json")),
            recall=shown(multiext(of_layer("figures/planted_recall"), ".svg", ".pdf", ".png", ".json")),
            roc=shown(multiext(of_layer("figures/planted_roc"), ".svg", ".pdf", ".png", ".json")),
            ratios=shown(multiext(of_layer("figures/planted_ratios"), ".svg", ".pdf", ".png", ".json")),
            agreement=shown(multiext(of_layer("figures/planted_agreement"), ".svg", ".pdf", ".png", ".json")),
        log:
            of_layer("figure_planted.log", "logs"),
        localrule: True
        conda:
            "../envs/environment.yaml"
        params:
            trainings=TRAININGS,
            settings=settings("scoring", "classes", *NU_THRESHOLDS),
            code=code_digest("figure_planted"),
        message:
            f"Drawing planted concepts{AT}"
        script:
            "../workflow_scripts/figure_planted.py"

    rule write_leaderboard:
        """Write the page with the leaderboard, the claims and their figures."""
        input:
            template=shipped("report/leaderboard.html.jinja"),
            parts=[shipped(f"report/{part}.html.jinja") for part in ("figure", "limits")],
            concepts=of_layer("planted/concepts.csv"),
            summary=of_layer("summary.json"),
            tables=[of_layer(f"tables/{table}.csv") for table in (*PLANTED_TABLES, "crosscoders")],
            figures=[of_layer(f"figures/planted_{figure}.svg") for figure in PLANTED_FIGURES],
            captions=[of_layer(f"figures/planted_{figure}.json") for figure in PLANTED_FIGURES],
        output:
            shown(of_layer("report/leaderboard.html")),
        log:
            of_layer("write_leaderboard.log", "logs"),
        localrule: True
        conda:
            "../envs/environment.yaml"
        params:
            code=code_digest("write_leaderboard"),
        message:
            f"Writing the leaderboard{AT}"
        script:
            "../workflow_scripts/write_leaderboard.py"
