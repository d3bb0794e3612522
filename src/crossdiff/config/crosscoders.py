"""Activations and the crosscoders that are trained on them."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from crossdiff.config.base import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Section,
    Text,
    about,
    exactly_one,
)


class Activations(Section):
    """How activations are harvested, and which tokens count.

    A change of any key keeps the caches: tokens are left out when a cache is read.
    """

    folder: Annotated[
        Text | None,
        about(
            "Folder on another file system (scratch) for the caches. results/activations becomes a link to "
            "a folder in it, one for each checkout. Results stay."
        ),
    ] = None
    store: Annotated[
        Literal["all", "none"],
        about(
            "`all` keeps every token's activations in caches. With `none` crosscoders train while both "
            "models run, and later stages read a sample."
        ),
    ] = "all"
    sample_tokens: Annotated[
        PositiveInt,
        about("With `store: none`, training tokens whose activations later stages read.", "tokens"),
    ] = 2_000_000
    keep: Annotated[
        bool,
        about("With `false`, caches are removed once everything that reads them is made. Results stay."),
    ] = True
    batch_tokens: Annotated[
        PositiveInt,
        about("Tokens per forward pass, padding included. More need more memory; results stay.", "tokens"),
    ] = 8192
    skip_first: Annotated[
        NonNegativeInt,
        about("Positions left out at the start of each sequence; their norms are often huge.", "tokens"),
    ] = 0
    max_norm_ratio: Annotated[
        float | None,
        Field(gt=1),
        about("Leave out tokens whose norm in either model exceeds this multiple of the median.", "ratio"),
    ] = None
    statistics_tokens: Annotated[
        PositiveInt,
        about("Tokens from which mean and scale are computed. Median norms are of all tokens.", "tokens"),
    ] = 1_000_000

    @property
    def are_live(self) -> bool:
        """Whether crosscoders train while both models run, without caches of the training tokens."""
        return self.store == "none"


class Normalisation(Section):
    """How activations are scaled before the crosscoder (docs/method.md 3)."""

    kind: Annotated[
        Literal["none", "per_model", "shared"],
        about("`none` leaves them raw (the paper). The others centre; the scale is per model or shared."),
    ] = "none"
    target_rms: Annotated[
        PositiveFloat,
        about("Root mean square norm of scaled activations. Not used by `none`.", "activation norm"),
    ] = 1.0


class CrosscoderSettings(Section):
    """What every loss has in common. A loss derives its settings from it (docs/add-a-loss.md)."""

    # "module:class" of the loss itself. The Snakefile must not import it: it needs torch.
    objective: ClassVar[str]
    # For the forecast: a loss whose steps take as long, and how many times as long this one's take.
    step_like: ClassVar[tuple[str, float] | None] = None
    if TYPE_CHECKING:
        loss: str  # every loss declares its own name, as a Literal

    expansion: Annotated[
        PositiveInt | None,
        about(
            "Latents per dimension of the residual stream. More find rarer concepts. The paper: 32.", "ratio"
        ),
    ] = None
    latents: Annotated[
        PositiveInt | None,
        about("Number of latents, in place of `expansion`. The paper: 73,728.", "count"),
    ] = None
    batch: Annotated[
        PositiveInt,
        about("Token pairs per step. More give fewer, smoother steps. The paper: 2048.", "tokens"),
    ] = 2048
    tokens: Annotated[
        PositiveInt,
        about("Length of the training, repeats of the data included. The paper: 200,000,000.", "tokens"),
    ]
    learning_rate: Annotated[
        PositiveFloat, about("Learning rate of Adam. The paper: 1.0e-4.", "Adam rate")
    ] = 1.0e-4
    warmup_steps: Annotated[
        NonNegativeInt, about("Steps over which the learning rate rises linearly. The paper: 1000.", "steps")
    ] = 1000
    decay_fraction: Annotated[
        float,
        Field(ge=0, lt=1),
        about(
            "Last steps, over which the learning rate falls linearly to 0. The paper: 0.", "share of steps"
        ),
    ] = 0.0
    gradient_clip: Annotated[
        PositiveFloat | None,
        about("Largest norm of the gradient; a larger one is scaled down.", "gradient norm"),
    ] = None
    squared_error: Annotated[
        bool, about("Square the L2 norm in the reconstruction loss. The paper does not.")
    ] = False
    code_normalisation: Annotated[
        Literal["crosscoder", "sae", "mixed", "none", "decoupled"],
        about("Weight of a latent's activation, from its decoder norms (docs/method.md 4)."),
    ] = "crosscoder"
    init_norm: Annotated[PositiveFloat, about("Norm of every decoder row at the start.", "decoder norm")]
    same_init: Annotated[bool, about("Both models start from the same weights, as in the paper.")] = True
    transpose_init: Annotated[
        bool, about("The decoder starts as the transposed encoder, as in the paper.")
    ] = True
    normalisation: Normalisation = Normalisation()
    precision: Annotated[
        Literal["bfloat16", "float32"],
        about("Precision in which active latents are looked for. Their values and gradients are float32."),
    ] = "bfloat16"
    buffer_tokens: Annotated[
        PositiveInt,
        about("Token pairs shuffled together. Two such pools are in memory: more mix better.", "tokens"),
    ] = 500_000
    log_every: Annotated[
        PositiveInt,
        about("Steps from one row of `training.csv` to the next.", "steps"),
    ] = 100

    @model_validator(mode="after")
    def _size(self) -> "CrosscoderSettings":
        exactly_one(self, ("expansion", "latents"))
        if self.tokens < self.batch:
            raise ValueError(f"tokens: found {self.tokens}, less than one batch of {self.batch}")
        return self

    @property
    def steps(self) -> int:
        """Training steps."""
        return self.tokens // self.batch

    def is_logged(self, step: int) -> bool:
        """Whether a step (0-based) has a row in the training log."""
        return (step + 1) % self.log_every == 0 or step + 1 == self.steps

    @property
    def needs_held_out(self) -> bool:
        """Whether training ends with a look at held-out activations."""
        return False

    @property
    def active_latents(self) -> int | None:
        """Active latents per token, on average. None if the settings do not say."""
        return None

    @property
    def needs(self) -> dict[str, int]:
        """How many latents there must be, by the key that needs them."""
        return {}

    @property
    def least_width(self) -> int:
        """The smallest d_model at which there are as many latents as the loss needs."""
        least = max(self.needs.values(), default=1)
        return -(-least // self.expansion) if self.expansion else 1

    def too_few(self, d_model: int) -> str:
        """Return which key needs more latents than there are at width ``d_model``, or "" if none does."""
        latents = self.n_latents(d_model)
        found = f"expansion {self.expansion} x d_model {d_model} is {latents} latents"
        for key, least in self.needs.items():
            if least > latents and key == "k":
                return (
                    f"k: found more active latents than there are: {found}; "
                    "lower k (and k_max), or raise expansion"
                )
            if least > latents:
                return f"{key}: needs {least} latents, {found}; raise expansion"
        return ""

    def n_latents(self, d_model: int) -> int:
        """Number of latents for a residual stream of width ``d_model``."""
        return (self.latents or 0) + (self.expansion or 0) * d_model  # one of the two is given


class PenaltyKeys(CrosscoderSettings):
    """The keys of every loss with the penalty of ``l1``."""

    step_like = ("l1", 1.0)

    loss: str
    l1_coefficient: Annotated[
        PositiveFloat,
        about("Weight of the penalty. Raise it for fewer active latents. The paper: 0.041.", "ratio"),
    ]
    l1_warmup_steps: Annotated[
        NonNegativeInt, about("Steps over which `l1_coefficient` rises linearly. The paper: 0.", "steps")
    ] = 0
    init_norm: Annotated[
        PositiveFloat, about("Norm of every decoder row at the start. The paper: 0.005.", "decoder norm")
    ] = 0.005


class L1Settings(PenaltyKeys):
    """The sparsity penalty of the first crosscoders (docs/method.md 5).

    Give ``expansion`` or ``latents``, not both. ``tokens`` must fill one batch.
    """

    objective = "crossdiff.crosscoders.losses.l1:L1Loss"

    loss: Annotated[Literal["l1"], about("The loss whose keys these are.")]


class TopKKeys(CrosscoderSettings):
    """The keys of every loss that selects as ``batchtopk`` does."""

    step_like = ("batchtopk", 1.0)

    loss: str
    k: Annotated[
        PositiveInt,
        about(
            "Active latents per token, on average. More fit better and are less sparse. The paper: 100.",
            "count",
        ),
    ]
    k_max: Annotated[
        PositiveInt | None, about("`k` at the first step of annealing. Left out: no annealing.", "count")
    ] = None
    k_annealing_steps: Annotated[
        NonNegativeInt, about("Steps over which `k_max` changes linearly to `k`. The paper: 0.", "steps")
    ] = 0
    auxiliary_coefficient: Annotated[
        NonNegativeFloat,
        about("Weight of the loss that revives dead latents; 0 turns it off. The paper: 1/32.", "ratio"),
    ] = 1 / 32
    auxiliary_k: Annotated[
        PositiveInt,
        about("Dead latents per token in that loss, the strongest ones. The paper: 512.", "count"),
    ] = 512
    dead_after_tokens: Annotated[
        PositiveInt,
        about("A latent that has been silent so long counts as dead. The paper: 10,000,000.", "tokens"),
    ] = 10_000_000
    threshold: Annotated[
        Literal["running", "held_out"],
        about("Threshold at inference: a running mean over training batches, or a mean over held-out ones."),
    ] = "running"
    threshold_start_step: Annotated[
        NonNegativeInt, about("Step at which the running mean begins. The authors' code: 1000.", "steps")
    ] = 1000
    threshold_decay: Annotated[
        float,
        Field(ge=0, lt=1),
        about("Weight of the past in the running mean. The authors' code: 0.999.", "share"),
    ] = 0.999
    gradient_clip: Annotated[
        PositiveFloat | None,
        about("Largest norm of the gradient; a larger one is scaled down. The paper: 1.", "gradient norm"),
    ] = 1.0
    init_norm: Annotated[
        PositiveFloat, about("Norm of every decoder row at the start. The paper: 1.", "decoder norm")
    ] = 1.0

    @property
    def needs_held_out(self) -> bool:
        return self.threshold == "held_out"

    @property
    def active_latents(self) -> int:
        return self.k

    @property
    def needs(self) -> dict[str, int]:
        return {"k": max(self.k, self.k_max or 0)}

    @model_validator(mode="after")
    def _annealing(self) -> "TopKKeys":
        if self.k_max is not None and (self.k_max != self.k) != (self.k_annealing_steps > 0):
            raise ValueError(
                f"k_max: found {self.k_max} with k {self.k} and k_annealing_steps {self.k_annealing_steps}; "
                "annealing needs k_max different from k and k_annealing_steps above 0"
            )
        if self.k_annealing_steps and self.k_max is None:
            raise ValueError(f"k_annealing_steps: found {self.k_annealing_steps} without k_max")
        if self.k_annealing_steps > self.steps:
            raise ValueError(
                f"k_annealing_steps: found {self.k_annealing_steps}, "
                f"must be at most the {self.steps} training steps (tokens / batch)"
            )
        for name, active in {"k": self.k, "k_max": self.k_max}.items():
            if self.latents is not None and active is not None and active > self.latents:
                raise ValueError(f"{name}: found {active}, must be at most latents {self.latents}")
        if self.threshold_start_step >= self.steps:
            raise ValueError(
                f"threshold_start_step: found {self.threshold_start_step}, "
                f"must be below the {self.steps} training steps (tokens / batch)"
            )
        return self


class BatchTopKSettings(TopKKeys):
    """Keep the k x batch largest scaled activations of a batch (docs/method.md 6).

    Give ``expansion`` or ``latents``, not both. ``tokens`` must fill one batch. ``k`` must not exceed
    ``latents``. Annealing needs a ``k_max`` that differs from ``k``, and ``k_annealing_steps`` up to the
    number of steps (tokens / batch). ``threshold_start_step`` must be below the number of steps.
    """

    objective = "crossdiff.crosscoders.losses.batchtopk:BatchTopKLoss"

    loss: Annotated[Literal["batchtopk"], about("The loss whose keys these are.")]
