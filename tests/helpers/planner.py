"""Dry-runs of one checkout with many configs.

``python -m planner config...``, run in the checkout, prints a JSON object: config -> [exit code, output].
What all plans share is done once. Then a fork makes each plan: it runs Snakemake's command line from start to
end.
"""

import gc
import importlib
import json
import os
import re
import sys
import tempfile
from typing import IO

import snakemake.cli

from crossdiff.provenance import code

PROCESSES = os.cpu_count() or 1


def begin(config: str) -> tuple[int, IO[str]]:
    """Start a process that plans with a config; give it and the file that gets its output."""
    output = tempfile.TemporaryFile("w+")
    process = os.fork()
    if process == 0:
        result = 1
        try:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            snakemake.cli.main(["--dry-run", "--configfile", config])
        except SystemExit as end:
            result = end.code or 0
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(result)
    return process, output


def plans(configs: list[str]) -> dict[str, tuple[int, str]]:
    found, waiting, running = {}, list(configs), {}
    while waiting or running:
        if waiting and len(running) < PROCESSES:
            config = waiting.pop()
            process, output = begin(config)
            running[process] = config, output
            continue
        process, status = os.wait()
        config, output = running.pop(process)
        with output:
            output.seek(0)
            found[config] = os.waitstatus_to_exitcode(status), output.read()
    return found


if __name__ == "__main__":
    for script in code.SCRIPTS.glob("*.py"):
        code.code_files(script.stem)  # read and parsed once
    for rules in (code.ROOT / "rules").glob("*.smk"):
        for module in re.findall(r"^ *(?:from|import) (crossdiff[\w.]*)", rules.read_text(), re.MULTILINE):
            importlib.import_module(module)
    gc.collect()
    gc.freeze()  # so that forks do not copy what they only read
    print(json.dumps(plans(sys.argv[1:])))
