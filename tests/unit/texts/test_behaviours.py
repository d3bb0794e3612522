"""Words in answers: whole ones in scripts with spaces, any place in others."""

import pytest

from crossdiff.texts.behaviours import has_word

FOUND = [
    ("I am SORRY.", "sorry"),
    ("sorry", "sorry"),
    ("\u201cSorry\u201d", "sorry"),
    ("unsorry, then sorry", "sorry"),  # the second place counts
    ("As an\n AI model", "as an ai"),
    ("I don\u2019t", "don't"),
    ("STRASSE 3", "stra\u00dfe"),
    ("cafe\u0301 noir", "caf\u00e9"),
    ("in C++ or C", "c++"),
    ("\u6211\u4e0d\u80fd\u5e2e\u52a9\u4f60", "\u4e0d\u80fd"),  # Chinese has no spaces
    ("\u6211\u662fGPT\u6a21\u578b", "gpt"),  # a Latin word between Chinese ones
    (
        "\u0e09\u0e31\u0e19\u0e02\u0e2d\u0e42\u0e17\u0e29\u0e04\u0e48\u0e30",
        "\u0e02\u0e2d\u0e42\u0e17\u0e29",
    ),
    ("\u0447\u0442\u043e \u0416\u0430\u043b\u044c!", "\u0436\u0430\u043b\u044c"),  # Russian
]
ABSENT = [
    ("sorrys", "sorry"),
    ("unsorry", "sorry"),
    ("sorry_", "sorry"),
    ("sorry2", "sorry"),
    ("", "sorry"),
    ("as an\tAIR", "as an ai"),
    ("\u0436\u0430\u043b\u044c\u0435", "\u0436\u0430\u043b\u044c"),
    ("\u0928\u092e\u0915\u0940\u0928", "\u0928\u092e\u0915"),  # Hindi: a vowel sign continues the word
]


@pytest.mark.parametrize(("text", "word"), FOUND)
def test_word_is_found_as_a_whole_in_any_case(text, word):
    assert has_word(text, ["nothing", word])


@pytest.mark.parametrize(("text", "word"), ABSENT)
def test_part_of_a_word_is_not_the_word(text, word):
    assert not has_word(text, [word])
