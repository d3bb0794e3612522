"""What the live page does with models and crosscoders, without a server.

One lock serialises everything that runs a model. A streamed answer takes it for each token, so that others
get their turn in between.
"""

import re
import threading
from collections import OrderedDict
from collections.abc import Generator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from scipy.sparse import csc_matrix
from transformers import PreTrainedModel

from crossdiff.errors import UserError
from crossdiff.interventions.changes import Change
from crossdiff.interventions.streamed import (
    Effect,
    Known,
    answer_stream,
    effect,
    known_prompt,
    together,
)
from crossdiff.latents.catalogue import training_name, weights_digest
from crossdiff.models.turns import turn_ends
from crossdiff.report.browser.pieces import numbers
from crossdiff.results.crosscoder import WEIGHTS, LoadedCrosscoder
from crossdiff.results.loading import load
from crossdiff.results.pair import LAYER, PAIR, Pair
from crossdiff.texts.chats import Sequence as TokenSequence

KEPT = 4  # prompts whose codes are kept for the next requests
TOP_OF_TOKEN, TOP_OF_PROMPT, MOVED = 8, 30, 8  # latents, latents, tokens
MOST_CHANGES = 8
MOST_TOKENS = 4096  # of a prompt: its codes of all latents are dense for a moment
SEED = re.compile(r"seed\d+")  # names of trainings' folders
SHOWN = ("class", "confirmed", "max_activation", "name", "named_by", "nu_error", "relative_norm_difference")
Mode = Literal["chat", "text"]


class Setting(NamedTuple):
    """How one latent is changed. ``strength`` counts largest activations, and is None for an ablation."""

    latent: int
    strength: float | None


class Read(NamedTuple):
    """A prompt that both models have read."""

    sequence: TokenSequence
    tokens: list[str]
    counts: np.ndarray  # (tokens,) bool: False where no crosscoder was trained on such a token
    codes: csc_matrix  # (tokens, latents)


def open_pair(folder: str | Path, check: bool = True) -> Pair:
    """The pair of a results folder: ``results/PAIR`` of a run with one layer, or ``results/PAIR/layerN``."""
    path = Path(folder).expanduser()
    layer = LAYER.fullmatch(path.resolve().name)
    if layer and (path / PAIR).exists():
        return Pair(path.resolve().parent, int(layer[1]), check)
    return Pair(path, check=check)


class Session:
    """A pair of models with its crosscoders. Everything in it may be called from several threads."""

    def __init__(self, pair: Pair, check: bool = True) -> None:
        """Raises UserError where the layer's folder holds no crosscoder."""
        self.pair, self.folder = pair, pair.folder / f"layer{pair.layer}"
        self.lock = threading.Lock()
        self._check = check
        found = sorted(self.folder.glob(f"*/seed*/{WEIGHTS}"))
        self.folders = {
            training_name(path.parent.parent.name, int(path.parent.name.removeprefix("seed"))): path.parent
            for path in found
            if SEED.fullmatch(path.parent.name)
        }
        if not self.folders:
            raise UserError(f"{self.folder}: found no crosscoder, allowed: the results of a finished run")
        self._loaded: dict[str, LoadedCrosscoder] = {}
        self._digests: dict[str, str] = {}  # of the weights of each
        self._read: OrderedDict[tuple[str, str, str], Read] = OrderedDict()
        self._known: tuple[bytes, Known] | None = None

    def start(self) -> None:
        """Load both models and the first crosscoder, and read one short prompt, so that the next is quick."""
        self.prompt(next(iter(self.folders)), "text", "Hello")

    # What a prompt activates.

    def prompt(self, crosscoder: str, mode: Mode, text: str) -> dict[str, Any]:
        """The tokens of a prompt with their top latents, and the top latents of the whole prompt.

        ``mode`` chat takes ``text`` as a user's turn that the chat model is to answer, and text takes it as
        it is. The latents of a token are ordered by strength (docs/method.md 4), those of the prompt by their
        largest strength in it. Raises UserError for an unknown crosscoder, for a text that is empty, and for
        one that is longer than a model's context.
        """
        with self.lock:
            read, loaded = self._codes(crosscoder, mode, text), self._crosscoder(crosscoder)
            strength = read.codes.multiply(loaded.weights().numpy()).tocsr()
        tops = [_strongest(strength[row], TOP_OF_TOKEN) for row in range(len(read.tokens))]
        peaks = np.asarray(strength.max(axis=0).todense())[0]
        best = np.argsort(-peaks, kind="stable")[:TOP_OF_PROMPT]
        best = best[peaks[best] > 0].tolist()
        largest = numbers(read.codes.max(axis=0).todense()[0, best].A1)
        rows = read.codes.tocsr()
        return {
            "tokens": [
                {
                    "text": token.replace("\n", "\u21b5"),
                    "template": int(part),
                    "counts": bool(counts),
                    "top": [[latent, numbers([rows[row, latent]])[0]] for latent in tops[row]],
                }
                for row, (token, part, counts) in enumerate(
                    zip(read.tokens, read.sequence.template, read.counts, strict=True)
                )
            ],
            "top": [list(pair) for pair in zip(best, largest, strict=True)],
            "latents": self._facts(loaded, sorted({*best, *(latent for top in tops for latent in top)})),
        }

    def latent(self, crosscoder: str, mode: Mode, text: str, latent: int) -> dict[str, Any]:
        """The activations of one latent on a prompt, by token, and what is known of the latent.

        Raises UserError for an unknown latent, and as ``prompt`` does.
        """
        with self.lock:
            loaded = self._crosscoder(crosscoder)
            latent = loaded.checked_latent(latent)
            read = self._codes(crosscoder, mode, text)
        values = numbers(read.codes[:, [latent]].toarray()[:, 0])
        return {"latent": latent, "values": values, "latents": self._facts(loaded, [latent])}

    def _codes(self, crosscoder: str, mode: Mode, text: str) -> Read:
        key = (crosscoder, mode, text)
        if key not in self._read:
            sequence = self.sequence(mode, text)
            activations = self.pair.read(sequence)
            codes = self._crosscoder(crosscoder).encode(activations).values.float()
            found = Read(sequence, activations.tokens, activations.counts, csc_matrix(codes.numpy()))
            self._read[key] = found
        self._read.move_to_end(key)
        while len(self._read) > KEPT:
            self._read.popitem(last=False)
        return self._read[key]

    def sequence(self, mode: Mode, text: str, new_tokens: int = 0) -> TokenSequence:
        """The tokens of a prompt.

        Raises UserError if it and ``new_tokens`` do not fit the context, and beyond MOST_TOKENS.
        """
        chat = mode == "chat"
        found = self.pair.asked(text, max(1, new_tokens)) if chat else self.pair.sequence(text, new_tokens)
        if len(found.token) > MOST_TOKENS:
            raise UserError(f"prompt: found {len(found.token):,} tokens, allowed: up to {MOST_TOKENS:,} here")
        return found

    def weights(self, crosscoder: str) -> str:
        """Digest of the weights that the page uses. Raises UserError for an unknown crosscoder."""
        with self.lock:
            self._crosscoder(crosscoder)
        return self._digests[crosscoder]

    def _folder(self, crosscoder: str) -> Path:
        if crosscoder not in self.folders:
            raise UserError(f"crosscoder: found {crosscoder[:80]}, allowed: {', '.join(self.folders)}")
        return self.folders[crosscoder]

    def _crosscoder(self, name: str) -> LoadedCrosscoder:
        if name not in self._loaded:
            loaded = load(self._folder(name), self._check)
            self._digests[name] = weights_digest(loaded.folder / WEIGHTS)
            loaded.check_pair(self.pair.names, self.pair.layer, loaded.d_model)
            self._loaded[name] = loaded
        return self._loaded[name]

    def _facts(self, crosscoder: LoadedCrosscoder, latents: Sequence[int]) -> dict[int, dict[str, Any]]:
        """What the page says of each latent. Nothing where the crosscoder's folder holds no tables."""
        if not crosscoder.has_table:
            return {latent: {} for latent in latents}
        table = crosscoder.table().set_index("latent").loc[list(latents)]
        rows = table[[name for name in SHOWN if name in table]].to_dict("index")
        return {
            int(latent): {name: _plain(value) for name, value in row.items()} for latent, row in rows.items()
        }

    # What changes of latents do.

    def effect(self, crosscoder: str, mode: Mode, text: str, settings: Sequence[Setting]) -> dict[str, Any]:
        """KL between the chat model's predictions and the steered ones over a prompt, and the moved tokens.

        - kl: nats of each token's prediction of the next one; mean: over the tokens that are steered; last:
          at the prompt's last token
        - promoted, suppressed: [token, probability before, and after] of the token after the prompt, with the
          largest differences first

        Raises UserError for a chat model without a head, and as ``latent`` and ``Pair.adding`` do.
        """
        start = self.pair.summary.skip_first
        with self.lock:
            ids, changes = self.sequence(mode, text).token, self._changes(crosscoder, settings)
            known = self._known_prompt(ids)
            found = effect(_with_head(self.pair.chat, "chat"), known, self.pair.layer, changes, start)
        steered = found.kl[start:]
        return {
            "kl": numbers(found.kl),
            "mean": numbers([steered.mean() if len(steered) else np.nan])[0],
            "last": numbers(found.kl[-1:])[0],
            "start": start,
            **self._moved(found),
        }

    def _known_prompt(self, ids: np.ndarray) -> Known:
        key = ids.tobytes()
        if self._known is None or self._known[0] != key:
            self._known = key, known_prompt(_with_head(self.pair.chat, "chat"), ids, self.pair.layer)
        return self._known[1]

    def _moved(self, found: Effect) -> dict[str, list[list[Any]]]:
        moved: dict[str, list[list[Any]]] = {}
        for name, difference in (
            ("promoted", found.after - found.before),
            ("suppressed", found.before - found.after),
        ):
            best = difference.topk(min(MOVED, len(difference)))
            ids = best.indices[best.values > 0].tolist()
            texts = [str(self.pair.tokenizer.decode([token])) for token in ids]
            values = [numbers(part[ids].numpy()) for part in (found.before, found.after)]
            moved[name] = [
                [text.replace("\n", "\u21b5"), *row] for text, *row in zip(texts, *values, strict=True)
            ]
        return moved

    def _changes(self, crosscoder: str, settings: Sequence[Setting]) -> list[Change]:
        loaded = self._crosscoder(crosscoder)
        if len(settings) > MOST_CHANGES:
            raise UserError(f"latents: found {len(settings)} that are changed, allowed: {MOST_CHANGES}")
        changes = [
            self.pair.ablating(loaded, latent)
            if strength is None
            else self.pair.adding(loaded, latent, strength)
            for latent, strength in settings
        ]
        return together([Change(*(part.cpu() for part in change)) for change in changes])

    def answers(
        self, crosscoder: str, mode: Mode, text: str, settings: Sequence[Setting], new_tokens: int
    ) -> Generator[dict[str, Any], None, None]:
        """Answers of base, chat and steered chat, greedy and side by side: after each token, the text so far.

        Each item has who (base, chat or steered), text, tokens and done. Problems are raised before the first
        item: UserError for a prompt that leaves no room for the answer, and as in ``effect``.
        """
        with self.lock:
            prompt = self.sequence(mode, text, new_tokens).token
            changes = self._changes(crosscoder, settings)
            models = {
                "base": _with_head(self.pair.base, "base"),
                "chat": _with_head(self.pair.chat, "chat"),
            }
        return self._answers(prompt, mode, models | {"steered": models["chat"]}, changes, new_tokens)

    def _answers(
        self,
        prompt: np.ndarray,
        mode: Mode,
        models: dict[str, PreTrainedModel],
        changes: list[Change],
        new_tokens: int,
    ) -> Generator[dict[str, Any], None, None]:
        streams = {
            who: answer_stream(
                model,
                prompt,
                self.pair.layer,
                changes if who == "steered" else [],
                self.pair.summary.skip_first,
                new_tokens,
            )
            for who, model in models.items()
        }
        ids: dict[str, list[int]] = {who: [] for who in streams}
        while streams:
            for who, stream in list(streams.items()):
                with self.lock:
                    token = next(stream, None)
                if token is not None and token not in turn_ends(models[who]):
                    ids[who].append(token)
                ended = token is None or token in turn_ends(models[who])
                done = ended or len(ids[who]) == new_tokens
                yield {
                    "who": who,
                    "text": self._text(prompt, ids[who], mode),
                    "tokens": len(ids[who]),
                    "done": done,
                }
                if done:
                    del streams[who]

    def _text(self, prompt: np.ndarray, answer: list[int], mode: Mode) -> str:
        if mode == "chat":
            return self.pair.seen(prompt, np.array(answer, int)).text
        return str(self.pair.tokenizer.decode(answer, skip_special_tokens=True))

    # What the page needs once.

    @cached_property
    def about(self) -> dict[str, Any]:
        """Names of the pair, and which pages of the run are there."""
        return {
            "pair": self.pair.folder.name,
            "layer": self.pair.layer,
            "base": self.pair.names.base,
            "chat": self.pair.names.chat,
            "crosscoders": list(self.folders),
            "report": (self.folder / "report/index.html").exists(),
            "browser": (self.folder / "report/latents/index.html").exists(),
        }


def _with_head(model: PreTrainedModel, role: str) -> PreTrainedModel:
    """The same. Raises UserError for a model that predicts no token."""
    if model.get_output_embeddings() is None:
        raise UserError(f"the {role} model ({type(model).__name__}) has no head, so it predicts no tokens")
    return model


def _strongest(row: csc_matrix, count: int) -> list[int]:
    """The columns of the ``count`` largest positive entries of a row, the largest first."""
    order = np.argsort(-row.data, kind="stable")[:count]
    return [int(row.indices[place]) for place in order if row.data[place] > 0]


def _plain(value: Any) -> Any:
    """A table's value as JSON has it."""
    if pd.isna(value):
        return None
    if isinstance(value, (bool, np.bool_, str)):
        return bool(value) if isinstance(value, np.bool_) else value
    return numbers([value])[0]
