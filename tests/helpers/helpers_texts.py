"""Chats, files of documents and small tokenizers, and the one line that invalid ones give."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from crossdiff.config import TextSource
from crossdiff.errors import UserError


def one_line(call, *arguments, **named) -> str:
    """Give the message of the UserError in which a call, or reading what it gives, ends."""
    with pytest.raises(UserError) as caught:
        list(call(*arguments, **named))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


def parquet(records) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(records), sink)
    return sink.getvalue().to_pybytes()


def documents(*files, **more) -> TextSource:
    return TextSource(kind="documents", format="text", files=[str(file) for file in files], **more)


def write_jsonl(path: Path, documents) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    return path


CHATML = (
    "{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
MARKERS = (ROOT / "data/markers.jinja").read_text()
TRAINING_TEXT = ["the user said us and a: and the assistant said yes. a user is us."] * 20


def make_tokenizer(
    template: str, special: tuple[str, ...], bos: str | None = None
) -> PreTrainedTokenizerFast:
    """Make a small byte-level BPE tokenizer with words such as "user" as single tokens.

    It adds ``bos``, if given, to every text.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TRAINING_TEXT, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=bos, additional_special_tokens=list(special)
    )
    fast.chat_template = template
    return fast


TOKENIZERS = {
    "chatml": make_tokenizer(CHATML, ("<|im_start|>", "<|im_end|>")),
    "llama3": make_tokenizer(
        LLAMA3, ("<|bos|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), bos="<|bos|>"
    ),
    "markers": make_tokenizer(MARKERS, ("<issue_start>", "<issue_closed>")),
    "markers that are ordinary tokens": make_tokenizer(MARKERS, ()),
}
TOKENIZERS["markers that are ordinary tokens"].add_tokens(["<issue_start>", "<issue_closed>"])


WORDS = [
    *"the user said us and a yes no zwölf Straße don't we'll 12345 1,000.5 x_y".split(),
    "🙂",
    "日本",
    "--",
]
SPACES = [" "] * 12 + ["\n", "\n\n", "  ", "\t", " \n ", ", ", ". "]


def prose(words: int, seed: int = 0) -> str:
    """A made-up text with odd words and white space."""
    random = np.random.default_rng(seed)
    chosen = zip(random.choice(WORDS, words), random.choice(SPACES, words), strict=True)
    return "".join(word + space for word, space in chosen)
