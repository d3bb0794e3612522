"""The list of evaluations that end in a figure, in the order of the page (docs/add-an-evaluation.md).

Rules, forecast and report read it. It says for each figure: its function and inputs, the settings that it
reads, the table that the page shows below it, and what computing that table costs. Torch-free, because the
Snakefile imports it.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from crossdiff.config import Config
from crossdiff.workflow.sizes import PROCESS, Need

# The sections of the page, in order: templates in report/sections.
PAGE = (
    *("findings", "this_run", "compared", "first_look", "found", "figures", "steering", "tried"),
    *("checks", "latents", "glossary", "files"),
)
FIGURES = "crossdiff.report.figures"
LEANING = "Do latents lean to one model?"
CONFIRMED = "Is that real, or made by the loss?"
CARRIED = "How much of the fine-tune do the latents carry?"
WHERE = "Where do the latents fire, and can words say it?"
NU_THRESHOLDS = ("latent_scaling.nu_error_below", "latent_scaling.nu_reconstruction_below")


class Evaluation(NamedTuple):
    """One figure and what belongs to it."""

    name: str  # name of the figure's files and of its place on the page
    question: str  # what a reader asks; figures with the same one stand below one heading
    draw: str  # "module:function"; the caption stands next to the function
    # Argument of the function -> file of each training. The argument gets a dict from crosscoder to table.
    files: Mapping[str, str]
    crosscoders: tuple[str, ...] = ()  # those that it shows; none means all
    settings: tuple[str, ...] = ()  # keys that the function reads; each section is an argument
    named: bool = False  # whether the function takes names of latents from the catalogue
    table: str = ""  # name of the table that the page shows below the figure
    # Rule -> what it takes, for rules that do more than read a table.
    need: Mapping[str, Callable[[Config], Need]] = {}
    section: str = "figures"  # section of the page that shows the figure
    of_paper: bool = True  # whether the paper has this figure, for `snakemake paper`

    @property
    def module(self) -> str:
        """The module of the function. The script loads it by this name."""
        return self.draw.split(":")[0]

    def params(self) -> dict[str, Any]:
        """What the script needs to know, in plain values that Snakemake can keep."""
        sections = sorted({key.split(".")[0] for key in self.settings})
        return {"draw": self.draw, "files": sorted(self.files), "sections": sections, "named": self.named}


def evaluations(config: Config) -> list[Evaluation]:
    """Return the evaluations of a run, in the order of the page."""
    explained = {"patterns": "patterns.parquet", "patterns_quantiles": "patterns_quantiles.parquet"}
    if config.explanations:
        explained |= {
            "language_model": "explanations.parquet",
            "language_model_quantiles": "explanations_quantiles.parquet",
        }
    betas = {"betas": "betas.parquet"}
    return [
        *(
            [
                Evaluation(
                    name="training",
                    question="Did the crosscoders learn?",
                    draw=f"{FIGURES}.crosscoders:training",
                    files={"logs": "training.csv"},
                    crosscoders=tuple(config.trained),
                )
            ]
            if config.trained
            else []
        ),
        Evaluation(
            name="norm_difference",
            question=LEANING,
            draw=f"{FIGURES}.crosscoders:norm_difference",
            files=betas,
            settings=("classes.base_only_below", "classes.shared_between", "classes.chat_only_above"),
        ),
        Evaluation(
            name="latent_scaling",
            question=CONFIRMED,
            draw=f"{FIGURES}.crosscoders:latent_scaling",
            files=betas,
            settings=("classes.top", *NU_THRESHOLDS),
            named=True,
        ),
        Evaluation(
            name="threshold_sweep",
            question=CONFIRMED,
            draw=f"{FIGURES}.crosscoders:threshold_sweep",
            files=betas,
            settings=("classes.top",),
        ),
        *(
            [Evaluation("kl", CARRIED, f"{FIGURES}.causal_effect:kl", {"tables": "kl.csv"})]
            if config.causal
            else []
        ),
        Evaluation(
            name="density",
            question=WHERE,
            draw=f"{FIGURES}.density:density",
            files=betas,
            settings=("density.dense_above", "density.rare_below"),
            table="density",
            of_paper=False,
            need={"measure_density": lambda config: Need(1, 0, disk=0, host=PROCESS, device=0, flop=0)},
        ),
        Evaluation(
            name="template_tokens",
            question=WHERE,
            draw=f"{FIGURES}.crosscoders:template_tokens",
            files=betas | {"tables": "template_tokens.csv", "tokens_read": "tokens_read.json"},
            settings=("classes.top",),
        ),
        Evaluation(
            name="explanations",
            question=WHERE,
            draw=f"{FIGURES}.explanations:explanations",
            files=betas | explained,
            settings=("classes.top",),
        ),
        *(
            [
                Evaluation(
                    "steering",
                    "What do latents do to the answers?",
                    f"{FIGURES}.steering:steering",
                    {"tables": "steering.csv"},
                    named=True,
                    section="steering",
                    of_paper=False,
                )
            ]
            if config.steering
            else []
        ),
    ]
