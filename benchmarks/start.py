"""Measure what starting costs: CPU seconds for each workflow script's imports, times its jobs in a run.

python benchmarks/start.py [--configfile config.yaml] [--rounds 3] [--json]

Each script is imported in fresh processes, and the fastest counts. Bare Python does not count. The
parts of transformers that load with the first model or tokenizer count too, since every script that can read
one loads them. Modules that a script finds by name, such as that of a figure, do not count.
"""

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
COUNT = re.compile(r"^(\w+) +(\d+)$", re.MULTILINE)  # a row of Snakemake's table of jobs
HEAVY = ("torch", "transformers", "scipy", "sklearn", "pandas", "matplotlib", "h5py", "datasets")
IMPORT = """
import runpy, sys
runpy.run_path(sys.argv[1])
if "crossdiff.models.load" in sys.modules:
    import transformers.modeling_utils
if "crossdiff.models.chat_tokenizer" in sys.modules:
    import transformers.tokenization_utils_tokenizers
print(*sys.modules)
"""


def jobs(configfile: str) -> dict[str, int]:
    """Count the jobs per rule of a run that starts with nothing."""
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--configfile",
        str(Path(configfile).resolve()),
        "--forceall",
        "--dry-run",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for entry in ROOT.iterdir():
            if entry.name not in ("results", "logs", ".snakemake"):
                Path(folder, entry.name).symlink_to(entry)
        printed = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if printed.returncode:
        raise SystemExit(printed.stdout + printed.stderr)
    counts = {rule: int(number) for rule, number in COUNT.findall(printed.stdout.split("\ntotal")[0])}
    return {
        rule: number for rule, number in counts.items() if (ROOT / f"workflow_scripts/{rule}.py").exists()
    }


def cpu(code: str, *arguments: str, rounds: int) -> tuple[float, list[str]]:
    """Give CPU seconds of the fastest of several fresh processes, and the words that the code prints."""
    seconds = []
    for _ in range(rounds):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=True
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(seconds), done.stdout.split()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--configfile", default=str(ROOT / "config.yaml"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = str(ROOT / "src")
    bare, rows = cpu("pass", rounds=options.rounds)[0], []
    for rule, number in jobs(options.configfile).items():
        seconds, modules = cpu(IMPORT, f"workflow_scripts/{rule}.py", rounds=options.rounds)
        heavy = [name for name in HEAVY if name in modules]
        rows.append(
            {
                "script": rule,
                "jobs": number,
                "import_s": seconds - bare,
                "sum_s": number * (seconds - bare),
                "packages": heavy,
            }
        )
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    print(f"{'script':<24}{'jobs':>5}{'import':>9}{'sum':>8}   (CPU seconds, fastest of {options.rounds})")
    for row in sorted(rows, key=lambda row: -row["sum_s"]):
        numbers = f"{row['jobs']:>5}{row['import_s']:>9.2f}{row['sum_s']:>8.1f}"
        print(f"{row['script']:<24}{numbers}   {' '.join(row['packages'])}")
    print(f"{'all':<24}{sum(row['jobs'] for row in rows):>5}{'':>9}{sum(row['sum_s'] for row in rows):>8.1f}")


if __name__ == "__main__":
    main()
