"""A script that asks for a setting that its rule does not declare stops with one line."""

from conftest import TINY, Checkout


def test_undeclared_key_is_one_line_with_the_rule_the_key_and_what_to_add(checkout: Checkout) -> None:
    frame = "with job(snakemake) as settings:"
    script = "workflow_scripts/chat_tokenizer.py"
    checkout.edit(script, frame, f"{frame}\n        settings.tokens.context")
    result = checkout.snakemake("results/tokenizers/tiny-chat", "--configfile", TINY)
    assert result.returncode == 1
    said = "error: rule chat_tokenizer: its script asks for tokens.context, which the rule does not declare; "
    assert said + 'add settings("tokens.context") to its params' in result.stdout
    assert not (checkout.folder / "results/tokenizers").exists()
