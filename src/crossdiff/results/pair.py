"""Both models of a run in a notebook: a text's activations, answers, steering and patching of one prompt."""

import logging
import math
import re
import sys
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from crossdiff.activations.pairs import Summary, read_summary
from crossdiff.config import CHAT
from crossdiff.device import fast_dtype
from crossdiff.errors import UserError
from crossdiff.interventions.changes import Change
from crossdiff.interventions.patching import WHOLE, Variant, answer_kl
from crossdiff.interventions.steered_answers import answer, read
from crossdiff.models.answers import answered, greedy
from crossdiff.models.chat_tokenizer import load_chat_tokenizer
from crossdiff.models.forward import run_to_layer
from crossdiff.models.load import load_model
from crossdiff.models.parts import device_of_inputs
from crossdiff.models.replacements import with_replacements
from crossdiff.models.thoughts import Said, said, without_thinking
from crossdiff.models.turns import contents, end_turns_as
from crossdiff.provenance.records import RESULTS
from crossdiff.provenance.storage import read_json
from crossdiff.results.crosscoder import LoadedCrosscoder
from crossdiff.results.home import located, pair_names, record_of, root_of, tokenizer_folder
from crossdiff.results.tokens import TextActivations, whole
from crossdiff.texts.chats import Sequence, chat_sequence, is_answer
from crossdiff.texts.documents import document_windows
from crossdiff.texts.formats import Turn, texts
from crossdiff.texts.unusable import Unusable

log = logging.getLogger(__name__)

LAYER = re.compile(r"layer(\d+)")
PAIR, SUMMARY = "pair.json", "summary.json"
BATCH_TOKENS = 8192  # of a forward pass


class Pair:
    """Both models of a finished run, its tokenizer and its layer. A model is loaded when it is needed."""

    def __init__(self, folder: str | Path, layer: int | None = None, check: bool = True) -> None:
        """``folder``: ``results/{pair}`` of a finished run. ``layer`` is needed where the run has several.

        Raises UserError where the folder holds no pair of models, and where it is stale. ``check=False``
        takes what is stale too.
        """
        self.folder = located(folder)
        self.layer = self._layer(layer)  # the 0-based block whose output is compared
        here = self.folder / f"layer{self.layer}"
        # pair.json is made from both models' checked.json, so its record names them.
        record = record_of(here / PAIR, check)
        root, names = root_of(here / PAIR, record), pair_names(record)
        if root is None or names is None:
            raise UserError(
                f"{self.folder}: found no pair of two models, allowed: results/NAME of a run with two models"
            )
        self.names = names  # of the two models
        self._models = root / RESULTS / "models"
        self._check = check
        record_of(here / SUMMARY, check)
        replaced = read_json(here / PAIR).get("replaced_for_base", {})
        self._replacements = {int(number): instead for number, instead in replaced.items()}
        self.summary: Summary = read_summary(here / SUMMARY)  # mean, scale and outliers of the activations
        folder_of_tokenizer = tokenizer_folder(here / PAIR, record)
        self.tokenizer = load_chat_tokenizer(folder_of_tokenizer)  # for both models, with the chat template

    def __repr__(self) -> str:
        return f"Pair({self.names.base!r} and {self.names.chat!r}, layer {self.layer})"

    def _layer(self, layer: int | None) -> int:
        found = [LAYER.fullmatch(path.parent.name) for path in self.folder.glob(f"layer*/{PAIR}")]
        there = sorted(int(name[1]) for name in found if name)
        if not there:
            raise UserError(f"{self.folder}: found no layer*/{PAIR}, allowed: results/NAME of a finished run")
        if layer is None and len(there) == 1:
            return there[0]
        if layer is None or whole("layer", layer, 0) not in there:
            asked = "no layer named" if layer is None else f"layer {layer} asked for"
            raise UserError(f"{self.folder}: {asked}, allowed: {', '.join(map(str, there))}")
        return layer

    @cached_property
    def base(self) -> PreTrainedModel:
        """The base model, on the GPUs if there are any."""
        return with_replacements(self._model(self.names.base), self._replacements)

    @cached_property
    def chat(self) -> PreTrainedModel:
        """The chat model, on the GPUs if there are any."""
        return self._model(self.names.chat)

    def _model(self, name: str) -> PreTrainedModel:
        folder = self._models / name
        if not folder.exists():
            raise UserError(f"{folder}: not there; the pair's results are, but not its models")
        record_of(folder, self._check)
        model = load_model(folder, fast_dtype())
        end_turns_as(model, self.tokenizer)
        return model

    def activations(self, text: str | list[Turn]) -> TextActivations:
        """Both models' raw activations of every token, at the layer.

        A string is read as a document. A list of turns ``{"role": ..., "content": ...}`` is read as a chat.
        Raises UserError for a text that is empty or longer than a model's context.
        """
        return self.read(self.sequence(text))

    def sequence(self, text: str | list[Turn], new_tokens: int = 0) -> Sequence:
        """The tokens of a text, which is read as in ``activations``.

        Raises UserError as it does, and where ``new_tokens`` more are longer than a model's context.
        """
        new_tokens = whole("new_tokens", new_tokens, 0)
        if not isinstance(text, str):
            return self._fitting(chat_sequence(_chat(text), self.tokenizer, "the chat"), new_tokens)
        parts = list(document_windows([text], self.tokenizer, sys.maxsize)[0])
        if not parts:
            raise UserError("text: found no token, allowed: text that is not empty")
        return self._fitting(parts[0], new_tokens)

    @torch.no_grad()
    def read(self, sequence: Sequence) -> TextActivations:
        """Both models' raw activations of every token of ``sequence``, at the layer."""
        ids = sequence.token
        batch = torch.from_numpy(ids).long()[None]
        models = (self.base, self.chat)
        both = [run_to_layer(model, batch.to(device_of_inputs(model)), self.layer)[0] for model in models]
        values = torch.stack([hidden.float().cpu() for hidden in both], dim=1)
        counts = self.summary.counts(np.arange(len(ids)), values.norm(dim=2).T.numpy())
        tokens = self.tokenizer.batch_decode([[token] for token in ids.tolist()])
        return TextActivations(values, tokens, counts, self.layer, self.names)

    def _fitting(self, sequence: Sequence, new_tokens: int = 0) -> Sequence:
        """The same. Raises UserError if it and an answer are longer than a model's context."""
        configs = [model.config.get_text_config() for model in (self.base, self.chat)]
        longest = min(getattr(config, "max_position_embeddings", None) or sys.maxsize for config in configs)
        if len(sequence.token) + new_tokens > longest:
            asked = f" and {new_tokens} new ones" if new_tokens else ""
            raise UserError(f"text: found {len(sequence.token)} tokens{asked}, allowed: {longest} in all")
        return sequence

    @cached_property
    def _asking(self) -> PreTrainedTokenizerBase:
        """The tokenizer. Its chat template switches thinking off if it can."""
        return without_thinking(self.tokenizer)[0]

    def asked(self, prompt: str | list[Turn], new_tokens: int) -> Sequence:
        """The tokens that a model gets to answer ``prompt`` (see ``answer``).

        Raises UserError if it and ``new_tokens`` are longer than a model's context.
        """
        chat = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else _chat(prompt)
        asked = chat_sequence(chat, self._asking, "the prompt", ask=True)
        return self._fitting(asked, whole("new_tokens", new_tokens, 1))

    def answer(self, prompt: str | list[Turn], new_tokens: int = 64) -> str:
        """The chat model's greedy answer, as a reader sees it. A string is a user's turn.

        As in steering's table, thinking is switched off if the chat template can do so. A thought is left
        out. If there is nothing else, the answer is empty, and a warning says so.
        """
        ids = self.asked(prompt, new_tokens).token
        [answer] = greedy(self.chat, [ids], new_tokens)
        return self._text(ids, answer)

    def steer(
        self,
        prompt: str | list[Turn],
        crosscoder: LoadedCrosscoder,
        latent: int,
        strength: float,
        new_tokens: int = 64,
    ) -> str:
        """What ``answer`` gives while a latent is turned up, or down (docs/method.md 13).

        The unit of ``strength`` is the latent's largest activation in the training text. The change acts at
        every token of prompt and answer but the first ones. Raises UserError for a latent that does not exist
        or never fired."""
        return self._changed(prompt, self.adding(crosscoder, latent, strength), new_tokens)

    def ablate(
        self, prompt: str | list[Turn], crosscoder: LoadedCrosscoder, latent: int, new_tokens: int = 64
    ) -> str:
        """What ``answer`` gives without a latent's direction in the stream (docs/method.md 13)."""
        return self._changed(prompt, self.ablating(crosscoder, latent), new_tokens)

    def adding(self, crosscoder: LoadedCrosscoder, latent: int, strength: float) -> Change:
        """The change that ``steer`` makes. Raises UserError as it does."""
        if not math.isfinite(strength):
            raise UserError(f"strength: found {strength}, allowed: a finite number")
        latent = self._latent(crosscoder, latent)
        largest = float(crosscoder.table().set_index("latent").max_activation[latent])
        if not largest > 0:
            raise UserError(f"latent: {latent} never fired in the training text, so strengths have no unit")
        return Change.add(strength * largest * _raw(crosscoder, latent))

    def ablating(self, crosscoder: LoadedCrosscoder, latent: int) -> Change:
        """The change that ``ablate`` makes. Raises UserError for a latent that does not exist."""
        return Change.ablate(_raw(crosscoder, self._latent(crosscoder, latent)))

    def _latent(self, crosscoder: LoadedCrosscoder, latent: int) -> int:
        crosscoder.check_pair(self.names, self.layer, self._width)
        return crosscoder.checked_latent(latent)

    @property
    def _width(self) -> int:
        return len(self.summary.mean[0])

    def _changed(self, prompt: str | list[Turn], change: Change, new_tokens: int) -> str:
        ids, start = self.asked(prompt, new_tokens).token, self.summary.skip_first
        known = read(self.chat, [ids], self.layer, [start])
        [found] = answer(self.chat, known, [change], new_tokens)
        return self._text(ids, found.answers[0])

    def _text(self, prompt: np.ndarray, answer: np.ndarray) -> str:
        seen = self.seen(prompt, contents([answer], self.chat)[0])
        if seen.unfinished:
            log.warning("the answer is nothing but a thought; raise new_tokens")
        return seen.text

    def seen(self, prompt: np.ndarray, answer: np.ndarray) -> Said:
        """An answer to a prompt, both ids (tokens,), as a reader sees it. The turn's end is cut off."""
        return said([prompt], [answer], self._asking)[0]

    def patch(
        self,
        prompt: str | list[Turn],
        crosscoder: LoadedCrosscoder,
        latents: Iterable[int] = (),
        new_tokens: int = 64,
    ) -> pd.DataFrame:
        """KL of patched runs to the chat model, on its own answer to one prompt (docs/method.md 12).

        One row per patched run: none (base activations), latents (``latents`` added, subtraction form), all,
        error, template and bias. Columns: variant; tokens of the answer; kl, the mean of KL(p_chat ||
        p_patched) in nats per token; reduction, 1 - kl / kl of none. One answer is one sample, and supports
        no claim.

        Raises UserError for a crosscoder of another pair or layer, and for a latent that does not exist.
        """
        crosscoder.check_pair(self.names, self.layer, self._width)
        chosen = sorted({crosscoder.checked_latent(latent) for latent in latents})
        shard = answered(self.chat, [(0, self.asked(prompt, new_tokens))], new_tokens)
        wanted = is_answer(shard.role, shard.template) & (shard.position > 0)
        variants = [Variant(name) for name in WHOLE]
        if chosen:
            variants.insert(1, Variant("latents", "subtraction", np.array(chosen)))
        found = answer_kl(
            self.base, self.chat, crosscoder.module, self.summary, shard, wanted, variants, BATCH_TOKENS
        )
        kl = found.kl[wanted].mean(axis=0, dtype=np.float64)
        names = [variant.name for variant in variants]
        return pd.DataFrame(
            {"variant": names, "tokens": int(wanted.sum()), "kl": kl, "reduction": 1 - kl / kl[0]}
        )


def _raw(crosscoder: LoadedCrosscoder, latent: int) -> Tensor:
    """(d_model,): what activation 1 of a latent adds to the chat model's raw residual stream."""
    return crosscoder.module.decoder[latent, CHAT].float() / crosscoder.module.scale[CHAT]


def _chat(turns: list[Turn]) -> list[Turn]:
    """The same, checked. Raises UserError for what is no chat."""
    [chat] = texts([{"messages": turns}], "messages", None, "the chat")
    if isinstance(chat, Unusable):
        raise chat
    if isinstance(chat, str):
        raise UserError("the chat: found text, allowed: a list of turns")
    return chat
