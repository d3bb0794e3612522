"""Print the tables of docs/default-run.md and of the README from a finished default run, ready to paste.

.venv/bin/python benchmarks/default_run.py [FOLDER] [--check]

Settings and costs are left out. Numbers of sentences come in the pages' words.
"""

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd
from transformers import AutoTokenizer

from crossdiff.texts.behaviours import is_refusal

ROOT = Path(__file__).parent.parent
NAMES = {"batchtopk": "BatchTopK", "l1": "L1"}
HEAD = ["", *NAMES.values()]
# A variant of kl.csv: what the page calls it.
PATCHED = {
    "none": "nothing",
    "all": "all latents",
    "error": "the chat model's error",
    "template": "chat activations at template tokens",
    "best_norm": "the 25 best of the top 50 by norm",
    "worst_norm": "the 25 worst by norm",
    "best_scaling": "the 25 best by latent scaling",
    "worst_scaling": "the 25 worst by latent scaling",
    "random_1": "25 at random",
    "random_2": "25 at random, again",
}
# Crosscoder, strengths and kind of requests of a row of steering.
STEERED = [
    ("l1", "ablate", "harmful"),
    ("l1", "ablate", "benign"),
    ("l1", "-2,-1,+1,+2", "harmful"),
    ("batchtopk", "-2", "harmful"),
    ("batchtopk", "-1", "harmful"),
    ("batchtopk", "+1", "benign"),
    ("batchtopk", "+2", "benign"),
    ("batchtopk", "ablate", "harmful"),
    ("batchtopk", "ablate", "benign"),
]


def number(value: float, digits: int = 0) -> str:
    """Write a number without a zero before the point, and a dash where it is undefined."""
    text = f"{round(value, digits) + 0.0:,.{digits}f}".replace("-", "−")  # + 0.0: no sign before a zero
    return "–" if pd.isna(value) else text.replace("0.", ".", 1) if abs(value) < 1 else text


def percent(value: float) -> str:
    return number(100 * value) + ("" if pd.isna(value) else " %")


def span(values: Iterable[float], digits: int = 0) -> str:
    """Write the smallest and the largest number, or the one that all of them round to."""
    ordered = sorted(values)
    return " to ".join(dict.fromkeys(number(value, digits) for value in (ordered[0], ordered[-1])))


def table(head: list[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    lines = (" | ".join(cells) for cells in (head, ["---"] * len(head), *rows))
    yield from (*(f"| {line} |".replace("|  |", "| |") for line in lines), "")


class Run:
    """A finished run, from its folder ``results/{pair}``."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.layer = folder, folder / "layer21"
        self.found = self.csv("tables/crosscoders").set_index("crosscoder").loc[list(NAMES)]
        self.betas = {name: self.csv(f"{name}/seed0/betas") for name in NAMES}

    def csv(self, name: str) -> pd.DataFrame:
        return pd.read_csv(self.layer / f"{name}.csv")

    def row(self, label: str, column: str, digits: int = 0, sets: tuple[str, ...] = ("",)) -> list[str]:
        """Make a row from crosscoders.csv: for both crosscoders, a cell for each prefix of ``column``."""
        found = (self.found.loc[name, each + column] for name in NAMES for each in sets)
        return [label, *(number(value, digits) for value in found)]

    def confirmed(self, label: str, more: str = "") -> list[str]:
        both = zip(self.found.chat_only_confirmed, self.found.chat_only, strict=True)
        return [label, *(f"**{confirmed}**{more.format(of)}" if of else "–" for confirmed, of in both)]


def refusals(run: Run) -> Iterator[str]:
    found = pd.read_csv(run.folder / "refusals.csv").pivot(index="model", columns="requests")
    yield f"of {found.asked.to_numpy().max()} held-out ones each"
    rows = ([of, *found.refused.loc[of, ["harmful", "benign"]].map(number)] for of in ("base", "chat"))
    yield from table(["model", "harmful", "benign"], rows)
    tokenizer = AutoTokenizer.from_pretrained(run.folder.parent / "tokenizers" / run.folder.name)
    tokens = pd.read_parquet(run.folder / "answers/small_talk.parquet").query("role == 2")  # 2: assistant
    answers = tokens.groupby("document").token.apply(tokenizer.decode).str.split("assistant\n").str[1]
    yield f"refuses {answers.map(is_refusal).sum()} of {len(answers)} held-out openings"


def latents(run: Run) -> Iterator[str]:
    yield f"on {run.found.tokens.max():,} held-out tokens"
    rows = [run.row(f"fraction of variance explained, {of}", f"fve_{of}", 3) for of in ("base", "chat")]
    rows += [run.row("L0, active latents per token", "l0", 1), run.row("dead latents", "dead")]
    yield from table(HEAD, rows)
    first, last = (row for _, row in run.csv("l1/seed0/training").iloc[[-4, -1]].iterrows())
    yield f"over the last {round(last.tokens - first.tokens, -4):,.0f} tokens"
    yield f"its L0 falls from {number(first.l0)} to {number(last.l0)}"
    yield f"FVE of the base rises from {number(first.fve_base, 2)} to {number(last.fve_base, 2)}"
    sizes = run.found[["base_only", "shared", "chat_only", "other"]].map(number).agg(" / ".join, axis=1)
    confirmed = [rows.query("confirmed and `class` != 'base-only'") for rows in run.betas.values()]
    rows = [
        run.row("largest relative norm difference", "largest_norm_difference", 2),
        ["base-only / shared / chat-only / other", *sizes],
        run.confirmed("chat-only and confirmed", " of {}"),
        ["confirmed, of all but base-only latents", *(str(len(each)) for each in confirmed)],
        ["norm differences of these", *(span(each.relative_norm_difference, 2) for each in confirmed)],
        run.row("smallest norm difference of the top 50", "top_smallest_norm_difference", 2),
    ]
    for nu in ("error", "reconstruction"):
        rows.append(run.row(f"correlation of the norm difference with ν_{nu}", f"correlation_nu_{nu}", 2))
    yield from table(HEAD, rows)
    rows, kinds = [], ["confirmed", "confirmed_95"]
    for key in [*kinds, "median_nu_error", "median_nu_reconstruction"]:
        label = key.replace("_", " ").replace("nu ", "ν_").replace("95", "with 95 % certainty")
        rows.append(run.row(label, key, 2 * key.startswith("median"), ("top_", "shared_")))
    yield from table(["", "BatchTopK, top 50", "shared", "L1, top 50", "shared"], rows)
    live = run.betas["batchtopk"].query("`class` != 'dead'")
    top = live.nlargest(run.found.top["batchtopk"], "relative_norm_difference").query("confirmed")
    top = top.merge(pd.read_parquet(run.layer / "batchtopk/seed0/patterns.parquet"), on="latent")
    names = ["relative_norm_difference", "nu_error", "nu_reconstruction"]
    top[names] = top[names].map(lambda value: number(value, 2))
    rows = top.sort_values("latent")[["latent", *names, "explanation"]].astype(str).to_numpy()
    yield from table(["latent", "norm difference", "ν_error", "ν_reconstruction", "pattern"], rows)


def seeds(run: Run) -> Iterator[str]:
    """Compare the seeds, if there are others than 0."""
    if len(list(run.layer.glob("batchtopk/seed*"))) == 1:
        return
    counts: dict[str, list[list[str]]] = {"confirmed": [], "chat-only and confirmed": []}
    for name in NAMES:
        tables = [pd.read_csv(path) for path in sorted(run.layer.glob(f"{name}/seed*/betas.csv"))]
        called = [table.query("`class` == 'chat-only'").confirmed for table in tables]
        others = [table.query("`class` != 'base-only'").confirmed for table in tables]
        counts["confirmed"].append([str(each.sum()) for each in others])
        sure = [f"{each.sum()} of {len(each)}" if len(each) else "–" for each in called]
        counts["chat-only and confirmed"].append(sure)
    rows = ([label, *(", ".join(cells) for cells in both)] for label, both in counts.items())
    yield from table(["seeds 0, 1, 2", *HEAD[1:]], rows)


def tables(run: Run) -> Iterator[str]:
    template = run.csv("tables/template_tokens").set_index(["set", "crosscoder"])
    mostly, share = (template[key].map(percent) for key in ("mostly_on_template", "text_share"))
    scores = run.csv("tables/explanations").query("`set` == 'shared' or against == 'shared'")
    texts = scores[["detection", "low", "high"]].map(lambda value: number(value, 2))
    texts, shared = texts.detection + " (" + texts.low + " to " + texts.high + ")", scores.set == "shared"
    rows = [
        ["share of template tokens in the text of chats", *share["shared"], "`template_tokens.csv`"],
        ["top 50 that fire mostly on template tokens", *mostly["most chat-leaning"], "`template_tokens.csv`"],
        ["chat-only that fire mostly on template tokens", *mostly["chat-only"], "`template_tokens.csv`"],
        ["detection score, top 50 (L1: chat-only)", *texts[~shared], "`explanations.csv`"],
        ["detection score, shared", *texts[shared], "`explanations.csv`"],
        ["twins", *run.csv("tables/twins").twins.map(number), "`twins.csv`"],
    ]
    yield from table([*HEAD, "file"], rows)


def patching(run: Run) -> Iterator[str]:
    kl = [run.csv(f"{name}/seed0/kl").query("group == 'all' and form != 'additive'") for name in NAMES]
    yield f"{kl[0].tokens.max()} answer tokens of {kl[0].conversations.max()} conversations"

    def cell(row: pd.Series) -> str:
        if row.form == "subtraction":
            return (
                f"{percent(-row.reduction)} ({span([-100 * row.reduction_high, -100 * row.reduction_low])})"
            )
        return number(row.kl, 3) + (f" ({percent(-row.reduction)})" if row.variant == "template" else "")

    cells = [rows.set_index("variant", drop=False).apply(cell, axis=1) for rows in kl]
    rows = ([label, f"`{name}`", *(each[name] for each in cells)] for name, label in PATCHED.items())
    yield from table(["patched into the base's activations", "`variant`", *HEAD[1:]], rows)


def steering(run: Run) -> Iterator[str]:
    before = run.csv("l1/seed0/steering").query("change == 'none'").set_index("requests")
    yield "{harmful} held-out harmful and {benign} benign requests".format(**before.asked)
    refused, odd = (" / ".join(before[key].map(number)) for key in ("shown", "perplexity"))
    rows = [["none", " / ".join(before.index), refused, "", odd]]
    for name, change, requests in STEERED:
        found = run.csv(f"{name}/seed0/steering").query("requests == @requests")
        added = [] if change == "ablate" else [float(strength) for strength in change.split(",")]
        found = found[found.strength.isin(added) if added else found.change == "ablate"]
        mine, others = found[found.direction == "latent"], found[found.direction != "latent"]
        how = f"added at {change}".replace(",", ", ").replace("-", "−") if added else "ablated"
        controls = ", ".join(others.groupby(["direction", "number"], sort=False).shown.agg(span))
        odd = f"{span(mine.perplexity)}, {number(before.perplexity[requests])}"
        latent = f"{NAMES[name]} {mine.latent.iloc[0]:.0f}, {how}"
        rows.append([latent, requests, span(mine.shown), controls, odd])
    yield from table(["latent, change", "requests", "refused", "controls", "perplexity, unsteered"], rows)


def readme(run: Run) -> Iterator[str]:
    both = (f"{number(row.fve_base, 2)} / {number(row.fve_chat, 2)}" for row in run.found.itertuples())
    rows = [run.row("L0, active latents per token", "l0", 1)]
    rows += [["fraction of variance explained, base / chat", *both]]
    rows += [run.row("chat-only by decoder norm", "chat_only")]
    rows += [run.confirmed("confirmed of these")]
    rows += [run.row("confirmed, of all but base-only latents", "others_confirmed")]
    yield from table(HEAD, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "results/smollm2-135m-refusals")
    parser.add_argument("--check", action="store_true", help="exit with 1 and print what the pages lack")
    options = parser.parse_args()
    if not (options.folder / "layer21/tables/crosscoders.csv").is_file():
        parser.error(f"{options.folder}: found no finished default run; make quickstart makes one")
    run = Run(options.folder)
    pages = {
        "docs/default-run.md": [refusals, latents, seeds, tables, patching, steering],
        "README.md": [readme],
    }
    lines = {page: [line for part in parts for line in part(run)] for page, parts in pages.items()}
    if options.check:
        texts = {page: " ".join((ROOT / page).read_text(encoding="utf-8").split()) for page in pages}
        lacking = [f"{page} lacks: {x}" for page in pages for x in lines[page] if x not in texts[page]]
        raise SystemExit("\n".join(lacking) or 0)
    print(*(line for page in lines.values() for line in page), sep="\n")


if __name__ == "__main__":
    main()
