"""What depends on one model alone is made once: another pair or another layer makes none of it again."""

from conftest import TINY, Checkout, planned


def jobs(finished: Checkout, changes: dict[str, object], name: str) -> dict[str, int]:
    result = finished.snakemake("--dry-run", "--configfile", finished.changed(TINY, changes, name))
    assert result.returncode == 0, result.stdout
    return planned(result.stdout)


def test_second_pair_of_the_same_models_makes_its_own_and_nothing_of_theirs(finished: Checkout) -> None:
    names = {"pair.name": "second", "pair.base.name": "tiny-base", "pair.chat.name": "tiny-chat"}
    second = jobs(finished, names, "second")
    assert second["train_crosscoder"] == 4
    made = {
        "prepare_model",
        "finetune_model",
        "chat_tokenizer",
        "tokenise",
        "check_model",
        "harvest_activations",
    }
    assert not made & set(second)


def test_another_layer_harvests_and_keeps_models_and_tokens(finished: Checkout) -> None:
    other = jobs(finished, {"pair.layer": 0}, "other-layer")
    assert other["harvest_activations"] == 10 and other["check_model"] == 2
    assert not {
        "prepare_model",
        "finetune_model",
        "chat_tokenizer",
        "tokenise",
        "generate_answers",
        "measure_refusals",
    } & set(other)
