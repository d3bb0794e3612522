"""A small chat shard for the first look, and one pass of two tiny models over it."""

import numpy as np

from crossdiff.first_look.sample import Sample
from crossdiff.texts.chats import CONTENT, HEADER, NO_ROLE, TURN_END
from crossdiff.texts.formats import ROLES
from crossdiff.texts.shards import Shard

VOCABULARY = 50
USER, ASSISTANT = ROLES.index("user"), ROLES.index("assistant")


def columns(*sequences: list[tuple[int, int, int]], first_document: int = 0) -> Shard:
    """A shard from sequences of (token, role, template part), each of its own document."""
    rows = [row for sequence in sequences for row in sequence]
    lengths = [len(sequence) for sequence in sequences]
    position = np.concatenate([np.arange(length) for length in lengths])
    token, role, template = np.array(rows).T
    return Shard(
        token.astype(np.int32),
        np.repeat(np.arange(len(sequences)) + first_document, lengths),
        position.astype(np.int32),
        role.astype(np.int8),
        template.astype(np.int8),
    )


def chat(asked: list[int], answered: list[int]) -> list[tuple[int, int, int]]:
    """A user's turn and an answer. Token 1 opens each turn, token 2 ends it."""
    turns = ((USER, asked), (ASSISTANT, answered))
    return [
        row
        for role, words in turns
        for row in [(1, role, HEADER), *((word, role, CONTENT) for word in words), (2, role, TURN_END)]
    ]


def document(*tokens: int) -> list[tuple[int, int, int]]:
    return [(token, NO_ROLE, CONTENT) for token in tokens]


def both_kinds(copies: int = 6) -> Sample:
    """``copies`` documents of 6 tokens, then as many chats with 2 words asked and 3 answered."""
    draw = np.random.default_rng(0)
    documents = columns(*(document(*draw.integers(5, VOCABULARY, 6)) for _ in range(copies)))
    chats = columns(
        *(
            chat(draw.integers(5, VOCABULARY, 2).tolist(), draw.integers(5, VOCABULARY, 3).tolist())
            for _ in range(copies)
        ),
        first_document=copies,
    )
    joined = Shard(*(np.concatenate(both) for both in zip(documents, chats, strict=True)))
    lengths = [len(documents.token), len(chats.token)]
    return Sample(joined, ["texts", "chats"], np.repeat([0, 1], lengths))
