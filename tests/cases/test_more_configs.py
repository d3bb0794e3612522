"""More configs and commands as users write them: read as meant, or refused in one line before a job runs."""

import re
from pathlib import Path

import pytest
import yaml
from conftest import TINY, Checkout, planned
from helpers_config import SMALL, changed, refusal_of
from helpers_lines import line_of

from crossdiff.cli import main
from crossdiff.config import load
from crossdiff.provenance.planned_jobs import read_config

TEXT = yaml.safe_dump(SMALL, sort_keys=False)


def config_of(folder: Path, text: str | bytes, name: str = "mine.yaml"):
    """The config in a file, as ``crossdiff plan`` and the Snakefile read it."""
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return load(read_config([folder / name]))


# Numbers.

MISREAD = {
    "leading zero": ("batch: 0400", "0400 as 256; write 256"),
    "leading zeros of a date": ("batch: 0020", "0020 as 16; write 16"),
    "minutes and seconds": ("batch: 4:16", "4:16 as 256; write 256"),
    "hours": ("batch: 1:00:00", "1:00:00 as 3600; write 3600"),
    "with a fraction": ("batch: 1:30.5", "1:30.5 as 90.5; write 90.5"),
}


@pytest.mark.parametrize(("written", "said"), MISREAD.values(), ids=MISREAD.keys())
def test_number_that_yaml_reads_as_another_is_told_with_its_line(tmp_path, written, said):
    text = TEXT.replace("batch: 256", written, 1)
    line = text.splitlines().index(f"    {written}") + 1
    message = line_of(lambda: config_of(tmp_path, text))
    assert message == f"{tmp_path}/mine.yaml: line {line}: YAML reads {said}, or text in quotes"


@pytest.mark.parametrize(
    "number", ["0", "-5", "+5", "1_000", "0x10", "0b11", "0.5", "1.0e-4", "'0400'", "00:x", "2024-01-02"]
)
def test_other_numbers_and_words_are_left_to_the_config(tmp_path, number):
    (tmp_path / "mine.yaml").write_text(f"a: [{{k: {number}}}]\n")
    assert read_config([tmp_path / "mine.yaml"]) == {"a": [{"k": yaml.safe_load(number)}]}


def test_number_under_an_anchor_or_as_a_name_is_seen_too(tmp_path):
    assert "line 1: YAML reads 010 as 8" in line_of(lambda: config_of(tmp_path, "a: &a [010]\nb: *a\n"))
    assert "line 2: YAML reads 010 as 8" in line_of(lambda: config_of(tmp_path, "a:\n  010: x\n"))


def test_underscores_are_part_of_a_number(tmp_path):
    text = TEXT.replace("tokens: 25600", "tokens: 25_600")
    assert config_of(tmp_path, text).crosscoders["l1"].tokens == 25600


NUMBERS = {
    "1e-4": "'1e-4' (text), allowed: a valid number (YAML reads 1e-4 as text; write 1.0e-4)",
    "1E3": "'1E3' (text), allowed: a valid number (YAML reads 1E3 as text; write 1.0e+3)",
    ".nan": "nan (number), allowed: a finite number",
    ".inf": "inf (number), allowed: a finite number",
    "0,001": "'0,001' (text), allowed: a valid number",
    "1%": "'1%' (text), allowed: a valid number",
    "yes": "True (true/false), allowed: a valid number",
    "[0.001]": "[0.001] (list), allowed: a valid number",
}


@pytest.mark.parametrize("written", NUMBERS)
def test_number_in_another_spelling_is_told_with_what_to_write(tmp_path, written):
    text = TEXT.replace("learning_rate: 0.001", f"learning_rate: {written}")
    message = line_of(lambda: config_of(tmp_path, text))
    assert message == f"config: pair.chat.finetune.learning_rate: found {NUMBERS[written]}"


# Files.


@pytest.mark.parametrize("change", ["\r\n", "\ufeff", "end", "%YAML"])
def test_ways_to_write_a_file_change_no_value(tmp_path, change):
    written = {
        "\r\n": TEXT.replace("\n", "\r\n").encode(),
        "\ufeff": b"\xef\xbb\xbf" + TEXT.encode(),
        "end": f"---\n{TEXT}...\n".encode(),
        "%YAML": f"%YAML 1.2\n---\n{TEXT}".encode(),
    }
    assert config_of(tmp_path, written[change]) == load(SMALL)


BROKEN = {
    "tabs": (TEXT.replace("  name: small", "\tname: small"), "line 2, column 1"),
    "a tab after the colon": (TEXT.replace("name: small", "name:\tsmall"), "line 2, column 8"),
    "an anchor twice": (f"a: &x 1\nb: &x 2\n{TEXT}", "found duplicate anchor 'x'"),
    "no such anchor": (TEXT.replace("small", "*x"), "found undefined alias 'x'"),
    "two documents": (f"{TEXT}---\n{TEXT}", "expected a single document"),
    "a blank that is none": (TEXT.replace("  layer: 1", "\xa0\xa0layer: 1"), "line 4"),
    "a Python object": (
        f"a: !!python/object/apply:os.getcwd []\n{TEXT}",
        "could not determine a constructor",
    ),
    "another format": ("[pair]\nname = 'small'\n", "line 2, column 1"),
    "bytes": (b"\x00\x01", "special characters are not allowed"),
}


@pytest.mark.parametrize(("text", "said"), BROKEN.values(), ids=BROKEN.keys())
def test_file_that_is_no_yaml_is_one_line_with_its_place(tmp_path, text, said):
    message = line_of(lambda: config_of(tmp_path, text))
    assert message.startswith(f"{tmp_path}/mine.yaml: not valid YAML (") and said in message


@pytest.mark.parametrize(
    ("text", "found"), [("", "nothing"), ("# none\n", "nothing"), ("- a\n", "list"), ("a\n", "str")]
)
def test_file_without_keys_is_one_line(tmp_path, text, found):
    message = line_of(lambda: config_of(tmp_path, text))
    assert f"found {found}, allowed: keys and their values" in message


@pytest.mark.parametrize(
    ("name", "said"), [("gone.yaml", "No such file or directory"), (".", "Is a directory")]
)
def test_config_that_cannot_be_read_is_one_line(tmp_path, monkeypatch, capsys, name, said):
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "--card", "h100", "--configfile", name]) == 2
    assert capsys.readouterr().err == f"error: {name}: can't be read ({said})\n"


# Values.

VALUES = {
    "data set of answers that is not there": (
        "causal.datasets",
        ["nope"],
        "causal.datasets.nope: found no data set, allowed: talk",
    ),
    "data set of answers without chats": (
        "causal.datasets",
        ["pages"],
        "causal.datasets.pages: found documents, allowed: talk",
    ),
    "data set of answers twice": (
        "causal.datasets",
        ["talk", "talk"],
        "causal.datasets: found ['talk', 'talk'], each data set may appear once",
    ),
    "text for a list": (
        "datasets.pages.files",
        "pages.txt",
        "datasets.pages.files: found 'pages.txt' (text), allowed: a valid list",
    ),
    "no files": ("datasets.pages.files", [], "datasets.pages.files: found [] (list), allowed: at least 1"),
    "a dash without a file": (
        "datasets.pages.files",
        [None],
        "datasets.pages.files.0: found None (nothing), allowed: text",
    ),
    "data to train on that is not there": (
        "pair.chat.finetune.data",
        {"nope": 1},
        "pair.chat.finetune.data.nope: found no data set, allowed: talk",
    ),
    "one seed": ("seeds", 0, "seeds: found 0 (integer), allowed: a valid list"),
    "seeds in a text": ("seeds", "0,1", "seeds: found '0,1' (text), allowed: a valid list"),
    "several layers": ("pair.layer", [1, 2], "pair.layer: found [1, 2] (list), allowed: a valid integer"),
    "layer counted from the end": (
        "pair.layer",
        -1,
        "pair.layer: found -1 (integer), allowed: greater than or equal to 0",
    ),
    "a chat format for documents": (
        "datasets.pages.format",
        "sharegpt",
        "datasets.pages: format: found 'sharegpt' with kind 'documents', allowed: text",
    ),
    "a share in percent": (
        "tokens.unusable",
        2,
        "tokens.unusable: found 2 (integer), allowed: less than or equal to 1",
    ),
    "an argument that is a list": (
        "tokens.template_arguments",
        {"a": ["b"]},
        "tokens.template_arguments: found a: ['b'], allowed: text, a number, true or false",
    ),
    "an argument that is empty": (
        "tokens.template_arguments",
        {"a": None},
        "tokens.template_arguments: found a: None, allowed: text, a number, true or false",
    ),
    "an argument without end": (
        "tokens.template_arguments",
        {"a": float("inf")},
        "tokens.template_arguments: found a: inf, allowed: text, a number, true or false",
    ),
    "an argument that is filled in": (
        "tokens.template_arguments",
        {"messages": "a"},
        "tokens.template_arguments: found messages, which is no setting: Crossdiff fills it in itself",
    ),
    "arguments as a list": (
        "tokens.template_arguments",
        ["a"],
        "tokens.template_arguments: found ['a'] (list), allowed: a section",
    ),
    "a day in words": (
        "tokens.date",
        "26 Jul 2024",
        "tokens.date: found '26 Jul 2024', allowed: a day such as \"2024-07-26\", in quotes",
    ),
    "a day that is none": (
        "tokens.date",
        "2024-02-30",
        "tokens.date: found '2024-02-30', allowed: a day such as \"2024-07-26\", in quotes",
    ),
}


@pytest.mark.parametrize(("key", "value", "said"), VALUES.values(), ids=VALUES.keys())
def test_value_that_cannot_be_meant_is_one_line(key, value, said):
    tokens = changed("tokens", {"context": 128, "shard": 2000})
    assert refusal_of(key, value, tokens) == said


@pytest.mark.parametrize("name", ["my pair", "a/b", "..", "gr\xf6\xdfe", "Pair", "-a"])
def test_name_that_is_no_folder_everywhere_is_refused(name):
    allowed = "lower-case letters, digits, '-' and '_', a letter or digit first"
    assert refusal_of("pair.name", name) == f"pair.name: found {name!r} (text), allowed: {allowed}"


@pytest.mark.parametrize(
    ("key", "meant"),
    [("crosscoders.l1.lerning_rate", "learning_rate"), ("Seeds", "seeds"), ("tokens.contxt", "context")],
)
def test_misspelt_key_is_told_with_the_one_that_is_meant(key, meant):
    assert refusal_of(key, 1).startswith(f"{key}: unknown key; did you mean {meant}? allowed: ")


# Commands.

COMMANDS = {
    "a size without a unit": (("plan", "--disk", "300"), "found 300, allowed: a size such as 300GB or 1.5TB"),
    "a size of nothing": (("plan", "--disk", "0GB"), "found 0, allowed: a number above 0"),
    "a size of two points": (("plan", "--disk", "1.2.3GB"), "found 1.2.3, allowed: a number above 0"),
    "hours in days": (("plan", "--hours", "2d"), "found 2d, allowed: a number above 0"),
    "hours that are no number": (("plan", "--hours", "nan"), "found nan, allowed: a number above 0"),
    "a record that is no JSON": (("plan", "--calibrate", "x.txt"), "a file whose name ends in .json"),
    "a command that is not there": (("audti",), "invalid choice: 'audti'"),
    "a result and all": (("audit", "--all", "x"), "not allowed with argument --all"),
}


@pytest.mark.parametrize(("words", "said"), COMMANDS.values(), ids=COMMANDS.keys())
def test_command_that_cannot_be_meant_ends_with_one_line_and_2(words, said, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words)
    last = capsys.readouterr().err.splitlines()[-1]
    assert ended.value.code == 2 and last.startswith("crossdiff") and said in last


@pytest.mark.parametrize("name", ["gone.svg", "gr\xf6\xdfe.svg", "."])
def test_audit_of_what_is_no_result_is_one_line(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["audit", "--configfile", "mine.yaml", name]) == 2
    out, err = capsys.readouterr()
    assert out == "" and re.fullmatch(rf"error: {re.escape(name)}: (no such file|record missing, .*)\n", err)


def test_squeue_that_fails_is_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "squeue").write_text(
        "#!/bin/sh\necho 'squeue: error: a' >&2\necho 'squeue: fatal: b' >&2\nexit 1\n"
    )
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.chdir(tmp_path)
    assert main(["slurm-clean"]) == 2
    assert capsys.readouterr().err == "error: squeue: squeue: error: a squeue: fatal: b\n"


@pytest.mark.parametrize("cores", ["0", "-1"])
def test_run_on_no_cores_ends_at_once(checkout: Checkout, cores: str):
    """Snakemake itself would wait for ever."""
    result = checkout.snakemake("models", "--cores", cores, "--configfile", TINY, timeout=60)
    assert result.returncode == 1 and f"--cores: found {cores}, allowed: 1 or more, or all" in result.stdout
    assert not (checkout.folder / "results").exists()


def test_snakemake_tells_what_its_yaml_hides(checkout: Checkout):
    text = (checkout.folder / TINY).read_text().replace("batch: 256", "batch: 0400", 1)
    (checkout.folder / "mine.yaml").write_text(text)
    result = checkout.snakemake("-n", "--configfile", "mine.yaml")
    assert result.returncode == 1 and "YAML reads 0400 as 256; write 256" in result.stdout


def test_section_left_empty_is_planned_with_its_defaults(checkout: Checkout):
    values = yaml.safe_load((checkout.folder / TINY).read_text())
    del values["steering"]
    (checkout.folder / "without.yaml").write_text(yaml.safe_dump(values))
    (checkout.folder / "with.yaml").write_text(yaml.safe_dump(values) + "steering:\n")
    jobs = {}
    for name in ("without", "with"):
        result = checkout.snakemake("-n", "--configfile", f"{name}.yaml")
        assert result.returncode == 0, result.stdout
        jobs[name] = planned(result.stdout)
    assert "steer_latents" not in jobs["without"] and jobs["with"]["steer_latents"] >= 1
