"""A trained crosscoder in a notebook: encode, decode, and what its tables and contexts say of each latent."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from crossdiff.config import BASE, CHAT, MODELS
from crossdiff.crosscoders.model import Crosscoder
from crossdiff.errors import UserError, first_line
from crossdiff.latents.catalogue import current, read_names
from crossdiff.latents.evaluation import with_judged
from crossdiff.models.chat_tokenizer import load_chat_tokenizer
from crossdiff.provenance.records import Record
from crossdiff.results.described import Column, describe
from crossdiff.results.home import PairNames, is_planted, pair_names, record_of, tokenizer_folder
from crossdiff.results.tokens import Codes, TextActivations, whole

WEIGHTS = "weights.safetensors"
TOP_COLUMNS = (
    *("norm_base", "norm_chat", "relative_norm_difference", "nu_error", "nu_reconstruction"),
    *("class", "norms_set", "confirmed", "does_not_apply", "name"),
)
# What table adds to betas.parquet.
NAMES = (
    Column("name", "text", "what the latent fires on, in words, if anything names it", "read-the-report.md"),
    Column("named_by", "text", "who named it: catalogue, language model or pattern", "explanations.md"),
)


class LoadedCrosscoder:
    """A trained crosscoder, and the tables of its latents if they lie next to it (``crossdiff.load``).

    Activations go in raw, as the models give them. The crosscoder applies its own mean, scale and threshold.
    """

    def __init__(self, module: Crosscoder, folder: Path, record: Record | None, check: bool) -> None:
        self.module = module  # torch's: weights, and operations on scaled activations
        self.folder = folder
        self.names = pair_names(record)  # of the models that it was trained on, where the record tells
        self.planted = is_planted(record)  # trained on planted activations, which no model gives
        self._record, self._check = record, check

    def __repr__(self) -> str:
        name = "/".join(self.folder.parts[-4:])
        said = f"; does not apply: {why}" if (why := self.module.limits.base_decoder) else ""
        return f"LoadedCrosscoder({name!r}, {self.latents} latents, layer {self.layer}{said})"

    @property
    def latents(self) -> int:
        """Number of latents."""
        return self.module.latents

    @property
    def d_model(self) -> int:
        """Width of one model's activations."""
        return self.module.d_model

    @property
    def layer(self) -> int:
        """The 0-based block whose output the crosscoder was trained on."""
        return self.module.layer

    @property
    def has_table(self) -> bool:
        """Whether its folder holds what the run found of each latent (``table``)."""
        return self._has("betas.parquet")

    @property
    def limits(self) -> dict[str, str]:
        """What its loss leaves without a value, or sets itself, and why. Empty for most losses.

        ``base_decoder`` says why there is none. Then norm differences, classes, nu ratios and twins do not
        apply, and are missing in ``table``. ``norms`` and ``errors`` say what the loss does to these.
        """
        said = self.module.limits.saved()
        return {name: text for name, text in said.items() if isinstance(text, str)}

    @torch.no_grad()
    def encode(self, activations: TextActivations | Tensor) -> Codes:
        """Codes f (docs/method.md 1) of raw activations: of a text, or (tokens, model, d_model).

        A text's first tokens and outliers get no active latent, because no crosscoder was trained on such
        tokens. A tensor says nothing of these, so leave them out. Codes are dense: tokens x latents x 4
        bytes.

        Raises UserError for activations of another width, layer or pair, and for NaN and infinite ones.
        """
        if isinstance(activations, Tensor):
            return Codes(self._encode(activations), None, str(self.folder))
        if not isinstance(activations, TextActivations):
            raise UserError(f"activations: found {_type(activations)}, allowed: Pair.activations or a tensor")
        self.check_pair(activations.names, activations.layer, activations.values.shape[-1])
        codes = self._encode(activations.values)
        codes[torch.from_numpy(~activations.counts)] = 0
        return Codes(codes, activations.tokens, str(self.folder))

    def _encode(self, values: Tensor) -> Tensor:
        if tuple(values.shape[1:]) != (len(MODELS), self.d_model) or values.dim() != 3:
            wanted = f"(tokens, {len(MODELS)}, {self.d_model})"
            raise UserError(f"activations: found the shape {tuple(values.shape)}, allowed: {wanted}")
        bad = (~values.isfinite()).any(dim=2).any(dim=1).nonzero()
        if len(bad):
            raise UserError(f"activations: found NaN or infinite values, first at token {int(bad[0])}")
        device = self.module.decoder.device
        return self.module.encode(self.module.normalise(values.to(device))).cpu()

    @torch.no_grad()
    def decode(self, codes: Codes | Tensor) -> Tensor:
        """Raw activations (tokens, model, d_model) float32 that codes (tokens, latents) stand for.

        Without a base decoder it is their difference, chat minus base: (tokens, d_model).

        Raises UserError for codes of another crosscoder or another number of latents.
        """
        values = codes if isinstance(codes, Tensor) else self._own(codes).values
        if values.dim() != 2 or values.shape[1] != self.latents:
            wanted = f"(tokens, {self.latents})"
            raise UserError(f"codes: found the shape {tuple(values.shape)}, allowed: {wanted}")
        scaled = self.module.decode(values.to(self.module.decoder.device).float())
        if self.module.limits.base_decoder:  # both models have one scale
            mean = self.module.mean[CHAT] - self.module.mean[BASE]
            return (scaled[:, CHAT] / self.module.scale[CHAT] + mean).cpu()
        return (scaled / self.module.scale[:, None] + self.module.mean).cpu()

    def _own(self, codes: Codes) -> Codes:
        if not isinstance(codes, Codes):
            raise UserError(f"codes: found {_type(codes)}, allowed: what encode gives")
        if codes.crosscoder != str(self.folder):
            raise UserError(f"codes: found those of {codes.crosscoder}, allowed: those of {self.folder}")
        return codes

    @torch.no_grad()
    def top(self, codes: Codes, n: int = 5) -> pd.DataFrame:
        """The ``n`` strongest active latents of every token, strongest first: one row per token and latent.

        Columns: position, token, latent, activation f and strength v. Strength is f times the weight of the
        latent's decoder (docs/method.md 4), and orders a token's rows. Where the folder holds ``table``, its
        norms, nu ratios, class, verdict and name stand next to them. The ratios are those that judge the
        latent: mirrored ones if it is base-only.

        Raises UserError for codes of another crosscoder, and for ``n`` below 1.
        """
        values = self._own(codes).values.float()
        strength = values * self.weights()
        best = strength.topk(min(whole("n", n, 1), self.latents), dim=1)
        row, place = (best.values > 0).nonzero(as_tuple=True)
        latent = best.indices[row, place]
        found = pd.DataFrame(
            {
                "position": row.numpy(),
                "token": [None if codes.tokens is None else codes.tokens[number] for number in row.tolist()],
                "latent": latent.numpy(),
                "activation": values[row, latent].numpy(),
                "strength": best.values[row, place].numpy(),
            }
        )
        if not self.has_table:
            return found
        table = with_judged(self.table())
        wanted = ["latent", *(column for column in TOP_COLUMNS if column in table)]
        return found.merge(table[wanted], on="latent", how="left")

    @torch.no_grad()
    def weights(self) -> Tensor:
        """What an activation of each latent is multiplied with to give its strength: (latents,) on the CPU.

        With decoupled code normalisation it is the larger of both models'."""
        return self.module.code_weights().reshape(self.latents, -1).amax(dim=1).cpu()

    def table(self) -> pd.DataFrame:
        """One row per latent: norms, betas, nu ratios, class, verdicts and name. ``columns`` describes each
        column.

        ``name`` comes from the catalogue, else from a language model's explanation, else from a pattern.
        ``named_by`` says which. Raises UserError where the folder holds no table, or a stale one."""
        return self._table.copy()

    @cached_property
    def _table(self) -> pd.DataFrame:
        betas = self._read("betas.parquet")
        betas["name"], betas["named_by"] = pd.NA, pd.NA
        for file, by in (("patterns.parquet", "pattern"), ("explanations.parquet", "language model")):
            if self._has(file):
                found = self._read(file).dropna(subset="explanation")
                self._name(betas, dict(zip(found.latent, found.explanation, strict=True)), by)
        catalogue = self.folder.parent.parent / "tables/names.csv"
        if catalogue.exists():
            training = self.folder.parent.name, int(self.folder.name.removeprefix("seed"))
            self._name(betas, current(read_names(self._checked(catalogue)), *training), "catalogue")
        return betas

    @staticmethod
    def _name(betas: pd.DataFrame, names: dict[int, str], by: str) -> None:
        rows = betas.latent.isin(names.keys())
        betas.loc[rows, "name"], betas.loc[rows, "named_by"] = betas.latent[rows].map(names), by

    def columns(self) -> pd.DataFrame:
        """What each column of ``table`` is: column, unit, meaning, source (a section of docs/method.md)."""
        known = describe("betas.parquet") | {column.name: column for column in NAMES}
        rows = [(name, known[name].unit, known[name].means, known[name].source) for name in self._table]
        return pd.DataFrame(rows, columns=["column", "unit", "meaning", "source"])

    def contexts(self, latent: int, n: int = 10) -> pd.DataFrame:
        """The ``n`` strongest contexts of a latent in the training text, strongest first.

        Columns: peak (its largest activation in the sequence), text, token (the one at the peak), and two
        lists with an entry per token of the context: tokens and activations. Raises UserError for a latent
        that does not exist, and where the folder holds no contexts, or stale ones."""
        filters = [("latent", "==", self.checked_latent(latent)), ("strongest", "==", True)]
        found = self._read("examples.parquet", filters)
        found = found.sort_values("peak", ascending=False, kind="stable", ignore_index=True)
        found = found.head(whole("n", n, 1))
        tokenizer = load_chat_tokenizer(tokenizer_folder(self.folder / WEIGHTS, self._record))
        tokens = [[_text(tokenizer, [token]) for token in row] for row in found.tokens]
        peaks = [int(np.argmax(row)) for row in found.activations]
        return pd.DataFrame(
            {
                "peak": found.peak,
                "text": [_text(tokenizer, row.tolist()) for row in found.tokens],
                "token": [row[peak] for row, peak in zip(tokens, peaks, strict=True)],
                "tokens": tokens,
                "activations": [row.tolist() for row in found.activations],
            }
        )

    def checked_latent(self, latent: int) -> int:
        """The latent's number. Raises UserError where there is no such latent."""
        return whole("latent", latent, 0, self.latents - 1)

    def check_pair(self, names: PairNames, layer: int, d_model: int) -> None:
        """Raises UserError where it was not trained on these models, this layer and this width."""
        if self.planted:
            raise UserError(f"{self.folder}: trained on planted activations, which no pair of models gives")
        for what, own, given in (("layer", self.layer, layer), ("width", self.d_model, d_model)):
            if own != given:
                raise UserError(f"{self.folder}: trained at {what} {own}, the pair has {what} {given}")
        if self.names is not None and self.names != names:
            trained, found = (f"{pair.base} and {pair.chat}" for pair in (self.names, names))
            raise UserError(f"{self.folder}: trained on {trained}, the pair is {found}")

    def _has(self, name: str) -> bool:
        return (self.folder / name).exists()

    def _read(self, name: str, filters: Sequence[tuple[str, str, object]] = ()) -> pd.DataFrame:
        path = self.folder / name
        if not path.exists():
            raise UserError(f"{path}: not there; finish the run, or load the crosscoder from its results/")
        try:
            return pd.read_parquet(self._checked(path), filters=list(filters) or None)
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: damaged ({first_line(error)}); run the workflow again") from error

    def _checked(self, path: Path) -> Path:
        record_of(path, self._check)
        return path


def _text(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> str:
    [text] = tokenizer.batch_decode([ids])
    return text


def _type(value: object) -> str:
    return type(value).__name__
