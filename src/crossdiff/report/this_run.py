"""The page's table "This run": models, layer, texts and crosscoders, from the settings in the records."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from crossdiff.provenance.recorded_settings import RecordedSettings

UNKNOWN = "not known to this run"
THEIRS = "trained by others"
# Sources of a model that are not named further: a path says nothing on another machine.
PLAIN = {"folder": "local folder", "gguf": "GGUF file", "adapter": "LoRA adapter", "random": "random weights"}


class AboutCrosscoder(NamedTuple):
    """What the table says of a crosscoder."""

    name: str
    loss: str
    latents: int
    per_dimension: float  # latents / d_model
    k: int | None  # None for a loss without one
    tokens: int | None  # read in training; None for a crosscoder that others trained
    passes: float | None  # tokens / training tokens of the texts


def about_models(recorded: RecordedSettings, facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (what, value) of both models, the fine-tune, the layer and the texts. ``facts``: pair.json."""
    names = {role: recorded.get(f"pair.{role}.name", UNKNOWN) for role in ("base", "chat")}
    chat = names["chat"]
    planted = recorded.given("pair.chat.planted")
    shown = "none: known concepts are planted into the base's activations" if planted else None
    return [
        ("base model", _model(recorded, names["base"])),
        ("chat model", shown or _model(recorded, chat)),
        ("data of the fine-tune", "none" if planted else _taught(recorded, chat)),
        ("layer", f"{recorded['pair.layer']} (0-based) of {facts['base']['layers']}"),
        ("texts", "; ".join(_text(recorded, name) for name in recorded.texts())),
    ]


def about_crosscoders(
    recorded: RecordedSettings, facts: Mapping[str, Any], latents: Mapping[str, int]
) -> list[AboutCrosscoder]:
    """Return one row per crosscoder. ``latents``: crosscoder -> number of its latents."""
    read = sum(recorded[f"datasets.{name}.tokens"] for name in recorded.texts())
    rows = []
    for name, count in latents.items():
        key, size = f"crosscoders.{name}.", count / facts["base"]["d_model"]
        if is_imported(recorded, name):
            loss = recorded.get(key + "import.loss") or "loss not known"
            rows.append(AboutCrosscoder(name, f"{loss}, {THEIRS}", count, size, None, None, None))
            continue
        loss, tokens, k = recorded[key + "loss"], recorded[key + "tokens"], recorded.get(key + "k")
        rows.append(AboutCrosscoder(name, loss, count, size, k, tokens, tokens / read))
    return rows


def is_imported(recorded: RecordedSettings, crosscoder: str) -> bool:
    """Whether others trained a crosscoder."""
    return recorded.given(f"crosscoders.{crosscoder}.import")


def fine_tune(recorded: RecordedSettings, name: str) -> str:
    """Say how this run fine-tuned a model, or "" if it did not."""
    key = f"models.{name}.finetune."
    if f"{key}learning_rate" not in recorded:
        return ""
    rate, batch, seed = (recorded[key + of_it] for of_it in ("learning_rate", "batch_tokens", "seed"))
    return f"learning rate {rate:g}, batches of {batch:,} tokens, seed {seed}"


def _text(recorded: RecordedSettings, name: str) -> str:
    return f"{name} ({recorded[f'datasets.{name}.kind']}, {recorded[f'datasets.{name}.tokens']:,} tokens)"


def _model(recorded: RecordedSettings, name: str) -> str:
    """The model's name, and where it comes from."""
    key = f"models.{name}."
    if recorded.given(key + "finetune"):
        return f"{name} (fine-tuned by this run)"
    if recorded.given(key + "hub"):
        return f"{name} ({recorded[key + 'hub.name']}, revision {recorded[key + 'hub.revision']})"
    if recorded.given(key + "adapter.hub"):
        adapter = f"{recorded[key + 'adapter.hub.name']}, revision {recorded[key + 'adapter.hub.revision']}"
        return f"{name} (LoRA adapter {adapter})"
    if recorded.given(key + "package"):
        return f"{name} (package {recorded[key + 'package.name']} {recorded[key + 'package.version']})"
    found = [words for source, words in PLAIN.items() if recorded.given(key + source)]
    return f"{name} ({found[0]})" if found else name


def _taught(recorded: RecordedSettings, name: str) -> str:
    """The data that a model was fine-tuned on, where this run did it."""
    key = f"models.{name}.finetune."
    data = {
        name.removeprefix(f"{key}data."): n for name, n in recorded.items() if name.startswith(f"{key}data.")
    }
    if not data:
        return UNKNOWN
    epochs = recorded[key + "epochs"]
    named = ", ".join(f"{name} ({tokens:,} tokens)" for name, tokens in data.items())
    return f"{named}; {epochs} epoch{'s' if epochs > 1 else ''}"
