"""What a language model gets to see of a latent: contexts to explain it by, and others to judge, from documents of the other half."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from crossdiff.config import Explanations
from crossdiff.explanations.contexts import Background, Text, is_scored, read_examples
from crossdiff.explanations.negatives import SIMILAR, Similarity, most_similar
from crossdiff.explanations.prompts import CLOSE, OPEN
from crossdiff.texts.columns import taken

Decode = Callable[[Sequence[int]], str]


class Excerpt(NamedTuple):
    """A text to judge."""

    text: str
    right: bool  # the latent fires in it; or: it fires where the text is marked
    quantile: float  # of its activation; NaN without one


class Excerpts(NamedTuple):
    """All that is shown of one latent."""

    shown: list[str]  # marked, to be explained
    detection: list[Excerpt]
    fuzzing: list[Excerpt]


class ExcerptMaker:
    """Draws excerpts; which ones follows from the latent, the data and the seed alone, so that questions can be asked again."""

    def __init__(
        self, text: Text, background: Background, tokens: pd.Series, decode: Decode, settings: Explanations
    ) -> None:
        """``tokens``: the ids of each background context."""
        self.text, self.background, self.tokens, self.decode, self.settings = (
            text,
            background,
            tokens,
            decode,
            settings,
        )
        self.chosen = np.flatnonzero(background.contexts.scored)
        self.similarity = Similarity(text, taken(background.contexts, self.chosen))

    def of(self, latent: int, examples: str) -> Excerpts:
        """Excerpts of a latent, from its contexts in the file ``examples``."""
        generator = np.random.default_rng([self.settings.seed, latent])
        table = pd.read_parquet(examples, filters=[("latent", "==", latent)])
        scored = is_scored(table.document.to_numpy())
        shown = table[~scored]
        order = np.lexsort((generator.random(len(shown)), ~shown.strongest))
        sampled = table[scored & table.sampled]
        sampled = sampled.iloc[generator.permutation(len(sampled))]
        positives = sampled.groupby("quantile").head(self.settings.per_quantile)
        fuzzing = [
            self._fuzzed(row, bool(number % 2), generator)
            for number, row in enumerate(positives.itertuples())
        ]
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
            fuzzing=[fuzzing[place] for place in generator.permutation(len(fuzzing)) if fuzzing[place]],
        )

    def _negatives(
        self, latent: int, examples: str, count: int, generator: np.random.Generator
    ) -> np.ndarray:
        """Contexts of the background in which the latent does not fire: half of them random, half similar to those in which it does."""
        contexts = read_examples(examples, self.text, latent, latent + 1).contexts
        mine = taken(contexts, contexts.scored & contexts.sampled)
        mine = mine._replace(latent=np.zeros_like(mine.latent))
        _, silent = self.background.silent(latent, latent + 1, True)
        similar = np.flatnonzero(most_similar(self.similarity.of(mine, 1), silent, max(SIMILAR, count))[0])
        similar = generator.permutation(similar)[: count // 2]
        others = np.setdiff1d(np.flatnonzero(silent[0]), similar)
        return self.chosen[np.concatenate([similar, generator.permutation(others)[: count - len(similar)]])]

    def _fuzzed(self, row, right: bool, generator: np.random.Generator) -> Excerpt | None:
        """A context with marks where the latent fires or, if not ``right``, on as many other tokens; None where there are too few."""
        fires = row.activations > 0
        if not right:
            others = generator.permutation(np.flatnonzero(~fires))[: fires.sum()]
            if len(others) < fires.sum():
                return None
            fires = np.isin(np.arange(len(fires)), others)
        return Excerpt(marked(row.tokens, fires, self.decode), right, row.quantile)


def marked(tokens: np.ndarray, where: np.ndarray, decode: Decode) -> str:
    """The text, runs of the tokens at ``where`` between OPEN and CLOSE."""
    borders = np.flatnonzero(np.diff(where, prepend=~where[:1])) if len(where) else np.empty(0, np.int64)
    runs = np.split(tokens, borders[1:])
    return "".join(
        f"{OPEN}{decode(run)}{CLOSE}" if where[start] else decode(run)
        for start, run in zip(borders, runs, strict=True)
    )
