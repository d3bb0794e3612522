"""What a language model gets to see of a latent.

Some contexts are shown to explain the latent by. Others, from documents of the other half, are to be judged.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
import pandas as pd

from crossdiff.config import Explanations
from crossdiff.explanations.contexts import Background, Text, is_scored, read_examples
from crossdiff.explanations.negatives import SIMILAR, Similarity, most_similar
from crossdiff.explanations.prompts import CLOSE, OPEN
from crossdiff.texts.columns import taken

Decode = Callable[[np.ndarray], str]  # ids (tokens,) to text


class _Example(Protocol):
    """A row of the table of examples (``latents.examples.SCHEMA``)."""

    tokens: np.ndarray
    activations: np.ndarray
    quantile: float


class Excerpt(NamedTuple):
    """A text that the language model judges."""

    text: str
    right: bool  # for detection, whether the latent fires in it; for fuzzing, whether it fires where marked
    quantile: float  # of the peak activation; NaN if the latent does not fire


class Excerpts(NamedTuple):
    """All texts that are shown for one latent."""

    shown: list[str]  # marked texts, to explain the latent by
    detection: list[Excerpt]
    fuzzing: list[Excerpt]


class ExcerptMaker:
    """Draws excerpts.

    They depend on the latent, the data and the seed only, so that the same questions can be asked again.
    """

    def __init__(
        self, text: Text, background: Background, tokens: pd.Series, decode: Decode, settings: Explanations
    ) -> None:
        """``tokens``: the ids of each background context."""
        self.text, self.background, self.tokens = text, background, tokens
        self.decode, self.settings = decode, settings
        self.chosen = np.flatnonzero(background.contexts.scored)
        self.similarity = Similarity(text, taken(background.contexts, self.chosen))

    def of(self, latent: int, examples: str) -> Excerpts:
        """Draw the excerpts of a latent, from its contexts in the file ``examples``."""
        generator = np.random.default_rng([self.settings.seed, latent])
        table = pd.read_parquet(examples, filters=[("latent", "==", latent)])
        scored = is_scored(table.document.to_numpy())
        shown = table[~scored]
        order = np.lexsort((generator.random(len(shown)), ~shown.strongest))
        sampled = table[scored & table.sampled]
        sampled = sampled.iloc[generator.permutation(len(sampled))]
        positives = sampled.groupby("quantile").head(self.settings.per_quantile)
        numbered = enumerate(positives.itertuples())
        marks = [self._fuzzed(row, bool(number % 2), generator) for number, row in numbered]
        detection = [Excerpt(self.decode(row.tokens), True, row.quantile) for row in positives.itertuples()]
        detection += [
            Excerpt(self.decode(self.tokens.iloc[place]), False, np.nan)
            for place in self._negatives(latent, examples, len(positives), generator)
        ]
        return Excerpts(
            shown=[
                marked(row.tokens, row.activations > 0, self.decode)
                for row in shown.iloc[order].head(self.settings.shown).itertuples()
            ],
            detection=[detection[place] for place in generator.permutation(len(detection))],
            fuzzing=[one for place in generator.permutation(len(marks)) if (one := marks[place])],
        )

    def _negatives(
        self, latent: int, examples: str, count: int, generator: np.random.Generator
    ) -> np.ndarray:
        """Draw ``count`` contexts of the background in which the latent does not fire.

        Half of them are random, half are similar to contexts in which the latent fires.
        """
        contexts = read_examples(examples, self.text, latent, latent + 1).contexts
        mine = taken(contexts, contexts.scored & contexts.sampled)
        mine = mine._replace(latent=np.zeros_like(mine.latent))
        _, silent = self.background.silent(latent, latent + 1, True)
        similar = np.flatnonzero(most_similar(self.similarity.of(mine, 1), silent, max(SIMILAR, count))[0])
        similar = generator.permutation(similar)[: count // 2]
        others = np.setdiff1d(np.flatnonzero(silent[0]), similar)
        return self.chosen[np.concatenate([similar, generator.permutation(others)[: count - len(similar)]])]

    def _fuzzed(self, row: _Example, right: bool, generator: np.random.Generator) -> Excerpt | None:
        """Mark the tokens of a context on which the latent fires or, if not ``right``, as many other tokens.

        Gives None if there are too few other tokens.
        """
        fires = row.activations > 0
        if not right:
            others = generator.permutation(np.flatnonzero(~fires))[: fires.sum()]
            if len(others) < fires.sum():
                return None
            fires = np.isin(np.arange(len(fires)), others)
        return Excerpt(marked(row.tokens, fires, self.decode), right, row.quantile)


def marked(tokens: np.ndarray, where: np.ndarray, decode: Decode) -> str:
    """The text of ``tokens``, with each run of tokens at ``where`` (tokens,) bool between OPEN and CLOSE."""
    borders = np.flatnonzero(np.diff(where, prepend=~where[:1])) if len(where) else np.empty(0, np.int64)
    runs = np.split(tokens, borders[1:])
    return "".join(
        f"{OPEN}{decode(run)}{CLOSE}" if where[start] else decode(run)
        for start, run in zip(borders, runs, strict=True)
    )
