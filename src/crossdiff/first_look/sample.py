"""The texts of the first look: a sample of every data set, the places in it, and prompts for answers."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from crossdiff.texts.chats import CONTENT, NO_ROLE, TEMPLATE_PARTS
from crossdiff.texts.formats import ROLES
from crossdiff.texts.positions import answer_positions, text_positions
from crossdiff.texts.sample import draw
from crossdiff.texts.shards import Shard, read_shard

FIRST = 5  # first positions of texts and answers whose mean differences are kept, as in arXiv 2510.13900
FREQUENT = 8  # template tokens whose mean differences are kept
FEWEST = 5  # tokens of a place that a mean difference needs
KINDS = ("text", "answer", "template")


class Sample(NamedTuple):
    """Tokens of several data sets, one after the other."""

    shard: Shard
    datasets: list[str]
    dataset: np.ndarray  # (tokens,): index into ``datasets``


def sample(shards: Mapping[str, str], tokens: int) -> Sample:
    """Draw random sequences, ``tokens`` tokens in all, from data sets with one token shard each.

    Every data set gives the same number of tokens, or all of a shard that has fewer. Then the others give
    more.
    """
    sizes = {name: len(read_shard(path).token) for name, path in shards.items()}
    parts = [draw([shards[name]], share) for name, share in shares(sizes, tokens).items()]
    joined = Shard(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    lengths = [len(part.token) for part in parts]
    return Sample(joined, list(shards), np.repeat(np.arange(len(parts)), lengths))


def shares(sizes: Mapping[str, int], tokens: int) -> dict[str, int]:
    """Split ``tokens`` over data sets of these ``sizes``: equal shares, or all that a small data set has.

    A share is at least 1 token.
    """
    found: dict[str, int] = {}
    left = tokens
    for number, name in enumerate(sorted(sizes, key=lambda name: (sizes[name], name))):
        found[name] = max(1, min(sizes[name], left // (len(sizes) - number)))
        left -= found[name]
    return {name: found[name] for name in sizes}


class Place(NamedTuple):
    """Tokens whose differences are averaged."""

    kind: str  # text: of a window of a document; answer: of the assistant's words; template: a template token
    position: int | None = None  # from 0, of texts and answers
    token: int | None = None  # of the template
    role: int | None = None  # of the template token's turn


def places(shard: Shard) -> tuple[list[Place], np.ndarray]:
    """The places of a shard that have FEWEST tokens, and the place of each token, (tokens,), or -1.

    They are the FIRST first words of windows of documents, the same of answers, and the FREQUENT most
    frequent tokens of the chat template, in each role. The first token of a sequence has no place: models use
    it as an attention sink, so its activation, and its difference, are many times as large as others.
    """
    later = shard.position > 0
    document, answer = text_positions(shard), answer_positions(shard)
    masks = {
        Place(kind, position): positions == position
        for kind, positions in (("text", document), ("answer", answer))
        for position in range(FIRST)
    }
    template = (shard.template != CONTENT) & (shard.role != NO_ROLE)
    pairs, counts = np.unique(
        np.stack([shard.token[template], shard.role[template]]), axis=1, return_counts=True
    )
    for column in np.argsort(-counts, kind="stable")[:FREQUENT]:
        token, role = (int(value) for value in pairs[:, column])
        is_this = template & (shard.token == token) & (shard.role == role)
        masks[Place("template", token=token, role=role)] = is_this
    kept = {place: mask & later for place, mask in masks.items() if (mask & later).sum() >= FEWEST}
    place_of = np.full(len(shard.token), -1)
    for number, mask in enumerate(kept.values()):
        place_of[mask] = number
    return list(kept), place_of


def role_names(role: np.ndarray) -> np.ndarray:
    """The role of each token in words: ``text`` for documents."""
    return np.array([*ROLES, "text"])[role]


def part_names(template: np.ndarray) -> np.ndarray:
    """The template part of each token in words."""
    return np.array(TEMPLATE_PARTS)[template]


class Prompt(NamedTuple):
    """The beginning of a chat, up to the header of the assistant's first turn."""

    dataset: str
    token: np.ndarray  # (tokens,)


def prompts(shards: Mapping[str, Sequence[Shard]], count: int, longest: int) -> list[Prompt]:
    """``count`` different prompts of at most ``longest`` tokens, from the data sets in turn.

    Each is the beginning of a chat, not of a later window of it. The first shard's first sequence is taken to
    begin a chat. Fewer if there are no more. Documents give none.
    """
    found = {name: _openings(name, parts, count, longest) for name, parts in shards.items()}
    in_turn = [
        prompts[number] for number in range(count) for prompts in found.values() if number < len(prompts)
    ]
    return in_turn[:count]


def _openings(name: str, shards: Sequence[Shard], count: int, longest: int) -> list[Prompt]:
    kept: dict[bytes, Prompt] = {}
    for shard in shards:
        first_words = np.flatnonzero(answer_positions(shard) == 0)
        for start, stop in zip(*shard.sequence_bounds(), strict=True):
            if start and shard.document[start] == shard.document[start - 1]:
                continue  # a later window
            words = first_words[(first_words >= start) & (first_words < stop)]
            if len(kept) < count and len(words) and 0 < words[0] - start <= longest:
                token = shard.token[start : words[0]]
                kept.setdefault(token.tobytes(), Prompt(name, token))
    return list(kept.values())
