"""What a template repeats, drops or hides in other text is no turn's own. Each case has its right marks."""

import pytest
from helpers_chats import ENDS, GOOD, PLAIN, SAID, THINKING, TOOLS, source, taken, tokenizer
from helpers_texts import assistant, make_tokenizer, one_line, user

from crossdiff.config import Finetuning
from crossdiff.models.finetune import training_sequences
from crossdiff.texts.chats import HEADER, chat_sequence, is_answer
from crossdiff.texts.tokenising import sequences

CALL = {"type": "function", "function": {"name": "get", "arguments": {"x": 1}}}
NO_CALL = "tool calls that the chat template leaves out"
NO_REASONING = "reasoning that the chat template leaves out"

# Windows of a long chat.


def long_chat(tmp_path, template, bos, adds):
    """The windows of a long chat, as texts, and their sequences."""
    renders = make_tokenizer(template, ENDS, **({"bos": bos} if adds else {}))
    if not adds:
        renders.bos_token = bos
    data = source(tmp_path, [{"messages": [user("us " * 30), assistant("yes")]}], long="windows")
    found = [sequence for _, _, sequence in sequences(data, "talk", "train", renders, 12)]
    return [renders.decode(sequence.token) for sequence in found], found


def test_opener_of_turns_that_is_called_bos_begins_no_other_window(tmp_path):
    """As in SmolLM2: its tokenizer names the opener of turns as BOS, and adds it to no text."""
    texts, found = long_chat(tmp_path, PLAIN, "<s>", adds=False)
    assert len(texts) > 2 and texts[0].startswith("<s>user\n")
    assert "".join(texts) == "<s>user\n" + "us " * 30 + "</s>\n<s>assistant\nyes</s>\n"
    assert not (found[1].template == HEADER).any()


def test_bos_that_the_tokenizer_adds_begins_every_window(tmp_path):
    texts, found = long_chat(tmp_path, "{{ '<s>' }}" + PLAIN.replace("<s>", ""), "<s>", adds=True)
    assert len(texts) > 2 and all(text.startswith("<s>") and text.count("<s>") == 1 for text in texts)
    assert all(sequence.template[0] == HEADER for sequence in found)


# Repeated and missing turns.

REPEATS = {
    "the user's words after the answer": PLAIN + "{{ messages[0].content }}",
    "the question in the answer": PLAIN.replace(
        "m.content", "m.content + (' re: ' + messages[0].content if loop.index0 else '')"
    ),
}


@pytest.mark.parametrize("rewritten", ["skip", "keep"])
@pytest.mark.parametrize("template", REPEATS.values(), ids=REPEATS.keys())
def test_words_of_the_user_are_never_marked_as_the_answer(tmp_path, template, rewritten):
    found, tally = taken(tmp_path, [GOOD], template, rewritten=rewritten)
    assert found == [] and tally.skipped == {"the chat template repeats a turn (user)": 1}


@pytest.mark.parametrize("template", [" ", "{{ '<s>Hi</s>' }}"])
def test_chat_of_which_the_template_shows_nothing_is_skipped(tmp_path, template):
    found, tally = taken(tmp_path, [GOOD, GOOD], template, rewritten="keep")
    assert found == [] and tally.skipped == {"the chat template leaves out every turn": 2}


def test_characters_of_icon_fonts_are_words(tmp_path):
    record = {"messages": [user("\ue000 a"), assistant("\ue000yes\ue001")]}
    assert taken(tmp_path, [record])[0] == [[("user", "\ue000 a"), ("assistant", "\ue000yes\ue001")]]
    cut = PLAIN.replace("m.content", "m.content[:2]")
    found, tally = taken(tmp_path, [record], cut, rewritten="keep")
    assert found == [[("user", "\ue000 "), ("assistant", "\ue000y")]] and not tally.skipped


# Thoughts.

VISIBLE = {
    "tags that are spoken of": "use <think> then </think> then talk",
    "words before the thought": "Well. <think>four</think> 4",
    "words between two thoughts": "<think>a</think>Well.<think>b</think>4",
    "words between two ends": "<think>a</think> or </think>4",
    "words after an end without a start": "a</think>Well.</think>4",
}


@pytest.mark.parametrize("answer", VISIBLE.values(), ids=VISIBLE.keys())
def test_words_outside_of_a_thought_are_not_dropped_as_reasoning(tmp_path, answer):
    turns = [user("2+2?"), assistant(answer), user("And?"), assistant("6")]
    found, tally = taken(tmp_path, [{"messages": turns}, GOOD], THINKING)
    assert len(found) == 1 and tally.skipped == {"the chat template rewrites a turn (assistant)": 1}


HIDDEN = {
    "a thought": "<think>\nfour\n</think>\n\n4",
    "a thought whose start stands in the prompt": "four\n</think>\n\n4",
    "two thoughts": "<think>a</think>\n<think>b</think>4",
    "a thought about a tag": "<think>what is <think> for?</think>4",
    "another tag first": "<reasoning>a</reasoning>\n<think>b</think>4",
}


@pytest.mark.parametrize("answer", HIDDEN.values(), ids=HIDDEN.keys())
def test_thought_that_begins_a_turn_may_be_left_out(tmp_path, answer):
    turns = [user("2+2?"), assistant(answer), user("And?"), assistant("6")]
    found, tally = taken(tmp_path, [{"messages": turns}], THINKING)
    assert found[0][1] == ("assistant", "4") and tally.notes == {NO_REASONING: 1} and not tally.skipped


# Reasoning and tool calls next to a content.

UPPER = PLAIN.replace("m.content", "(m.reasoning_content or '') + ' ' + (m.content | upper)")
CALLS_ONLY = PLAIN.replace(
    "m.content", "('CALL ' + m.tool_calls[0].function.name if m.tool_calls else m.content)"
)
FIRST = PLAIN.replace("m.content", "(m.reasoning_content + ': ' if m.reasoning_content else '') + m.content")


@pytest.mark.parametrize("content", ["I get it", "get", "Let me get the weather"])
def test_call_that_is_left_out_is_told_even_if_its_name_is_said(tmp_path, content):
    record = {"messages": [user("Hi"), assistant(content) | {"tool_calls": [CALL]}]}
    found, tally = taken(tmp_path, [record], PLAIN)
    assert found == [[("user", "Hi"), ("assistant", content)]] and tally.notes == {NO_CALL: 1}
    found, tally = taken(tmp_path, [record], TOOLS)
    assert found[0][1] == ("assistant", content + '<call>{"name": "get", "arguments": {"x": 1}}</call>')
    assert not tally.notes


@pytest.mark.parametrize("content", ["get", "C", "Let me get the weather"])
def test_content_that_a_call_drives_out_is_told_even_if_the_call_has_its_letters(tmp_path, content):
    record = {"messages": [user("Hi"), assistant(content) | {"tool_calls": [CALL]}]}
    found, tally = taken(tmp_path, [record], CALLS_ONLY)
    assert found == [] and tally.skipped == {"the chat template rewrites a turn (assistant)": 1}


@pytest.mark.parametrize("content", ["a", "what", "What a day"])
def test_content_that_is_rewritten_next_to_reasoning_is_told(tmp_path, content):
    record = {"messages": [user("HI"), assistant(content) | {"reasoning_content": "what a day"}]}
    found, tally = taken(tmp_path, [record], UPPER)
    assert found == [] and tally.skipped == {"the chat template rewrites a turn (assistant)": 1}


def test_reasoning_that_is_left_out_is_told_even_if_the_content_says_it(tmp_path):
    record = {"messages": [user("2+2?"), assistant("four, so 4") | {"reasoning_content": "four"}]}
    found, tally = taken(tmp_path, [record], PLAIN)
    assert found == [[("user", "2+2?"), ("assistant", "four, so 4")]] and tally.notes == {NO_REASONING: 1}
    found, tally = taken(tmp_path, [record], FIRST)
    assert found[0][1] == ("assistant", "four: four, so 4") and not tally.notes


@pytest.mark.parametrize(
    ("written", "notes"),
    [
        ("c.function.name", {"arguments of tool calls that the chat template leaves out": 1}),
        ("c.function.name + (c.function.arguments | tojson)", {}),
        ("c.function.name + (c.function.arguments | string)", {}),
    ],
)
def test_arguments_that_are_left_out_are_told(tmp_path, written, notes):
    template = PLAIN.replace(
        "m.content + '</s>\\n' }}",
        "m.content }}{% for c in m.tool_calls or [] %}{{ " + written + " }}{% endfor %}{{ '</s>\\n' }}",
    )
    turns = [user("Hi"), assistant("") | {"tool_calls": [CALL]}, user("Go"), assistant("Yo")]
    found, tally = taken(tmp_path, [{"messages": turns}], template)
    assert found[0][1][1].startswith("get") and tally.notes == notes and not tally.skipped
    turns[1] |= {"tool_calls": [{"function": {"name": "get", "arguments": {}}}]}
    assert taken(tmp_path, [{"messages": turns}], template)[1].notes == {}


def test_learned_tokens_are_the_answers_own():
    renders = tokenizer(TOOLS)
    turns = [user("Hi"), assistant("I get it") | {"tool_calls": [CALL]}]
    sequence = chat_sequence(turns, renders, "the chat")
    learned = renders.decode(sequence.token[is_answer(sequence.role, sequence.template)])
    assert learned == 'I get it<call>{"name": "get", "arguments": {"x": 1}}</call></s>\n'


# What templates write around turns and do to all of them.

TEMPLATES = {
    "adds a system prompt": "{{ '<s>system\\nBe kind.</s>\\n' }}" + PLAIN,
    "writes BOS itself": "{{ '<s>' }}" + PLAIN,
    "leaves the last turn open": PLAIN.replace("'</s>\\n'", "('' if loop.last else '</s>\\n')"),
    "trims every turn": PLAIN.replace("m.content", "(m.content | trim)"),
    "counts turns": PLAIN.replace("m.role + ", "m.role + ' ' + (loop.index | string) + "),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_words_are_found_whatever_a_template_writes_around_them(tmp_path, name):
    found, tally = taken(
        tmp_path, [GOOD, {"messages": [*GOOD["messages"], user("\nA\n\nb"), assistant("c")]}], TEMPLATES[name]
    )
    last = "A\n\nb" if "trims" in name else "\nA\n\nb"
    assert found == [SAID, [*SAID, ("user", last), ("assistant", "c")]] and not tally.skipped


@pytest.mark.parametrize(
    ("template", "does"),
    [
        (PLAIN.replace("m.content", "(m.content | replace('\\n', ' '))"), "rewrites a turn (user)"),
        (PLAIN.replace("in messages", "in messages[-1:]"), "leaves out a turn (user)"),
        (PLAIN + "{{ messages[0].content }}", "repeats a turn (user)"),
        (" ", "leaves out a turn (user)"),
        (PLAIN.replace("in messages", "in messages | reverse"), "reorders the turns"),
    ],
)
def test_template_that_changes_what_is_said_is_told(tmp_path, template, does):
    found, tally = taken(tmp_path, [{"messages": [user("Hi\nthere."), assistant("Yo.")]}], template)
    assert found == [] and tally.skipped == {f"the chat template {does}": 1}


# A fine-tune on chats of which few or none can be used.


def train_on(folder, records, tokens):
    settings = Finetuning(data={"talk": tokens})
    return training_sequences({"talk": source(folder, records)}, {"talk": None}, tokenizer(PLAIN), settings)


@pytest.mark.parametrize("records", [3, 500])
def test_fine_tune_without_a_chat_stops_with_the_reason(tmp_path, records):
    seen = min(records, 200)
    assert one_line(train_on, tmp_path, [{"messages": []}] * records, 100) == (
        f"datasets.talk: {seen} of {seen} records can't be used (100.00%): {seen} x a chat without turns "
        '(record 0: {"messages": []}); mend the records, read them with another format or field'
    )


def test_fine_tune_with_too_few_chats_tells_how_many_were_skipped(tmp_path):
    message = one_line(train_on, tmp_path, [GOOD, {"messages": []}], 1000)
    assert message.startswith("finetune.data.talk: found 1,000, the data set's training chats have ")
    assert message.endswith(
        'tokens; 1 of 2 records can\'t be used: 1 x a chat without turns (record 1: {"messages": []})'
    )
