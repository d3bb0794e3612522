"""Activations that others stored, as the paper's authors store theirs. They are read, not harvested."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from crossdiff.config.base import ByName, LocalPath, Name, Section, about
from crossdiff.errors import UserError

if TYPE_CHECKING:
    from crossdiff.config.whole import Config

STORED = "activations"  # the key of a data set whose activations others stored
LAYER = re.compile(r"layer_(\d+)_out")  # name of the folder that holds one layer's outputs


class Stores(Section):
    """Activations of a data set that others stored. Crossdiff tokenises the texts, and takes each sequence.

    Both splits name a folder for both models of the pair, maybe the same in both splits. A config with it has
    one pair at one layer, no planted concepts, and ``activations.store: all``.
    """

    train: Annotated[
        dict[Name, LocalPath],
        Field(min_length=1),
        ByName,
        about("For each model its folder `layer_N_out` with `config.json` and `shard_*.memmap`."),
    ]
    validation: Annotated[
        dict[Name, LocalPath],
        Field(min_length=1),
        ByName,
        about("The same for held-out texts, which Crossdiff chooses itself."),
    ]

    def folders(self, split: str) -> dict[str, str]:
        """Model -> its folder."""
        return self.train if split == "train" else self.validation

    def local_files(self, key: str) -> dict[str, list[str]]:
        """Key -> the files of each folder, or the folder itself if it is not there.

        Raises UserError, with the key below ``key``, for a folder that is no store.
        """
        return {
            f"{key}.{split}.{model}": stored_files(folder, f"{key}.{split}.{model}")
            for split in ("train", "validation")
            for model, folder in self.folders(split).items()
        }


def tokens_file(folder: Path) -> Path:
    """The token ids of a store: above the folder of the layer, or in it. It need not exist."""
    above, beside = folder.parent / "tokens.pt", folder / "tokens.pt"
    return beside if beside.exists() else above


def ranges_file(folder: Path) -> Path:
    """Where the sequences of a store begin. It lies next to the token ids, and need not exist."""
    return tokens_file(folder).with_name("sequence_ranges.pt")


def stored_files(folder: str, key: str) -> list[str]:
    """The files of a store, or the folder itself if it is not there.

    Raises UserError, with the ``key``, for a folder that is no store.
    """
    place = Path(folder)
    if not place.exists():
        return [folder]
    shards = sorted(place.glob("shard_*.memmap"))
    if not shards:
        raise UserError(f"config: {key}: found {folder}, allowed: a folder with shard_0.memmap and so on")
    if not (tokens := tokens_file(place)).is_file():
        raise UserError(
            f"config: {key}: found no tokens.pt in {folder} or above; without the token ids (store_tokens: "
            "false) nothing tells which text a row belongs to, so leave the key out and harvest"
        )
    metas = [path.with_suffix(".meta") for path in shards]
    ranges = [path for path in [ranges_file(place)] if path.is_file()]
    return [str(path) for path in (place / "config.json", tokens, *ranges, *metas, *shards)]


def check_stores(config: "Config") -> None:
    """Raise ValueError for stored activations that do not belong to the config's pair and layer."""
    for name, stores in config.stores.items():
        key = f"datasets.{name}.{STORED}"
        if config.planted is not None:
            raise ValueError(f"{key}: found with planted concepts, allowed: activations that are harvested")
        if len(config.comparisons) > 1:
            raise ValueError(
                f"{key}: a store belongs to one pair at one layer, and this config has several; "
                "give it a config of its own"
            )
        if config.activations.are_live:
            raise ValueError(f"{key}: found with activations.store: none, allowed: all")
        pair = config.comparisons[0]
        models = sorted(pair.model_name(role) for role in ("base", "chat"))
        for split in ("train", "validation"):
            folders = stores.folders(split)
            if sorted(folders) != models:
                found = ", ".join(sorted(folders))
                raise ValueError(f"{key}.{split}: found {found}, allowed: both models, {', '.join(models)}")
            for model, folder in folders.items():
                named = LAYER.fullmatch(Path(folder).name)
                if named is None or int(named[1]) != pair.layer:
                    raise ValueError(
                        f"{key}.{split}.{model}: found {folder}, allowed: a folder layer_{pair.layer}_out, "
                        "of the pair's layer"
                    )
