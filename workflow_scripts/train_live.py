"""Train one crosscoder while both models run, or go on with one that was interrupted.

The first job of a pair and layer trains the crosscoders of the others, too. The other jobs then only move
their results to the final names.
"""

import logging
from collections.abc import Iterable
from functools import partial

from crossdiff.crosscoders.handover import Order, take
from crossdiff.provenance.storage import current_record
from crossdiff.workflow.job import job
from crossdiff.workflow.together import other_orders, own_order

log = logging.getLogger(__name__)


def main(
    own: Order,
    others: Iterable[Order],
    replacements: dict[int, int],
    batch_tokens: int,
    statistics_tokens: int,
) -> None:
    if take(own):
        log.info("the job of another crosscoder has trained this one")
        return
    # Not at the top: a job that only takes results needs no torch.
    from crossdiff.crosscoders.from_models import ModelFeed
    from crossdiff.crosscoders.together import train_all
    from crossdiff.device import device

    feed = partial(
        ModelFeed,
        replacements=replacements,
        batch_tokens=batch_tokens,
        statistics_tokens=statistics_tokens,
    )
    train_all(own, others, device(), feed)


if __name__ == "__main__":
    with job(snakemake) as settings:
        main(
            own=own_order(snakemake, settings, current_record()),
            others=other_orders(snakemake),
            replacements=dict(snakemake.params.replacements),
            batch_tokens=snakemake.resources.batch_tokens,
            statistics_tokens=settings.activations.statistics_tokens,
        )
