"""Crossdiff, Snakemake or make understands every command in the README, CONTRIBUTING and docs/."""

import argparse
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import command_line_page
import prose
import pytest
from conftest import ROOT
from snakemake.cli import get_argument_parser

from crossdiff.cli import command_parser

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^ *```(?:sh|bash)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
OURS = ("crossdiff", "snakemake", "make", "python")
# Of other programs, which only the machine that they run on can judge.
OTHERS = {"pip", "pipx", "python3", "pre-commit", "hf", "split", "pytest", "mkdir"}
YOURS = {"configs/mine.yaml", "mine.yaml", "runs"}  # files of the reader's own
NO_COMMANDS = {"crossdiff session 1"}  # what a file says of its format
PLACE = re.compile(r"results/[\w./-]+")


def in_blocks(text: str) -> Iterator[str]:
    """The commands of blocks of shell, without comments."""
    for block in BLOCK.findall(text):
        yield from filter(None, (line.strip() for line in block.replace("\\\n", " ").splitlines()))


def in_text(text: str) -> Iterator[str]:
    """The commands of this project in the text. They may lack arguments."""
    lines = " ".join(line for _, line in prose.prose_lines(text))
    for code in prose.CODE.findall(lines):
        said = code.strip("` ")
        named = (program(said) in OURS and " " in said) or said.startswith("benchmarks/")
        if named and said not in NO_COMMANDS and said != "benchmarks/":
            yield said


def program(command: str) -> str:
    return Path(command.split()[0]).name if command.split() else ""


COMMANDS = [
    pytest.param(command, whole, id=f"{path.stem}: {command}")
    for path in DOCUMENTS
    for whole, found in ((True, in_blocks), (False, in_text))
    for command in dict.fromkeys(found(path.read_text(encoding="utf-8")))
]


class Wrong(Exception):
    """What is wrong with a command."""


def check(command: str, whole: bool) -> None:
    """Raise Wrong for a command that would not be understood. ``whole`` ones lack no argument."""
    words = shlex.split(command, comments=True)
    match program(command):
        case "crossdiff":
            check_crossdiff(words[1:], whole)
        case "snakemake":
            check_snakemake(words[1:])
        case "make":
            check_make(words[1:])
        case "python":
            check_script(words[1:])
        case name if name.endswith(".py"):
            check_script(words)
        case name if name not in OTHERS:
            raise Wrong(f"{name}: found a program that no test knows; allowed: {OURS} and {OTHERS}")


def check_crossdiff(words: list[str], whole: bool) -> None:
    parser = command_parser()
    commands = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction)).choices
    if words[:1] == ["run"] and "--" in words:
        check_snakemake(words[words.index("--") + 1 :])
        words = words[: words.index("--")]
    if whole:
        configs = parsed(parser, words)
        check_configs([*(configs.configfile or []), *getattr(configs, "configs", [])])
    elif words[0] not in commands and words[0] not in ("COMMAND", "--version"):
        raise Wrong(f"{words[0]}: not a command")
    elif words[0] in commands:
        unknown = {word for word in words if word.startswith("--")} - set(
            commands[words[0]]._option_string_actions
        )
        if unknown:
            raise Wrong(f"{unknown}: not options of {words[0]}")


def check_snakemake(words: list[str]) -> None:
    options = parsed(get_argument_parser(), words)
    check_configs(options.configfile or [])
    targets, rules = (dict(command_line_page.targets()), {path.stem for path in scripts()})
    if wrong := {name for name in options.targets if name not in targets and not PLACE.fullmatch(name)}:
        raise Wrong(f"{wrong}: found no such targets, allowed: {sorted(targets)}")
    if wrong := set(options.set_resources) - rules:
        raise Wrong(f"{wrong}: found no such rules")
    for profile in options.profile or []:
        if not (ROOT / profile / "config.yaml").exists():
            raise Wrong(f"{profile}: found no such profile")


def scripts() -> list[Path]:
    """One for each rule that makes something, with the rule's name."""
    return list((ROOT / "workflow_scripts").glob("*.py"))


def parsed(parser: argparse.ArgumentParser, words: list[str]) -> argparse.Namespace:
    try:
        found = parser.parse_args(words)
    except SystemExit as error:
        raise Wrong(f"not understood: {shlex.join(words)}") from error
    return argparse.Namespace(**{"configfile": None} | vars(found))


def check_configs(paths: list[Path]) -> None:
    if wrong := [str(path) for path in paths if str(path) not in YOURS and not (ROOT / path).is_file()]:
        raise Wrong(f"{wrong}: found no such configs")


def check_make(words: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for word in words:
        name, is_variable, _ = word.partition("=")
        there = rf"^{name} \?=|\$\({name}[):]" if is_variable else rf"^{re.escape(name)}:"
        if not re.search(there, makefile, re.MULTILINE):
            raise Wrong(f"{word}: not in the Makefile")


def check_script(words: list[str]) -> None:
    """The script is there, and it names the options."""
    script = ROOT / words[0]
    if not script.is_file():
        raise Wrong(f"{words[0]}: found no such script")
    source = script.read_text(encoding="utf-8")
    options = re.findall(r"--[\w-]+", " ".join(words))  # perhaps in brackets
    if wrong := [option for option in options if f'"{option}"' not in source]:
        raise Wrong(f"{wrong}: not options of {words[0]}")


@pytest.mark.parametrize(("command", "whole"), COMMANDS)
def test_command_is_understood(command: str, whole: bool) -> None:
    check(command, whole)


def test_commands_of_all_kinds_are_found() -> None:
    found = [program(param.values[0]) for param in COMMANDS]
    few = {"crossdiff": 30, "snakemake": 20, "make": 15, "python": 1, "training.py": 3}
    assert [name for name, number in few.items() if found.count(name) <= number] == []


@pytest.mark.parametrize(
    "command",
    [
        "crossdiff audti FILE",
        "crossdiff plan --crad h100",
        "crossdiff plan --configfile configs/no.yaml",
        "crossdiff audit",
        "crossdiff gc no-folder",
        "snakemake tokns",
        "snakemake --dry-runn",
        "snakemake --profile no-profile",
        "snakemake --configfile configs/no.yaml",
        "snakemake tokens --set-resources harvest:on_gpu=2",
        "make tset",
        "make test-gpu PYTHN=python",
        ".venv/bin/python benchmarks/no.py",
        ".venv/bin/python benchmarks/default_run.py --chek",
        "crossdif plan",
    ],
)
def test_command_with_a_mistake_is_found(command: str) -> None:
    with pytest.raises(Wrong):
        check(command, whole=True)


@pytest.mark.parametrize("command", ["crossdiff audti", "crossdiff plan --crad"])
def test_mistake_in_a_part_of_a_command_is_found(command: str) -> None:
    with pytest.raises(Wrong):
        check(command, whole=False)


def test_commands_are_read_from_blocks_and_text() -> None:
    text = (
        "Say `make lint`,\nor `crossdiff\nplan`.\n\n"
        "```sh\nmake test   # all\nsnakemake \\\n  tokens\n```\n```yaml\nmake: 1\n```\n"
    )
    assert [shlex.split(command, comments=True) for command in in_blocks(text)] == [
        ["make", "test"],
        ["snakemake", "tokens"],
    ]
    assert list(in_text(text)) == ["make lint", "crossdiff plan"]


# docs/command-line.md.


def test_page_of_the_command_line_has_every_command_and_option() -> None:
    page = (ROOT / "docs/command-line.md").read_text(encoding="utf-8")
    commands = next(a for a in command_parser()._actions if isinstance(a, argparse._SubParsersAction)).choices
    sections = dict(re.findall(r"^## `crossdiff ([\w-]+)`\n(.*?)(?=^## )", page, re.MULTILINE | re.DOTALL))
    assert list(sections) == list(commands)
    for name, command in commands.items():
        options = {option for action in command._actions for option in action.option_strings} - {
            "-h",
            "--help",
        }
        assert set(re.findall(r"^- `(--[\w-]+)", sections[name], re.MULTILINE)) == options


def test_targets_are_rules_that_make_no_file() -> None:
    found = dict(command_line_page.targets())
    assert {"all", "tokens", "planted", "first_look"} <= found.keys()
    assert not found.keys() & {path.stem for path in scripts()}
