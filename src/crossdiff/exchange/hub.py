"""A folder for the Hugging Face hub: a crosscoder that ``crossdiff.load`` opens by its hub name.

Next to weights and configuration it has a model card, what the run found of each latent, the figures, and the
records that say what all of it was made from.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crossdiff.config.imported import IMPORTED
from crossdiff.errors import UserError, first_line
from crossdiff.exchange.training import Training
from crossdiff.latents.evaluation import explained
from crossdiff.provenance.recorded_settings import RecordedSettings
from crossdiff.provenance.records import read_record, record_path
from crossdiff.provenance.storage import read_json
from crossdiff.results.crosscoder import WEIGHTS
from crossdiff.results.home import record_of
from crossdiff.results.loading import CONFIG

TABLES = ("betas.parquet", "evaluation.json")
CARD = "README.md"


def write_hub_folder(training: Training, folder: Path) -> str:
    """Write weights, configuration, tables, figures, records and a model card. Returns a sentence on it.

    Raises UserError where the evaluation or the beta table is not there, or stale.
    """
    for name in (WEIGHTS, CONFIG, *TABLES):
        _copy(training.folder / name, folder)
    figures = _figures(training)
    if figures:
        (folder / "figures").mkdir()
    for figure in figures:
        _copy(figure, folder / "figures")
    (folder / CARD).write_text(model_card(training, [path.name for path in figures]), encoding="utf-8")
    return f"weights, tables, {len(figures)} figures, their records and a model card"


def push(folder: Path, name: str) -> str:
    """Put a written folder on the hub as the repository ``name`` (owner/name). Returns its address.

    Raises UserError where the hub does not take it.
    """
    from huggingface_hub import HfApi

    try:
        HfApi().create_repo(name, exist_ok=True)
        return str(HfApi().upload_folder(repo_id=name, folder_path=folder))
    except Exception as error:  # its client's errors have no class in common
        raise UserError(
            f"{name}: the hub does not take it ({first_line(error)}); {folder} is written, so this puts it "
            f"there later: hf upload {name} {folder}"
        ) from error


def model_card(training: Training, figures: list[str]) -> str:
    """The model card, in Markdown: what it is, how to load it, numbers, data, and where it comes from."""
    found = read_json(training.folder / "evaluation.json")
    recorded = training.recorded
    pair, layer, crosscoder, seed = training.name.split("/")
    module = training.crosscoder
    fve = [f"{value:.3f}" for value in explained(found)]
    rows = [
        ("base model", _model(recorded, "base")),
        ("chat model", _model(recorded, "chat")),
        ("activations", f"output of block {module.layer} (0-based), width {module.d_model}"),
        ("latents", f"{module.latents:,}"),
        *_trained(training.settings, seed),
        ("texts", "; ".join(_text(recorded, name) for name in recorded.texts())),
        ("fraction of variance explained, held-out", ", ".join(fve)),
        ("active latents per token (L0)", f"{found['l0']:.1f}"),
    ]
    if "does_not_apply" not in found:
        count, chat, base = found["classes"], found["others_confirmed"], found["base_only_confirmed"]
        shown = f"{count['chat-only']}, {count['shared']}, {count['base-only']}"
        rows += [
            ("chat-only, shared, base-only by decoder norm", shown),
            ("confirmed by latent scaling", f"{chat} of the chat model, {base} of the base model"),
        ]
    lines = [
        "---",
        "library_name: crossdiff",
        "tags: [crosscoder, model-diffing, sparse-autoencoder, interpretability]",
        "---",
        "",
        f"# {pair}, {layer}: {crosscoder}",
        "",
        "A crosscoder: one dictionary of latents for the activations of two language models, with a decoder",
        "direction per model. It shows what fine-tuning changed (Minder et al., arXiv 2504.02922).",
        "",
        "```python",
        "import crossdiff",
        'crosscoder = crossdiff.load("OWNER/NAME")  # this repository',
        "codes = crosscoder.encode(activations)  # raw activations: (tokens, 2, width), base first",
        "```",
        "",
        "| | |",
        "| --- | --- |",
        *(f"| {what} | {_cell(value)} |" for what, value in rows),
        "",
        "`betas.parquet` has what was found of each latent: norms, betas, ratios, class and verdict. Latent",
        "scaling confirms a latent whose direction only one model needs. Norms alone prove nothing.",
        "",
        *(["The figures show all crosscoders of the run.", ""] if figures else []),
        *(f"![{name.removesuffix('.svg').replace('_', ' ')}](figures/{name})" for name in figures),
        "",
        f"The weights' record is `crossdiff-record:{training.record.id}`. The files `*.record.json` say what",
        "each file was made from: inputs with their digests, settings and code. Texts and models keep the",
        "licences of their sources.",
        "",
    ]
    return "\n".join(lines)


def _trained(settings: Mapping[str, Any], seed: str) -> list[tuple[str, str]]:
    """Rows about the training, which others may have made."""
    loss = ("loss", str(settings.get("loss", "not known")))
    if IMPORTED not in settings:
        return [loss, ("tokens of training", f"{settings['tokens']:,}"), ("seed", seed.removeprefix("seed"))]
    hub = settings[IMPORTED].get("hub")
    source = f"{hub['name']}, revision {hub['revision']}" if hub else "local files"
    return [("trained by", f"others; taken from {source}"), loss]


def _figures(training: Training) -> list[Path]:
    """The layer's figures, if they show this seed. They show the first one of the run."""
    seed = int(training.folder.name.removeprefix("seed"))
    found = sorted((training.folder.parents[1] / "figures").glob("*.svg"))
    return [path for path in found if read_record(path).params.get("seed") == seed]


def _copy(path: Path, folder: Path) -> None:
    """Copy a result with its record. Raises UserError where it is not there, or stale."""
    if not path.exists():
        raise UserError(f"{path}: not there; run the workflow first")
    record_of(path, check=True)
    for file in (path, record_path(path)):
        shutil.copy(file, folder / file.name)


def _model(recorded: RecordedSettings, role: str) -> str:
    if role == "chat" and recorded.given("pair.chat.planted"):
        return "none: known concepts are planted into the base model's activations"
    name = recorded.get(f"pair.{role}.name", "not known")
    if recorded.given(f"models.{name}.finetune"):
        return f"{name} (a fine-tune of the base model, made by the run)"
    hub = recorded.get(f"models.{name}.hub.name")
    return f"{name} ({hub}, revision {recorded[f'models.{name}.hub.revision']})" if hub else name


def _text(recorded: RecordedSettings, name: str) -> str:
    return f"{name} ({recorded[f'datasets.{name}.tokens']:,} tokens)"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
