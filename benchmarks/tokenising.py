"""Tokenise made-up chats, some of them odd, and the start of a long document.

    python benchmarks/tokenising.py --tokenizer results/tokenizers/NAME [--chats 100000] [--megabytes 34]

Chats have about 200 tokens. One in 1,000 records can't be used: a malformed line, a chat without turns, a
turn without content, or one with an unknown role. A process of its own writes them as shards of a million
tokens. The tokenizer alone gets the same chats, rendered before, in batches of 1,000: once called as
Transformers calls it, and once by its library's ``encode_batch``. All take turns of 10,000 chats, so that a
machine whose speed drifts slows all alike.

The table has seconds, tokens per second, the share of each speed of the tokenizer that ``tokenise_shard``
reaches, and the peak memory of its process. It also counts the records that were skipped and made odd. Exit
code 1 says that the two numbers differ.

Of the document 1,500 tokens are wanted. The table has the seconds and the peak memory of a whole Python
process that writes them, and those of one that reads a document of 100 kB.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerFast
from turns import show

from crossdiff.config import TextSource
from crossdiff.models.chat_tokenizer import load_chat_tokenizer
from crossdiff.texts.counts import read_counts
from crossdiff.texts.tokenising import read_place, tokenise_shard

TURN = 10_000  # chats
SHARD = 1_000_000  # tokens
CONTEXT = 1024
BATCH = 1000  # chats
ODD = 1000  # one record of so many
WANTED = 1500  # tokens of the long document
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


def turns_of(tokenizer: PreTrainedTokenizerFast, count: int) -> Iterator[tuple[list[str], list[int]]]:
    """The chats of each turn as text, and their numbers."""
    texts: list[str] = []
    numbers: list[int] = []
    for number, (_, chat) in enumerate(chats(count)):
        if chat is not None:
            texts.append(str(tokenizer.apply_chat_template(chat, tokenize=False)))
            numbers.append(number)
        if (number + 1) % TURN == 0 or number + 1 == count:
            yield texts, numbers
            texts, numbers = [], []


def alone(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> tuple[float, float, list[int]]:
    """Seconds of the tokenizer alone, called and by its library, and the tokens of each text."""
    batches = [texts[first : first + BATCH] for first in range(0, len(texts), BATCH)]
    start = time.perf_counter()
    called = [tokenizer(batch, add_special_tokens=False)["input_ids"] for batch in batches]
    middle = time.perf_counter()
    for batch in batches:
        tokenizer.backend_tokenizer.encode_batch(batch, add_special_tokens=False)
    end = time.perf_counter()
    return middle - start, end - middle, [len(ids) for found in called for ids in found]


class Made(NamedTuple):
    seconds: float
    skipped: int
    text: int  # number of the next text
    peak: float  # GB


class Maker:
    """Makes shards in a process of its own."""

    tokenizer: PreTrainedTokenizerFast

    @classmethod
    def start(cls, folder: str) -> None:
        cls.tokenizer = load_chat_tokenizer(folder)

    @classmethod
    def shard(
        cls, source: TextSource, tokens: int, path: Path, following: Path, previous: Path | None
    ) -> Made:
        start = time.perf_counter()
        tokenise_shard(
            source, "made", "train", cls.tokenizer, CONTEXT, tokens, path, following, previous=previous
        )
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        return Made(
            seconds, sum(read_counts(following)["skipped"].values()), read_place(following)[0].text, peak
        )


def of_chats(folder: Path, tokenizer_folder: str, count: int, as_json: bool) -> bool:
    """Show the table of chats. Whether as many records were skipped as were made odd."""
    tokenizer = load_chat_tokenizer(tokenizer_folder)
    path = folder / "chats.jsonl"
    with path.open("w") as file:
        file.writelines(f"{line}\n" for line, _ in chats(count))
    source = TextSource(kind="chats", format="messages", files=[str(path)], validation_fraction=1e-9)
    lengths = np.zeros(count, np.int64)  # tokens of each chat, 0 of those that are odd
    called = library = shards = text = 0
    made: list[Made] = []
    previous = None
    with ProcessPoolExecutor(1, get_context("spawn"), Maker.start, (tokenizer_folder,)) as process:
        process.submit(os.getpid).result()
        for turn, (texts, numbers) in enumerate(turns_of(tokenizer, count)):
            if turn == 0:
                alone(tokenizer, texts[:BATCH])  # not counted
            *seconds, found = alone(tokenizer, texts)
            called, library = called + seconds[0], library + seconds[1]
            lengths[numbers] = found
            last = (turn + 1) * TURN >= count
            # A chat that is cut at the end of a shard is not in the next one.
            while (left := int(lengths[text:].sum())) >= SHARD or (left and last):
                following = folder / f"{shards}.next.json"
                job = (source, min(SHARD, left), folder / "shard.parquet", following, previous)
                made.append(process.submit(Maker.shard, *job).result())
                shards, previous, text = shards + 1, following, made[-1].text
    ours, skipped = sum(one.seconds for one in made), sum(one.skipped for one in made)
    rows = [
        {
            "what": what,
            "seconds": seconds,
            "tokens/s": lengths.sum() / seconds,
            "tokenise_shard reaches": seconds / ours,
            "peak GB": made[-1].peak if what == "tokenise_shard" else "",
        }
        for what, seconds in {
            "tokenizer, called": called,
            "tokenizer, encode_batch": library,
            "tokenise_shard": ours,
        }.items()
    ]
    show(rows, as_json)
    odd = -(-count // ODD)
    counted = f"{count:,} chats, {lengths.sum():,} tokens, {shards} shards"
    print(f"{counted}: {skipped} records skipped, {odd} made odd")
    return skipped == odd


PROCESS = """
import sys
from crossdiff.config import TextSource
from crossdiff.models.chat_tokenizer import load_chat_tokenizer
from crossdiff.texts.tokenising import tokenise_shard
tokenizer, path, tokens = sys.argv[1:]
source = TextSource(kind="documents", format="text", files=[path], validation_fraction=1e-9)
written = path + ".parquet", path + ".next.json"
tokenise_shard(source, "made", "train", load_chat_tokenizer(tokenizer), 1024, int(tokens), *written)
"""


def of_document(folder: Path, tokenizer_folder: str, megabytes: float, as_json: bool) -> None:
    """Show the table of documents."""
    random = np.random.default_rng(0)
    part = " ".join(random.choice([*WORDS.split(), "table", "window,", "river.\n"], 20_000))
    rows = []
    for size in (0.1, megabytes):
        path = folder / f"{size}.txt"
        path.write_text((part * (1 + int(size * 1e6) // len(part)))[: int(size * 1e6)])
        start = time.perf_counter()
        command = [sys.executable, "-c", PROCESS, tokenizer_folder, str(path), str(WANTED)]
        process = subprocess.Popen(command)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            sys.exit(f"{path}: exit status {status}")
        rows.append(
            {
                "document MB": size,
                "tokens": WANTED,
                "seconds of a process": time.perf_counter() - start,
                "peak GB": usage.ru_maxrss / 1e6,
            }
        )
    show(rows, as_json)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizer", required=True, help="folder of a tokenizer with a chat template")
    parser.add_argument("--chats", type=int, default=100_000)
    parser.add_argument("--megabytes", type=float, default=34)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        of_document(Path(name), arguments.tokenizer, arguments.megabytes, arguments.json)
        if not of_chats(Path(name), arguments.tokenizer, arguments.chats, arguments.json):
            sys.exit(1)


if __name__ == "__main__":
    main()
