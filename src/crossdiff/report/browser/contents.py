"""The content of the latent browser's pieces.

A table piece holds columns with one value per latent of a training. A chunk piece holds what the page shows
of CHUNK single latents, such as the contexts in which they fire. Tokens are numbers, and the vocabulary piece
spells them out.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from crossdiff.latents.applies import reason
from crossdiff.latents.catalogue import training_name
from crossdiff.latents.evaluation import with_judged
from crossdiff.latents.twin_counts import TWIN
from crossdiff.report.browser.pieces import Vocabulary, numbers

CHUNK = 64  # latents in one piece
BLOCK = 32 * CHUNK  # latents whose contexts are read together
SAMPLED = 3  # contexts of each quantile that are shown
NU = tuple(f"nu_{kind}{end}" for kind in ("error", "reconstruction") for end in ("", "_low", "_high"))
MEASURED = (
    "relative_norm_difference",
    "frequency",
    "max_activation",
    "norm_base",
    "norm_chat",
    "decoder_cosine",
    *NU,
)
SCORES = ("detection", "detection_low", "detection_high")
KL_FORM, KL_GROUP = "subtraction", "all"  # rows of a KL table that are shown


class TrainingFiles(NamedTuple):
    """Paths of the files of one training of a crosscoder. None means that the run has no such file."""

    betas: str
    template_tokens: str
    examples: str
    twins: str
    directions: str
    recurrences: str
    kl: str | None = None
    kl_sets: str | None = None
    patterns: str | None = None
    explanations: str | None = None


def table(training: TrainingFiles, named: pd.DataFrame, weights: str) -> dict[str, Any]:
    """Return the table piece: columns with one value per latent, and what is true of the whole training.

    ``named`` holds the training's checked names.
    """
    betas = with_judged(pd.read_parquet(training.betas))
    template = pd.read_csv(training.template_tokens, usecols=["template_share"]).template_share
    stale, valid = named[named.stale], named[~named.stale]
    names = dict(zip(valid.latent, valid["name"], strict=True))
    columns: dict[str, list[Any]] = {
        "name": [names.get(latent, "") for latent in betas.latent.tolist()],
        "class": betas["class"].fillna("").tolist(),
        "confirmed": [None if pd.isna(value) else int(value) for value in betas.confirmed],
        "template_share": numbers(template),
        "active_tokens": betas.active_tokens.tolist(),
        **{name: numbers(betas[name]) for name in MEASURED},
    }
    if "part" in betas:
        columns["part"] = betas.part.tolist()
    if "norms_set" in betas:
        columns["norms_set"] = betas.norms_set.astype(int).tolist()
    sets = kl_sets(training)
    columns |= {"kl": numbers(_kl_of_half(sets, len(betas)))} if sets else {}
    if tables := [pd.read_parquet(path).set_index("latent") for _, path in _explanations(training)]:
        # A language model's words replace a pattern.
        found = pd.concat(tables)
        found = found[~found.index.duplicated(keep="last")].reindex(betas.latent)
        columns["explanation"] = found.explanation.fillna("").tolist()
        columns |= {name: numbers(found[name]) for name in SCORES}
    noted = zip(named.latent, named.note, strict=True)
    return {
        "weights": weights,
        "does_not_apply": reason(betas),
        "columns": columns,
        "notes": {str(latent): note for latent, note in noted if latent in names and note},
        "stale": stale[["latent", "name", "weights"]].to_dict("records"),
        "kl_sets": [{**row, "members": members.tolist()} for row, members in sets],
    }


def kl_sets(training: TrainingFiles) -> list[tuple[dict[str, Any], np.ndarray]]:
    """Return the sets of latents that were patched together: how each changed the KL, and the set's latents.

    The list is empty if nothing was measured.
    """
    if not training.kl or not training.kl_sets:
        return []
    kl, members = pd.read_csv(training.kl), pd.read_csv(training.kl_sets)
    found = kl[(kl.form == KL_FORM) & (kl.group == KL_GROUP)].set_index("variant")
    ends = ("reduction", "reduction_low", "reduction_high")
    return [
        ({"set": name, **{end: numbers([found.loc[name, end]])[0] for end in ends}}, group.latent.to_numpy())
        for name, group in members.groupby("variant", sort=False)
    ]


def _kl_of_half(sets: Sequence[tuple[dict[str, Any], np.ndarray]], latents: int) -> np.ndarray:
    """Return (latents,) the KL reduction of the patched half, by norm difference, that holds each latent.

    It is NaN for a latent in no half.
    """
    values = np.full(latents, np.nan)
    for row, members in sets:
        if row["set"].endswith("_norm") and row["reduction"] is not None:
            values[members] = row["reduction"]
    return values


def chunks(
    training: TrainingFiles, latents: int, vocabulary: Vocabulary, others: Sequence[str]
) -> Iterator[list[dict[str, Any]]]:
    """Yield what the page shows of single latents, CHUNK of them at a time.

    ``others`` are the names of all trainings. Recurrences give the place of a training among them.
    """
    directions = pd.read_parquet(training.directions)
    recurrences, twins = pd.read_parquet(training.recurrences), pd.read_csv(training.twins)
    elsewhere = _lists(recurrences.latent, _recurrences(recurrences, others))
    pairs = _twins(twins)
    explained = [(kind, pd.read_parquet(path).set_index("latent")) for kind, path in _explanations(training)]
    for begin in range(0, latents, BLOCK):
        found = contexts(training.examples, begin, begin + BLOCK, vocabulary)
        for start in range(begin, min(begin + BLOCK, latents), CHUNK):
            rows = directions.iloc[start : start + CHUNK].to_dict("records")
            yield [
                {
                    "contexts": found.get(row["latent"], []),
                    "near": _pairs(row["near"], row["near_cosine"]),
                    "promoted": _tokens(row["promoted"], row["promoted_by"], vocabulary),
                    "suppressed": _tokens(row["suppressed"], row["suppressed_by"], vocabulary),
                    "elsewhere": elsewhere.get(row["latent"], []),
                    "twins": pairs.get(row["latent"], []),
                    "explanations": [
                        _explanation(kind, scores.loc[row["latent"]])
                        for kind, scores in explained
                        if row["latent"] in scores.index
                    ],
                }
                for row in rows
            ]


def contexts(examples: str, first: int, stop: int, vocabulary: Vocabulary) -> dict[int, list[dict[str, Any]]]:
    """Return each latent's contexts, strongest first.

    They are its strongest ones and up to SAMPLED random ones of each quantile.

    A context has: ``strongest`` (whether it is one of the strongest), ``quantile`` (of the sample that it is
    in, or None), ``tokens`` (numbers of ``vocabulary``), ``template`` (a digit per token: 0 content, 1
    header, 2 turn end) and ``active`` ([place, activation] where the latent fires).
    """
    read = pq.read_table(examples, filters=[("latent", ">=", first), ("latent", "<", stop)])
    rows = read.select(["latent", "quantile", "strongest", "sampled", "document"]).to_pandas()
    # Documents are hashes of texts, so their order does not depend on strength.
    by_document = rows[rows.sampled].sort_values("document", kind="stable")
    order = by_document.groupby(["latent", "quantile"]).cumcount()
    rows["sampled"] = order.reindex(rows.index, fill_value=SAMPLED) < SAMPLED
    chosen = rows.strongest | rows.sampled
    read, rows = read.filter(pa.array(chosen)).combine_chunks(), rows[chosen]
    lengths = pc.list_value_length(read["tokens"]).to_numpy()
    ends = np.cumsum(lengths)
    token, template, activation = (
        pc.list_flatten(read[name]).to_numpy() for name in ("tokens", "template", "activations")
    )
    token = vocabulary.places(token).tolist()
    digits = "".join(map(str, template.tolist()))
    fires = np.flatnonzero(activation)
    owner = np.searchsorted(ends, fires, side="right")
    active = list(zip((fires - (ends - lengths)[owner]).tolist(), numbers(activation[fires]), strict=True))
    borders = np.searchsorted(owner, np.arange(len(rows) + 1)).tolist()
    found: dict[int, list[dict[str, Any]]] = {}
    flags = zip(
        *(rows[name].tolist() for name in ("latent", "strongest", "sampled", "quantile")), strict=True
    )
    for place, ((latent, strongest, sampled, quantile), begin, end) in enumerate(
        zip(flags, (ends - lengths).tolist(), ends.tolist(), strict=True)
    ):
        context = {
            "strongest": strongest,
            "quantile": quantile if sampled else None,
            "tokens": token[begin:end],
            "template": digits[begin:end],
        }
        found.setdefault(latent, []).append(context | {"active": active[borders[place] : borders[place + 1]]})
    return found


def _lists(keys: pd.Series, values: list[Any]) -> dict[int, list[Any]]:
    found: dict[int, list[Any]] = {}
    for key, value in zip(keys.tolist(), values, strict=True):
        found.setdefault(key, []).append(value)
    return found


def _recurrences(table: pd.DataFrame, others: Sequence[str]) -> list[list[Any]]:
    """Return [number among ``others``, latent there, cosine, matched] of every row."""
    names = map(training_name, table.crosscoder, table.seed)
    places = [others.index(name) for name in names]
    matched = table.matched.astype(int).tolist()
    rows = zip(places, table.other.tolist(), numbers(table.cosine), matched, strict=True)
    return [list(row) for row in rows]


def _twins(twins: pd.DataFrame) -> dict[int, list[list[Any]]]:
    """Return [other latent, cosine, divergence] of each latent's twins, from both sides."""
    twins = twins[twins.kind == TWIN]
    sides = [(twins.chat_only, twins.base_only), (twins.base_only, twins.chat_only)]
    values = numbers(twins.cosine), numbers(twins.divergence)
    both = [
        pair
        for one, other in sides
        for pair in zip(one.tolist(), map(list, zip(other.tolist(), *values, strict=True)), strict=True)
    ]
    return _lists(pd.Series([one for one, _ in both], dtype=int), [value for _, value in both])


def _explanations(training: TrainingFiles) -> list[tuple[str, str]]:
    return [
        (kind, path)
        for kind, path in (("pattern", training.patterns), ("language model", training.explanations))
        if path
    ]


def _explanation(kind: str, row: pd.Series) -> dict[str, Any]:
    return {"by": kind, "text": row.explanation, "contexts": int(row.contexts)} | {
        name: numbers([row[name]])[0] for name in SCORES
    }


def _pairs(items: Any, values: Any) -> list[list[Any]]:
    """Return two columns as a list of pairs. A missing value gives an empty list."""
    if np.ndim(items) == 0:
        return []
    return [list(pair) for pair in zip(np.asarray(items).tolist(), numbers(values), strict=True)]


def _tokens(ids: Any, values: Any, vocabulary: Vocabulary) -> list[list[Any]]:
    return [] if np.ndim(ids) == 0 else _pairs(vocabulary.places(np.asarray(ids)), values)
