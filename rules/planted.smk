"""Planted concepts. Only where the config's chat model is ``planted``.

Takes token shards and the base model's activations, or noise. Gives caches of a pair whose every difference is known, in the place of harvested
ones, and scores of every crosscoder: `snakemake planted` builds the leaderboard, the claims and their figures.
"""

PLANTED = (
    [
        f"results/{PAIR}/report/leaderboard.html",
        *expand("results/{pair}/tables/{table}.csv", pair=PAIR, table=["leaderboard", "planted_statistics", "claims"]),
    ]
    if CONFIG.pair.chat.planted
    else []
)


if CONFIG.pair.chat.planted:

    localrules:
        planted,

    rule planted:
        """The leaderboard, and what the paper's claims come to where the truth is known."""
        input:
            PLANTED,

    rule draw_concepts:
        """Kinds, directions, strengths and contexts of all concepts: refused here where they do not fit."""
        input:
            tokens=token_shards("train"),
            background=[unplanted("train", dataset, shard) for dataset in CONFIG.datasets for shard in RUN.shards(dataset, "train")],
        output:
            table="results/{pair}/planted/layer{layer}/concepts.csv",
            directions="results/{pair}/planted/layer{layer}/directions.safetensors",
        log:
            "logs/{pair}/draw_concepts/layer{layer}.log",
        localrule: True
        conda:
            "../envs/environment.yaml"
        params:
            settings=settings("pair.chat.planted", "activations.skip_first", "activations.max_norm_ratio", "activations.statistics_tokens"),
            code=code_digest("draw_concepts"),
        message:
            "Drawing concepts"
        script:
            "../workflow_scripts/draw_concepts.py"

    rule plant_concepts:
        """Both models' caches of one shard, and every firing in it."""
        input:
            tokens="results/{pair}/tokens/{dataset}.{split}/{shard}.parquet",
            background=unplanted("{split}"),
            table="results/{pair}/planted/layer{layer}/concepts.csv",
            directions="results/{pair}/planted/layer{layer}/directions.safetensors",
        output:
            base="results/{pair}/activations/layer{layer}/{dataset}.{split}/{shard}.base.h5",
            chat="results/{pair}/activations/layer{layer}/{dataset}.{split}/{shard}.chat.h5",
            firings="results/{pair}/planted/layer{layer}/{dataset}.{split}/{shard}.parquet",
        log:
            "logs/{pair}/plant_concepts/layer{layer}.{dataset}.{split}.{shard}.log",
        conda:
            "../envs/environment.yaml"
        resources:
            **request("plant_concepts"),
        params:
            settings=settings("pair.chat.planted", "pair.layer"),
            code=code_digest("plant_concepts"),
        message:
            "Planting into {wildcards.dataset}, {wildcards.split} shard {wildcards.shard}"
        script:
            "../workflow_scripts/plant_concepts.py"

    rule match_concepts:
        """The concept that each latent stands for, if any."""
        input:
            **pairs("train"),
            firings=planted_firings("train"),
            table="results/{pair}/planted/layer{layer}/concepts.csv",
            directions="results/{pair}/planted/layer{layer}/directions.safetensors",
            weights="results/{pair}/layer{layer}/{crosscoder}/seed{seed}/weights.safetensors",
            config="results/{pair}/layer{layer}/{crosscoder}/seed{seed}/config.json",
        output:
            "results/{pair}/layer{layer}/{crosscoder}/seed{seed}/concepts.csv",
        log:
            "logs/{pair}/match_concepts/layer{layer}.{crosscoder}.seed{seed}.log",
        benchmark:
            "logs/{pair}/match_concepts/layer{layer}.{crosscoder}.seed{seed}.benchmark.tsv"
        conda:
            "../envs/environment.yaml"
        resources:
            **request("match_concepts"),
        params:
            settings=settings("scoring.correlation_above", "scoring.cosine_above"),
            code=code_digest("match_concepts"),
        message:
            "Matching latents of {wildcards.crosscoder}, seed {wildcards.seed}, with concepts"
        script:
            "../workflow_scripts/match_concepts.py"

    rule score_crosscoders:
        """Precision, recall and F1 of every crosscoder, seed and calling rule; the leaderboard; verdicts on the paper's claims."""
        input:
            concepts=f"results/{PAIR}/planted/layer{LAYER}/concepts.csv",
            betas=per_crosscoder("betas.parquet"),
            matches=per_crosscoder("concepts.csv"),
        output:
            scores="results/{pair}/tables/planted_scores.csv",
            statistics="results/{pair}/tables/planted_statistics.csv",
            leaderboard="results/{pair}/tables/leaderboard.csv",
            claims="results/{pair}/tables/claims.csv",
        log:
            "logs/{pair}/score_crosscoders.log",
        localrule: True
        conda:
            "../envs/environment.yaml"
        params:
            names=[[crosscoder, seed] for crosscoder in CONFIG.crosscoders for seed in CONFIG.seeds],
            losses={name: crosscoder.loss for name, crosscoder in CONFIG.crosscoders.items()},
            settings=settings("scoring", *NU_THRESHOLDS),
            code=code_digest("score_crosscoders"),
        message:
            "Scoring the crosscoders"
        script:
            "../workflow_scripts/score_crosscoders.py"

    rule figure_planted:
        """What each rule calls, false members against recall, ROC, and recovered ratios."""
        input:
            concepts=f"results/{PAIR}/planted/layer{LAYER}/concepts.csv",
            scores="results/{pair}/tables/planted_scores.csv",
            betas=per_crosscoder("betas.parquet"),
            matches=per_crosscoder("concepts.csv"),
        output:
            calls=multiext("results/{pair}/figures/planted_calls", ".svg", ".png"),
            recall=multiext("results/{pair}/figures/planted_recall", ".svg", ".png"),
            roc=multiext("results/{pair}/figures/planted_roc", ".svg", ".png"),
            ratios=multiext("results/{pair}/figures/planted_ratios", ".svg", ".png"),
            agreement=multiext("results/{pair}/figures/planted_agreement", ".svg", ".png"),
        log:
            "logs/{pair}/figure_planted.log",
        localrule: True
        conda:
            "../envs/environment.yaml"
        params:
            names=[[crosscoder, seed] for crosscoder in CONFIG.crosscoders for seed in CONFIG.seeds],
            settings=settings("scoring", "classes", *NU_THRESHOLDS),
            code=code_digest("figure_planted"),
        message:
            "Drawing planted concepts"
        script:
            "../workflow_scripts/figure_planted.py"

    rule write_leaderboard:
        """One page: the leaderboard, the claims and their figures."""
        input:
            template="report/leaderboard.html.jinja",
            concepts=f"results/{PAIR}/planted/layer{LAYER}/concepts.csv",
            summary=f"results/{PAIR}/activations/layer{LAYER}/summary.json",
            tables=expand(
                "results/{pair}/tables/{table}.csv",
                pair=PAIR,
                table=["leaderboard", "planted_statistics", "planted_scores", "claims", "crosscoders"],
            ),
            figures=expand(
                "results/{pair}/figures/planted_{figure}.svg", pair=PAIR, figure=["calls", "recall", "roc", "ratios", "agreement"]
            ),
        output:
            f"results/{PAIR}/report/leaderboard.html",
        log:
            f"logs/{PAIR}/write_leaderboard.log",
        localrule: True
        conda:
            "../envs/environment.yaml"
        params:
            code=code_digest("write_leaderboard"),
        message:
            "Writing the leaderboard"
        script:
            "../workflow_scripts/write_leaderboard.py"
