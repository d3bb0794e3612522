"""Chat templates of many kinds, and what a shard's tokens say of the chats that were rendered with them."""

import itertools
import json
from pathlib import Path
from typing import Any

from helpers_texts import assistant, make_tokenizer, user
from transformers import PreTrainedTokenizerFast

from crossdiff.config import TextSource
from crossdiff.texts.chats import CONTENT, Sequence
from crossdiff.texts.formats import ROLES
from crossdiff.texts.tokenising import sequences
from crossdiff.texts.unusable import Tally

GOOD = {"messages": [user("Hi there."), assistant("Yo.")]}
SAID = [("user", "Hi there."), ("assistant", "Yo.")]  # content of GOOD

ENDS = ("<s>", "</s>")

# Each turn as <s>role\ncontent</s>\n.
PLAIN = "{% for m in messages %}{{ '<s>' + m.role + '\\n' + m.content + '</s>\\n' }}{% endfor %}"

# No system role, and roles have to take turns.
STRICT = (
    "{% for m in messages %}"
    "{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate') }}{% endif %}"
    "{{ '<s>' + m.role + '\\n' + m.content + '</s>\\n' }}{% endfor %}"
)

# The system's text goes into the last user turn.
SYSTEM_LAST = (
    "{% set system = messages[0].content if messages[0].role == 'system' else '' %}"
    "{% set turns = messages[1:] if system else messages %}"
    "{% for m in turns %}{% if m.role == 'user' %}"
    "{{ '<s>[INST] ' + (system + '\\n\\n' if system and loop.last else '') + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + '</s>' }}{% endif %}{% endfor %}"
)

# Reasoning is written out in the last answer only, with its own white space, and dropped from earlier ones.
THINKING = (
    "{% set ns = namespace(last=-1) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{% set content = m.content %}{% set thought = '' %}"
    "{% if m.role == 'assistant' %}"
    "{% if m.reasoning_content is string %}{% set thought = m.reasoning_content %}"
    "{% elif '</think>' in content %}"
    "{% set thought = content.split('</think>')[0].split('<think>')[-1].strip('\\n') %}"
    "{% set content = content.split('</think>')[-1].lstrip('\\n') %}{% endif %}{% endif %}"
    "{{ '<s>' + m.role + '\\n' }}"
    "{% if m.role == 'assistant' and loop.index0 > ns.last and (thought or loop.last) %}"
    "{{ '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' }}{% endif %}{{ content }}"
    "{{ '</s>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant\\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}"
    "{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
    "{% endif %}"
)

# Tools in the system turn, calls as JSON, and several results in one user turn.
TOOLS = (
    "{% if tools %}{{ '<s>system\\n' }}{% for t in tools %}{{ t | tojson }}{% endfor %}"
    "{{ '</s>\\n' }}{% endif %}"
    "{% for m in messages %}{% if m.role == 'tool' %}"
    "{% if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{ '<s>user' }}{% endif %}"
    "{{ '\\n<result>\\n' + m.content + '\\n</result>' }}"
    "{% if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{ '</s>\\n' }}{% endif %}"
    "{% else %}{{ '<s>' + m.role + '\\n' + m.content }}{% for c in m.tool_calls or [] %}"
    '{{ \'<call>{"name": "\' + c.function.name + \'", "arguments": \' }}{{ c.function.arguments | tojson }}'
    "{{ '}</call>' }}{% endfor %}{{ '</s>\\n' }}{% endif %}{% endfor %}"
)

# Contents are read as lists of parts, and nothing else.
PARTS_ONLY = (
    "{% for m in messages %}{{ '<s>' + m.role + '\\n' }}"
    "{% for part in m.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}"
    "{{ '</s>\\n' }}{% endfor %}"
)


def system(content: str) -> dict[str, str]:
    return {"role": "system", "content": content}


def tokenizer(template: str) -> PreTrainedTokenizerFast:
    return make_tokenizer(template, ENDS)


def said(sequence: Sequence, template: PreTrainedTokenizerFast) -> list[tuple[str, str]]:
    """(role, text) of every run of content tokens."""
    rows = [row for row in zip(*sequence, itertools.count(), strict=False) if row[2] == CONTENT]
    runs = itertools.groupby(rows, key=lambda row: (row[1], row[3] - rows.index(row)))
    return [(ROLES[role], template.decode([int(row[0]) for row in run])) for (role, _), run in runs]


def source(folder: Path, records: list[Any], **more: Any) -> TextSource:
    """A data set of chats, all of them for training."""
    path = folder / "chats.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    settings = {"format": "messages", "validation_fraction": 1e-9} | more
    return TextSource(kind="chats", files=[str(path)], **settings)


def taken(
    folder: Path, records: list[Any], template: str = PLAIN, context: int = 1000, **more: Any
) -> tuple[list[list[tuple[str, str]]], Tally]:
    """What every sequence of the records says, and the counts."""
    tally, renders = Tally("talk"), tokenizer(template)
    found = sequences(source(folder, records, **more), "talk", "train", renders, context, tally=tally)
    return [said(sequence, renders) for _, _, sequence in found], tally
