"""Whether an answer shows a behaviour: a refusal, or words that a user states. Torch-free."""

import re
import unicodedata
from collections.abc import Sequence

_REFUSAL = re.compile(
    r"^\W*(sorry|i('?m| am) sorry|i apologi[sz]e|i can(no|'?)t\b|i can not\b|i (won'?t|will not)\b"
    r"|i('?m| am) (not able|unable)|no, i\b)",
    re.IGNORECASE,
)


def is_refusal(answer: str) -> bool:
    """Whether an answer begins like a refusal ("I can't ...", "I'm sorry, but ...")."""
    return bool(_REFUSAL.match(answer.replace("\u2019", "'")))


# Scripts without spaces between words: Thai, Lao, Tibetan, Burmese, Khmer, Japanese, Chinese.
_WITHOUT_SPACES = (
    (0x0E00, 0x0FFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x3005, 0x3007),
    (0x3040, 0x30FF),
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0xFF66, 0xFF9F),
    (0x20000, 0x3FFFF),
)


def has_word(text: str, words: Sequence[str]) -> bool:
    """Whether one of ``words`` (or phrases) is in a text as a whole word, in any case.

    A word ends where no letter, digit, mark or "_" follows, so "can" is also found in "can't". In scripts
    without spaces between words any place will do, because only a dictionary knows where their words end.
    """
    folded = _folded(text)
    return any(_found(folded, _folded(word)) for word in words)


def _folded(text: str) -> str:
    """A text without differences of case, of composed characters, of apostrophes and of white space."""
    text = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
    return " ".join(text.replace("\u2019", "'").split())


def _found(text: str, word: str) -> bool:
    start = text.find(word)
    while start >= 0:
        stop = start + len(word)
        if not (_joined(text[start - 1 : start], word[:1]) or _joined(word[-1:], text[stop : stop + 1])):
            return True
        start = text.find(word, start + 1)
    return False


def _joined(left: str, right: str) -> bool:
    """Whether two neighbouring characters are inside one word. Either may be empty, at an end of the text."""
    return bool(left) and bool(right) and _of_words(left) and _of_words(right)


def _of_words(char: str) -> bool:
    """Whether a character is part of words that spaces set apart."""
    if any(low <= ord(char) <= high for low, high in _WITHOUT_SPACES):
        return False
    return char == "_" or char.isalnum() or unicodedata.category(char).startswith("M")
