"""Which texts of a data set belong to training, and which to validation."""

import hashlib
import json
from collections.abc import Iterator
from typing import NamedTuple

from crossdiff.config import TextSource
from crossdiff.texts.formats import Text
from crossdiff.texts.sources import Place, read
from crossdiff.texts.turns import Chat, cleaned, merged
from crossdiff.texts.unusable import Unusable, as_text


def document_id(text: Text) -> int:
    """63 bits of the text's SHA-256, for the split and the document column.

    Raises UnicodeEncodeError for a text with lone surrogates.
    """
    said = {"tools": text.tools, "turns": text} if isinstance(text, Chat) and text.tools else text
    content = said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)
    return int.from_bytes(hashlib.sha256(content.encode("utf-8")).digest()[:8], "big") >> 1


def in_split(document: int, split: str, validation_fraction: float) -> bool:
    """Whether a document id belongs to ``split`` (train, validation).

    The hash of the text decides, so no text is in both splits.
    """
    # The low bits decide, so the split is independent of any order by the high bits.
    is_validation = (document & 0xFFFFFFFF) / 2**32 < validation_fraction
    return is_validation == (split == "validation")


class Chosen(NamedTuple):
    """A text of one split, or a record of it that can't be used."""

    number: int  # in the stream
    document: int
    text: Text | Unusable
    after: Place
    notes: list[str]  # what was changed in it


def split_texts(
    source: TextSource, name: str, split: str, archive: str | None = None
) -> Iterator[tuple[int, int, Text]]:
    """(number in the stream, document id, text) of every text in a split.

    Empty texts and records that can't be used are left out. Raises UserError for missing or malformed input.
    """
    for chosen in chosen_texts(source, name, split, archive):
        if not isinstance(chosen.text, Unusable):
            yield chosen.number, chosen.document, chosen.text


def chosen_texts(
    source: TextSource, name: str, split: str, archive: str | None = None, start: Place | None = None
) -> Iterator[Chosen]:
    """Every text of a split from ``start`` on, in order, and every record of it that can't be used.

    Empty texts are left out. Raises UserError for missing or malformed input.
    """
    for number, text, after in read(source, name, archive, start):
        notes: list[str] = []
        try:
            # A record that can't be used is counted in one split only, too.
            document = document_id(as_text(text.record) if isinstance(text, Unusable) else text)
        except UnicodeEncodeError:
            text, notes = cleaned(text), ["lone surrogates replaced"]
            document = document_id(text)
        if not text or not in_split(document, split, source.validation_fraction):
            continue
        if isinstance(text, Chat):
            notes += [f"read as {text.read_as}"] if text.read_as else []
            text, merges = merged(text, source.system, source.same_role)
            notes += merges
        yield Chosen(number, document, text, after, notes)
