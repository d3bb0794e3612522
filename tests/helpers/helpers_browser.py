"""Made-up files of a run for the latent browser: any number of latents, and a text that tries to be code."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from crossdiff.latents.catalogue import COLUMNS
from crossdiff.latents.examples import SCHEMA
from crossdiff.report.browser.contents import TrainingFiles
from crossdiff.report.browser.page import copy_assets, render, write_files

ROOT = Path(__file__).parents[2]
TEMPLATE = str(ROOT / "report/browser.html.jinja")
ASSETS = [
    str(path)
    for folder in ("browser", "vendor")
    for path in sorted((ROOT / "report" / folder).rglob("*"))
    if path.is_file()
]
HOSTILE = "<script>document.title='owned'</script>"
MARKUP = [HOSTILE, "</script>", "<img src=x onerror=alert(1)>"]
WORDS = ["<|user|>", "\n", " the", " refuse", " can't", *MARKUP, " help", "."]
TWINS = "kind chat_only base_only cosine divergence high_chat_only high_base_only high_both".split()
CLASSES = ("base-only", "shared", "chat-only", "other", "dead")


class Words:
    """A tokenizer that knows WORDS."""

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(WORDS[number] for number in ids)


def beta_table(latents: int, seed: int = 0) -> pd.DataFrame:
    """Random values. Latent 0 is dead, and has no ratios."""
    draw = np.random.default_rng(seed)
    table = pd.DataFrame({"latent": np.arange(latents), "active_tokens": draw.integers(1, 1000, latents)})
    for name in ("relative_norm_difference", "frequency", "norm_base", "norm_chat", "decoder_cosine"):
        table[name] = draw.uniform(0, 1, latents).astype(np.float32)
    table["max_activation"] = np.float32(8)
    for name in ("nu_error", "nu_reconstruction"):
        table[name] = draw.uniform(0, 1.2, latents)
        table[f"{name}_low"], table[f"{name}_high"] = table[name] - 0.05, table[name] + 0.05
        table[f"mirrored_{name}"] = table[name] + 2
    table["class"] = np.asarray(CLASSES)[draw.integers(0, 4, latents)]
    table["confirmed"] = (table.nu_error < 0.2) & (table.nu_reconstruction < 0.5)
    ratios = [f"{name}{end}" for name in ("nu_error", "nu_reconstruction") for end in ("", "_low", "_high")]
    table.loc[0, ratios] = np.nan
    table.loc[0, "class"], table.loc[0, "confirmed"] = "dead", False
    return table


def without_base(table: pd.DataFrame, why: str) -> pd.DataFrame:
    """The beta table of a crosscoder without a base decoder."""
    compared = [name for name in table if name.startswith("nu_") or name in ("norm_base", "decoder_cosine")]
    table = table.assign(mean_activation=1.0, does_not_apply=why, confirmed=None)
    table[[*compared, "relative_norm_difference"]] = np.nan
    table["class"] = table["class"].where(table["class"] == "dead", None)
    return table


def example_rows(latents: Sequence[int], tokens: int = 6) -> pd.DataFrame:
    """Each latent has its strongest context, with HOSTILE in it, and five contexts sampled from one quantile.

    It fires on two tokens of each context.
    """
    rows = []
    for latent in latents:
        for number in range(6):
            activations = np.zeros(tokens, np.float32)
            activations[[3, 5]] = 8.0 / (number + 1), 1.0
            rows.append(
                {
                    "latent": latent,
                    "shard": 0,
                    "document": (number * 7919 + latent) % 1013,
                    "peak": activations.max(),
                    "quantile": 1.0 if number == 0 else 0.5,
                    "strongest": number == 0,
                    "sampled": number > 0,
                    "start": number,
                    "tokens": ([0, 1, 2, 3, 4, 5] if number == 0 else [2, 8, 6, 7, 9, 3])[:tokens],
                    "template": ([1, 2, 0, 0, 0, 0] if number == 0 else [0] * 6)[:tokens],
                    "activations": activations,
                }
            )
    return pd.DataFrame(rows)


def write_examples(folder: Path, rows: pd.DataFrame) -> str:
    pq.write_table(pa.Table.from_pandas(rows, SCHEMA, preserve_index=False), folder / "examples.parquet")
    return str(folder / "examples.parquet")


def write_training(
    folder: Path, latents: int, other: str, seed: int = 0, explained: bool = True, **changes: Any
) -> TrainingFiles:
    """Write every file that the browser reads of one training. Latents recur in the crosscoder ``other``."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = np.arange(latents)
    tables = {
        "betas": changes.get("betas", beta_table(latents, seed)),
        "template_tokens": pd.DataFrame(
            {"latent": ids, "template_share": np.where(ids == 0, np.nan, ids / latents)}
        ),
        "twins": pd.DataFrame(
            [("twin", 2, 3, 0.95, 0.5, 1, 1, 1), ("control", 2, 4, 0.1, 1.0, 1, 1, 0)],
            columns=TWINS,
        ),
        "directions": pd.DataFrame(
            {
                "latent": ids,
                "promoted": [[3, 4]] * latents,
                "promoted_by": [[2.5, 1.5]] * latents,
                "suppressed": [[5]] * latents,
                "suppressed_by": [[-3.5]] * latents,
                "near": [None] + [[0, 2]] * (latents - 1),  # a dead latent has no neighbours
                "near_cosine": [None] + [[0.5, 0.25]] * (latents - 1),
            }
        ),
        "recurrences": pd.DataFrame(
            {
                "latent": ids[1:],
                "crosscoder": other,
                "seed": 0,
                "other": ids[1:],
                "cosine": 0.75,
                "matched": True,
            }
        ),
        "kl": pd.DataFrame(
            [("none", None, 0.0, 0.0, 0.0), ("best_norm", "subtraction", 0.25, 0.125, 0.5)],
            columns=["variant", "form", "reduction", "reduction_low", "reduction_high"],
        ).assign(group="all"),
        "kl_sets": pd.DataFrame({"variant": "best_norm", "latent": [1, 2]}),
        "patterns": pd.DataFrame(
            {"latent": ids, "explanation": [f"the word refuse, {number}" for number in ids]}
        ),
    }
    tables["patterns"] = tables["patterns"].assign(
        detection=0.875, detection_low=0.75, detection_high=0.9375, contexts=20
    )
    tables["patterns"].loc[1, ["detection", "detection_low", "detection_high"]] = np.nan
    paths = {}
    for name, table in tables.items():
        suffix = "csv" if name in ("template_tokens", "twins", "kl", "kl_sets") else "parquet"
        paths[name] = str(folder / f"{name}.{suffix}")
        table.to_csv(paths[name], index=False) if suffix == "csv" else table.to_parquet(paths[name])
    examples = changes.get("examples", example_rows(range(1, min(latents, 200))))
    paths["examples"] = write_examples(folder, examples)
    if not explained:
        paths["patterns"] = None
    return TrainingFiles(**paths)


def named(*rows: tuple[str, int, int, str, bool]) -> pd.DataFrame:
    """Make checked names from (crosscoder, seed, latent, name, stale)."""
    full = [(*row[:3], row[3], f"note on {row[3]}", "0123456789ab", row[4]) for row in rows]
    return pd.DataFrame(full, columns=list(COLUMNS)).astype({"stale": bool})


def write_page(
    folder: Path,
    sizes: dict[str, int],
    names: pd.DataFrame | None = None,
    betas: Mapping[str, pd.DataFrame] | None = None,
) -> Path:
    """Write a whole browser of crosscoders with so many latents; give its page.

    ``betas`` are the beta tables of some crosscoders.
    """
    crosscoders, given = list(sizes), betas or {}
    trainings = {
        (name, 0): write_training(
            folder / "made" / name,
            latents,
            crosscoders[number - 1],
            seed=number,
            **({"betas": given[name]} if name in given else {}),
        )
        for number, (name, latents) in enumerate(sizes.items())
    }
    names = named() if names is None else names
    digests = dict.fromkeys(trainings, "0123456789ab")
    write_files(folder / "latents/files", "made-up", trainings, digests, names, Words())
    copy_assets(folder / "latents/files", ASSETS, ROOT / "report")
    page = folder / "latents/index.html"
    page.write_text(render(TEMPLATE, "made-up", trainings, names), encoding="utf-8")
    return page
