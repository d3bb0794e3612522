"""Tokenizers as people have them: malformed, of another version, in other files, without a template."""

import json
import shutil
from pathlib import Path

import pytest
from helpers_config import changed
from helpers_folders import edit, random_model
from helpers_texts import one_line

from crossdiff.models.chat_tokenizer import load_chat_tokenizer
from crossdiff.models.check import check_model
from crossdiff.models.tokenizers import load_tokenizer, write_chat_tokenizer
from crossdiff.workflow.run import Run


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return random_model(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture
def copy(base, tmp_path) -> Path:
    return shutil.copytree(base, tmp_path / "copy")


def without_tokenizer(folder: Path) -> None:
    for path in [*folder.glob("tokenizer*"), *folder.glob("*.jinja")]:
        path.unlink()


def test_chat_model_without_a_tokenizer_says_so(copy, tmp_path):
    without_tokenizer(copy)
    message = one_line(write_chat_tokenizer, copy, None, tmp_path / "written")
    assert message == (
        f"{copy}: not a usable tokenizer folder (it has no tokenizer.json); "
        "copy the tokenizer's files from the model that it was trained from"
    )


def test_tokenizer_in_mistrals_format_alone_is_named(copy, tmp_path):
    without_tokenizer(copy)
    (copy / "tekken.json").write_text("{}")
    message = one_line(write_chat_tokenizer, copy, None, tmp_path / "written")
    assert "it has no tokenizer.json, and tekken.json is not read" in message


def test_base_with_a_tokenizer_in_mistrals_format_works_with_the_chats(base, copy):
    without_tokenizer(copy)
    (copy / "tekken.json").write_text("{}")
    facts = check_model(copy, base, 1)
    assert (facts["vocabulary"], facts["unknown"], facts["moved"]) == (260, None, None)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("tokenizer.json", "{"),
        ("tokenizer.json", '{"model": {"type": "Sparkle", "vocab": {}}}'),  # of newer tokenizers
        ("tokenizer_config.json", "<html>Not found</html>"),
        ("tokenizer_config.json", '{"extra_special_tokens": "<|x|>"}'),
        ("chat_template.json", "{}"),
    ],
)
def test_malformed_tokenizer_is_one_line(copy, file, text):
    if file == "chat_template.json":
        (copy / "chat_template.jinja").unlink()
    (copy / file).write_text(text)
    assert one_line(load_tokenizer, copy).startswith(f"{copy}: not a usable tokenizer folder (")


def test_tokenizer_that_is_a_pointer_of_git_lfs_is_called_so_before_any_job(copy):
    (copy / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    message = one_line(Run(changed("pair.chat", {"folder": str(copy)})).check_models)
    assert message.endswith(
        f"tokenizer.json: found a pointer of git-lfs, not the file; run in {copy}: git lfs pull"
    )


def test_tokenizer_with_code_of_its_own_is_refused_and_never_asked_about(copy):
    classes = {"AutoTokenizer": ["tokens.Sparkle", None]}
    edit(copy / "tokenizer_config.json", tokenizer_class="SparkleTokenizer", auto_map=classes)
    (copy / "tokens.py").write_text("raise SystemExit('was run')")
    assert "it needs code of its own (auto_map), which Crossdiff never runs" in one_line(load_tokenizer, copy)


def test_vocabulary_with_other_names_throughout_is_another_one(base, copy):
    """Ids are the same, but not what they stand for."""
    whole = json.loads((copy / "tokenizer.json").read_text())
    names = whole["model"]["vocab"]
    whole["model"]["vocab"] = {name if number < 4 else f"_{number}": number for name, number in names.items()}
    (copy / "tokenizer.json").write_text(json.dumps(whole))
    message = one_line(check_model, copy, base, 1)
    assert message.startswith(
        "pair: 256 of 260 tokens of the chat tokenizer are others in the tokenizer of copy"
    )
    assert "(such as id 4: '!' and '_4')" in message


@pytest.mark.parametrize("name", ["TokenizersBackend", "SparkleTokenizer", "LlamaTokenizerFast"])
def test_class_that_wrote_a_tokenizer_does_not_change_its_ids(base, copy, name):
    """Versions of transformers name classes that others do not have."""
    edit(copy / "tokenizer_config.json", tokenizer_class=name)
    text = "<|user|>Zwölf  Boote.\n<|end|>"
    assert load_tokenizer(copy)(text)["input_ids"] == load_tokenizer(base)(text)["input_ids"]


def test_special_tokens_in_a_list_are_read(base, copy):
    edit(copy / "tokenizer_config.json", extra_special_tokens=["<|user|>"])
    assert load_tokenizer(copy).get_vocab() == load_tokenizer(base).get_vocab()


def test_template_of_a_vision_language_models_processor_is_read(copy, tmp_path):
    template = (copy / "chat_template.jinja").read_text()
    (copy / "chat_template.jinja").unlink()
    (copy / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    write_chat_tokenizer(copy, None, tmp_path / "written")
    turns = [{"role": "user", "content": "hi"}]
    written, wanted = (
        load(path) for load, path in ((load_chat_tokenizer, tmp_path / "written"), (load_tokenizer, copy))
    )
    assert wanted.chat_template == template
    rendered = [one.apply_chat_template(turns, tokenize=False) for one in (written, wanted)]
    assert rendered[0] == rendered[1] and "hi" in rendered[0]


def test_tokenizers_own_template_comes_before_the_processors(copy):
    (copy / "chat_template.json").write_text(json.dumps({"chat_template": "of the processor"}))
    assert load_tokenizer(copy).chat_template == (copy / "chat_template.jinja").read_text()


def test_empty_template_is_none(copy, tmp_path):
    (copy / "chat_template.jinja").write_text("")
    message = one_line(write_chat_tokenizer, copy, None, tmp_path / "written")
    assert message.endswith("has no chat template; name a Jinja file in tokens.chat_template")
