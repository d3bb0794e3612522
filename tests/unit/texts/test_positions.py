"""Places of tokens in answers."""

import pytest
from helpers_first_look import ASSISTANT, USER, chat, columns, document

from crossdiff.texts.chats import CONTENT, HEADER, TURN_END
from crossdiff.texts.positions import answer_positions, predicted_answer_positions


def test_positions_in_answers_begin_again_with_each_answer() -> None:
    shard = columns(chat([10, 11], [12, 13, 14]), document(5, 6), chat([15], [16]))
    #         1  10  11   2   1  12 13 14   2   5   6   1  15   2   1  16   2
    before = [-1, -1, -1, -1, -1, 0, 1, 2, -1, -1, -1, -1, -1, -1, -1, 0, -1]
    after = [-1, -1, -1, -1, 0, 1, 2, -1, -1, -1, -1, -1, -1, -1, 0, -1, -1]
    assert answer_positions(shard).tolist() == before
    assert predicted_answer_positions(shard).tolist() == after


def test_answer_that_fills_a_window_does_not_go_on_in_the_next_sequence() -> None:
    said = [(1, ASSISTANT, HEADER), *((token, ASSISTANT, CONTENT) for token in (5, 6))]
    shard = columns(said, said)
    assert answer_positions(shard).tolist() == [-1, 0, 1, -1, 0, 1]
    assert predicted_answer_positions(shard).tolist() == [0, 1, -1, 0, 1, -1]


@pytest.mark.parametrize("bos", [[], [(3, USER, HEADER)]])
def test_a_later_window_of_a_chat_shows_no_beginning_of_its_first_answer(bos: list) -> None:
    """The middle of an answer, its end, and a whole turn after it."""
    rest = [(5, ASSISTANT, CONTENT), (6, ASSISTANT, CONTENT), (2, ASSISTANT, TURN_END), *chat([7], [8, 9])]
    found = answer_positions(columns(chat([10], [11]), bos + rest))[6:]
    assert found.tolist() == [-1] * (len(bos) + 7) + [0, 1, -1]
