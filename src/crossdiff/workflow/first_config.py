"""The commented config that ``crossdiff init`` writes for two models that a person names. Torch-free."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from crossdiff.config import MODELS, Config, load
from crossdiff.config.local_files import missing_files
from crossdiff.config.pairs import KEPT_NAMES
from crossdiff.config.text_files import expanded
from crossdiff.config.yaml_files import parse_yaml
from crossdiff.errors import UserError
from crossdiff.provenance.code import ROOT
from crossdiff.provenance.storage import atomic_path
from crossdiff.texts.first_record import check_fields
from crossdiff.workflow.shapes import SHAPES, check_fit, shape

ON_HUB = re.compile(r"[\w-][\w.-]*/[\w.-]+")
TAKEN_NAMES = (*KEPT_NAMES, "overview", "nan", "null", "")  # names that a pair can't have
TOKENS = 2_000_000  # of each data set
PASSES = 6  # over the data, in a training

# Where a comment follows a value, a tab stands before it. No value that YAML writes has one.
CONFIG = """\
# Which concepts did fine-tuning add? This file is one run. Crossdiff's docs/config.md has every key with its
# meaning, unit, bounds and default, docs/your-own-pair.md the choices.

pair:
  name: {name}\t# name of the folder below results/
  layer: {layer}\t# 0-based block whose output is compared{middle}
  # A later run gets the same files from the hub if each revision names a commit.
  base: {base}
  chat: {chat}

datasets:\t# what both models read
{datasets}
tokens:
  context: 1024\t# longest sequence

activations:
  skip_first: 1\t# the first token's norm is often a hundred times the rest
  max_norm_ratio: 10.0\t# other tokens are left out whose norm exceeds this multiple of the median

crosscoders:
  batchtopk:
    loss: batchtopk
    expansion: 8\t# latents per dimension of the residual stream; more find rarer concepts
    k: 100\t# latents that are active on a token, on average
    tokens: {training}\t# {passes} passes over the data

seeds: [0]\t# one training of each crosscoder for every seed

# More to measure. Take away "# " at the start of a line to have it.
{causal}# behaviour: {{requests: data/requests.yaml}}\t# how often each model refuses requests
# steering: {{}}\t# answers to these requests while latents are turned up and down
"""
DATASET = """\
  {name}:
    kind: {kind}
    format: {format}{how}
    files: {files}\t# {note}
    tokens: {tokens}\t# exactly; a run stops if the texts end before, here at some 9 MB
    validation_tokens: {validation}\t# held out, to measure on
"""
CAUSAL = "# causal: {datasets: [chats]}\t# which latents carry the fine-tune's effect on its answers\n"
COLUMN = 32  # where comments after a short value start


class Given(NamedTuple):
    """What a person names: models, and what they should read."""

    base: str  # a folder, or OWNER/NAME on the hub
    chat: str
    layer: int | None = None  # None: the middle one
    texts: Sequence[str] = ()  # files, folders or globs of documents
    chats: Sequence[str] = ()


def first_config(given: Given) -> tuple[str, list[str]]:
    """The text of a config, which is valid, and lines about what to fill in.

    Raises UserError with one line for a model or file that is not there, and for a layer that the models lack
    or that has to be named.
    """
    _check(given)
    layer, note = (given.layer, "") if given.layer is not None else _middle(given)
    text = _text(given, layer, note)
    config = _config(text)
    check_fit(config)
    check_fields(config.datasets)
    return text, missing_files(config)


def write(path: Path, text: str, profile: str | None = None) -> None:
    """Write a config and, if ``profile`` names it, that profile in the working folder, where runs find it.

    Raises UserError if a file is there already. Nothing is written then.
    """
    files = {path: text}
    if profile is not None:
        there = Path(profile) / "config.yaml"
        files[there] = (ROOT / there).read_text()
    for file in files:
        if file.exists():
            raise UserError(f"{file}: there already; move it away, or name another FILE.yaml")
    for file, content in files.items():
        with atomic_path(file) as temporary:
            temporary.write_text(content, encoding="utf-8")


def _check(given: Given) -> None:
    """Raise UserError for two models that are one, and for named texts that are not there."""
    if given.base == given.chat:
        raise UserError(f"--chat: found {given.chat}, which is the base model too; name two models")
    for option, named in (("--texts", given.texts), ("--chats", given.chats)):
        for path in expanded(list(named), option):
            if not Path(path).exists():
                raise UserError(f"{option}: found {path}, which is not there")


def _config(text: str) -> Config:
    return load(parse_yaml(text, "config"))


def _middle(given: Given) -> tuple[int, str]:
    """The middle layer of the models, and a note that says so."""
    if model := shape(_config(_text(given, 0, "")), Path()):
        return model.layers // 2, f": the middle of {model.layers}"
    raise UserError(
        f"--layer: missing, because neither config.json on this machine nor {SHAPES} tells the layers of "
        f"{given.base}; allowed: a 0-based block, usually the middle one"
    )


def _source(option: str, named: str) -> dict[str, Any]:
    """Where a model comes from. A folder that is there is one, and else its name must be one on the hub."""
    if (folder := Path(named).expanduser()).is_dir():
        if option == "--chat" and (folder / "adapter_config.json").exists():
            return {"adapter": {"folder": named}}
        return {"folder": named}
    if ON_HUB.fullmatch(named):
        return {"hub": {"name": named, "revision": "main"}}
    raise UserError(
        f"{option}: found {named}, allowed: a folder that is there, or OWNER/NAME on the hub such as "
        "google/gemma-2-2b"
    )


def _name(chat: str) -> str:
    """A name for the pair: that of the chat model, in the letters that names may have."""
    name = re.sub(r"[^a-z0-9_-]+", "-", Path(chat).expanduser().resolve().name.lower()).strip("-_")
    return f"pair-{name}".strip("-") if name in TAKEN_NAMES else name


def _text(given: Given, layer: int, middle: str) -> str:
    sources = {role: _source(f"--{role}", getattr(given, role)) for role in MODELS}
    datasets = _datasets(given)
    text = CONFIG.format(
        **{role: _flow(source) for role, source in sources.items()},
        name=_flow([_name(given.chat)])[1:-1],  # in quotes where YAML would read no text
        layer=layer,
        middle=middle,
        datasets="\n".join(datasets),
        training=PASSES * TOKENS * len(datasets),
        passes=PASSES,
        causal=CAUSAL if given.chats or not given.texts else "",
    )
    if not any("hub" in source for source in sources.values()):
        text = "".join(line for line in text.splitlines(keepends=True) if "from the hub" not in line)
    return "".join(f"{_aligned(line)}\n" for line in text.splitlines())


def _datasets(given: Given) -> list[str]:
    """The data sets that are named, or places to fill if none is."""
    kinds = {
        "texts": ("documents", "text", "", given.texts),
        "chats": ("chats", "auto", "\t# each record's own form, found by its fields", given.chats),
    }
    return [
        DATASET.format(
            name=name,
            kind=kind,
            format=form,
            how=how,
            files=_flow([str(path) for path in named] or [f"{name}.jsonl"]),
            note="files, folders or globs" if named else "fill in: files, folders or globs of yours",
            tokens=TOKENS,
            validation=TOKENS // 20,
        )
        for name, (kind, form, how, named) in kinds.items()
        if named or not (given.texts or given.chats)
    ]


def _flow(value: Any) -> str:
    """A value as YAML in one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), allow_unicode=True)
    return text.removesuffix("\n")


def _aligned(line: str) -> str:
    """The line with its comment, if it follows a value, where those of other lines start."""
    value, tab, comment = line.partition("\t")
    return f"{value:<{COLUMN}}  {comment}" if tab else line
