"""The first look: its section of the report, and its own page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from transformers import PreTrainedTokenizerBase

from crossdiff.models.chat_tokenizer import load_chat_tokenizer
from crossdiff.provenance.recorded_settings import RecordedSettings
from crossdiff.provenance.storage import read_json, record_mark
from crossdiff.report.glossary import GLOSSARY
from crossdiff.report.template import ShownFigure, page_template
from crossdiff.texts.chats import CONTENT

BREAK = "\u21b5"  # shows a line break
GROUPS = ("data set", "role", "part", "answer position")  # of the table of where; tokens have their own
TOKENS = 15  # in the table of tokens
WORDS = 8  # promoted or suppressed tokens shown of a direction
PROMOTED = 24  # tokens shown of those that are promoted most often
# Keys of the glossary's terms that the page uses.
TERMS = {
    *("base", "chat", "layer", "activation", "kl", "kl-left", "nats", "logit", "topic", "promoted", "head"),
    *("mean-difference", "relative-difference", "cosine", "outlier", "template-tokens", "held-out"),
}
PLACES = {"text": "text", "answer": "answer", "template": "template token"}
CONDITIONS = {
    "base": "base",
    "chat": "chat",
    "text": "chat + mean difference in texts",
    "answer": "chat + mean difference in answers",
    "template": "chat + mean difference at a template token",
    "random": "chat + random direction",
}


class FirstLookInputs(NamedTuple):
    """Paths of the tables and the figure, in the order in which the rules list them."""

    layers: str
    where: str
    contexts: str
    mean_differences: str
    promoted: str
    topics: str
    answers: str
    summary: str
    drawing: str
    caption: str
    asked: str | None = None

    @classmethod
    def of(cls, shown: Sequence[str], asked: str | Sequence[str] = ()) -> "FirstLookInputs | None":
        """The inputs of a rule. None if there are none. ``asked`` is empty if no language model was asked."""
        return cls._make([*shown, str(asked) if asked else None]) if shown else None


class ShownToken(NamedTuple):
    """A token of a context, coloured by its value."""

    text: str
    strength: float  # value divided by the largest one of the table's set, 0 to 1
    value: float
    is_template: bool


def first_look_section(inputs: FirstLookInputs, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What the template of the section shows. Tokens are texts here, not yet escaped."""
    where = read_where(inputs.where)
    tokens = where[where.by == "token"].head(TOKENS)
    differences = pd.read_parquet(inputs.mean_differences)
    promoted = pd.read_csv(inputs.promoted).head(PROMOTED)
    topics = pd.read_parquet(inputs.topics)
    contexts = pd.read_parquet(inputs.contexts)
    return {
        **read_json(inputs.summary),
        "figure": ShownFigure.of(inputs.drawing, inputs.caption),
        "layers": pd.read_csv(inputs.layers).to_dict("records"),
        "groups": [(by, where[where.by == by].to_dict("records")) for by in GROUPS if by in set(where.by)],
        "by_token": [
            row | {"value": _text(int(row["value"]), tokenizer)} for row in tokens.to_dict("records")
        ],
        "contexts": _contexts(contexts[contexts["set"] == "kl"], tokenizer),
        "differences": [_difference(row, tokenizer) for row in differences.to_dict("records")],
        "promoted": [row | {"text": _text(row["token"], tokenizer)} for row in promoted.to_dict("records")],
        "topics": [
            {
                "number": row["topic"],
                "share": row["share"],
                "tokens": _texts(row["tokens"], tokenizer),
                "contexts": _contexts(contexts[contexts["set"] == f"topic {row['topic']}"], tokenizer),
            }
            for row in topics.to_dict("records")
        ],
        "answers": _answers(pd.read_parquet(inputs.answers)),
        "changed": _changed(pd.read_parquet(inputs.answers)),
        "asked": _asked(inputs.asked) if inputs.asked else None,
    }


def _asked(path: str) -> list[str]:
    """What the language model named. It may have written a word that pandas takes for no value."""
    return list(pd.read_csv(path, keep_default_na=False).difference)


def read_where(path: str) -> pd.DataFrame:
    """Read the table of ``where_table``. Data sets may be called by numbers, and are texts."""
    return pd.read_csv(path, dtype={"value": str}, keep_default_na=False)


def promoted_tokens(inputs: FirstLookInputs) -> set[int]:
    """The ids of all tokens that the section shows as promoted, in topics and by mean differences too."""
    found = set(pd.read_csv(inputs.promoted).head(PROMOTED).token.tolist())
    for tokens in pd.read_parquet(inputs.topics).tokens:
        found.update(map(int, tokens))
    for tokens in pd.read_parquet(inputs.mean_differences).promoted.dropna():
        found.update(map(int, tokens[:WORDS]))
    return found


def render(inputs: FirstLookInputs, tokenizer: str, recorded: RecordedSettings, template: str | Path) -> str:
    """Return the page of the first look as HTML. The template engine escapes all text from data."""
    look = first_look_section(inputs, load_chat_tokenizer(tokenizer))
    mark = " ".join(record_mark().values())
    glossary = [entry for entry in GLOSSARY if entry.key in TERMS]
    page = page_template(template)
    return page.render(record=mark, recorded=recorded, look=look, glossary=glossary, alone=True)


def _text(token: int, tokenizer: PreTrainedTokenizerBase) -> str:
    return str(tokenizer.decode([token])).replace("\n", BREAK)


def _texts(tokens: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    return [_text(int(token), tokenizer) for token in tokens]


def _contexts(table: pd.DataFrame, tokenizer: PreTrainedTokenizerBase) -> list[dict[str, Any]]:
    """Contexts whose tokens have colours by their share of the largest value of all these contexts."""
    largest = max((float(values.max()) for values in table["values"]), default=1.0) or 1.0
    return [
        {
            "dataset": row["dataset"],
            "value": float(row["values"][row["at"]]),
            "promoted": _texts(row["promoted"], tokenizer),
            "tokens": [
                ShownToken(
                    _text(int(token), tokenizer), float(value) / largest, float(value), part != CONTENT
                )
                for token, value, part in zip(row["tokens"], row["values"], row["template"], strict=True)
            ],
        }
        for row in table.to_dict("records")
    ]


def _difference(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """A mean difference, with its place in words. Positions count from 1, as readers do.

    Where both models agree exactly, it has no direction and no tokens.
    """
    if row["kind"] == "template":
        place = f"{PLACES['template']} {_text(int(row['token']), tokenizer)!r}, {row['role']}"
    else:
        place = f"{PLACES[row['kind']]}, token {int(row['position']) + 1}"
    if row["promoted"] is None:
        return row | {"place": place, "promoted": [], "suppressed": []}
    return row | {
        "place": place,
        "promoted": _texts(row["promoted"][:WORDS], tokenizer),
        "suppressed": _texts(row["suppressed"][:WORDS], tokenizer),
        "by": float(row["promoted_by"][0]),
        "below": abs(float(row["suppressed_by"][0])),
    }


def _answers(table: pd.DataFrame) -> list[dict[str, Any]]:
    """A row per prompt: its text, and (condition in words, answer) of every condition."""
    return [
        {
            "prompt": rows.prompt_text.iloc[0],
            "answers": [
                (CONDITIONS[name], answer) for name, answer in zip(rows.condition, rows.answer, strict=True)
            ],
        }
        for _, rows in table.groupby("prompt", sort=True)
    ]


def _changed(table: pd.DataFrame) -> list[dict[str, Any]]:
    """For each condition but ``chat``, how many answers are not those of the chat model."""
    counts = table[table.condition != "chat"].groupby("condition", sort=False).changed.agg(["sum", "size"])
    return [
        {"condition": CONDITIONS[str(name)], "changed": int(row["sum"]), "answers": int(row["size"])}
        for name, row in counts.iterrows()
    ]
