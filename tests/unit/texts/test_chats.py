"""Chats and documents as tokens."""

import itertools

import numpy as np
import pytest
from helpers_texts import TOKENIZERS, assistant, make_tokenizer, one_line, user
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from crossdiff.texts.chats import (
    HEADER,
    NO_ROLE,
    TEMPLATE_PARTS,
    chat_sequence,
    is_answer,
)
from crossdiff.texts.documents import document_windows
from crossdiff.texts.formats import ROLES

# Text before a content, at the end of a turn, between a turn end and the next header, and before the first
# turn.
PARTS = {
    "chatml": ("<|im_start|>{}\n", "<|im_end|>", "\n", ""),
    "llama3": ("<|start_header_id|>{}<|end_header_id|>\n\n", "<|eot_id|>", "", "<|bos|>"),
    "markers": ("<issue_start>{}\n", "<issue_closed>", "\n", ""),
    "markers that are ordinary tokens": ("<issue_start>{}\n", "<issue_closed>", "\n", ""),
}


@pytest.fixture(params=TOKENIZERS)
def family(request) -> str:
    return request.param


def expected_pieces(family: str, chat) -> list[tuple[str, str, str]]:
    """(role, template part, text) of every run of tokens."""
    header, end, between, first = PARTS[family]
    pieces, before = [], first
    for turn in chat:
        content = turn["content"].strip()
        pieces.append((turn["role"], "header", before + header.format(turn["role"])))
        pieces += [(turn["role"], "content", content)] if content else []
        pieces.append((turn["role"], "turn end", end))
        before = between
    role, part, text = pieces.pop()
    return [*pieces, (role, part, text + between)]


def found_pieces(sequence, tokenizer) -> list[tuple[str, str, str]]:
    runs = itertools.groupby(zip(*sequence, strict=True), key=lambda row: (row[1], row[2]))
    return [
        (ROLES[role], TEMPLATE_PARTS[part], tokenizer.decode([int(row[0]) for row in rows]))
        for (role, part), rows in runs
    ]


def assert_marked(family: str, chat) -> None:
    tokenizer = TOKENIZERS[family]
    sequence = chat_sequence(chat, tokenizer, "chat")
    assert found_pieces(sequence, tokenizer) == expected_pieces(family, chat)


CHATS = {
    "one turn": [user("Hello.")],
    "system first": [{"role": "system", "content": "Be kind."}, user("Hello."), assistant("Yes, hello.")],
    "contents that occur in headers": [
        user("us"),
        assistant("a"),
        user("user"),
        assistant("assistant\nuser"),
        user("s"),
        assistant("er"),
    ],
    "the same content again": [user("a"), assistant("a"), user("a"), assistant("a")],
    "empty contents": [user(""), assistant("a"), user(""), assistant("")],
    "stand-ins as content": [user("\ue0001\ue001"), assistant("\ue0000\ue001")],
    "two turns of one role": [user("Hello."), user("Hello?"), assistant("Yes.")],
    "many bytes to a character": [user("zwölf 🙂"), assistant("数字")],
}


@pytest.mark.parametrize("chat", CHATS.values(), ids=CHATS.keys())
def test_every_token_is_marked_with_role_and_template_part(family, chat):
    assert_marked(family, chat)


@given(
    contents=st.lists(st.text(max_size=12).map(str.strip), min_size=1, max_size=4),
    family=st.sampled_from(sorted(TOKENIZERS)),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_any_contents_are_marked_whatever_they_are(contents, family):
    assert_marked(family, [(assistant if i % 2 else user)(content) for i, content in enumerate(contents)])


@pytest.mark.parametrize("chat", CHATS.values(), ids=CHATS.keys())
def test_ids_are_those_of_the_tokenizers_own_template(family, chat):
    tokenizer = TOKENIZERS[family]
    ids = tokenizer.apply_chat_template(chat, tokenize=True, return_dict=False)
    assert chat_sequence(chat, tokenizer, "chat").token.tolist() == ids


def test_asked_chat_ends_in_the_header_that_the_answer_follows(family):
    tokenizer = TOKENIZERS[family]
    chat = [user("who are you?"), assistant("us"), user("us")]
    asked = chat_sequence(chat, tokenizer, "chat", ask=True)
    answered = chat_sequence([*chat, assistant("yes")], tokenizer, "chat")
    header = len(asked.token)
    assert [column.tolist() for column in asked] == [column[:header].tolist() for column in answered]
    assert (asked.role[-1], asked.template[-1]) == (ROLES.index("assistant"), HEADER)
    assert is_answer(answered.role, answered.template)[header]
    assert np.flatnonzero(is_answer(answered.role, answered.template))[-1] == len(answered.token) - 1


def test_white_space_at_the_ends_is_left_to_the_template(family):
    """ChatML keeps it, the others trim it; neither alters the content."""
    tokenizer = TOKENIZERS[family]
    sequence = chat_sequence([user(" us \n"), assistant("\na ")], tokenizer, "chat")
    contents = [text.strip() for _, part, text in found_pieces(sequence, tokenizer) if part == "content"]
    assert contents == ["us", "a"]


def test_token_across_the_border_of_a_content_counts_as_content():
    tokenizer = make_tokenizer(
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '<|end|>' }}{% endfor %}", ("<|end|>",)
    )
    sequence = chat_sequence([user("said us")], tokenizer, "chat")
    assert found_pieces(sequence, tokenizer) == [
        ("user", "header", "user:"),
        ("user", "content", " said us"),
        ("user", "turn end", "<|end|>"),
    ]


def test_empty_content_inside_a_token_is_no_content():
    tokenizer = make_tokenizer(
        "{% for m in messages %}{{ 'u' + m['content'] + 's<|end|>' }}{% endfor %}", ("<|end|>",)
    )
    sequence = chat_sequence([user("")], tokenizer, "chat")
    assert [text for _, part, text in found_pieces(sequence, tokenizer) if part == "content"] == []


@pytest.mark.parametrize("special", [True, False])
def test_turn_ends_at_a_token_that_was_added_later(special):
    """transformers 5 does not count such tokens among ``all_special_ids``."""
    template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + ' \n<|end|>\n' }}{% endfor %}"
    tokenizer = make_tokenizer(template, ())
    tokenizer.add_tokens([AddedToken("<|end|>", special=special)])
    pieces = found_pieces(chat_sequence([user("us"), assistant("a")], tokenizer, "chat"), tokenizer)
    ends = [text for _, part, text in pieces if part == "turn end"]
    assert ends == [" \n<|end|>", " \n<|end|>\n"]


def test_turn_end_without_a_special_token_is_one_token():
    tokenizer = make_tokenizer(
        "{% for m in messages %}{{ m['role'] + '\n' + m['content'] + '\n\n' }}{% endfor %}", ()
    )
    sequence = chat_sequence([user("us"), assistant("yes")], tokenizer, "chat")
    roles_of_content = [
        (role, text) for role, part, text in found_pieces(sequence, tokenizer) if part == "content"
    ]
    assert roles_of_content == [("user", "us"), ("assistant", "yes")]
    parts = sequence.template[sequence.role == ROLES.index("user")]
    assert (parts == TEMPLATE_PARTS.index("turn end")).sum() == 1


INST = (
    "{% for m in messages %}"
    "{{ '[INST] ' + m['content'] + ' [/INST]' if m['role'] == 'user' else ' ' + m['content'] + '</s>' }}"
    "{% endfor %}"
)


def test_turn_without_a_special_token_ends_before_the_answer():
    """Llama 2, Mistral and Vicuna write it like this: only an answer ends in a special token."""
    tokenizer = make_tokenizer(INST, ("</s>",))
    sequence = chat_sequence(
        [user("us"), assistant("yes"), user("a"), assistant("said us")], tokenizer, "chat"
    )
    assert found_pieces(sequence, tokenizer) == [
        ("user", "header", "[INST]"),
        ("user", "content", " us"),
        ("user", "turn end", " "),
        ("assistant", "header", "[/INST]"),
        ("assistant", "content", " yes"),
        ("assistant", "turn end", "</s>"),
        ("user", "header", "[INST]"),
        ("user", "content", " a"),
        ("user", "turn end", " "),
        ("assistant", "header", "[/INST]"),
        ("assistant", "content", " said us"),
        ("assistant", "turn end", "</s>"),
    ]
    answers = sequence.token[is_answer(sequence.role, sequence.template)]
    assert tokenizer.decode(answers) == " yes</s> said us</s>"


REFUSED_TEMPLATES = {
    "drops a turn": (
        "{% for m in messages if m['role'] != 'system' %}{{ m['role'] + ':' + m['content'] }}{% endfor %}"
    ),
    "upper case": "{% for m in messages %}{{ m['role'] + ':' + m['content'] | upper }}{% endfor %}",
    "cuts": "{% for m in messages %}{{ m['role'] + ':' + m['content'][:4] }}{% endfor %}",
    "looks at the content": "{% for m in messages %}{{ m['content'].split('<')[0] }}{% endfor %}",
    "repeats": "{% for m in messages %}{{ m['content'] + m['content'] }}{% endfor %}",
    "reorders": "{% for m in messages | reverse %}{{ m['content'] }}{% endfor %}",
    "says no": (
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}"
        "{% endif %}{% endfor %}"
    ),
}


@pytest.mark.parametrize("template", REFUSED_TEMPLATES.values(), ids=REFUSED_TEMPLATES.keys())
def test_template_that_drops_or_alters_content_is_refused(template):
    chat = [{"role": "system", "content": "Be kind."}, user("Hello there."), assistant("Hm</think>yes")]
    message = one_line(chat_sequence, chat, make_tokenizer(template, ("<|end|>",)), "dataset talk, chat 3")
    assert message.startswith("dataset talk, chat 3: ") and "template" in message


@pytest.mark.parametrize("context", [2, 7, 100])
def test_document_is_cut_into_windows_that_hold_all_of_it(context):
    tokenizer = TOKENIZERS["chatml"]
    text = "the user said us. zwölf"
    windows = list(document_windows([text], tokenizer, context)[0])
    ids = [token for window in windows for token in window.token]
    assert ids == tokenizer(text)["input_ids"]
    assert all(len(window.token) == context for window in windows[:-1]) and len(windows[-1].token) <= context


@pytest.mark.parametrize("context", [2, 7, 100])
def test_every_window_starts_with_bos_where_the_tokenizer_adds_one(context):
    tokenizer = TOKENIZERS["llama3"]
    windows = list(document_windows(["the user said us. zwölf"], tokenizer, context)[0])
    assert all(
        window.token[0] == tokenizer.bos_token_id and len(window.token) <= context for window in windows
    )
    ids = [token for window in windows for token in window.token[1:]]
    assert [tokenizer.bos_token_id, *ids] == tokenizer("the user said us. zwölf")["input_ids"]


def test_document_has_no_role_and_only_bos_is_template():
    [window] = document_windows(["the user"], TOKENIZERS["llama3"], 100)[0]
    assert (window.role == NO_ROLE).all()
    assert np.flatnonzero(window.template).tolist() == [0] and window.template[0] == HEADER
    [plain] = document_windows(["the user"], TOKENIZERS["chatml"], 100)[0]
    assert not plain.template.any()
