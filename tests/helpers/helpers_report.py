"""Made-up files for the report page, and the page as a parser sees it."""

from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import yaml
from conftest import ROOT
from helpers_tables import scaling_table
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from crossdiff.activations.pairs import Summary, write_summary
from crossdiff.config import Classes, LatentScaling, Report
from crossdiff.latents.evaluation import beta_table, comparison, confirmed_latents, evaluate
from crossdiff.latents.stability import SHARES
from crossdiff.provenance.recorded_settings import RecordedSettings
from crossdiff.provenance.storage import write_json
from crossdiff.report.page import Inputs, render
from crossdiff.report.shown_latents import LatentFiles
from crossdiff.report.template import ShownFigure
from crossdiff.texts.chats import CONTENT, HEADER, TURN_END
from crossdiff.workflow.run import Run

TEMPLATE = ROOT / "report" / "page.html.jinja"
TEXTS = {
    "talk": {
        "records": 1200,
        "skipped": {"a turn with role '<b>'": 7, "a turn without content": 3},
        "notes": {"chats cut, longer than tokens.context": 40},
    },
    "pages": {"records": 5, "skipped": {}, "notes": {}},
}
FIGURES = tuple(
    "norm_difference latent_scaling threshold_sweep kl template_tokens explanations training".split()
)
TOKENS = {"unknown_to_base": {}, "replaced_for_base": {}}  # of a pair with one vocabulary
VOCABULARY = ["<|user|>", "How", " do", " I", "\n", "<script>alert('boo')</script>", " & ", "<b>", '"']
HOSTILE = "<script>boo()</script> & <b>"
TRAINED = {"loss": "batchtopk", "k": 100, "tokens": 1_000_000}
QUALITY = {"tokens": 1000, "l0": 4.0, "fve_base": 0.8, "fve_chat": 0.7}


class Page(HTMLParser):
    """The parsed page: tags with their attributes, and the text of tokens, cautions and everything."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        # Per example: (token, attributes of its span).
        self.contexts: list[list[tuple[str, dict[str, str | None]]]] = []
        self.cautions: list[str] = []
        self._inside: list[str] = []  # classes of the open divs
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag == "div":
            self._inside.append(dict(attributes).get("class") or "")
            if self._inside[-1] == "context":
                self.contexts.append([])
            if self._inside[-1] == "caution":
                self.cautions.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "div":
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if "context" in self._inside:
            self.contexts[-1].append((data, self.tags[-1][1]))
        if "caution" in self._inside:
            self.cautions[-1] += data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def write_tokenizer(folder: Path) -> str:
    """Write a tokenizer whose tokens are VOCABULARY, word for word."""
    vocabulary = {token: number for number, token in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=VOCABULARY[0]))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=VOCABULARY[0]).save_pretrained(folder)
    return str(folder)


def beta_rows(difference: list[float], nu: list[float], fired: int = 5) -> pd.DataFrame:
    scaling = scaling_table(difference, nu, nu)
    counts = pd.DataFrame({"latent": range(len(nu)), "validation_active_tokens": fired})
    return beta_table(scaling, counts, Classes(), LatentScaling())


BETAS = beta_rows([0.5, 0.95, 0.97, 0.6], [1.0, 0.1, float("nan"), 0.9])
EXAMPLES = pd.DataFrame(
    {
        "latent": [1, 1, 1],
        "peak": [8.0, 4.0, 1.0],
        "strongest": [True, True, False],
        "tokens": [[0, 1, 2, 4], [5, 6, 7], [1]],
        "template": [[HEADER, CONTENT, CONTENT, TURN_END], [CONTENT, CONTENT, CONTENT], [CONTENT]],
        "activations": [[0.0, 8.0, 2.0, 0.0], [4.0, 0.0, 1.0], [1.0]],
    }
)
NO_EXAMPLES = EXAMPLES.iloc[:0]


def settings_of(config: str) -> RecordedSettings:
    """Give the settings in the records of what the page shows."""
    values = yaml.safe_load((ROOT / "configs" / config).read_text())
    return RecordedSettings(
        Run(values).settings("pair", "models", "datasets", "classes", "latent_scaling")({})
    )


def inputs(
    folder: Path,
    betas: dict[str, pd.DataFrame],
    examples: dict[str, pd.DataFrame],
    family: str = "llama",
    config: str = "gemma2-2b.yaml",
    published: bool = False,
) -> Inputs:
    """Write everything that the page reads below ``folder``, the way the rules write it."""
    model = {"d_model": 32, "layers": 3, "family": family, "few_bits": None, "between_turns": None}
    write_json(folder / "facts.json", {"base": model, "chat": model, "layer": 1} | TOKENS)
    summary = Summary(1, 1, 10.0, [150.25, 149.5], [[0.0] * 32, [0.5] * 32], [1.0, 1.0], 18_000, 200, 3)
    write_summary(folder / "summary.json", summary)
    read = [str(folder / f"{name}.next.json") for name in TEXTS]
    for path, (name, counts) in zip(read, TEXTS.items(), strict=True):
        write_json(path, {"read": {"dataset": name, **counts}})
    evaluations = {name: evaluate(table, QUALITY, Classes()) for name, table in betas.items()}
    seeds = {"seed_a": 0, "seed_b": 1, "matched_share": 0.5}
    seeds |= {"chat_only_a": 3, "chat_only_b": 4, "chat_only_recurring": 2}
    top = {"top": 50, "top_matched": 20, "top_recurring": 10, "top_recurring_by_chance": 1.5}
    ends = {f"{share}_{end}": value for share in SHARES for end, value in (("low", 0.25), ("high", 0.75))}
    stable = {"set": "confirmed", "seeds": 2, "latents": 3.5} | dict.fromkeys(SHARES, 0.5) | ends
    tables = {
        "crosscoders": comparison(list(evaluations.values()), [(name, 0) for name in betas]),
        "twins": pd.DataFrame(
            [
                {"crosscoder": name, "seed": 0, "twins": 3, "twins_divergent": 0.6, "controls_divergent": 1.0}
                for name in betas
            ]
        ),
        "seed_agreement": pd.DataFrame([{"crosscoder": name} | seeds | top for name in betas]),
        "stability": pd.DataFrame([{"crosscoder": name} | stable for name in betas]),
        "template_tokens": pd.DataFrame([{"crosscoder": name, "seed": 0} for name in betas]),
        "explanations": pd.DataFrame(
            [
                {"explainer": "patterns", "crosscoder": name, "set": "low nu", "scored": 3, "too_few": True}
                for name in betas
            ]
        ),
        "paper": pd.DataFrame(
            [{"quantity": "FVE", "batchtopk": 0.85, "paper_batchtopk": 0.876 if published else None}]
        ),
    }
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv", index=False)
    for name in betas:
        write_json(folder / f"{name}.json", evaluations[name])
        betas[name].to_parquet(folder / f"{name}.betas.parquet")
        examples[name].to_parquet(folder / f"{name}.examples.parquet")
        told = [f"after {HOSTILE} {latent}" for latent in betas[name].latent]
        patterns = pd.DataFrame({"latent": betas[name].latent, "explanation": told})
        patterns.to_parquet(folder / f"{name}.patterns.parquet")
        confirmed = confirmed_latents(betas[name])
        groups = pd.DataFrame({"latent": confirmed.latent, "group": 0, "strength": 1.0})
        groups = groups.assign(dataset="talk", firings=90, tokens=300)
        groups.to_csv(folder / f"{name}.groups.csv", index=False)
    for figure in FIGURES:
        (folder / f"{figure}.svg").write_text(f"<svg xmlns='http://www.w3.org/2000/svg'>{figure}</svg>")
        caption = {"alt": f"What {figure} shows", "text": f"{figure} & <b>more</b>."}
        write_json(folder / f"{figure}.caption.json", caption)
    return Inputs(
        recorded=RecordedSettings(
            settings_of(config)
            | {f"crosscoders.{name}.{key}": value for name in betas for key, value in TRAINED.items()}
        ),
        shown=Report(),
        tokenizer=write_tokenizer(folder / "tokenizer"),
        facts=str(folder / "facts.json"),
        summary=str(folder / "summary.json"),
        read=read,
        refusals=None,
        tables=[str(folder / f"{name}.csv") for name in tables],
        evaluations={name: str(folder / f"{name}.json") for name in betas},
        latents={
            name: LatentFiles(*(str(folder / f"{name}.{table}.parquet") for table in LATENT_TABLES))
            for name in betas
        },
        figures=[
            ShownFigure.of(str(folder / f"{figure}.svg"), str(folder / f"{figure}.caption.json"))
            for figure in FIGURES
        ],
        groups={name: str(folder / f"{name}.groups.csv") for name in betas},
        sections=[
            "findings",
            "this_run",
            "compared",
            "found",
            "figures",
            "checks",
            "latents",
            "glossary",
            "files",
        ],
    )


LATENT_TABLES = ("betas", "examples", "patterns")


def page_of(given: Inputs) -> Page:
    return Page(render(given, TEMPLATE))
