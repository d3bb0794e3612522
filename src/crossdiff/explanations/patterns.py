"""Patterns of all latents of a crosscoder: fitted on one half of the documents, scored on the other half."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
import pandas as pd

from crossdiff.explanations.contexts import Background, Contexts, FiringContexts, Text, read_examples
from crossdiff.explanations.features import KINDS, NONE, describe, features, kind_of
from crossdiff.explanations.fitting import Candidates, Found, Pattern, fit
from crossdiff.explanations.negatives import Similarity, most_similar
from crossdiff.explanations.scores import FEWEST, balanced_accuracy
from crossdiff.intervals import wilson
from crossdiff.texts.columns import places, taken

AT_ONCE = 256  # latents explained at a time; bounds memory


class _Half(NamedTuple):
    """One half of the background, for fitting or for scoring."""

    chosen: np.ndarray  # numbers of its contexts in the background
    found: Found
    similarity: Similarity


class _Counted(Protocol):
    """A latent's numbers of contexts, and its detection score."""

    contexts: int
    fitted: int
    scored: int
    detection: float


class PatternExplainer:
    """Explains latents by the features of explanations.features, without a language model."""

    def __init__(self, text: Text, background: Background, decode: Callable[[list[int]], str]) -> None:
        self.text, self.background, self.decode = text, background, decode
        self.since = text.since_template()
        self.halves = {scored: self._half(scored) for scored in (False, True)}

    def _half(self, scored: bool) -> _Half:
        chosen = np.flatnonzero(self.background.contexts.scored == scored)
        contexts = taken(self.background.contexts, chosen)
        found = Found.of(contexts.each_token(), self._features(contexts))
        return _Half(chosen, found, Similarity(self.text, contexts))

    def _features(self, contexts: Contexts) -> np.ndarray:
        return features(self.text, self.since, contexts.rows())

    def explain(self, path: str, latents: int) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Explain latents 0 to ``latents`` - 1, from their examples at ``path``. Gives two tables.

        The first has one row per latent:

        - latent, explanation, kind
        - detection, fuzzing: scores, each with its 95 % interval _low, _high
        - detection_random, detection_similar: detection against one kind of negatives only
        - contexts: number of known contexts
        - fitted, scored: numbers of positive contexts for fitting and for scoring

        The second has one row per quantile of each latent with a score:

        - latent, quantile
        - contexts: number of scored contexts
        - recall, recall_low, recall_high: share of them that the pattern names, and its 95 % interval
        """
        parts = []
        for first in range(0, latents, AT_ONCE):
            stop = min(first + AT_ONCE, latents)
            parts.append(self._block(read_examples(path, self.text, first, stop), first, stop))
        return tuple(pd.concat(tables, ignore_index=True) for tables in zip(*parts, strict=True))

    def _block(self, examples: FiringContexts, first: int, stop: int) -> tuple[pd.DataFrame, pd.DataFrame]:
        count = stop - first
        contexts = examples.contexts._replace(latent=examples.contexts.latent - first)
        found = self._features(contexts)
        each = contexts.each_token()
        for_fit = ~contexts.scored
        fitted, scored = (
            np.bincount(contexts.latent[part], minlength=count)
            for part in (for_fit, contexts.scored & contexts.sampled)
        )
        patterns = self._fit(contexts, found, examples.fires, for_fit, first, stop)
        matches = _matches(patterns, contexts.latent[each], found)
        own = contexts.scored & contexts.sampled
        named = np.bincount(each, matches, minlength=len(own)) > 0
        tables = {
            "latent": np.arange(first, stop),
            **self._detection(patterns, contexts, own, named, first, stop),
        }
        fuzzing = _fuzzing(contexts, own, _marked(patterns, contexts, matches), examples.fires, count)
        tables |= dict(zip(("fuzzing", "fuzzing_low", "fuzzing_high"), fuzzing, strict=True))
        table = pd.DataFrame(
            tables
            | {"contexts": np.bincount(contexts.latent, minlength=count), "fitted": fitted, "scored": scored}
        )
        few = (fitted < FEWEST) | (scored < FEWEST) | table.detection.isna()
        table.loc[few, table.columns[table.columns.str.contains("detection|fuzzing")]] = np.nan
        words = [
            self._words(patterns.get(latent), row)
            for latent, row in enumerate(table[["contexts", "fitted", "scored", "detection"]].itertuples())
        ]
        table.insert(1, "explanation", [text for text, _ in words])
        table.insert(2, "kind", [kind for _, kind in words])
        own &= table.detection.notna().to_numpy()[contexts.latent]
        return table, _quantiles(taken(contexts, own), named[own], first)

    def _fit(
        self,
        contexts: Contexts,
        found: np.ndarray,
        fires: np.ndarray,
        for_fit: np.ndarray,
        first: int,
        stop: int,
    ) -> dict[int, Pattern]:
        half, tokens = self.halves[False], np.repeat(for_fit, contexts.length)
        fitted = taken(contexts, for_fit)
        _, silent = self.background.silent(first, stop, False)
        weights = np.zeros(silent.shape, np.float32)
        for chosen in (silent, most_similar(half.similarity.of(fitted, stop - first), silent)):
            count = np.maximum(chosen.sum(axis=1, keepdims=True), 1)
            weights += np.float32(0.5) * chosen / count.astype(np.float32)
        candidates = Candidates.of(fitted, found[tokens], fires[tokens], half.found, len(half.chosen))
        return fit(candidates, fitted, weights)

    def _detection(
        self,
        patterns: dict[int, Pattern],
        contexts: Contexts,
        own: np.ndarray,
        named: np.ndarray,
        first: int,
        stop: int,
    ) -> dict[str, np.ndarray]:
        count, half = stop - first, self.halves[True]
        _, silent = self.background.silent(first, stop, True)
        similar = most_similar(half.similarity.of(taken(contexts, own), count), silent)
        flat = [(latent, feature) for latent, pattern in patterns.items() for feature in pattern.features]
        latent, feature = np.array(flat, np.int64).reshape(-1, 2).T
        index, place = half.found.of_features(feature)
        refused = np.ones_like(silent)
        refused[latent[index], place] = False
        positives = np.bincount(contexts.latent[own], minlength=count)
        hits = np.bincount(contexts.latent[own & named], minlength=count)
        kinds = {
            "random": ((refused & silent).sum(axis=1), silent.sum(axis=1)),
            "similar": ((refused & similar).sum(axis=1), similar.sum(axis=1)),
        }
        score, low, high = balanced_accuracy(hits, positives, list(kinds.values()))
        return {"detection": score, "detection_low": low, "detection_high": high} | {
            f"detection_{name}": balanced_accuracy(hits, positives, [counts])[0]
            for name, counts in kinds.items()
        }

    def _words(self, pattern: Pattern | None, row: _Counted) -> tuple[str, str]:
        """The explanation of a latent, and its kind."""
        if not row.contexts:
            return "never fires in the text that was read", "empty"
        if min(row.fitted, row.scored) < FEWEST:
            return f"too few contexts ({row.fitted} to fit on, {row.scored} to score on)", "too few"
        if np.isnan(row.detection):
            return "fires in nearly every context", "everywhere"
        if pattern is None:
            return "no pattern found", "none"
        kind = "union" if len(pattern.features) > 1 else KINDS[kind_of(pattern.features[0])]
        return describe(pattern.features, self.decode, pattern.on_token), kind


def _matches(patterns: dict[int, Pattern], latent: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Whether each token has a feature of the pattern of its context's latent, (tokens,) bool.

    ``latent`` is (tokens,). ``found`` (tokens, columns) holds the features of each token.
    """
    flat = [(number, feature) for number, pattern in patterns.items() for feature in pattern.features]
    named = np.unique(np.array([NONE, *(feature for _, feature in flat)], np.int64))
    pairs = np.array([number * len(named) + np.searchsorted(named, feature) for number, feature in flat])
    place = np.minimum(np.searchsorted(named, found), len(named) - 1)
    of_latent = np.isin(latent[:, None].astype(np.int64) * len(named) + place, pairs)
    return ((named[place] == found) & of_latent).any(axis=1)


def _marked(patterns: dict[int, Pattern], contexts: Contexts, matches: np.ndarray) -> np.ndarray:
    """Where a pattern says that its latent fires, (tokens,) bool.

    This is where it matches, or the token after it.
    """
    latents = np.array([latent for latent, pattern in patterns.items() if not pattern.on_token], np.int64)
    after = np.roll(matches, 1)
    after[np.cumsum(contexts.length) - contexts.length] = False  # the first token of each context
    return np.where(np.isin(contexts.latent, latents)[contexts.each_token()], after, matches)


def _fuzzing(
    contexts: Contexts, own: np.ndarray, matches: np.ndarray, fires: np.ndarray, count: int
) -> tuple[np.ndarray, ...]:
    """Fuzzing score of each latent, with its 95 % interval: (latents,) each.

    It is the balanced accuracy at telling the tokens on which the latent fires from as many others of the
    same context. A set of tokens is called right if the pattern names one of them. Contexts with too few
    other tokens are left out.
    """
    each, rows = contexts.each_token(), contexts.rows()
    keys = pd.util.hash_array(rows.astype(np.uint64)) >> np.uint64(2)
    order = np.lexsort((keys, fires, each))  # in each context, silent tokens come first, in random order
    firing = np.bincount(each, fires, minlength=len(own)).astype(np.int64)
    place = np.empty(len(order), np.int64)
    place[order] = places(contexts.length)
    wrong = ~fires & (place < firing[each])
    usable = own & (contexts.length >= 2 * firing)
    right, mistaken = (
        np.bincount(each, matches & marked, minlength=len(own)) > 0 for marked in (fires, wrong)
    )
    total = np.bincount(contexts.latent[usable], minlength=count)
    return balanced_accuracy(
        np.bincount(contexts.latent[usable & right], minlength=count),
        total,
        [(np.bincount(contexts.latent[usable & ~mistaken], minlength=count), total)],
    )


def _quantiles(contexts: Contexts, named: np.ndarray, first: int) -> pd.DataFrame:
    """Count how many scored contexts of each latent and quantile the pattern names."""
    table = pd.DataFrame({"latent": contexts.latent + first, "quantile": contexts.quantile, "named": named})
    table = table.groupby(["latent", "quantile"]).named.agg(contexts="size", hits="sum").reset_index()
    table["recall"], table["recall_low"], table["recall_high"] = wilson(table.hits, table.contexts)
    return table.drop(columns="hits")
