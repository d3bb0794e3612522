"""The disks that a run writes to, and whether it fits them. Torch-free."""

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from crossdiff.config import Config
from crossdiff.provenance.records import RESULTS
from crossdiff.provenance.removed import removed
from crossdiff.provenance.scratch import CACHES
from crossdiff.provenance.storage import existing
from crossdiff.provenance.trust import removed_results
from crossdiff.workflow.run import result_folders
from crossdiff.workflow.scratch import caches_place
from crossdiff.workflow.sizes import Need, peak


def full_disks(needs: dict[str, Need], config: Config, root: Path) -> Iterator[str]:
    """Yield for which disk the run is too large at its peak. Results that are already there count.

    So do caches that were removed as configured, because nothing needs them any more. Caches may lie on
    another disk (``activations.folder``).
    """
    results, caches = existing(root / RESULTS), caches_place(config, root)
    if caches.stat().st_dev == results.stat().st_dev:
        caches = results
    wanted: Counter[Path] = Counter()  # folder on a disk -> bytes that are still to be written there
    for rule, need in needs.items():
        wanted[caches if rule == "harvest_activations" else results] += round(peak([need]))
    models = [f"{RESULTS}/models/{name}" for name in config.models]
    for folder in (*result_folders(config), *models):
        files = [path for path in (root / folder).rglob("*") if path.is_file()]
        there = sum(path.stat().st_size for path in files)
        there += sum(
            made.size
            for path in removed_results([folder], root)
            if (record := removed(path, root)) and (made := record.output(path))
        )
        wanted[caches if folder.startswith(CACHES) else results] -= there
    for place, size in wanted.items():
        if size > (free := shutil.disk_usage(place).free):
            what = (
                "at its peak the run needs" if place == results else f"the activation caches in {place} need"
            )
            yield f"disk: {what} {size / 1e9:,.1f} GB more, {free / 1e9:,.1f} GB are free"
