"""The latents that the page lists: every confirmed one, and the first ones with their contexts."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from crossdiff.config import Report
from crossdiff.latents.applies import reason
from crossdiff.latents.evaluation import confirmed_latents, most_chat_leaning, with_judged
from crossdiff.texts.chats import CONTENT


class LatentFiles(NamedTuple):
    """Paths of one training's tables."""

    betas: str
    examples: str
    patterns: str
    explanations: str | None = None  # by a language model


class ListedFiles(NamedTuple):
    """Paths of the tables of a training of another seed, of which confirmed latents alone are listed."""

    betas: str
    patterns: str
    explanations: str | None = None


class Token(NamedTuple):
    """A token of an example, as the page shows it."""

    text: str
    strength: float  # activation divided by the latent's largest one, 0 to 1
    activation: float
    is_template: bool


class ShownLatents(NamedTuple):
    """Rows of the beta table with the ratios that judge each latent, and with words for it.

    ``name`` is its name in the catalogue, ``explained`` what a language model says that it fires on, and
    ``pattern`` its pattern. What there is none of is empty.
    """

    confirmed: list[dict[str, Any]]  # all of them, the most chat-leaning first
    first: list[dict[str, Any]]  # with ``contexts``: confirmed ones, then the most chat-leaning others
    contexts: dict[int, list[list[Token]]]  # the strongest contexts of these, and of latents of findings


def shown_latents(
    files: LatentFiles,
    tokenizer: Any,
    shown: Report,
    names: Mapping[int, str],
    of_findings: Sequence[int] = (),
) -> ShownLatents:
    """Select and describe the latents of one training. ``names``: latent -> its name in the catalogue.

    Contexts are shown of the first ``shown.latents`` confirmed latents, and of as many most chat-leaning
    ones. Findings show a context of other latents, too: ``of_findings``.
    """
    betas = _described(files.betas, files.patterns, files.explanations, names)
    confirmed = confirmed_latents(betas)
    first = pd.concat([confirmed.head(shown.latents), most_chat_leaning(betas, shown.latents)])
    first = first.drop_duplicates("latent")
    if reason(betas):
        first = first.assign(confirmed=None)
    wanted = [*first.latent.tolist(), *of_findings]
    contexts = _contexts(files.examples, wanted, tokenizer, shown.examples)
    rows = [row | {"contexts": contexts.get(row["latent"], [])} for row in first.to_dict("records")]
    return ShownLatents(confirmed.to_dict("records"), rows, contexts)


def listed_latents(files: ListedFiles, names: Mapping[int, str]) -> list[dict[str, Any]]:
    """Describe all confirmed latents of a training whose other latents and contexts are not shown."""
    return confirmed_latents(_described(*files, names)).to_dict("records")


def _described(betas: str, patterns: str, explanations: str | None, names: Mapping[int, str]) -> pd.DataFrame:
    """The beta table with the ratios that judge each latent, and with words for it."""
    table, told = pd.read_parquet(betas), pd.read_parquet(patterns)
    pattern_of = dict(zip(told.latent.tolist(), told.explanation.tolist(), strict=True))
    return with_judged(table).assign(
        name=table.latent.map(names).fillna(""),
        explained=table.latent.map(_explained(explanations)).fillna(""),
        pattern=table.latent.map(pattern_of).fillna(""),
    )


def _explained(path: str | None) -> dict[int, str]:
    """Latent -> explanation, of the latents that a language model was asked about and explained."""
    if path is None:
        return {}
    table = pd.read_parquet(path, columns=["latent", "kind", "explanation"])
    table = table[table.kind == "explained"]
    return dict(zip(table.latent.tolist(), table.explanation.tolist(), strict=True))


def _contexts(examples: str, latents: list[int], tokenizer: Any, count: int) -> dict[int, list[list[Token]]]:
    """Return the strongest contexts of each of ``latents``, at most ``count``."""
    strongest = pd.read_parquet(examples, filters=[("strongest", "==", True), ("latent", "in", latents)])
    found = {}
    for latent, group in strongest.groupby("latent"):
        rows = group.head(count)
        found[latent] = [_tokens(example, rows.peak.max(), tokenizer) for example in rows.itertuples()]
    return found


def _tokens(example: Any, largest: float, tokenizer: Any) -> list[Token]:
    texts = [tokenizer.decode([token]) for token in example.tokens]
    values = zip(texts, example.activations, example.template, strict=True)
    return [
        Token(text.replace("\n", "\u21b5"), float(value / largest), float(value), bool(part != CONTENT))
        for text, value, part in values
    ]
