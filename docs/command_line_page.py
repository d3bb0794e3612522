"""docs/command-line.md, made from the argument parser of ``crossdiff`` and the rules of the workflow."""

import argparse
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

from crossdiff import cli

ROOT = Path(__file__).parents[1]
WIDTH = 120
HEAD = """\
# The command line

This page is made by `make reference` from `src/crossdiff/cli/` and `rules/`. Do not edit it.
After `make install` both commands are in `.venv/bin`. `crossdiff COMMAND --help` prints what stands here."""
TARGETS = """\
## Targets of `snakemake`

[Without a clone](install.md) it is `crossdiff run TARGET`. A target stands before `--configfile`:
`snakemake tokens --configfile configs/mine.yaml`. Without one, everything is made. A target may also be a
file below `results/`. Snakemake's own options, such as `--dry-run`, work as ever."""
RULE = re.compile(r"^( *)rule (\w+):\n(.*?)(?=^\1\S|\Z)", re.MULTILINE | re.DOTALL)


def markdown() -> str:
    """The page."""
    blocks = [HEAD, _exit_codes()]
    parser = cli.command_parser()
    commands = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    about = {choice.dest: choice.help for choice in commands._choices_actions}
    for name, command in commands.choices.items():
        blocks.append(f"## `crossdiff {name}`")
        said = str(about[name])
        blocks.append(_wrapped(f"{said[0].upper()}{said[1:]}."))
        blocks += _arguments(command)
    listed = "\n".join(_item(f"`{name}`", said) for name, said in sorted(targets()))
    return "\n\n".join([*blocks, TARGETS, listed]) + "\n"


def _exit_codes() -> str:
    [told] = [part for part in str(cli.__doc__).split("\n\n") if part.startswith("Exit codes")]
    return _wrapped(told.replace("\n", " "))


def _arguments(command: argparse.ArgumentParser) -> Iterator[str]:
    """The arguments as a list, then which of them exclude each other."""
    actions = [action for action in command._actions if action.dest != "help"]
    if actions:
        yield "\n".join(_item(f"`{_shown(action)}`{_needed(action)}", str(action.help)) for action in actions)
    for group in command._mutually_exclusive_groups:
        names = ", ".join(f"`{(a.option_strings or [_shown(a)])[0]}`" for a in group._group_actions)
        yield f"Give {'one' if group.required else 'at most one'} of {names}."


def _shown(action: argparse.Action) -> str:
    """An argument as one types it."""
    value = action.metavar or ("|".join(action.choices) if action.choices else action.dest.upper())
    values = " ".join(value) if isinstance(value, tuple) else value
    if not action.option_strings:
        return values + (" ..." if action.nargs in ("*", "+") else "")
    return action.option_strings[0] + ("" if action.nargs == 0 else f" {values}")


def _needed(action: argparse.Action) -> str:
    return ", *required*" if action.required and action.option_strings else ""


def targets() -> Iterator[tuple[str, str]]:
    """(name, what it makes) of every rule that makes no file itself."""
    for path in (ROOT / "Snakefile", *(ROOT / "rules").glob("*.smk")):
        for _, name, body in RULE.findall(path.read_text(encoding="utf-8")):
            if not re.search(r"^\s+output:", body, re.MULTILINE):
                said = re.search(r'"""(.*?)"""', body, re.DOTALL)
                assert said, f"{path}: rule {name} has no docstring"
                yield name, " ".join(said[1].split())


def _item(name: str, text: str) -> str:
    return _wrapped(f"- {name}: {text}", "  ")


def _wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(
        text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
