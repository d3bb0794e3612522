"""What is measured of trained crosscoders, and shown."""

from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from crossdiff.config.base import Fraction, Name, NonNegativeInt, PositiveFloat, Section, with_ranges
from crossdiff.config.explanations import Explanations

# A latent that fires in fewer blocks has no interval: the bootstrap over few active blocks is far too narrow. With 2, 3, 5 and 10 active
# ones of 50, a 95 % interval holds the truth in 50, 75, 86 and 89 % of all cases.
FEWEST_ACTIVE_BLOCKS = 10


class Bootstrap(Section):
    """Confidence intervals of nu ratios: whole blocks of documents are drawn, since tokens of one document are not independent."""

    blocks: Annotated[
        int, Field(ge=FEWEST_ACTIVE_BLOCKS, description="blocks that the documents are spread over")
    ] = 50
    samples: Annotated[int, Field(gt=1, description="times that so many blocks are drawn")] = 200
    seed: Annotated[int, Field(ge=0, description="of the draws and of the random control directions")] = 0


class LatentScaling(Section):
    """Betas and nu ratios (docs/method.md 9)."""

    nu_error_below: Annotated[float, Field(gt=0, description="nu_error of a confirmed chat-only latent")] = (
        0.2
    )
    nu_reconstruction_below: Annotated[
        float, Field(gt=0, description="nu_reconstruction of a confirmed chat-only latent")
    ] = 0.5
    bootstrap: Bootstrap = Bootstrap()


class Classes(Section):
    """Classes by relative decoder norm difference (docs/method.md 8)."""

    base_only_below: Fraction = 0.1
    shared_between: tuple[Fraction, Fraction] = (0.4, 0.6)
    chat_only_above: Fraction = 0.9
    top: Annotated[
        int, Field(gt=0, description="size of the set of the most chat-leaning latents, by rank")
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
    """Activating contexts, and the tokens on which the activations of latents are counted (docs/method.md 13)."""

    per_latent: Annotated[int, Field(gt=0, description="strongest contexts of each latent")] = 10
    quantiles: Annotated[
        list[Fraction],
        Field(
            min_length=1,
            default_factory=lambda: [0.25, 0.5, 0.75, 0.95, 1.0],
            description="upper edges of the bins that are sampled, as shares of a latent's largest activation",
        ),
    ]
    per_quantile: Annotated[int, Field(gt=0, description="random contexts of each latent from each bin")] = 10
    tokens: Annotated[
        int, Field(gt=0, description="training tokens searched, an equal share of every shard")
    ] = 5_000_000
    before: Annotated[int, Field(ge=0, description="tokens of context before the peak")] = 16
    after: NonNegativeInt = 8
    background: Annotated[
        int,
        Field(
            gt=0, description="random contexts, about: where a latent does not fire, as its explanations need"
        ),
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
    """Chat-only and base-only latents of one direction (docs/method.md 11)."""

    cosine_above: Annotated[
        float,
        Field(
            gt=-1,
            lt=1,
            description="of the chat-only latent's chat and the base-only latent's base direction",
        ),
    ] = 0.9


class SeedAgreement(Section):
    """When a latent of one training is found again in another."""

    cosine_above: Annotated[
        float, Field(gt=-1, lt=1, description="of two latents that are each other's nearest")
    ] = 0.7


class Behaviour(Section):
    """Proof that a fine-tune took: refusals of held-out harmful and benign requests."""

    requests: Annotated[str, Field(description="YAML file of requests")]
    phrasings: Annotated[
        int, Field(gt=0, description="how many of the file's phrasings each held-out request is put into")
    ] = 3
    answer_tokens: Annotated[int, Field(gt=0, description="tokens generated before an answer is judged")] = 12


class Patching(Section):
    """What is measured of conversations with answers: activations patched between the models (docs/method.md 12)."""

    conversations: Annotated[int, Field(gt=0, description="conversations of each data set")] = 512
    first_tokens: Annotated[
        int, Field(gt=0, description="tokens of each answer that are also looked at alone")
    ] = 9
    random_sets: Annotated[
        int, Field(ge=0, description="random halves of the chat-leaning latents, as a control")
    ] = 2
    seed: NonNegativeInt = 0


class Causal(Patching):
    """Which latents carry the fine-tune's effect, and on which conversations."""

    datasets: Annotated[
        list[Name], Field(min_length=1, description="chat data sets whose validation chats are used")
    ]
    answers: Annotated[
        Literal["generated", "dataset"],
        Field(
            description="the chat model's own greedy answers to each chat's first user turn, or the chats as they are"
        ),
    ] = "generated"
    answer_tokens: Annotated[
        int, Field(gt=0, description="longest generated answer; prompts may take the rest of tokens.context")
    ] = 256


class SteeringGrid(Section):
    """How latents are turned up and down while the chat model answers the held-out requests of ``behaviour``."""

    strengths: Annotated[
        list[Annotated[float, Field(allow_inf_nan=False)]],
        Field(
            min_length=1,
            default_factory=lambda: [-2.0, -1.0, 1.0, 2.0, 3.0],
            description="multiples of a latent's largest activation in the training text; 0 is always measured",
        ),
    ]
    phrasings: Annotated[
        int, Field(gt=0, description="how many of the file's phrasings each request is put into")
    ] = 1
    answer_tokens: Annotated[int, Field(gt=0, description="longest answer")] = 16
    first_tokens: Annotated[
        int, Field(gt=0, description="tokens of the unsteered answers whose predictions are compared")
    ] = 5
    random_latents: Annotated[
        int, Field(ge=0, description="directions of other latents, at each latent's strengths, as a control")
    ] = 2
    random_directions: Annotated[
        int, Field(ge=0, description="random directions, at each latent's strengths, as a control")
    ] = 2
    seed: NonNegativeInt = 0

    @model_validator(mode="after")
    def _grid(self) -> "SteeringGrid":
        if 0 in self.strengths or len(set(self.strengths)) != len(self.strengths):
            raise ValueError(
                f"strengths: found {self.strengths}, allowed: different ones, without 0, which is always measured"
            )
        return self


class Steering(SteeringGrid):
    """What latents do to the chat model's answers: the one that by rule has to do with refusal, and others by name."""

    latents: Annotated[
        dict[Name, list[NonNegativeInt]],
        Field(
            default_factory=dict,
            description="crosscoder -> latents that are steered besides the one that is chosen by rule",
        ),
    ]


class Report(Section):
    """The page."""

    latents: Annotated[int, Field(gt=0, description="chat-leaning latents shown per crosscoder")] = 20
    examples: Annotated[int, Field(gt=0, description="contexts shown per latent")] = 5


class Scoring(Section):
    """How crosscoders are scored on planted concepts (docs/planted.md)."""

    correlation_above: Annotated[
        float, Field(gt=0, lt=1, description="of a latent's and its concept's activations")
    ] = 0.5
    cosine_above: Annotated[float, Field(gt=0, lt=1, description="of their directions")] = 0.5
    borderline_ratio: Annotated[
        Fraction,
        Field(
            description="a weakened concept below it counts neither as found nor as false; the strict score counts it as false"
        ),
    ] = 0.15
    strict_nu_error_below: PositiveFloat = 0.1
    strict_nu_reconstruction_below: PositiveFloat = 0.3


class Density(Section):
    """How often latents fire (docs/method.md 14)."""

    dense_above: Annotated[
        Fraction, Field(description="a latent that fires on a larger share of the tokens is dense")
    ] = 0.1
    rare_below: Annotated[
        Fraction,
        Field(description="a latent that fires on a smaller share of the tokens, but fires, is rare"),
    ] = 1e-4


class Analysis(Section):
    """What is measured of the crosscoders. A new evaluation adds its section here (docs/add-an-evaluation.md)."""

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
        str | None, Field(description="YAML file of names of latents (docs/read-the-report.md)")
    ] = None
    scoring: Scoring | None = None
