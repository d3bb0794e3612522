"""The table "This run": what the records say, and "not known" where they say nothing."""

from typing import Any

import pytest

from crossdiff.provenance.recorded_settings import RecordedSettings
from crossdiff.report.this_run import UNKNOWN, AboutCrosscoder, about_crosscoders, about_models

FACTS = {"base": {"layers": 30, "d_model": 576}}
TEXTS = {
    "datasets.talk.kind": "chats",
    "datasets.talk.tokens": 1000,
    "datasets.pages.kind": "documents",
    "datasets.pages.tokens": 3000,
    "datasets.taught.kind": "chats",  # read by the fine-tune alone
}
PAIR = {"pair.layer": 12, "pair.base.name": "small", "pair.chat.name": "small-chat"} | TEXTS


def shown(**settings: Any) -> dict[str, str]:
    named = {key.replace("__", "."): value for key, value in settings.items()}
    return dict(about_models(RecordedSettings(PAIR | named), FACTS))


def test_layer_and_texts() -> None:
    found = shown()
    assert found["layer"] == "12 (0-based) of 30"
    assert found["texts"] == "pages (documents, 3,000 tokens); talk (chats, 1,000 tokens)"


def finetuned(epochs: int) -> dict[str, str]:
    key = "models.small-chat.finetune."
    taught = {f"{key}data.talk": 12000, f"{key}data.taught": 28000, f"{key}epochs": epochs}
    return dict(about_models(RecordedSettings(PAIR | taught), FACTS))


@pytest.mark.parametrize(("epochs", "said"), [(1, "1 epoch"), (3, "3 epochs")])
def test_data_of_a_fine_tune_of_ours(epochs: int, said: str) -> None:
    found = finetuned(epochs)
    assert found["chat model"] == "small-chat (fine-tuned by this run)"
    assert found["data of the fine-tune"] == f"talk (12,000 tokens), taught (28,000 tokens); {said}"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({"hub.name": "owner/model", "hub.revision": "abc"}, "small-chat (owner/model, revision abc)"),
        ({"package.name": "wheel", "package.version": "1.2"}, "small-chat (package wheel 1.2)"),
        ({"folder": "/somewhere/else"}, "small-chat (local folder)"),
        ({"adapter.folder": "/somewhere"}, "small-chat (LoRA adapter)"),
        ({"gguf.file": "/somewhere/a.gguf"}, "small-chat (GGUF file)"),
        ({"random.seed": 0}, "small-chat (random weights)"),
        ({"hub": None}, "small-chat"),
    ],
)
def test_data_of_a_fine_tune_of_others_are_not_known(source: dict[str, Any], said: str) -> None:
    given = {f"models.small-chat.{key}": value for key, value in source.items()}
    found = dict(about_models(RecordedSettings(PAIR | {"models.small-chat.finetune": None} | given), FACTS))
    assert found["chat model"] == said
    assert found["data of the fine-tune"] == UNKNOWN


def test_planted_pair_has_no_chat_model() -> None:
    found = shown(pair__chat__name="small", pair__chat__planted__seed=0)
    assert found["chat model"].startswith("none: known concepts are planted")
    assert found["data of the fine-tune"] == "none"


def test_crosscoders() -> None:
    recorded = PAIR | {
        "crosscoders.topk.loss": "batchtopk",
        "crosscoders.topk.k": 16,
        "crosscoders.topk.tokens": 10_000,
        "crosscoders.l1.loss": "l1",
        "crosscoders.l1.tokens": 2000,
    }
    assert about_crosscoders(RecordedSettings(recorded), FACTS, {"topk": 2304, "l1": 288}) == [
        AboutCrosscoder("topk", "batchtopk", 2304, 4.0, 16, 10_000, 2.5),
        AboutCrosscoder("l1", "l1", 288, 0.5, None, 2000, 0.5),
    ]
