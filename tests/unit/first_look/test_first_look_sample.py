"""Which tokens the first look reads, and what their places are."""

import numpy as np
from helpers_first_look import ASSISTANT, both_kinds, chat, columns, document

from crossdiff.first_look.sample import (
    Place,
    places,
    prompts,
    sample,
    shares,
)
from crossdiff.texts.chats import CONTENT, HEADER, NO_ROLE, TURN_END
from crossdiff.texts.shards import write_shard


def test_small_data_set_leaves_its_share_to_the_others() -> None:
    assert shares({"a": 100, "b": 10, "c": 100}, 90) == {"a": 40, "b": 10, "c": 40}
    assert shares({"a": 5, "b": 5}, 100) == {"a": 5, "b": 5}
    assert shares({"a": 5, "b": 5}, 1) == {"a": 1, "b": 1}


def test_sample_has_its_tokens_and_names_data_sets(tmp_path) -> None:
    write_shard(tmp_path / "texts.parquet", columns(*(document(*range(10)) for _ in range(4))))
    write_shard(tmp_path / "few.parquet", columns(document(7, 8, 9)))
    found = sample({name: str(tmp_path / f"{name}.parquet") for name in ("texts", "few")}, 20)
    assert len(found.shard.token) == 20
    assert found.datasets == ["texts", "few"]
    assert found.dataset.tolist() == [0] * 17 + [1] * 3
    assert found.shard.token[-3:].tolist() == [7, 8, 9]


def test_prompts_are_no_later_windows() -> None:
    window = [(5, ASSISTANT, CONTENT), (2, ASSISTANT, TURN_END), *chat([13], [14])]
    shard = columns(chat([10], [11]), window, chat([15], [16]))
    shard = shard._replace(document=np.where(shard.document == 1, 0, shard.document))
    assert [one.token.tolist() for one in prompts({"one": [shard]}, 8, 9)] == [[1, 10, 2, 1], [1, 15, 2, 1]]


def test_the_token_that_starts_every_text_is_no_place_of_its_own() -> None:
    """Llama's and Gemma's tokenizers put one before documents, too."""
    texts = [[(3, NO_ROLE, HEADER), *document(*range(10, 20))] for _ in range(6)]
    which, place_of = places(columns(*texts))
    assert which == [Place("text", position) for position in range(5)]
    assert place_of[:8].tolist() == [-1, 0, 1, 2, 3, 4, -1, -1]


def test_places_are_first_positions_and_frequent_template_tokens() -> None:
    found = both_kinds()
    which, place_of = places(found.shard)
    assert which[:7] == [
        *(Place("text", position) for position in range(1, 5)),
        *(Place("answer", position) for position in range(3)),
    ]
    template = {(place.token, place.role) for place in which[7:]}
    assert template == {(2, 1), (1, 2), (2, 2)}  # token 1 of the user is the first one of every chat
    assert (np.bincount(place_of[place_of >= 0]) == 6).all()
    assert (place_of[:6] == [-1, 0, 1, 2, 3, -1]).all()
    assert place_of[36:45].tolist() == [
        which.index(place) if place else -1
        for place in (
            None,
            None,
            None,
            Place("template", token=2, role=1),
            Place("template", token=1, role=2),
            *(Place("answer", position) for position in range(3)),
            Place("template", token=2, role=2),
        )
    ]


def test_place_with_few_tokens_is_left_out() -> None:
    which, place_of = places(columns(*(document(5, 6) for _ in range(4))))
    assert which == []
    assert (place_of == -1).all()


def test_prompts_come_from_data_sets_in_turn_and_differ() -> None:
    one = columns(chat([10], [11]), chat([10], [12]), chat([13], [11]), chat([14, 15, 16], [17]))
    other = columns(chat([20], [21]))
    found = prompts({"one": [one], "other": [other], "texts": [columns(document(1, 2))]}, 8, 4)
    assert [(prompt.dataset, prompt.token.tolist()) for prompt in found] == [
        ("one", [1, 10, 2, 1]),
        ("other", [1, 20, 2, 1]),
        ("one", [1, 13, 2, 1]),  # the one of six tokens is too long
    ]
    assert len(prompts({"one": [one], "other": [other]}, 2, 4)) == 2
