"""What all parts of the forecast read from the config: tokens, shards, and the bytes of a model's weights.

Torch-free.
"""

from typing import NamedTuple

from crossdiff.config import Config
from crossdiff.config.live import sampled
from crossdiff.workflow.sizes import Shape

# Bytes of a block's weight in memory: bfloat16, or so many bits. In 4 bits, 64 weights share a float32 scale.
WEIGHT_BYTES = {None: 2.0, 8: 1.0, 4: 0.5 + 4 / 64}


def activation_width(config: Config, model: Shape) -> int:
    """The length of an activation vector: the model's d_model, or that of planted noise."""
    planted = config.planted
    return planted.noise.d_model if planted and planted.noise else model.d_model


def model_bytes(config: Config, model: Shape, *roles: str) -> float:
    """Bytes that the weights of the pair's models take in memory. ``roles`` are ``base`` and ``chat``.

    ``bits`` of a model are those of its blocks. Its embeddings stay in bfloat16.
    """
    blocks = model.parameters(model.layers) - model.parameters(0)
    outside = 2 * (model.parameters() - blocks)
    return sum(outside + WEIGHT_BYTES[config.pair.source(role).bits] * blocks for role in roles)


class Data(NamedTuple):
    """Tokens of all data sets, and the shards that they lie in."""

    train: int  # training tokens
    stored: int  # of these, the tokens whose activations are cached
    validation: int  # held-out tokens; all of their activations are cached
    token_shards: int  # of training and held-out tokens
    caches: int  # shards of activations, for one model at one layer
    largest: int  # tokens of the largest shard with a cache

    @classmethod
    def of(cls, config: Config) -> "Data":
        """Return the data of a config. With ``store: none`` a sample is cached, one shard per data set."""
        datasets, shard = config.datasets, config.tokens.shard
        train = [source.tokens for source in datasets.values()]
        validation = [source.validation_tokens for source in datasets.values()]
        live = config.activations.are_live
        stored = [sampled(config, name) for name in datasets] if live else train
        held_out, of_train = _shards(validation, shard), _shards(train, shard)
        return cls(
            sum(train),
            sum(stored),
            sum(validation),
            of_train + held_out,
            (len(stored) if live else of_train) + held_out,
            max(*stored, *validation) if live else min(shard, max(train + validation)),
        )

    @property
    def cached(self) -> int:
        """Tokens whose activations are cached, for one model at one layer."""
        return self.stored + self.validation


def _shards(tokens: list[int], shard: int) -> int:
    return sum(-(-number // shard) for number in tokens)
