"""What is measured of trained crosscoders, and shown."""

from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from crossdiff.config.base import (
    Cosine,
    Fraction,
    Name,
    NonNegativeInt,
    OpenFraction,
    PositiveFloat,
    PositiveInt,
    Section,
    Text,
    about,
    with_ranges,
)
from crossdiff.config.explanations import Explanations
from crossdiff.config.organisms import Organisms
from crossdiff.config.steering import Steering

# A latent that fires in fewer blocks has no interval: a bootstrap over few active blocks is far too narrow.
# With 2, 3, 5 and 10 active ones of 50, a 95 % interval holds the truth in 50, 75, 86 and 89 % of all cases.
FEWEST_ACTIVE_BLOCKS = 10


class Bootstrap(Section):
    """Confidence intervals of nu ratios.

    Whole blocks of documents are drawn, since tokens of one document are not independent.
    """

    blocks: Annotated[
        int,
        Field(ge=FEWEST_ACTIVE_BLOCKS),
        about("Blocks of documents. A latent that fires in fewer than 10 of them has no interval.", "count"),
    ] = 50
    samples: Annotated[
        int, Field(gt=1), about("Draws of the bootstrap. More give smoother intervals.", "count")
    ] = 200
    seed: Annotated[NonNegativeInt, about("Decides the draws and the random control directions.", "seed")] = 0


class LatentScaling(Section):
    """Latent scaling: betas and nu ratios, and which chat-only latents they confirm (docs/method.md 9)."""

    nu_error_below: Annotated[
        PositiveFloat,
        about(
            "Largest nu_error of a confirmed chat-only latent. Lower is stricter. The paper: 0.2.", "ratio"
        ),
    ] = 0.2
    nu_reconstruction_below: Annotated[
        PositiveFloat,
        about(
            "Largest nu_reconstruction of a confirmed chat-only latent. Lower is stricter. The paper: 0.5.",
            "ratio",
        ),
    ] = 0.5
    bootstrap: Bootstrap = Bootstrap()


class Classes(Section):
    """Classes of latents by relative decoder norm difference: 0 is base-only, 1 chat-only (docs/method.md 8).

    The bounds must rise: base_only_below < first of shared_between < second < chat_only_above.
    """

    base_only_below: Annotated[
        Fraction, about("Up to this difference a latent is base-only. The paper: 0.1.", "norm difference")
    ] = 0.1
    shared_between: Annotated[
        tuple[Fraction, Fraction],
        about("Between these a latent is shared. The paper: 0.4 and 0.6.", "norm difference"),
    ] = (0.4, 0.6)
    chat_only_above: Annotated[
        Fraction, about("From this difference on a latent is chat-only. The paper: 0.9.", "norm difference")
    ] = 0.9
    top: Annotated[
        PositiveInt,
        about("Size of the set of the most chat-leaning latents. The paper: 3176 of 73,728.", "count"),
    ] = 50

    @model_validator(mode="before")
    @classmethod
    def _lists_are_ranges(cls, values: Any) -> Any:
        return with_ranges(values, "shared_between")

    @model_validator(mode="after")
    def _ordered(self) -> "Classes":
        low, high = self.shared_between
        if not self.base_only_below < low < high < self.chat_only_above:
            found = f"{self.base_only_below}, {low} to {high}, {self.chat_only_above}"
            raise ValueError(f"found {found}; allowed: base_only_below < shared_between < chat_only_above")
        return self


class Examples(Section):
    """Contexts in which latents fire, and the tokens on which activations are counted (docs/method.md 13).

    Quantiles must rise from above 0 to 1.
    """

    per_latent: Annotated[PositiveInt, about("Strongest contexts kept of each latent.", "count")] = 10
    quantiles: Annotated[
        list[Fraction],
        Field(min_length=1),
        about(
            "Upper edges of bins of activation strength, as shares of a latent's largest activation.", "share"
        ),
    ] = Field(default_factory=lambda: [0.25, 0.5, 0.75, 0.95, 1.0])
    per_quantile: Annotated[
        PositiveInt, about("Random contexts kept of each latent from each bin. The paper: 100.", "count")
    ] = 10
    tokens: Annotated[
        PositiveInt, about("Training tokens searched, an equal share of every shard.", "tokens")
    ] = 5_000_000
    before: Annotated[NonNegativeInt, about("Context kept before the strongest token.", "tokens")] = 16
    after: Annotated[NonNegativeInt, about("Context kept after the strongest token.", "tokens")] = 8
    background: Annotated[
        PositiveInt,
        about("About so many random contexts are kept, to tell where a latent does not fire.", "count"),
    ] = 4000

    @model_validator(mode="after")
    def _bins(self) -> "Examples":
        if (
            self.quantiles[0] == 0
            or self.quantiles[-1] != 1
            or any(low >= high for low, high in pairwise(self.quantiles))
        ):
            raise ValueError(
                f"quantiles: found {self.quantiles}, allowed: increasing, above 0, the last one 1"
            )
        return self


class Twins(Section):
    """Twins: a chat-only and a base-only latent of nearly one direction (docs/method.md 11)."""

    cosine_above: Annotated[
        Cosine,
        about("Least cosine of the one's chat and the other's base direction. The paper: 0.9.", "cosine"),
    ] = 0.9


class SeedAgreement(Section):
    """When a latent of one training counts as found again in another."""

    cosine_above: Annotated[
        Cosine, about("Least cosine of two latents that are each other's nearest.", "cosine")
    ] = 0.7


class FirstLook(Section):
    """What both models' activations and predictions show before any crosscoder (docs/first-look.md)."""

    take: Annotated[
        bool, about("Whether a run takes a first look. Both models are in memory at once then.")
    ] = True
    tokens: Annotated[
        PositiveInt, about("Training tokens that both models read, of all data sets together.", "tokens")
    ] = 20_000
    conversations: Annotated[
        PositiveInt,
        about("Held-out prompts that both models answer, of all data sets of kind `chats`.", "count"),
    ] = 8
    answer_tokens: Annotated[
        PositiveInt,
        about("Longest answer. Prompts may take the rest of `tokens.context`.", "tokens"),
    ] = 24
    equal_models: Annotated[
        Literal["stop", "allow"],
        about("Whether a run of two models that do not differ stops before training."),
    ] = "stop"


class Behaviour(Section):
    """How often each model refuses held-out harmful and benign requests: whether a fine-tune took."""

    requests: Annotated[Text, about("YAML file of requests, such as data/requests.yaml.")]
    phrasings: Annotated[
        PositiveInt,
        about("Phrasings of the file, from its first on, that each request is put into.", "count"),
    ] = 3
    answer_tokens: Annotated[
        PositiveInt,
        about("Tokens generated before an answer is judged.", "tokens"),
    ] = 12


class Patching(Section):
    """Activations are patched between the models on conversations with answers (docs/method.md 12)."""

    conversations: Annotated[
        PositiveInt,
        about("Conversations of each data set. More narrow the intervals. The paper: 512.", "count"),
    ] = 512
    first_tokens: Annotated[
        PositiveInt,
        about("First tokens of each answer that are also measured alone. The paper: 9.", "tokens"),
    ] = 9
    random_sets: Annotated[
        NonNegativeInt, about("Random halves of the most chat-leaning latents, as controls.", "count")
    ] = 2
    seed: Annotated[NonNegativeInt, about("Decides the random sets and the bootstrap.", "seed")] = 0


class Causal(Patching):
    """Which latents carry the fine-tune's effect on the chat model's answers (docs/method.md 12).

    Without this section nothing is measured. ``datasets`` must be of kind ``chats``. Generated answers need
    ``answer_tokens`` below ``tokens.context``.
    """

    datasets: Annotated[
        list[Name], Field(min_length=1), about("Data sets of kind `chats`; their validation chats are used.")
    ]
    answers: Annotated[
        Literal["generated", "dataset"],
        about("Greedy answers of the chat model to each chat's first user turn, or the chats as they are."),
    ] = "generated"
    answer_tokens: Annotated[
        PositiveInt,
        about("Longest generated answer. Prompts may take the rest of `tokens.context`.", "tokens"),
    ] = 256


class Report(Section):
    """How much the page shows."""

    latents: Annotated[
        PositiveInt,
        about("Most chat-leaning latents shown of each crosscoder.", "count"),
    ] = 20
    examples: Annotated[PositiveInt, about("Contexts shown of each latent.", "count")] = 5
    sessions: Annotated[
        list[str],
        about(
            "Sessions shown, saved by `crossdiff explore`: JSON files. Each pair's page shows its own "
            "([explore.md](explore.md#saved-sessions))."
        ),
    ] = Field(default_factory=list)


class Scoring(Section):
    """How crosscoders are scored on planted concepts (docs/planted.md).

    This section must be there with ``pair.chat.planted``, and only then.
    """

    correlation_above: Annotated[
        OpenFraction,
        about("Least correlation of a latent's and a concept's activations for a match.", "correlation"),
    ] = 0.5
    cosine_above: Annotated[
        OpenFraction, about("Least cosine of a latent's and a concept's directions for a match.", "cosine")
    ] = 0.5
    borderline_ratio: Annotated[
        Fraction,
        about(
            "A weakened concept below it is neither found nor false; the strict score counts it as false.",
            "ratio",
        ),
    ] = 0.15
    strict_nu_error_below: Annotated[
        PositiveFloat, about("Stands for latent_scaling.nu_error_below in the strict rule.", "ratio")
    ] = 0.1
    strict_nu_reconstruction_below: Annotated[
        PositiveFloat, about("Stands for latent_scaling.nu_reconstruction_below in the strict rule.", "ratio")
    ] = 0.3


class Density(Section):
    """How often latents fire (docs/method.md 14). ``rare_below`` must not exceed ``dense_above``."""

    dense_above: Annotated[
        Fraction, about("A latent that fires on more of the tokens is dense.", "share of tokens")
    ] = 0.1
    rare_below: Annotated[
        Fraction, about("A latent that fires on fewer of the tokens, but fires, is rare.", "share of tokens")
    ] = 1e-4

    @model_validator(mode="after")
    def _ordered(self) -> "Density":
        if self.rare_below > self.dense_above:
            raise ValueError(
                f"rare_below: found {self.rare_below}, must be at most dense_above {self.dense_above}"
            )
        return self


class Analysis(Section):
    """What is measured of the crosscoders. docs/add-an-evaluation.md says how a new section is added."""

    first_look: FirstLook = FirstLook()
    latent_scaling: LatentScaling = LatentScaling()
    classes: Classes = Classes()
    density: Density = Density()
    examples: Examples = Examples()
    twins: Twins = Twins()
    seed_agreement: SeedAgreement = SeedAgreement()
    behaviour: Behaviour | None = None
    causal: Causal | None = None
    steering: Steering | None = None
    explanations: Explanations | None = None
    report: Report = Report()
    catalogue: Annotated[
        Text | None,
        about("YAML file with names of latents (docs/read-the-report.md)."),
    ] = None
    scoring: Scoring | None = None
    organisms: Organisms | None = None
