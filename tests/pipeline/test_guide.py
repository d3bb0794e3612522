"""The lines of docs/your-own-pair.md work as they stand, each situation on a pair of tiny models."""

import gzip
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, TINY, Checkout
from files_table import held
from helpers_adapters import write_adapter
from helpers_families import tiny
from helpers_folders import random_model
from helpers_turns import SWITCHED
from transformers import AutoModelForCausalLM

from crossdiff.models.tokenizers import load_tokenizer
from crossdiff.texts.counts import added

GUIDE = (ROOT / "docs/your-own-pair.md").read_text()
# Heading -> the lines of its situation.
SITUATIONS: dict[str, dict[str, Any]] = {
    heading: yaml.safe_load(lines)
    for heading, lines in re.findall(r"^### ([^\n]+)\n(?:(?!^#).)*?```yaml\n(.*?)```", GUIDE, re.S | re.M)
}
SMALL = {"tokens": 2000, "validation_tokens": 500, "validation_fraction": 0.3}
NUMBER = "{} is a number. " * 9


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with all that the guide names. A model of the hub lies there under the last part of its name."""
    folder = tmp_path_factory.mktemp("home")
    base = random_model(folder / "base", layers=3)
    for name in ("Llama-3.1-8B-Instruct", "Llama-3.1-8B", "Qwen3-1.7B-Base"):
        shutil.copytree(base, folder / name)
    random_model(folder / "my-finetune", layers=3, seed=1)
    write_adapter(folder / "Llama-3.1-8B-Instruct", folder / "my-lora")
    padded(random_model(folder / "chat-with-pad", layers=3, seed=2))
    thinking(random_model(folder / "Qwen3-1.7B", layers=3, seed=3))
    for seed, name in enumerate(("gemma-3-4b-pt", "gemma-3-4b-it")):
        tiny("gemma3", seed).save_pretrained(folder / name)
        load_tokenizer(base).save_pretrained(folder / name)
    (folder / "my-chats").mkdir()
    write(folder / "my-chats/a.jsonl", [{"conversations": sharegpt(i)} for i in range(100)])
    write(folder / "my-chats/b.jsonl", [{"conversations": sharegpt(i)} for i in range(100, 200)])
    write(folder / "my-chats.jsonl", [messy(i) for i in range(300)])
    with gzip.open(folder / "alpaca.jsonl.gz", "wt") as file:
        for i in range(200):
            record = {"instruction": "Count.", "input": f"from {i}", "output": NUMBER.format(*[i] * 9)}
            file.write(json.dumps(record) + "\n")
    return folder


def padded(folder: Path) -> None:
    """Give the model in ``folder`` a token more."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), load_tokenizer(folder)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def thinking(folder: Path) -> None:
    """Give the model in ``folder`` a chat template that thinks unless it is told not to."""
    tokenizer = load_tokenizer(folder)
    tokenizer.chat_template = SWITCHED
    tokenizer.save_pretrained(folder)


def write(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def sharegpt(i: int) -> list[dict[str, str]]:
    return [{"from": "human", "value": f"What is {i}?"}, {"from": "gpt", "value": NUMBER.format(*[i] * 9)}]


def messy(i: int) -> dict[str, Any]:
    """Records of three forms: with a system turn, with two user turns in a row; one in 100 has no turns."""
    answer = {"role": "assistant", "content": NUMBER.format(*[i] * 9)}
    if i % 100 == 50:
        return {"messages": [], "id": i}
    if i % 3 == 0:
        return {"conversations": [{"from": "system", "value": "Be brief."}, *sharegpt(i)]}
    if i % 3 == 1:
        return {"prompt": f"What is {i}?", "completion": answer["content"]}
    asked = [{"role": "user", "content": text} for text in ("Hello.", f"What is {i}?")]
    return {"messages": [*asked, answer]}


def settled(checkout: Checkout, situation: str) -> str:
    """The path of the tiny config with the lines of a situation, and with tiny budgets."""
    values, lines = yaml.safe_load((ROOT / TINY).read_text()), SITUATIONS[situation]
    pair = lines.get(
        "pair", {"name": "tiny", "base": {"folder": "~/base"}, "chat": {"folder": "~/my-finetune"}}
    )
    values["pair"] = {"name": pair["name"], "layer": 1} | {
        role: {"name": role, **local(pair[role])} for role in ("base", "chat")
    }
    for name, dataset in lines.get("datasets", {}).items():
        values["datasets"][name] = dataset | SMALL
        values["causal"]["datasets"] = [name]
    for section in lines.keys() - {"pair", "datasets"}:
        values[section] |= lines[section]
    # The tiny models have 260 tokens.
    instead = values["tokens"].get("base_replacements", {})
    values["tokens"]["base_replacements"] = {number % 256: to % 256 for number, to in instead.items()}
    values["tokens"] |= {"context": 128}
    path = checkout.folder / "configs/mine.yaml"
    path.write_text(yaml.safe_dump(values))
    return "configs/mine.yaml"


def local(source: dict[str, Any]) -> dict[str, Any]:
    return {"folder": f"~/{source['hub']['name'].split('/')[-1]}"} if "hub" in source else source


def test_situations_of_the_guide_are_these() -> None:
    assert list(SITUATIONS) == [
        "I have a LoRA",
        "I fine-tuned all weights",
        "My chats are ShareGPT",
        "My chats are instructions",
        "My chats are messy",
        "My models differ by a pad token",
        "The base never saw the chat tokens",
        "A Qwen3 thinking model",
        "A vision-language model",
    ]


@pytest.fixture
def run(checkout: Checkout, home: Path):
    """Run a situation up to the proofs and all token shards. Gives the folder of its results."""

    def _run(situation: str) -> Path:
        config = settled(checkout, situation)
        pair = yaml.safe_load((checkout.folder / config).read_text())["pair"]["name"]
        proofs = [f"results/activations/{role}/layer1/chat/proved.json" for role in ("base", "chat")]
        result = checkout.run(
            *(
                "-m",
                "snakemake",
                "tokens",
                *proofs,
                f"results/{pair}/layer1/pair.json",
                "--configfile",
                config,
            ),
            HOME=str(home),
        )
        assert result.returncode == 0, result.stdout
        return checkout.folder / "results"

    return _run


def read_texts(results: Path, dataset: str) -> dict[str, Any]:
    """What was read for all shards of a data set."""
    return added(results.glob(f"tokens/chat/{dataset}.*/*.next.json"))[dataset]


def proved(results: Path) -> set[str]:
    parts = [json.loads(path.read_text()) for path in results.glob("activations/*/layer1/chat/proved.json")]
    assert len(parts) == 2
    return {part for found in parts for part in found}


ALL_PARTS = {"harvest", "head", "patching", "steering", "perplexity", "generation"}


def test_lora_is_applied_and_not_merged(run) -> None:
    results = run("I have a LoRA")
    assert proved(results) == ALL_PARTS
    weights = {path.name for path in (results / "models/chat").rglob("*.safetensors")}
    assert weights == {"adapter_model.safetensors"}
    one, other = (json.loads(record(results, role).read_text()) for role in ("base", "chat"))
    assert one["run"]["models"] != other["run"]["models"]


def record(results: Path, role: str) -> Path:
    return results / f"activations/{role}/layer1/chat/proved.json.record.json"


def test_fine_tune_of_all_weights_is_proved(run) -> None:
    assert proved(run("I fine-tuned all weights")) == ALL_PARTS


def test_sharegpt_chats_are_read_from_all_files(run) -> None:
    found = read_texts(run("My chats are ShareGPT"), "mine")
    assert found["records"] > 10 and found["skipped"] == {}


def test_instructions_are_read_from_a_compressed_file(run) -> None:
    found = read_texts(run("My chats are instructions"), "mine")
    assert found["records"] > 10 and found["skipped"] == {}


def test_messy_chats_are_recognised_merged_and_counted(run) -> None:
    found = read_texts(run("My chats are messy"), "mine")
    print(found)
    assert found["notes"]["read as sharegpt"] and found["notes"]["read as prompt_completion"]


def test_pad_token_of_the_chat_model_is_named(run) -> None:
    results = run("My models differ by a pad token")
    facts = json.loads((results / "padded/layer1/pair.json").read_text())
    assert facts["unknown_to_base"] == {"260": "[PAD]"}


def test_base_reads_other_tokens_in_the_place_of_chat_tokens(run) -> None:
    facts = json.loads((run("The base never saw the chat tokens") / "tiny/layer1/pair.json").read_text())
    assert facts["replaced_for_base"] == {"6": 152, "7": 59, "9": 59}


def test_thinking_model_is_told_not_to_think(run) -> None:
    results = run("A Qwen3 thinking model")
    assert proved(results) == ALL_PARTS
    tokenizer = load_tokenizer(results / "tokenizers/chat")
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    assert asked.endswith("assistant\n<think>\n\n</think>\n\n")


def test_text_models_of_vision_language_models_are_compared(run) -> None:
    assert proved(run("A vision-language model")) == ALL_PARTS


# The whole way, with the config that the guide starts from.


@pytest.mark.slow
def test_whole_way_of_a_lora_ends_in_a_report(checkout: Checkout, home: Path) -> None:
    """The commands of the guide, in its order, on configs/lora-8b.yaml with tiny models and budgets."""
    values, sizes = (yaml.safe_load((ROOT / path).read_text()) for path in ("configs/lora-8b.yaml", TINY))
    [commands] = [GUIDE[GUIDE.index("## The whole way") :].split("\n## ")[0]]
    for command in ("plan", "tokens", "watch"):
        assert f" {command} --configfile configs/mine.yaml" in commands or f"crossdiff {command}" in commands
    values["pair"] |= {"layer": 1, "base": {"name": "llama", **local(values["pair"]["base"])}}
    values["datasets"] = {
        "fineweb": sizes["datasets"]["readme"],
        "mine": values["datasets"]["mine"] | SMALL,
    }
    values["crosscoders"] = sizes["crosscoders"]
    values["causal"] |= {"conversations": 6, "answer_tokens": 8}
    for section in ("tokens", "activations", "behaviour", "steering"):
        values[section] = sizes[section]
    values["steering"] = values["steering"] | {
        "prompts": "mine",
        "conversations": 4,
        "behaviour": {"words": ["the", "a"]},
    }
    (checkout.folder / "configs/mine.yaml").write_text(yaml.safe_dump(values))

    def run(*command: str) -> str:
        result = checkout.run(*command, "--configfile", "configs/mine.yaml", HOME=str(home))
        assert result.returncode == 0, result.stdout
        return result.stdout

    cli = ("-c", "import sys; from crossdiff.cli import main; sys.exit(main())")
    planned = run(*cli, "plan", "--card", "h100", "--disk", "300GB", "--hours", "48")
    assert "What fits 300 GB and 48 hours" in planned
    run("-m", "snakemake", "tokens")
    assert "The report is at" in run("-m", "snakemake")
    layer = checkout.folder / "results/my-lora/layer1"
    assert "on_prompts" in held(layer / "batchtopk/seed0/steering_candidates.csv")
    page = (layer / "report/index.html").read_text()
    assert "Asked: 4 prompts of mine. Counted is every answer that contains one of: the, a." in page
    assert "Why this latent: <strong>" in page
