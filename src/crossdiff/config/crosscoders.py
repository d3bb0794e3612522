"""Activations and the crosscoders that are trained on them."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from crossdiff.config.base import NonNegativeInt, PositiveFloat, PositiveInt, Section, exactly_one


class Activations(Section):
    """How activations are harvested and which tokens count."""

    batch_tokens: Annotated[
        int,
        Field(
            gt=0, description="tokens per forward pass, padding included; another number keeps what is there"
        ),
    ] = 8192
    skip_first: Annotated[int, Field(ge=0, description="first positions of each sequence to leave out")] = 0
    max_norm_ratio: Annotated[
        float | None,
        Field(
            gt=1,
            allow_inf_nan=False,
            description="leave out tokens whose norm in either model exceeds this multiple of the median",
        ),
    ] = None
    statistics_tokens: Annotated[
        int, Field(gt=0, description="tokens for mean and scale; median norms are of all")
    ] = 1_000_000


class Normalisation(Section):
    """Scaling of activations before the crosscoder (docs/method.md 3)."""

    kind: Annotated[
        Literal["none", "per_model", "shared"],
        Field(description="none; centre and scale each model by itself; centre each, one scale for both"),
    ] = "none"
    target_rms: Annotated[
        PositiveFloat, Field(description="root mean square norm of a scaled activation")
    ] = 1.0


class CrosscoderSettings(Section):
    """What every loss has in common. A loss derives its settings from it (docs/add-a-loss.md)."""

    objective: ClassVar[
        str
    ]  # "module:class" of the loss itself, which the Snakefile must not import: it needs torch

    expansion: Annotated[int | None, Field(gt=0, description="latents per residual dimension")] = None
    latents: Annotated[int | None, Field(gt=0, description="number of latents; instead of expansion")] = None
    batch: PositiveInt = 2048
    tokens: Annotated[int, Field(gt=0, description="training tokens, repeats over the data included")]
    learning_rate: PositiveFloat = 1.0e-4
    warmup_steps: NonNegativeInt = 1000
    decay_fraction: Annotated[
        float, Field(ge=0, lt=1, description="last share of the steps, linear decay to 0")
    ] = 0.0
    gradient_clip: Annotated[float | None, Field(gt=0)] = None
    squared_error: Annotated[
        bool, Field(description="squared instead of un-squared L2 reconstruction loss")
    ] = False
    code_normalisation: Annotated[
        Literal["crosscoder", "sae", "mixed", "none", "decoupled"],
        Field(description="weight of a latent's activation (docs/method.md 4)"),
    ] = "crosscoder"
    init_norm: Annotated[float, Field(gt=0, description="decoder norm at the start")]
    same_init: Annotated[bool, Field(description="both models start from the same weights")] = True
    transpose_init: Annotated[bool, Field(description="the decoder starts as the transposed encoder")] = True
    normalisation: Normalisation = Normalisation()
    precision: Annotated[
        Literal["bfloat16", "float32"],
        Field(
            description="of the products that find active latents; their values, gradients and weights are float32"
        ),
    ] = "bfloat16"
    buffer_tokens: Annotated[
        int,
        Field(
            gt=0,
            description="token pairs shuffled together; two such pools are in memory, the GPU's if they fit",
        ),
    ] = 500_000
    log_every: PositiveInt = 100

    @model_validator(mode="after")
    def _size(self) -> "CrosscoderSettings":
        exactly_one(self, ("expansion", "latents"))
        if self.tokens < self.batch:
            raise ValueError(f"tokens: found {self.tokens}, less than one batch of {self.batch}")
        return self

    @property
    def steps(self) -> int:
        return self.tokens // self.batch

    def is_logged(self, step: int) -> bool:
        """Whether a step (0-based) has a row in the training log."""
        return (step + 1) % self.log_every == 0 or step + 1 == self.steps

    @property
    def needs_held_out(self) -> bool:
        """Whether training ends with a look at held-out activations."""
        return False

    def n_latents(self, d_model: int) -> int:
        return self.latents or self.expansion * d_model


class L1Settings(CrosscoderSettings):
    """The sparsity penalty of the first crosscoders (docs/method.md 5)."""

    objective = "crossdiff.crosscoders.losses.l1:L1Loss"

    loss: Literal["l1"]
    l1_coefficient: PositiveFloat
    l1_warmup_steps: NonNegativeInt = 0
    init_norm: PositiveFloat = 0.005


class BatchTopKSettings(CrosscoderSettings):
    """Keep the k x batch largest scaled activations of a batch (docs/method.md 6)."""

    objective = "crossdiff.crosscoders.losses.batchtopk:BatchTopKLoss"

    loss: Literal["batchtopk"]
    k: PositiveInt
    k_max: Annotated[int | None, Field(gt=0, description="start of k annealing; k when left out")] = None
    k_annealing_steps: NonNegativeInt = 0
    auxiliary_coefficient: Annotated[float, Field(ge=0)] = 1 / 32
    auxiliary_k: PositiveInt = 512
    dead_after_tokens: Annotated[
        int, Field(gt=0, description="tokens without firing that make a latent dead")
    ] = 10_000_000
    threshold: Annotated[
        Literal["running", "held_out"],
        Field(
            description="inference threshold: running mean over training batches, or mean over all held-out batches after training"
        ),
    ] = "running"
    threshold_start_step: NonNegativeInt = 1000
    threshold_decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    gradient_clip: Annotated[float | None, Field(gt=0)] = 1.0
    init_norm: PositiveFloat = 1.0

    @property
    def needs_held_out(self) -> bool:
        return self.threshold == "held_out"

    @model_validator(mode="after")
    def _annealing(self) -> "BatchTopKSettings":
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
