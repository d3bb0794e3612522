"""What ``activations.store: none`` asks of a config, and how its sample is divided."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crossdiff.config.whole import Config

POOLS = 5  # of an epoch, or more: a pool holds at most a fifth of the training tokens


def sampled(config: "Config", dataset: str) -> int:
    """How many training tokens of a data set are in the sample (``activations.sample_tokens``)."""
    return config.activations.sample_tokens * config.datasets[dataset].tokens // _training_tokens(config)


def _training_tokens(config: "Config") -> int:
    return sum(source.tokens for source in config.datasets.values())


def check_live(config: "Config") -> None:
    """Raise ValueError if a config stores no activations, and its crosscoders can't be trained like that."""
    if not config.activations.are_live:
        return
    if (gpus := config.gpus.training) > 1:
        raise ValueError(
            f"gpus.training: found {gpus}, allowed: 1 with activations.store: none, "
            "because crosscoders then train where the models run"
        )
    if config.planted is not None:
        raise ValueError(
            "activations.store: found none, allowed with planted concepts: all; they exist only in caches"
        )
    there, sample = _training_tokens(config), config.activations.sample_tokens
    if sample >= there:
        raise ValueError(
            f"activations.sample_tokens: found {sample}, must be below the {there} training tokens of all "
            "data sets; lower it, or use store: all"
        )
    if empty := [name for name in config.datasets if not sampled(config, name)]:
        raise ValueError(
            f"activations.sample_tokens: found {sample}, which leaves none for datasets.{empty[0]}; raise it"
        )
    for name, crosscoder in config.trained.items():
        if crosscoder.batch > (pool := min(crosscoder.buffer_tokens, there // POOLS)):
            raise ValueError(
                f"crosscoders.{name}.batch: found {crosscoder.batch}, must be at most {pool} with "
                f"activations.store: none, where a pool has buffer_tokens or 1/{POOLS} of the training "
                "tokens; lower it, or raise buffer_tokens or the tokens of datasets"
            )
