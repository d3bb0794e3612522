"""Figures.

Takes tables of latents and training logs, of the first seed. Gives one SVG and one PNG per figure.
"""


rule figure_norm_difference:
    """Histograms of the relative decoder norm difference, and the cosine of both decoders."""
    input:
        every_training("betas.parquet", FIRST_SEED),
    output:
        multiext(of_layer("figures/norm_difference"), ".svg", ".png"),
    log:
        of_layer("figure_norm_difference.log", "logs"),
    localrule: True
    conda:
        "../envs/environment.yaml"
    params:
        crosscoders=list(CONFIG.crosscoders),
        settings=settings("classes.base_only_below", "classes.shared_between", "classes.chat_only_above"),
        code=code_digest("figure_norm_difference"),
    message:
        "Drawing norm_difference"
    script:
        "../workflow_scripts/figure_norm_difference.py"


rule figure_latent_scaling:
    """nu_error against nu_reconstruction, chat-leaning and shared latents."""
    input:
        betas=every_training("betas.parquet", FIRST_SEED),
        names=NAMES,
    output:
        multiext(of_layer("figures/latent_scaling"), ".svg", ".png"),
    log:
        of_layer("figure_latent_scaling.log", "logs"),
    localrule: True
    conda:
        "../envs/environment.yaml"
    params:
        crosscoders=list(CONFIG.crosscoders),
        seed=CONFIG.seeds[0],
        settings=settings("classes.top", *NU_THRESHOLDS),
        code=code_digest("figure_latent_scaling"),
    message:
        "Drawing latent_scaling"
    script:
        "../workflow_scripts/figure_latent_scaling.py"


rule figure_threshold_sweep:
    """Latents confirmed as chat-specific as the threshold grows."""
    input:
        every_training("betas.parquet", FIRST_SEED),
    output:
        multiext(of_layer("figures/threshold_sweep"), ".svg", ".png"),
    log:
        of_layer("figure_threshold_sweep.log", "logs"),
    localrule: True
    conda:
        "../envs/environment.yaml"
    params:
        crosscoders=list(CONFIG.crosscoders),
        settings=settings("classes.top"),
        code=code_digest("figure_threshold_sweep"),
    message:
        "Drawing threshold_sweep"
    script:
        "../workflow_scripts/figure_threshold_sweep.py"


rule figure_template_tokens:
    """Shares of activations on template tokens, chat-leaning and shared latents."""
    input:
        betas=every_training("betas.parquet", FIRST_SEED),
        template_tokens=every_training("template_tokens.csv", FIRST_SEED),
        tokens_read=every_training("tokens_read.json", FIRST_SEED),
    output:
        multiext(of_layer("figures/template_tokens"), ".svg", ".png"),
    log:
        of_layer("figure_template_tokens.log", "logs"),
    localrule: True
    conda:
        "../envs/environment.yaml"
    params:
        crosscoders=list(CONFIG.crosscoders),
        settings=settings("classes.top"),
        code=code_digest("figure_template_tokens"),
    message:
        "Drawing template_tokens"
    script:
        "../workflow_scripts/figure_template_tokens.py"


rule figure_training:
    """FVE, L0 and dead latents over training."""
    input:
        every_training("training.csv", FIRST_SEED),
    output:
        multiext(of_layer("figures/training"), ".svg", ".png"),
    log:
        of_layer("figure_training.log", "logs"),
    localrule: True
    conda:
        "../envs/environment.yaml"
    params:
        crosscoders=list(CONFIG.crosscoders),
        code=code_digest("figure_training"),
    message:
        "Drawing training"
    script:
        "../workflow_scripts/figure_training.py"
