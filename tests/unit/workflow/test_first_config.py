"""``crossdiff init`` writes a config that is valid, and refuses in one line what it can't write."""

import json
import re
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from crossdiff.cli import main
from crossdiff.config import load
from crossdiff.workflow.first_config import Given, first_config

HUB = {"base": "google/gemma-2-2b", "chat": "google/gemma-2-2b-it"}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with models and texts of a user."""
    monkeypatch.chdir(tmp_path)
    model = {
        "model_type": "llama",
        "num_hidden_layers": 7,
        "hidden_size": 64,
        "num_attention_heads": 2,
        "vocab_size": 100,
    }
    for name in ("base", "My Fine-Tune v1.0", "models"):
        Path(name).mkdir()
        Path(name, "config.json").write_text(json.dumps(model))
    Path("unknown").mkdir()
    Path("lora").mkdir()
    Path("lora/adapter_config.json").write_text("{}")
    for name in ("web.jsonl", "a    # b'\t.jsonl"):
        Path(name).write_text('{"text": "One."}\n')
    Path("chats.jsonl").write_text('{"messages": []}\n')


# What is named -> sources of base and chat, name of the pair, layer, data sets.
FINE = {"folder": "My Fine-Tune v1.0"}
HUB_2B = {"hub": {"name": "google/gemma-2-2b", "revision": "main"}}
WRITTEN = {
    "two hub names": (HUB, HUB_2B, {"hub": HUB_2B["hub"] | {"name": HUB["chat"]}}, "gemma-2-2b-it", 13, {}),
    "two folders": (
        {"base": "base", "chat": "My Fine-Tune v1.0", "texts": ["web.jsonl"]},
        {"folder": "base"},
        FINE,
        "my-fine-tune-v1-0",
        3,
        {"texts": ["web.jsonl"]},
    ),
    "a LoRA": (
        {"base": "base", "chat": "lora", "chats": ["chats.jsonl"]},
        {"folder": "base"},
        {"adapter": {"folder": "lora"}},
        "lora",
        3,
        {"chats": ["chats.jsonl"]},
    ),
    "a hub name and a folder, with a layer": (
        {"base": "google/gemma-2-2b", "chat": "unknown", "layer": 20},
        HUB_2B,
        {"folder": "unknown"},
        "unknown",
        20,
        {},
    ),
    "a folder with the name of a folder of results": (
        {"base": "base", "chat": "models/", "texts": ["w*.jsonl"]},
        {"folder": "base"},
        {"folder": "models/"},
        "pair-models",
        3,
        {"texts": ["w*.jsonl"]},
    ),
    "both texts, of a strange name": (
        {"base": "base", "chat": "unknown", "texts": ["a    # b'\t.jsonl"], "chats": ["chats.jsonl"]},
        {"folder": "base"},
        {"folder": "unknown"},
        "unknown",
        3,
        {"texts": ["a    # b'\t.jsonl"], "chats": ["chats.jsonl"]},
    ),
}
PLACES = {"texts": ["texts.jsonl"], "chats": ["chats.jsonl"]}  # to fill in, where no texts are named


@pytest.mark.parametrize("case", WRITTEN.values(), ids=WRITTEN)
def test_config_is_valid_and_says_what_was_named(case) -> None:
    given, base, chat, name, layer, texts = case
    text, _ = first_config(Given(**given))
    values = yaml.safe_load(text)
    load(values)
    assert values["pair"] == {"name": name, "layer": layer, "base": base, "chat": chat}
    assert {name: found["files"] for name, found in values["datasets"].items()} == (texts or PLACES)
    assert values["crosscoders"]["batchtopk"]["tokens"] == 12_000_000 * len(values["datasets"])
    # Nothing on the network but what was named.
    assert text.count("hub:") == sum("/" in given[role].rstrip("/") for role in ("base", "chat"))
    assert max(map(len, text.splitlines())) <= 110


@pytest.mark.parametrize("case", WRITTEN.values(), ids=WRITTEN)
def test_lines_that_are_offered_are_valid_too(case) -> None:
    text, _ = first_config(Given(**case[0]))
    offered = re.sub(r"^# (?=[a-z]+: \{)", "", text, flags=re.M)
    values = yaml.safe_load(offered)
    load(values)
    assert {"behaviour", "steering"} <= set(values)
    assert ("causal" in values) == ("chats" in values["datasets"])


def test_places_to_fill_in_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "mine.yaml", "--base", HUB["base"], "--chat", HUB["chat"]]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("written: mine.yaml\n")
    assert "config: datasets.texts.files: found texts.jsonl, which is not there\n" in printed
    assert re.search(r"crossdiff run --configfile mine\.yaml$", printed, re.M)


def test_two_configs_do_not_overwrite_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["init", "--base", "base", "--chat", "unknown", "--texts", "web.jsonl"]
    assert main(words) == 0
    before = Path("config.yaml").read_text()
    capsys.readouterr()
    assert main([*words, "--layer", "1", "--profile", "slurm"]) == 2
    told = "error: config.yaml: there already; move it away, or name another FILE.yaml\n"
    assert capsys.readouterr().err == told
    assert Path("config.yaml").read_text() == before and not Path("slurm").exists()


def test_profile_is_written_next_to_the_config(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["init", "--base", "base", "--chat", "unknown", "--texts", "web.jsonl", "--profile", "slurm"]
    assert main(words) == 0
    assert Path("slurm/config.yaml").read_text() == (ROOT / "slurm/config.yaml").read_text()
    Path("config.yaml").unlink()
    assert main(words) == 2
    assert "slurm/config.yaml: there already" in capsys.readouterr().err
    assert not Path("config.yaml").exists()


BAD = {
    "a name without an owner": (
        {"base": "gemma", "chat": "unknown"},
        "--base: found gemma, allowed: a folder that is there, or OWNER/NAME on the hub such as .*",
    ),
    "a folder that is not there": (
        {"base": "base", "chat": "./gone/model"},
        r"--chat: found \./gone/model, allowed: a folder that is there, or OWNER/NAME .*",
    ),
    "one model twice": (
        {"base": "base", "chat": "base"},
        "--chat: found base, which is the base model too; name two models",
    ),
    "models whose layers nothing tells": (
        {"base": "owner/nothing-knows-me", "chat": "unknown"},
        "--layer: missing, because .* tells the layers of owner/nothing-knows-me; allowed: a 0-based block.*",
    ),
    "a layer that is not there": (
        {"base": "base", "chat": "unknown", "layer": 7},
        r"pair\.layer: found 7, the models have layers 0 to 6",
    ),
    "texts that are not there": (
        {"base": "base", "chat": "unknown", "texts": ["gone.jsonl"]},
        r"--texts: found gone\.jsonl, which is not there",
    ),
    "texts of another kind": (
        {"base": "base", "chat": "unknown", "texts": ["chats.jsonl"]},
        r"datasets\.texts\.field: the first record of chats\.jsonl has no 'text'.*",
    ),
    "a file that is no text": (
        {"base": "base", "chat": "unknown", "chats": ["lora/adapter_model.bin"]},
        r".*adapter_model\.bin.*",
    ),
}


@pytest.mark.parametrize(("given", "told"), BAD.values(), ids=BAD)
def test_what_is_wrong_is_one_line(given, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["init"]
    for name, value in given.items():
        words += [f"--{name}", *(value if isinstance(value, list) else [str(value)])]
    assert main(words) == 2
    assert re.fullmatch(rf"error: {told}\n", capsys.readouterr().err)
    assert not Path("config.yaml").exists()


def test_layer_that_is_no_number_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["init", "--base", "base", "--chat", "unknown", "--layer", "middle"])
    assert "argument --layer: found middle, allowed: a 0-based block" in capsys.readouterr().err
