"""What the Snakefile asks for: the settings of each rule, shards, and a digest of each script's code. Without torch."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from snakemake.iocontainers import Wildcards

from crossdiff.errors import UserError
from crossdiff.provenance import code
from crossdiff.workflow.run import Run, result_folders

SCRIPTS = sorted(path.stem for path in (ROOT / "workflow_scripts").glob("*.py"))

SMALL = """
pair:
  name: small
  layer: 1
  base: {random: {layers: 2, d_model: 32, chat_template: data/plain.jinja}}
  chat: {finetune: {chat_template: data/plain.jinja, data: {talk: 1000}}}
datasets:
  pages: {kind: documents, format: text, files: [b.txt, a.txt], tokens: 2500, validation_tokens: 1000}
  talk: {kind: chats, format: messages, files: [talk.jsonl], tokens: 3000, validation_tokens: 1}
tokens: {context: 128, shard: 1000}
crosscoders:
  topk: {loss: batchtopk, expansion: 4, k: 8, batch: 256, tokens: 25600, threshold_start_step: 50}
  l1: {loss: l1, latents: 96, l1_coefficient: 0.05, batch: 256, tokens: 25600, warmup_steps: 7}
"""


def run(**top_level) -> Run:
    return Run(yaml.safe_load(SMALL) | top_level)


def reversed_keys(value):
    if not isinstance(value, dict):
        return value
    return {key: reversed_keys(inner) for key, inner in reversed(value.items())}


NOTHING = Wildcards()


# Settings of a rule.


def test_settings_are_a_sorted_flat_dict_with_full_names():
    settings = run().settings("tokens", "pair.layer")(NOTHING)
    assert list(settings.items()) == [("pair.layer", 1), ("tokens.context", 128), ("tokens.shard", 1000)]


def test_settings_hold_defaults_and_the_keys_of_the_yaml():
    settings = run().settings("pair.chat.finetune")(NOTHING)
    assert settings["pair.chat.finetune.from"] == "base"
    assert settings["pair.chat.finetune.learning_rate"] == 3e-4
    assert settings["pair.chat.finetune.data.talk"] == 1000


def test_settings_are_plain_values():
    values = run().settings("pair", "datasets", "tokens", "activations", "crosscoders", "classes")(NOTHING).values()
    assert {type(value) for value in values} <= {str, int, float, bool, list, type(None)}


def test_wildcards_in_keys_are_filled_in():
    settings = run().settings("crosscoders.{crosscoder}.warmup_steps", "datasets.{dataset}.tokens")
    wildcards = Wildcards(fromdict={"crosscoder": "l1", "dataset": "pages"})
    assert settings(wildcards) == {"crosscoders.l1.warmup_steps": 7, "datasets.pages.tokens": 2500}


def test_unknown_key_is_an_error():
    with pytest.raises(KeyError, match="contxt"):
        run().settings("tokens.contxt")(NOTHING)


def test_order_of_keys_in_the_yaml_does_not_count():
    keys = ("pair", "datasets", "crosscoders")
    one, other = run(), Run(reversed_keys(yaml.safe_load(SMALL)))
    assert list(one.settings(*keys)(NOTHING).items()) == list(other.settings(*keys)(NOTHING).items())


def test_order_of_files_counts():
    values = yaml.safe_load(SMALL)
    values["datasets"]["pages"]["files"].reverse()
    key = "datasets.pages.files"
    assert run().settings(key)(NOTHING) != Run(values).settings(key)(NOTHING)


def test_swapped_values_differ():
    one, other = run(tokens={"context": 128, "shard": 1000}), run(tokens={"context": 1000, "shard": 128})
    assert one.settings("tokens")(NOTHING) != other.settings("tokens")(NOTHING)


def test_setting_at_its_default_equals_the_setting_left_out():
    assert run(seeds=[0]).settings("seeds")(NOTHING) == run().settings("seeds")(NOTHING) == {"seeds": [0]}


def test_text_keys_are_all_but_the_budgets():
    keys = run().text_keys("pages")
    settings = run().settings(*run().text_keys("{dataset}"))(Wildcards(fromdict={"dataset": "pages"}))
    assert sorted(settings) == sorted(keys)
    assert settings["datasets.pages.files"] == ["b.txt", "a.txt"]
    assert not any(key.endswith("tokens") for key in keys)


# Shards.


@pytest.mark.parametrize(
    ("dataset", "split", "tokens"),
    [("pages", "train", [1000, 1000, 500]), ("pages", "validation", [1000]), ("talk", "train", [1000] * 3), ("talk", "validation", [1])],
)
def test_shards_are_full_but_the_last_and_add_up_to_the_budget(dataset, split, tokens):
    one = run()
    shards = one.shards(dataset, split)
    assert shards == ["0000", "0001", "0002"][: len(tokens)]
    assert one.n_shards(dataset, split) == len(tokens)
    assert [one.shard_tokens(dataset, split, shard) for shard in shards] == tokens


@given(budget=st.integers(1, 10**7), size=st.integers(1000, 10**6))
def test_shard_tokens_add_up_for_any_budget(budget, size):
    pages = yaml.safe_load(SMALL)["datasets"]["pages"] | {"tokens": budget}
    talk = yaml.safe_load(SMALL)["datasets"]["talk"]
    one = run(datasets={"pages": pages, "talk": talk}, tokens={"shard": size})
    tokens = [one.shard_tokens("pages", "train", shard) for shard in one.shards("pages", "train")]
    assert sum(tokens) == budget and set(tokens[:-1]) <= {size} and 0 < tokens[-1] <= size


def test_larger_budget_keeps_the_shards_of_before():
    pages = yaml.safe_load(SMALL)["datasets"]["pages"]
    talk = yaml.safe_load(SMALL)["datasets"]["talk"]
    small, large = run(), run(datasets={"pages": pages | {"tokens": 9000}, "talk": talk})
    for shard in ("0000", "0001"):
        assert small.shard_tokens("pages", "train", shard) == large.shard_tokens("pages", "train", shard)
    assert small.settings(*small.text_keys("pages"))(NOTHING) == large.settings(*large.text_keys("pages"))(NOTHING)


# Files that a model's source reads.


def test_model_files_are_those_of_the_folder_or_the_template(tmp_path):
    for name in ("model.safetensors", "config.json", "README.md", "optimizer.pt", "modeling.py"):  # the last three are not copied
        (tmp_path / name).touch()
    (tmp_path / "subfolder").mkdir()
    values = yaml.safe_load(SMALL)
    values["pair"]["base"] = {"folder": str(tmp_path)}
    assert Run(values).model_files("base") == [f"{tmp_path}/config.json", f"{tmp_path}/model.safetensors"]
    assert run().model_files("base") == ["data/plain.jinja"]


@pytest.mark.parametrize("exists", [False, True])
def test_folder_without_a_model_is_refused_by_its_key(tmp_path, monkeypatch, exists):
    monkeypatch.setenv("HOME", str(tmp_path))
    if exists:
        (tmp_path / "model").mkdir()
    values = yaml.safe_load(SMALL)
    values["pair"]["base"] = {"folder": "~/model"}
    with pytest.raises(UserError) as caught:
        Run(values).model_files("base")
    assert str(caught.value) == f"pair.base.folder: found {tmp_path}/model, allowed: a Hugging Face folder with config.json"


def test_folder_below_the_home_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "config.json").touch()
    values = yaml.safe_load(SMALL)
    values["pair"]["base"] = {"folder": "~"}
    assert Run(values).model_files("base") == [f"{tmp_path}/config.json"]
    assert Run(values).settings("pair.base")(NOTHING)["pair.base.folder"] == str(tmp_path)  # as prepare_model gets it


# Names, which paths are made of.


def test_models_bear_the_pairs_name_unless_they_have_their_own():
    assert [run().model_name(role) for role in ("base", "chat")] == ["small-base", "small-chat"]
    values = yaml.safe_load(SMALL)
    values["pair"]["base"]["name"] = "llama"
    one = Run(values)
    assert [one.model_name(role) for role in ("base", "chat")] == ["llama", "small-chat"]
    assert [one.role(name) for name in ("llama", "small-chat")] == ["base", "chat"]
    assert one.tokenizer_name == "small-chat"


def test_name_of_a_model_is_no_setting_of_its_rule():
    """A model that gets another name gets another folder; what is in it stays the same."""
    assert "pair.base.name" not in run().settings(*run().source_keys("base"))(NOTHING)
    assert "pair.base.random.seed" in run().settings(*run().source_keys("base"))(NOTHING)


def test_folders_of_a_run_begin_with_its_own():
    folders = result_folders(run().config)
    assert folders[0] == "results/small"
    assert folders[1:] == ["results/tokens/small-chat", "results/activations/small-base", "results/activations/small-chat"]


# Digests of code.


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A copy of library and scripts that may be edited."""
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copytree(ROOT / "workflow_scripts", tmp_path / "workflow_scripts", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code, "ROOT", tmp_path)
    monkeypatch.setattr(code, "LIBRARY", tmp_path / "src" / "crossdiff")
    monkeypatch.setattr(code, "SCRIPTS", tmp_path / "workflow_scripts")
    yield tmp_path
    forget()


def forget() -> None:
    """Empty the caches: one Snakemake run sees one state of the code."""
    for function in vars(code).values():
        if hasattr(function, "cache_clear"):
            function.cache_clear()


def digest(script: str) -> str:
    forget()
    return code.code_digest(script)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_comments_docstrings_and_formatting_do_not_count(tree):
    before = digest("tokenise")
    path = tree / "src/crossdiff/provenance/storage.py"
    edit(path, '"""Files that are', '"""A new docstring about files that are')
    edit(path, '    """Write ``value`` as indented JSON with sorted keys."""\n', "")
    edit(path, "import json\n", "import json  # a comment\n\n\n")
    edit(path, "(temporary, index=False, compression=", "(\n        temporary,\n        index=False,\n        compression=")
    assert digest("tokenise") == before


def test_modification_times_do_not_count(tree):
    before = digest("tokenise")
    (tree / "src/crossdiff/provenance/storage.py").touch()
    assert digest("tokenise") == before


def test_edit_of_the_script_counts(tree):
    before = digest("tokenise")
    path = tree / "workflow_scripts/tokenise.py"
    path.write_text(path.read_text() + "\nprint(1)\n")
    assert digest("tokenise") != before


def test_edit_of_an_indirectly_imported_module_counts(tree):
    """tokenise imports texts.shards, which imports texts.chats."""
    assert "texts.chats" not in (tree / "workflow_scripts/tokenise.py").read_text()
    before = digest("tokenise")
    edit(tree / "src/crossdiff/texts/chats.py", "CONTENT, HEADER, TURN_END = 0, 1, 2", "CONTENT, HEADER, TURN_END = 0, 2, 1")
    assert digest("tokenise") != before


def test_edit_of_a_package_above_an_imported_module_counts(tree):
    before = digest("tokenise")
    (tree / "src/crossdiff/texts/__init__.py").write_text("import re\n")
    assert digest("tokenise") != before


def test_edit_of_a_text_that_is_no_docstring_counts(tree):
    before = digest("tokenise")
    edit(tree / "src/crossdiff/texts/formats.py", '"messages"', '"message"')
    assert digest("tokenise") != before


def test_edit_of_a_module_that_the_script_does_not_import_does_not_count(tree):
    before = digest("tokenise")
    path = tree / "src/crossdiff/crosscoders/trainer.py"
    path.write_text(path.read_text() + "\nx = 1\n")
    assert digest("tokenise") == before


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_has_a_digest_over_itself_and_the_library(script):
    files = code.code_files(script)
    assert ROOT / "workflow_scripts" / f"{script}.py" in files
    assert ROOT / "src/crossdiff/workflow/job.py" in files
    assert len(code.code_digest(script)) == 16


ROOMS = yaml.safe_load((ROOT / "tests/unit/provenance/script_rooms.yaml").read_text())


def test_every_script_has_its_rooms_listed():
    assert sorted(ROOMS) == SCRIPTS


@pytest.mark.parametrize("script", SCRIPTS)
def test_digest_covers_no_room_that_the_script_does_not_run(script):
    inside = [path.relative_to(code.LIBRARY) for path in code.code_files(script) if path.is_relative_to(code.LIBRARY)]
    rooms = {path.parts[0] for path in inside if len(path.parts) > 1}
    assert sorted(rooms - {"config", "provenance", "workflow"}) == ROOMS[script]


def test_what_a_package_offers_lazily_does_not_count(tree):
    before = code.code_files("tokenise")
    path = tree / "src/crossdiff/__init__.py"
    path.write_text(path.read_text() + "\ndef __getattr__(name):\n    from crossdiff.crosscoders import trainer\n    return trainer\n")
    forget()
    files = {file.name for file in code.code_files("tokenise")}
    assert "trainer.py" not in files
    assert files == {file.name for file in before}


def test_what_only_a_type_checker_reads_does_not_count(tree):
    path = tree / "src/crossdiff/texts/shards.py"
    edit(path, "import hashlib\n", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from crossdiff.crosscoders import trainer\n")
    forget()
    assert "trainer.py" not in {file.name for file in code.code_files("tokenise")}


def test_the_front_of_the_library_imports_nothing():
    loaded = in_fresh_python("import crossdiff", "print(*sys.modules)")
    assert [name for name in loaded if name.split(".")[0] == "crossdiff"] == ["crossdiff"]


def test_scripts_have_different_digests():
    assert len({code.code_digest(script) for script in SCRIPTS}) == len(SCRIPTS)


def test_code_files_hold_every_module_that_the_script_loads():
    loaded = in_fresh_python(
        "import runpy; runpy.run_path('workflow_scripts/fetch_package.py')",
        "print(*[module.__file__ for name, module in sys.modules.items() if name.split('.')[0] == 'crossdiff'])",
    )
    assert {Path(path) for path in loaded} == set(code.code_files("fetch_package")) - {ROOT / "workflow_scripts/fetch_package.py"}


def test_snakefile_part_starts_without_torch_transformers_and_pandas():
    loaded = in_fresh_python("import crossdiff.workflow.run, crossdiff.provenance.code", "print(*sys.modules)")
    assert "crossdiff.workflow.run" in loaded
    assert not {"torch", "transformers", "pandas", "pyarrow"} & set(loaded)


def in_fresh_python(*lines: str) -> list[str]:
    """The words that the lines print."""
    return subprocess.run(
        [sys.executable, "-c", "\n".join(["import sys", *lines])], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
