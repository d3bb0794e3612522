"""Tiny LoRA adapters, trained nowhere, whose change of the model is visible; and a hub without a network."""

import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from crossdiff.config import ModelSource
from crossdiff.models.prepare import prepare

TARGETS = ["q_proj", "v_proj", "down_proj"]


def write_adapter(
    base: Path,
    folder: Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    rows: int | None = None,
    **settings,
) -> PeftModel:
    """Write a random LoRA adapter of the model in ``base`` to ``folder``. Return the model as peft runs it.

    With ``rows``, the embeddings are resized first.
    """
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if rows:
        model.resize_token_embeddings(rows, mean_resizing=False)
    settings = {"r": 4, "lora_alpha": 16, "target_modules": TARGETS, "task_type": "CAUSAL_LM"} | settings
    adapted = get_peft_model(model, LoraConfig(**settings))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if any(part in name for part in ("lora_A", "lora_B", "modules_to_save", "trainable_tokens")):
                weight.normal_(std=0.2)
    adapted.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return adapted.eval()


def adapted(base: Path, lora: Path, folder: Path, **settings) -> Path:
    """The prepared folder of an adapter on the pair's base, which lies in ``base``."""
    source = ModelSource(adapter={"folder": str(lora)} | settings)
    prepare(source, folder, None, (base, ModelSource(folder=str(base))))
    return folder


class FakeHub:
    """Repositories in local folders, and the patterns that downloads asked for."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.taken = root, []
        self.cached = False
        monkeypatch.setattr("huggingface_hub.snapshot_download", self.download)
        monkeypatch.setattr("huggingface_hub.list_repo_files", self.listed)

    def listed(self, name, revision) -> list[str]:
        if self.cached:
            raise ConnectionError("no network")
        return self.files(name)

    def files(self, name) -> list[str]:
        repository = self.root / name
        return [str(path.relative_to(repository)) for path in repository.rglob("*") if path.is_file()]

    def download(
        self, name, revision, allow_patterns, ignore_patterns, local_dir=None, local_files_only=False
    ) -> str:
        from huggingface_hub.errors import LocalEntryNotFoundError

        if self.cached and not local_files_only:
            raise LocalEntryNotFoundError("no network")
        repository = self.root / name
        files = self.files(name)
        if local_files_only:
            return str(repository)
        for file in filter_repo_objects(
            files, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns
        ):
            target = Path(local_dir, file)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(repository / file, target)
            self.taken.append(file)
        return str(local_dir)
