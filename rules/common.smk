"""Helpers for all stages: the checked configuration and the files of this run. No rules.

On a cluster, rules with ``localrule: True`` run where Snakemake runs: what takes seconds, and downloads, since nodes often have no network.
"""

import os
import re
from pathlib import Path

from snakemake.exceptions import WorkflowError

try:
    from crossdiff.config import MODELS
    from crossdiff.latents.catalogue import read_catalogue
    from crossdiff.config import Explanations, Finetuning, Patching, SteeringGrid
    from crossdiff.errors import UserError
    from crossdiff.provenance import planned_jobs
    from crossdiff.provenance.code import code_digest
    from crossdiff.workflow import forecast, slurm
    from crossdiff.workflow.run import SPLITS, Run
except ModuleNotFoundError as error:
    raise WorkflowError(f"{error}. Install Crossdiff into the Python that runs Snakemake: make install, or pip install -e .")

try:
    RUN = Run(config)
    request = forecast.request(RUN.config)
except UserError as error:
    raise WorkflowError(str(error))

os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")  # huge pages: fewer faults on large temporaries

CONFIG = RUN.config
PAIR = CONFIG.pair.name
LAYER = CONFIG.pair.layer
REPORT = f"results/{PAIR}/report/index.html"
REFUSALS = f"results/{PAIR}/models/refusals.csv" if CONFIG.behaviour else []

# Cache -> model that it is harvested from. Of a planted pair it is the background, unless that is noise.
HARVESTED = {model: model for model in MODELS}
if CONFIG.pair.chat.planted:
    HARVESTED = {} if CONFIG.pair.chat.planted.noise else {"unplanted": "base"}

FIRST_SEED = CONFIG.seeds[:1]  # figures and the page show one training of each crosscoder
NU_THRESHOLDS = ("latent_scaling.nu_error_below", "latent_scaling.nu_reconstruction_below")

# Of a forward pass. A resource, no setting: it changes results by rounding only, so with less of it, for want of memory, all that is there stays.
BATCH_TOKENS = CONFIG.activations.batch_tokens

settings = RUN.settings

# A local limit: SLURM's jobs run on the cluster's GPUs.
forecast.share_gpu(workflow)


resource_scopes:
    on_gpu="local",


def one_of(names):
    """A wildcard constraint; matches nothing where there are no names."""
    return "|".join(map(re.escape, names)) or "(?!)"


wildcard_constraints:
    pair=one_of([PAIR]),
    layer=str(LAYER),
    model=one_of(MODELS),
    dataset=one_of(CONFIG.datasets),
    split=one_of(SPLITS),
    shard=r"\d{4}",
    crosscoder=one_of(CONFIG.crosscoders),
    seed=one_of(map(str, CONFIG.seeds)),


def token_shards(split):
    """Every token shard of a split, data set by data set."""
    return [
        f"results/{PAIR}/tokens/{dataset}.{split}/{shard}.parquet" for dataset in CONFIG.datasets for shard in RUN.shards(dataset, split)
    ]


def caches(split, models=MODELS):
    """The activation caches of ``models`` for these shards, in the same order."""
    return [
        f"results/{PAIR}/activations/layer{LAYER}/{dataset}.{split}/{shard}.{model}.h5"
        for model in models
        for dataset in CONFIG.datasets
        for shard in RUN.shards(dataset, split)
    ]


def pairs(split, prefix=""):
    """Named inputs of a rule that reads both models' activations in step."""
    return {
        f"{prefix}tokens": token_shards(split),
        f"{prefix}base": caches(split, ["base"]),
        f"{prefix}chat": caches(split, ["chat"]),
        "summary": f"results/{PAIR}/activations/layer{LAYER}/summary.json",
    }


def per_crosscoder(file, seeds=CONFIG.seeds):
    """A file of every crosscoder and seed."""
    return expand(
        "results/{pair}/layer{layer}/{crosscoder}/seed{seed}/{file}",
        pair=PAIR,
        layer=LAYER,
        crosscoder=CONFIG.crosscoders,
        seed=seeds,
        file=file,
    )


def answers(dataset):
    """Token shards that hold a data set's chats with answers: generated ones, or the data set's own."""
    if CONFIG.causal.answers == "generated":
        return [f"results/{PAIR}/answers/{dataset}.parquet"]
    return [f"results/{PAIR}/tokens/{dataset}.validation/{shard}.parquet" for shard in RUN.shards(dataset, "validation")]


def loss_module(crosscoder):
    """The module of a crosscoder's loss, which the script comes to by name."""
    return CONFIG.crosscoders[crosscoder].objective.split(":")[0]


def archive(package):
    """The downloaded wheel of a source that is a package; nothing for the others."""
    return f"results/packages/{package.key}.whl" if package else []


def unplanted(split, dataset="{dataset}", shard="{shard}"):
    """Activations before planting; none where the background is noise."""
    if CONFIG.pair.chat.planted.noise:
        return []
    return f"results/{{pair}}/activations/layer{{layer}}/{dataset}.{split}/{shard}.unplanted.h5"


def planted_firings(split):
    """The firings of planted concepts in every shard of a split."""
    return [
        f"results/{PAIR}/planted/layer{LAYER}/{dataset}.{split}/{shard}.parquet"
        for dataset in CONFIG.datasets
        for shard in RUN.shards(dataset, split)
    ]
