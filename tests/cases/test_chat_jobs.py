"""A user's odd chats on the whole way: from the config through the jobs to what is counted and audited."""

import json

from conftest import TINY, Checkout
from helpers_chats import said
from helpers_texts import assistant, user

from crossdiff.models.chat_tokenizer import load_chat_tokenizer
from crossdiff.texts.chats import Sequence
from crossdiff.texts.shards import read_shard

# Records and what is read of them: the turns, or the reason for which they are skipped.
RECORDS = [
    (
        {"conversations": [{"from": "Human", "value": "Say three."}, {"from": "gpt", "value": "Three."}]},
        "sharegpt",
    ),
    ({"instruction": "Say", "input": "four", "output": "Four."}, "instruction"),
    ({"instruction": "Say", "context": "five", "response": "Five."}, "instruction"),
    ({"prompt": "Say six.", "completion": "Six."}, "prompt_completion"),
    ({"messages": [user([{"type": "text", "text": "Say seven."}]), assistant("Seven.")]}, "messages"),
    ({"messages": [user("Say eight. "), assistant("\nEight."), user("And?")]}, "messages"),
    ({"messages": []}, "a chat without turns"),
    ({"messages": [user("Hi"), assistant(None)]}, "a turn without content"),
    ({"messages": [user(8)]}, "a content that is int, not text"),
    (
        {"messages": [user("Hi"), assistant("x") | {"tool_calls": "none"}]},
        "tool calls: found str, allowed: a list",
    ),
    ({"title": "a page"}, "a record that has no known format (fields: title); set format and field"),
    (
        {"prompt": "Say <|end|>.", "completion": "No."},
        "a turn that says '<|end|>', which is a token of the template",
    ),
]
SAID = [
    [("user", "Say three."), ("assistant", "Three.")],
    [("user", "Say\n\nfour"), ("assistant", "Four.")],
    [("user", "Say\n\nfive"), ("assistant", "Five.")],
    [("user", "Say six."), ("assistant", "Six.")],
    [("user", "Say seven."), ("assistant", "Seven.")],
    [("user", "Say eight."), ("assistant", "Eight."), ("user", "And?")],
]
SHARD = "results/tokens/tiny-chat/talk.train/0000.parquet"


def test_odd_chats_are_read_or_counted_and_too_many_stop_the_run(checkout: Checkout):
    records = [record for record, _ in RECORDS]
    records += [{"messages": [user(f"Say {number}."), assistant(f"{number}.")]} for number in range(100)]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (checkout.folder / "my chats.jsonl").write_text(lines)
    keys = {"kind": "chats", "format": "auto", "files": ["my chats.jsonl"], "validation_fraction": 1e-9}
    talk = {f"datasets.talk.{key}": value for key, value in keys.items()}
    talk |= {"datasets.talk.tokens": 600, "datasets.talk.validation_tokens": 60}

    config = "../my configs/m\xfcller.yaml"  # seen from the checkout
    (checkout.folder / config).parent.mkdir()

    def run(unusable: float) -> tuple[int, str]:
        changed = checkout.folder / checkout.changed(TINY, talk | {"tokens.unusable": unusable})
        changed.rename(checkout.folder / config)
        result = checkout.snakemake(SHARD, "--configfile", config)
        log = checkout.folder / "logs/tokens/tiny-chat/talk.train/0000.log"
        return result.returncode, log.read_text() if log.exists() else result.stdout

    code, log = run(0.01)
    assert code == 1 and "Traceback" not in log and not (checkout.folder / SHARD).exists()
    error = log.splitlines()[-1]
    assert "error: datasets.talk: 6 of " in error and "tokens.unusable allows 1.00%: 1 x " in error

    code, log = run(0.5)
    assert code == 0, log
    [line] = [line for line in log.splitlines() if '"skipped"' in line]
    counts = json.loads(line[line.index("{") :])
    reasons = [read for _, read in RECORDS[len(SAID) :]]
    assert counts["skipped"] == dict.fromkeys(sorted(reasons), 1)
    assert all(f"skipped, {reason}: record " in log for reason in reasons)
    notes = {"instruction": 2, "messages": counts["records"] - 6 - 4, "prompt_completion": 1, "sharegpt": 1}
    assert counts["notes"] == {f"read as {format}": number for format, number in notes.items()}

    tokenizer = load_chat_tokenizer(checkout.folder / "results/tokenizers/tiny-chat")
    shard, found = read_shard(checkout.folder / SHARD), []
    for document in dict.fromkeys(shard.document.tolist()):
        chosen = shard.document == document
        sequence = Sequence(shard.token[chosen], shard.role[chosen], shard.template[chosen])
        found.append(said(sequence, tokenizer))
    assert found[: len(SAID)] == SAID and found[len(SAID)] == [("user", "Say 0."), ("assistant", "0.")]
    for given in ((), ("--configfile", config)):  # without it, the config that the record names
        audited = checkout.crossdiff("audit", *given, SHARD)
        assert audited.returncode == 0 and "files verified" in audited.stdout, audited.stdout
