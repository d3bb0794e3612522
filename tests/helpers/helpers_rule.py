"""Made-up latents that know nothing of any behaviour, at the places of real probes."""

import re
from typing import NamedTuple

import numpy as np

from crossdiff.organisms.rule import ITEMS, Places, enrichment, finds, p_values, ranked
from crossdiff.texts.organisms import ORDINARY, OrganismTexts, probes

LATENTS, VOCABULARY = 1200, 49_152
RATE, SPREAD = 0.012, 1.3  # median share of tokens on which a latent fires, and the spread of its logarithm


class Words(NamedTuple):
    """The words and signs of all probes' answers. A token for each takes the place of a tokenizer."""

    places: Places
    tokens: np.ndarray  # (positions,) ids


def words_of(texts: OrganismTexts) -> Words:
    """The answers of all probes, word by word, with the positions before them."""
    ids: dict[str, int] = {"\n": 0}
    columns, tokens = [], []
    for behaviour in (*texts.behaviours, ORDINARY):
        for probe in probes(texts, behaviour):
            words = [
                (word.start(), word.end(), word[0]) for word in re.finditer(r"\n|\w+|[^\w\s]", probe.answer)
            ]
            taught = [any(a < end and b > start for a, b in probe.spans) for start, end, _ in words]
            span = np.array([False, *taught])
            count, number = len(span), len(tokens)
            columns.append(
                (
                    np.full(count, number),
                    np.full(count, behaviour),
                    np.arange(count),
                    span,
                    span | np.append(span[1:], False),
                )
            )
            tokens.append([0, *(ids.setdefault(word, len(ids)) for _, _, word in words)])
    return Words(Places(*map(np.concatenate, zip(*columns, strict=True))), np.concatenate(tokens))


def ignorant_latents(words: Words, generator: np.random.Generator) -> np.ndarray:
    """Activations (positions, LATENTS). Latents differ in how often they fire, as real ones do.

    They fire on some tokens, at some places of an answer, in all of some answers, and by chance.
    """
    rate = np.minimum(0.8, np.exp(generator.normal(np.log(RATE), SPREAD, LATENTS)))
    fires = {
        name: generator.random((count, LATENTS)) < rate * share
        for name, count, share in (
            ("token", words.tokens.max() + 1, 0.6),
            ("place", words.places.place.max() + 1, 0.3),
            ("answer", words.places.probe.max() + 1, 0.1),
            ("chance", len(words.tokens), 0.3),
        )
    }
    by_token = fires["token"][words.tokens]
    fired = (
        by_token | fires["place"][words.places.place] | fires["chance"] | fires["answer"][words.places.probe]
    )
    return fired * generator.exponential(size=fired.shape) * (by_token + 0.5)


def false_finds(
    words: Words, values: np.ndarray, handed: np.ndarray, behaviours: list[str]
) -> dict[str, bool]:
    """Which behaviours a method finds that hands in the latents ``handed`` of ``values``."""
    ranks, promoted = ranked(values), np.zeros((LATENTS, ITEMS), int)
    found = {}
    for name in behaviours:
        evidence = enrichment(ranks, words.places, name, promoted, np.array([1]), VOCABULARY).evidence
        random = ~np.isin(np.arange(LATENTS), handed)
        found[name] = bool(finds(p_values(evidence[handed], evidence[random])).any())
    return found
