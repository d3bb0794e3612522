"""Where the models predict other next tokens: by token, role, template part and position in the answer."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from crossdiff.first_look.passes import Measured
from crossdiff.first_look.sample import Sample, part_names, role_names
from crossdiff.texts.positions import predicted_answer_positions
from crossdiff.texts.shards import Shard

TOKENS = 30  # tokens in the table
FEWEST = 5  # occurrences of a token in the table
EACH = 5  # positions in answers that have a row of their own; later ones share a row
BEFORE, AFTER = 24, 8  # tokens of a context before and after the one that it is about
CONTEXTS = 12  # strongest contexts
SHOWN = 5  # promoted tokens kept of a context


def where_table(kl: np.ndarray, sample: Sample) -> pd.DataFrame:
    """Average the KL over groups of tokens. ``kl`` (tokens,) is that of the prediction after each token.

    Columns:

    - by: ``data set``, ``role``, ``part``, ``answer position`` or ``token``
    - value: which data set, role, template part, place in the answer of the token that is predicted (from 0),
      or id of the token that was read
    - tokens: number of tokens
    - kl: mean KL(p_chat || p_base), nats
    - share: sum of the group's KL over that of all tokens
    """
    shard = sample.shard
    position = predicted_answer_positions(shard)
    named = np.where(position < EACH, position.astype("U12"), f"{EACH} or later")
    groups = {
        "data set": np.array(sample.datasets)[sample.dataset],
        "role": role_names(shard.role),
        "part": part_names(shard.template),
        "answer position": np.where(position < 0, "", named),
        "token": shard.token.astype("U12"),
    }
    parts = []
    for by, values in groups.items():
        table = pd.DataFrame({"value": values, "kl": kl.astype(np.float64)})
        table = table[table.value != ""].groupby("value", sort=False).kl.agg(["size", "mean", "sum"])
        if by == "token":
            table = table[table["size"] >= FEWEST].nlargest(TOKENS, "sum")
        elif by == "answer position":
            table = table.sort_index(key=lambda names: names.str.split().str[0].astype(int))
        else:
            table = table.sort_values("sum", ascending=False)
        share = table["sum"] / max(float(kl.sum()), np.finfo(float).tiny)
        table = table.assign(by=by, value=table.index, tokens=table["size"], kl=table["mean"], share=share)
        parts.append(table[["by", "value", "tokens", "kl", "share"]])
    return pd.concat(parts, ignore_index=True)


def strongest(values: np.ndarray, shard: Shard, count: int = CONTEXTS) -> np.ndarray:
    """Rows of the ``count`` largest of ``values`` (tokens,), all above 0, of different documents.

    No two of them have the same tokens before them, as the beginnings of chats do.
    """
    found: list[int] = []
    documents: set[int] = set()
    readings: set[bytes] = set()
    for row in np.argsort(-values, kind="stable"):
        if values[row] <= 0 or len(found) == count:
            break
        document, first = int(shard.document[row]), row - min(BEFORE, int(shard.position[row]))
        reading = shard.token[first : row + 1].tobytes()
        if document not in documents and reading not in readings:
            documents.add(document)
            readings.add(reading)
            found.append(int(row))
    return np.array(found, np.int64)


def contexts(sets: Mapping[str, np.ndarray], measured: Measured, sample: Sample, count: int) -> pd.DataFrame:
    """Collect the ``count`` strongest contexts of each set of values, which are one number per token.

    Columns:

    - set: name of the set
    - dataset
    - at: place of the strongest token in the lists
    - tokens, values, template: lists with an entry per token: ids, the set's values, template parts (codes)
    - promoted: ids of the promoted tokens after that token (``passes.Measured``), at most SHOWN
    - promoted_by: log p_chat - log p_base of each
    """
    shard = sample.shard
    starts, stops = shard.sequence_bounds()
    rows = []
    for name, values in sets.items():
        for row in strongest(values, shard, count):
            up = measured.promoted_by[row, :SHOWN] > 0
            sequence = int(np.searchsorted(starts, row, side="right")) - 1
            first, stop = max(starts[sequence], row - BEFORE), min(stops[sequence], row + AFTER + 1)
            window = slice(int(first), int(stop))
            rows.append(
                {
                    "set": name,
                    "dataset": sample.datasets[sample.dataset[row]],
                    "at": int(row - first),
                    "tokens": shard.token[window],
                    "values": values[window].astype(np.float32),
                    "template": shard.template[window],
                    "promoted": measured.promoted[row, :SHOWN][up],
                    "promoted_by": measured.promoted_by[row, :SHOWN][up],
                }
            )
    columns = ["set", "dataset", "at", "tokens", "values", "template", "promoted", "promoted_by"]
    return pd.DataFrame(rows, columns=columns)
