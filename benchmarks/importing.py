"""How long it takes to import a crosscoder of the authors' format, and how much memory.

    python benchmarks/importing.py                        # the paper's shape: 73,728 latents, width 2,304
    python benchmarks/importing.py --latents 8192 --d-model 512

The checkpoint has random numbers and is written first. The import runs in a process of its own. Its memory is
the largest resident set, of which Python and torch take about a third of a gigabyte.
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
        subprocess.run([sys.executable, "-c", IMPORT, str(theirs), str(ours), *sizes], check=True)
        seconds = time.perf_counter() - begin
        held = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(f"{options.latents:,} latents, width {options.d_model:,}: a checkpoint of {size / 1e9:.2f} GB")
    print(
        f"import: {seconds:.1f} s, {held / 1e9:.2f} GB of memory at most, {held / size:.2f} x the checkpoint"
    )


if __name__ == "__main__":
    main()
