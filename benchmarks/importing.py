"""How long it takes to import a crosscoder of the authors' format, and how much memory.

    python benchmarks/importing.py                        # the paper's shape: 73,728 latents, width 2,304
    python benchmarks/importing.py --latents 8192 --d-model 512

The checkpoint has random numbers and is written first. The import runs in a process of its own, whose memory
Linux tells. Resident memory has the pages of the mapped checkpoint, which the system may drop. Anonymous
memory is what it can't drop, looked at every 10 ms. Of these, Python and torch take 0.2 and 0.15 GB.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from crossdiff.crosscoders.model import Crosscoder
from crossdiff.crosscoders.published import write_published

IMPORT = """
import sys
from crossdiff.config import ImportedCrosscoder
from crossdiff.crosscoders.imported import import_crosscoder
folder, to, latents, d_model = sys.argv[1:]
entry = ImportedCrosscoder.model_validate({"import": {"folder": folder, "layer": 0, "latents": int(latents)}})
import_crosscoder(entry, int(d_model), "theirs", f"{to}/weights.safetensors", f"{to}/config.json")
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--latents", type=int, default=73_728)
    parser.add_argument("--d-model", type=int, default=2304)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="crossdiff-import-") as scratch:
        theirs, ours = Path(scratch, "theirs"), Path(scratch, "ours")
        ours.mkdir()
        crosscoder = Crosscoder(options.d_model, options.latents, 0)
        with torch.no_grad():
            for weight in (crosscoder.encoder, crosscoder.decoder):
                weight.uniform_(-1, 1)
        write_published(crosscoder, 100, theirs)
        del crosscoder
        size = sum(path.stat().st_size for path in theirs.iterdir())
        begin = time.perf_counter()
        sizes = (str(options.latents), str(options.d_model))
        with subprocess.Popen([sys.executable, "-c", IMPORT, str(theirs), str(ours), *sizes]) as process:
            most = most_memory(process)
        seconds = time.perf_counter() - begin
    if process.returncode:
        sys.exit("the import failed")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{options.latents:,} latents, width {options.d_model:,}: a checkpoint of {size / 1e9:.2f} GB")
    print(f"import: {seconds:.1f} s, {used.ru_utime + used.ru_stime:.1f} s of them on a core")
    for kind, held in most.items():
        print(f"{kind} memory: {held / 1e9:.2f} GB at most, {held / size:.2f} x the checkpoint")


def most_memory(process: subprocess.Popen) -> dict[str, int]:
    """The largest resident and anonymous memory of a process until it ends, in bytes."""
    # Not its ru_maxrss, which begins with that of the process which started it.
    lines = {"resident": "VmHWM", "anonymous": "RssAnon"}
    most = dict.fromkeys(lines, 0)
    while process.poll() is None:
        status = dict(
            line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines()
        )
        for kind, name in lines.items():
            most[kind] = max(most[kind], 1024 * int(status.get(name, "0 kB").split()[0]))
        time.sleep(0.01)
    return most


if __name__ == "__main__":
    main()
