"""Tokenise made-up chats, some of them odd, and compare with the tokenizer's own batch speed.

    python benchmarks/tokenising.py --tokenizer results/tokenizers/NAME [--chats 100000]

Chats have about 200 tokens. One in 1,000 records can't be used: a malformed line, a chat without turns, a
turn without content, or one with an unknown role. The same chats, rendered before, are given to the tokenizer
in batches of 1,000. Both take turns of 10,000 chats, so that a machine whose speed drifts slows both alike.

The table has seconds, tokens per second, the share of the tokenizer's speed, the peak memory of this process
and the number of records skipped and made odd. Exit code 1 says that the two numbers differ.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerFast
from turns import show

from crossdiff.config import TextSource
from crossdiff.models.chat_tokenizer import load_chat_tokenizer
from crossdiff.texts.shards import read_counts
from crossdiff.texts.tokenising import read_place, tokenise_shard

TURN = 10_000  # chats
SHARD = 1_000_000  # tokens
CONTEXT = 1024
BATCH = 1000  # chats
ODD = 1000  # one record of so many
WORDS = (
    "the of and to in a is that for it was on are as with his they at be this from have or by one had not but"
)


def chats(count: int) -> Iterator[tuple[str, list[dict[str, str]] | None]]:
    """Lines of a .jsonl file, and the chat of each, or None if it is odd."""
    random = np.random.default_rng(0)
    words = [*WORDS.split(), *("".join(random.choice(list("abcdefgh"), 5)) for _ in range(300))]
    for number in range(count):
        said = [" ".join(random.choice(words, size)) for size in (8, 24, 8, 24)]
        roles = ("user", "assistant") * 2
        turns = [{"role": role, "content": content} for role, content in zip(roles, said, strict=True)]
        line = json.dumps({"messages": turns})
        if number % ODD:
            yield line, turns
        else:
            nothing = line.replace(f'"{said[0]}"', "null", 1)
            role = line.replace('"user"', '"nobody"', 1)
            yield (line[:-2], '{"messages": []}', nothing, role)[number // ODD % 4], None


def render(tokenizer: PreTrainedTokenizerFast, file: Path, count: int) -> list[list[str]]:
    """Write the chats to ``file``. Gives them as text, for each turn."""
    rendered: list[list[str]] = [[] for _ in range(-(-count // TURN))]
    with file.open("w") as out:
        for number, (line, turns) in enumerate(chats(count)):
            out.write(line + "\n")
            if turns is not None:
                text = tokenizer.apply_chat_template(turns, tokenize=False)
                rendered[number // TURN].append(str(text))
    return rendered


def batch_speed(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> tuple[float, list[int]]:
    """Seconds of the tokenizer alone, and the tokens of each text."""
    start = time.perf_counter()
    lengths: list[int] = []
    for first in range(0, len(texts), BATCH):
        found = tokenizer(texts[first : first + BATCH], add_special_tokens=False)["input_ids"]
        lengths += map(len, found)
    return time.perf_counter() - start, lengths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizer", required=True, help="folder of a tokenizer with a chat template")
    parser.add_argument("--chats", type=int, default=100_000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    tokenizer = load_chat_tokenizer(arguments.tokenizer)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rendered = render(tokenizer, folder / "chats.jsonl", arguments.chats)
        batch_speed(tokenizer, rendered[0][:BATCH])  # not counted
        source = TextSource(
            kind="chats",
            format="messages",
            files=[str(folder / "chats.jsonl")],
            validation_fraction=1e-9,
        )
        seconds = {"tokenizer alone": 0.0, "tokenise_shard": 0.0}
        good = np.flatnonzero(np.arange(arguments.chats) % ODD)
        lengths = np.zeros(arguments.chats, np.int64)  # tokens of each chat, 0 of those that are odd
        tokens = skipped = shards = text = 0
        previous = None
        while rendered or lengths[text:].any():
            if rendered:
                spent, found = batch_speed(tokenizer, rendered.pop(0))
                seconds["tokenizer alone"] += spent
                lengths[good[: len(found)]], good = found, good[len(found) :]
            # A chat that is cut at the end of a shard is not in the next one.
            while (left := int(lengths[text:].sum())) >= SHARD or (left and not rendered):
                path, following = folder / "shard.parquet", folder / f"{shards}.next.json"
                size = min(SHARD, left)
                start = time.perf_counter()
                tokenise_shard(
                    source, "chats", "train", tokenizer, CONTEXT, size, path, following, previous=previous
                )
                seconds["tokenise_shard"] += time.perf_counter() - start
                skipped += sum(read_counts(path)["skipped"].values())
                tokens, shards, previous = tokens + size, shards + 1, following
                text = read_place(following)[0].text
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    rows = [
        {
            "what": what,
            "seconds": spent,
            "tokens/s": lengths.sum() / spent,
            "of the tokenizer": seconds["tokenizer alone"] / spent,
            "peak GB": peak,
        }
        for what, spent in seconds.items()
    ]
    show(rows, arguments.json)
    odd = -(-arguments.chats // ODD)
    made = f"{arguments.chats:,} chats, {lengths.sum():,} tokens, {shards} shards"
    print(f"{made}: {skipped} records skipped, {odd} made odd")
    sys.exit(skipped != odd)


if __name__ == "__main__":
    main()
