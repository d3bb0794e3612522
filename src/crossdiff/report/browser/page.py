"""Writes the latent browser as a whole: page, data, scripts and libraries."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from crossdiff.latents.catalogue import current, training_name
from crossdiff.latents.evaluation import most_chat_leaning, with_judged
from crossdiff.provenance.storage import record_mark
from crossdiff.report.browser.contents import CHUNK, TrainingFiles, chunks, table
from crossdiff.report.browser.pieces import Vocabulary, write_piece
from crossdiff.report.template import page_template

STATIC = 20  # latents of each crosscoder that the page shows if scripts are off
# By crosscoder and seed. Links to a crosscoder's first training leave out the seed.
Trainings = Mapping[tuple[str, int], TrainingFiles]


def write_files(
    folder: Path,
    pair: str,
    trainings: Trainings,
    digests: Mapping[tuple[str, int], str],
    named: pd.DataFrame,
    tokenizer: Any,
) -> None:
    """Write every piece: index and vocabulary, and for each training {name}/table and {name}/{first latent}.

    ``digests`` are those of the weights. ``named`` is the table of checked names.
    """
    vocabulary, names = Vocabulary(), [training_name(*training) for training in trainings]
    index: list[dict[str, Any]] = []
    for (crosscoder, seed), training in trainings.items():
        name = training_name(crosscoder, seed)
        own = named[(named.crosscoder == crosscoder) & (named.seed == seed)]
        content = table(training, own, digests[crosscoder, seed])
        write_piece(folder, f"{name}/table", content)
        latents = len(content["columns"]["class"])
        for number, chunk in enumerate(chunks(training, latents, vocabulary, names)):
            write_piece(folder, f"{name}/{number * CHUNK}", chunk)
        link = name if crosscoder in (entry["crosscoder"] for entry in index) else crosscoder
        index.append({"name": name, "link": link, "crosscoder": crosscoder, "seed": seed, "latents": latents})
    words = [tokenizer.decode([token]).replace("\n", "\u21b5") for token in vocabulary.ids]
    write_piece(folder, "vocabulary", words)
    write_piece(folder, "index", {"pair": pair, "chunk": CHUNK, "trainings": index})


def copy_assets(folder: Path, assets: Sequence[str], root: Path) -> None:
    """Copy the page's own files and its libraries. They lie below ``root``."""
    for asset in assets:
        target = folder / Path(asset).relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(asset, target)


def _static(betas: str) -> list[dict[str, Any]]:
    return with_judged(most_chat_leaning(pd.read_parquet(betas), STATIC)).to_dict("records")


def render(template: str, pair: str, trainings: Trainings, named: pd.DataFrame) -> str:
    """Return the page as HTML. The template engine escapes all text from data.

    Without scripts the page shows each crosscoder's most chat-leaning latents.
    """
    static = {
        training_name(*name): [
            row | {"name": current(named, *name).get(row["latent"], "")} for row in _static(training.betas)
        ]
        for name, training in trainings.items()
    }
    return page_template(template).render(
        record=" ".join(record_mark().values()), pair=pair, static=static, shown=STATIC
    )
