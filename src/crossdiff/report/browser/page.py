"""The latent browser as a whole: page, data, scripts and libraries."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from crossdiff.latents.catalogue import current
from crossdiff.latents.evaluation import most_chat_leaning
from crossdiff.provenance.storage import record_mark
from crossdiff.report.browser.contents import CHUNK, TrainingFiles, chunks, table, training_name
from crossdiff.report.browser.pieces import Vocabulary, write_piece
from crossdiff.report.template import page_template

STATIC = 20  # latents of each crosscoder that the page shows where scripts are off
Trainings = Mapping[
    tuple[str, int], TrainingFiles
]  # by crosscoder and seed; the first of a crosscoder needs no seed in links


def write_files(
    folder: Path,
    pair: str,
    trainings: Trainings,
    digests: Mapping[tuple[str, int], str],
    named: pd.DataFrame,
    tokenizer: Any,
) -> None:
    """Write every piece: index, vocabulary, and of each training {name}/table and {name}/{first latent}.

    ``digests`` are those of the weights, ``named`` is the table of checked names.
    """
    vocabulary, names, index = Vocabulary(), [training_name(*training) for training in trainings], []
    for (crosscoder, seed), training in trainings.items():
        name = training_name(crosscoder, seed)
        content = table(
            training,
            named[(named.crosscoder == crosscoder) & (named.seed == seed)],
            digests[crosscoder, seed],
        )
        write_piece(folder, f"{name}/table", content)
        latents = len(content["columns"]["class"])
        for number, chunk in enumerate(chunks(training, latents, vocabulary, names)):
            write_piece(folder, f"{name}/{number * CHUNK}", chunk)
        link = name if crosscoder in (entry["crosscoder"] for entry in index) else crosscoder
        index.append({"name": name, "link": link, "crosscoder": crosscoder, "seed": seed, "latents": latents})
    write_piece(
        folder, "vocabulary", [tokenizer.decode([token]).replace("\n", "\u21b5") for token in vocabulary.ids]
    )
    write_piece(folder, "index", {"pair": pair, "chunk": CHUNK, "trainings": index})


def copy_assets(folder: Path, assets: Sequence[str], root: Path) -> None:
    """Copy the page's own files and the libraries that come with it, which lie below ``root``."""
    for asset in assets:
        target = folder / Path(asset).relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(asset, target)


def render(template: str, pair: str, trainings: Trainings, named: pd.DataFrame) -> str:
    """The page as HTML. What is not a script in it shows each crosscoder's most chat-leaning latents, escaped by the template engine."""
    static = {
        training_name(*name): [
            row | {"name": current(named, *name).get(row["latent"], "")}
            for row in most_chat_leaning(pd.read_parquet(training.betas), STATIC).to_dict("records")
        ]
        for name, training in trainings.items()
    }
    return page_template(template).render(
        record=" ".join(record_mark().values()), pair=pair, static=static, shown=STATIC
    )
