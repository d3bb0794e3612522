"""First look, before any crosscoder.

These rules take both models, a sample of the token shards and a few held-out prompts. They give tables, a
figure over layers and a page: where the models differ, and what that says in tokens. A run of two models that
do not differ stops here. A planted pair has no chat model, so it has no first look.
"""

LOOKS = CONFIG.first_look.take and not CONFIG.planted
OF_LOOK = "results/{pair}/first_look"
LOOK_TABLES = {
    "layers": f"{OF_LOOK}/layers.csv",
    "where": f"{OF_LOOK}/where.csv",
    "contexts": f"{OF_LOOK}/contexts.parquet",
    "mean_differences": f"{OF_LOOK}/mean_differences.parquet",
    "promoted": f"{OF_LOOK}/promoted.csv",
    "topics": f"{OF_LOOK}/topics.parquet",
    "answers": f"{OF_LOOK}/answers.parquet",
    "summary": f"{OF_LOOK}/summary.json",
}
LOOK_DRAWN = {"drawing": f"{OF_LOOK}/layers.svg", "caption": f"{OF_LOOK}/layers.json"}
FIRST_LOOK = ["results/{pair}/first_look.html"] if LOOKS else []
DIFFERS = f"{OF_LOOK}/differs.json" if LOOKS else []
# In the order of crossdiff.report.first_look.FirstLookInputs.
FIRST_LOOK_SHOWN = [*LOOK_TABLES.values(), *LOOK_DRAWN.values()] if LOOKS else []
FIRST_LOOK_ASKED = f"{OF_LOOK}/asked.csv" if CONFIG.explanations and LOOKS else []
CHATS = [name for name, dataset in CONFIG.datasets.items() if dataset.kind == "chats"]

if LOOKS:

    localrules:
        first_look,

    rule first_look:
        """Build the page of the first look of every pair, and ask a language model, if there is one."""
        input:
            everywhere(*FIRST_LOOK),
            everywhere(FIRST_LOOK_ASKED) if FIRST_LOOK_ASKED else [],

    rule compare_models:
        """Run both models over a sample of the texts once, and let them answer a few held-out prompts."""
        input:
            base=model("base"),
            chat=model("chat"),
            tokenizer=tokenizer,
            tokens=first_token_shards(CONFIG.datasets, "train"),
            held_out=first_token_shards(CHATS, "validation"),
        output:
            **LOOK_TABLES,
        log:
            "logs/{pair}/first_look/compare_models.log",
        benchmark:
            "logs/{pair}/first_look/compare_models.benchmark.tsv"
        priority: 90
        conda:
            "../envs/environment.yaml"
        resources:
            **request("compare_models"),
            batch_tokens=BATCH_TOKENS,
        params:
            datasets=list(CONFIG.datasets),
            chats=CHATS,
            settings=settings(
                "first_look.tokens",
                "first_look.conversations",
                "first_look.answer_tokens",
                "tokens.context",
                "tokens.base_replacements",
            ),
            code=code_digest("compare_models"),
        message:
            f"Taking a first look at both models{OF_PAIR}"
        script:
            "../workflow_scripts/compare_models.py"

    rule draw_first_look:
        """Draw how the models differ over the layers."""
        input:
            layers=LOOK_TABLES["layers"],
            summary=LOOK_TABLES["summary"],
        output:
            drawing=shown([LOOK_DRAWN["drawing"], f"{OF_LOOK}/layers.pdf", f"{OF_LOOK}/layers.png"]),
            caption=LOOK_DRAWN["caption"],
        log:
            "logs/{pair}/first_look/draw_first_look.log",
        priority: 90
        localrule: True
        conda:
            "../envs/environment.yaml"
        params:
            code=code_digest("draw_first_look"),
        message:
            f"Drawing the first look{OF_PAIR}"
        script:
            "../workflow_scripts/draw_first_look.py"

    rule write_first_look:
        """Write the page of the first look."""
        input:
            template=shipped("report/first_look.html.jinja"),
            parts=[
                shipped(f"report/{part}.html.jinja")
                for part in ("page", "figure", "sections/first_look", "sections/glossary")
            ],
            tokenizer=tokenizer,
            first_look=FIRST_LOOK_SHOWN,
        output:
            shown(FIRST_LOOK),
        log:
            "logs/{pair}/first_look/write_first_look.log",
        priority: 90
        localrule: True
        conda:
            "../envs/environment.yaml"
        params:
            code=code_digest("write_first_look"),
        message:
            "Writing the first look to {output[0]}"
        script:
            "../workflow_scripts/write_first_look.py"

    rule check_difference:
        """Stop the run if the two models do not differ. No crosscoder is trained before."""
        input:
            summary=LOOK_TABLES["summary"],
            page=FIRST_LOOK,
        output:
            update(DIFFERS),
        log:
            "logs/{pair}/first_look/check_difference.log",
        priority: 90
        localrule: True
        conda:
            "../envs/environment.yaml"
        params:
            settings=settings("first_look.equal_models"),
            code=code_digest("check_difference"),
        message:
            f"The first look is at {{input.page}}. Checking that the two models differ{OF_PAIR}"
        script:
            "../workflow_scripts/check_difference.py"


if FIRST_LOOK_ASKED:

    rule ask_about_answers:
        """Ask a language model what the fine-tune changed, from both models' answers alone."""
        input:
            answers=LOOK_TABLES["answers"],
            model=CONFIG.explanations.model.folder or [],
        output:
            FIRST_LOOK_ASKED,
        log:
            "logs/{pair}/first_look/ask_about_answers.log",
        benchmark:
            "logs/{pair}/first_look/ask_about_answers.benchmark.tsv"
        priority: 90
        localrule: CONFIG.explanations.model.folder is None  # nodes often have no network
        conda:
            "../envs/environment.yaml"
        resources:
            **request("ask_about_answers"),
        params:
            answers="results/.answers",  # as in explain_latents
            settings=settings("explanations.model"),
            code=code_digest("ask_about_answers"),
        message:
            f"Asking a language model about both models' answers{OF_PAIR}"
        script:
            "../workflow_scripts/ask_about_answers.py"
