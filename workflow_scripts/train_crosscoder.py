"""Train one crosscoder, or go on with one that was interrupted.

With ``train_together`` the first job of a pair and layer trains the crosscoders of the others, too. The other
jobs then only move their results to the final names.
"""

import logging
from collections.abc import Iterable

from crossdiff.crosscoders.handover import Order, take
from crossdiff.provenance.storage import current_record
from crossdiff.workflow.job import job
from crossdiff.workflow.together import other_orders, own_order

log = logging.getLogger(__name__)


def main(own: Order, others: Iterable[Order], processes: int) -> None:
    if take(own):
        log.info("the job of another crosscoder has trained this one")
        return
    # Not at the top: a job that only takes results needs no torch.
    from crossdiff.crosscoders.parallel import train_on_ranks
    from crossdiff.crosscoders.together import train_all
    from crossdiff.device import device

    if processes > 1:
        if list(others):
            log.info("on several GPUs every crosscoder trains by itself")
        train_on_ranks(
            processes, own.inputs, own.settings, own.seed, own.state, own.identity, own.outputs.log
        )
        others = ()
    train_all(own, others, device())


if __name__ == "__main__":
    with job(snakemake) as settings:
        main(
            own=own_order(snakemake, settings, current_record()),
            others=other_orders(snakemake),
            processes=snakemake.resources.on_gpu,
        )
