"""``crossdiff gc``: what results no config needs, in lines for people, and its deletion.

Torch-free.
"""

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from crossdiff.errors import UserError
from crossdiff.provenance import unneeded
from crossdiff.provenance.hashing import Hashes
from crossdiff.provenance.json_cache import FOLDER, JsonCache
from crossdiff.provenance.lock import refuse_while_snakemake_runs
from crossdiff.provenance.planned_jobs import plan
from crossdiff.provenance.records import RESULTS
from crossdiff.provenance.unneeded import Found, Left, Unneeded
from crossdiff.workflow.running import running_jobs

MERGED = "+"  # between the files of a run with several
SHOWN = 20  # folders that are listed of what is left alone


class Collected(NamedTuple):
    """What no config needs, and other configs that made some of it."""

    found: Found
    others: list[str]


def collect(root: Path, named: Sequence[Path]) -> Collected:
    """Find what none of the configs needs. ``named``: config files, merged ones (``a.yaml+b.yaml``), folders.

    Raises UserError without results, while anything runs in ``root``, and for a config that can't be planned,
    because nobody knows what it needs.
    """
    if not (root / RESULTS).is_dir():
        raise UserError(f"{root / RESULTS}: no results here; run this in the checkout that has them")
    _refuse_while_anything_runs(root)
    configs = _configs(root, named)
    needed: set[str] = set()
    for config in configs:
        try:
            jobs = plan(root, config, fresh=True)
        except UserError as error:
            todo = "mend it, or name the configs without it if it has no results here"
            raise UserError(f"{error}; what it needs is unknown, so nothing is deleted: {todo}") from None
        needed.update(jobs, *(job.inputs for job in jobs.values()))
    remembered = JsonCache(root / FOLDER / "hashes.json")
    found = unneeded.find(root, needed, Hashes(root, remembered))
    remembered.save()
    return Collected(found, sorted(_others(root, found, configs)))


def delete(root: Path, found: Found) -> None:
    """Delete what no config needs. Raises UserError if a run begins meanwhile, and if something can't go."""
    unneeded.delete(root, found.unneeded, lambda: _refuse_while_anything_runs(root))


def _refuse_while_anything_runs(root: Path) -> None:
    refuse_while_snakemake_runs(root)
    for job in running_jobs(root):  # jobs live on if their Snakemake is killed
        where = f"process {job.pid} on {job.host}"
        todo = "wait until it ends, or end it (on a cluster: crossdiff slurm-clean)"
        raise UserError(f"{job.rule}: a job of this rule runs in this folder ({where}); {todo}")


def _configs(root: Path, named: Sequence[Path]) -> list[list[Path]]:
    """The files of each config. Raises UserError for what is not there, and for a folder without configs."""
    found = []
    for path in named:
        if (root / path).is_dir():
            inside = sorted([*(root / path).glob("*.yaml"), *(root / path).glob("*.yml")])
            if not inside:
                raise UserError(f"{path}: found no config in this folder, allowed: *.yaml or *.yml")
            found += [[config] for config in inside]
        elif (root / path).exists():
            found.append([root / path])
        else:
            found.append([root / part for part in str(path).split(MERGED)])
    return [[Path(os.path.relpath(file, root)) for file in config] for config in found]


def _others(root: Path, found: Found, configs: list[list[Path]]) -> Iterator[str]:
    """The configs that made unneeded results, are still there, and were not named."""
    for config in {result.configs for result in found.unneeded}:
        files = [Path(file) for file in config]
        if files and files not in configs and all((root / file).is_file() for file in files):
            yield MERGED.join(config)


def listing(collected: Collected) -> Iterator[str]:
    """Lines on what no config needs, by folder, the largest first, and on what is left alone."""
    found = collected.found
    if found.unneeded:
        yield "No config needs:"
        groups: dict[str, list[Unneeded]] = defaultdict(list)
        for result in found.unneeded:
            groups[result.group].append(result)
        for group, results in sorted(groups.items(), key=lambda item: (-_bytes(item[1]), item[0])):
            yield f"  {_sized(results)}  {group}"
        yield f"  {_sized(found.unneeded)}  in all"
        if collected.others:
            configs = ", ".join(collected.others)
            yield f"Some were made with {configs}: name these too if you still need their results."
    else:
        yield "Every result is needed."
    if found.left:
        yield f"Left alone, because it may not be Crossdiff's ({len(found.left)}):"
        yield from _left(found.left)


def _left(left: list[Left]) -> Iterator[str]:
    """A line for each folder and reason."""
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for path, reason in left:
        groups[str(Path(path).parent), reason].append(path)
    for (_, reason), paths in sorted(groups.items())[:SHOWN]:
        more = f", and {len(paths) - 1} more there" if len(paths) > 1 else ""
        yield f"  {paths[0]} {reason}{more}"
    if len(groups) > SHOWN:
        yield "  and more in other folders"


def _bytes(results: list[Unneeded]) -> int:
    return sum(result.size for result in results)


def _sized(results: list[Unneeded]) -> str:
    count = "1 result " if len(results) == 1 else f"{len(results):,} results"
    return f"{_told(_bytes(results)):>9}  {count:>13}"


def _told(size: int) -> str:
    """A number of bytes as people read it: 12.3 GB."""
    for unit, scale in {"TB": 1e12, "GB": 1e9, "MB": 1e6, "kB": 1e3}.items():
        if size >= scale:
            return f"{size / scale:,.1f} {unit}"
    return f"{size} B"
