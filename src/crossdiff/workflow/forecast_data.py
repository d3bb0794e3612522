"""What all parts of the forecast read from the config: tokens, shards, and the bytes of a model's weights.

Torch-free.
"""

from typing import NamedTuple

from crossdiff.config import Config
from crossdiff.workflow.sizes import Shape

# Bytes of a weight in memory: bfloat16, or so many bits with their scales (bitsandbytes).
WEIGHT_BYTES = {None: 2.0, 8: 1.0, 4: 0.55}


def activation_width(config: Config, model: Shape) -> int:
    """The length of an activation vector: the model's d_model, or that of planted noise."""
    planted = config.planted
    return planted.noise.d_model if planted and planted.noise else model.d_model


def model_bytes(config: Config, model: Shape, *roles: str) -> float:
    """Bytes that the weights of the pair's models take in memory. ``roles`` are ``base`` and ``chat``."""
    return sum(WEIGHT_BYTES[config.pair.source(role).bits] for role in roles) * model.parameters()


def is_live(config: Config) -> bool:
    """Whether crosscoders train while both models run, without caches of the training tokens."""
    return config.activations.store == "none"


class Data(NamedTuple):
    """Tokens of all data sets, and the shards that they lie in."""

    train: int  # training tokens
    sampled: int  # of these, the tokens whose activations are cached
    validation: int  # held-out tokens; all of their activations are cached
    token_shards: int
    caches: int  # shards of activations, for one model at one layer
    largest: int  # tokens of the largest cached shard

    @classmethod
    def of(cls, config: Config) -> "Data":
        """Return the data of a config.

        With ``store: none`` a sample of every data set's training tokens is cached, in proportion to them.
        """
        datasets, shard = list(config.datasets.values()), config.tokens.shard
        train, validation = [d.tokens for d in datasets], [d.validation_tokens for d in datasets]
        share = min(1.0, config.activations.sample_tokens / sum(train)) if is_live(config) else 1.0
        sampled = [round(share * tokens) for tokens in train]
        return cls(
            sum(train),
            sum(sampled),
            sum(validation),
            sum(-(-tokens // shard) for tokens in train + validation),
            sum(-(-tokens // shard) for tokens in sampled + validation),
            min(shard, max(sampled + validation)),
        )

    @property
    def cached(self) -> int:
        """Tokens whose activations are cached, for one model at one layer."""
        return self.sampled + self.validation
