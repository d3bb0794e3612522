"""Every kernel compiles ahead of time for the architectures of common cards, without registers that spill."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import triton

# It runs in a process of its own: here triton interprets, and has no kernels to compile.
COMPILE = """
import json, sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from crossdiff.crosscoders.kernels import triton_kernels as kernels

LONG = "rows latents entries offsets bounds place numbers".split()
FLAGS = ("GATHERED", "SCALED", "EXTRA", "DENSE")
piece = lambda on: {name: name in on for name in FLAGS}
for name, constants in [
    ("weighted_rows_kernel", {"E": 8, "C": 256, "num_warps": 2}),
    ("dot_products_kernel", {"E": 4, "C": 512, "num_warps": 4}),
    ("codes_kernel", {"E": 4, "C": 512, "num_warps": 4}),
    ("rows_per_latent_kernel", {"E": 4, "C": 512, "num_warps": 4}),
    ("above_kernel", {"BY_LATENT": True, "ROWS": 16, "C": 512, "num_warps": 2}),
    ("above_kernel", {"BY_LATENT": False, "ROWS": 16, "C": 512, "num_warps": 2}),
    *(
        ("squares_kernel", {**piece(on), "E": 2, "C": 1024, "num_warps": 4})
        for on in (["GATHERED"], list(FLAGS))
    ),
    *(
        ("adam_kernel", {**piece(on), **what, "E": 4, "C": 512, "num_warps": 4})
        for on in (["GATHERED"], ["DENSE"], list(FLAGS))
        for what in ({"ROUNDED": True, "PER_MODEL": False}, {"ROUNDED": False, "PER_MODEL": True})
    ),
]:
    function = getattr(kernels, name)
    warps = constants.pop("num_warps")
    signature = {}
    for argument in function.arg_names:
        if argument in constants:
            signature[argument] = "constexpr"
        elif argument == "number" and name in ("above_kernel", "codes_kernel"):
            signature[argument] = "*i32"
        elif argument in ("number", "batch", "width", "room", "stride", "stride_w", "stride_x") or (
            argument == "latents" and name in ("above_kernel", "squares_kernel", "adam_kernel")
        ):
            signature[argument] = "i32"
        elif argument in ("factor",):
            signature[argument] = "*fp32"
        elif argument in ("step_size", "root", "b1", "b2", "epsilon", "relative"):
            signature[argument] = "fp32"
        elif argument in ("product", "rounded"):
            signature[argument] = "*bf16"
        elif argument == "flat":
            signature[argument] = "*i32"
        elif argument in LONG and name != "above_kernel":
            signature[argument] = "*i64"
        else:
            signature[argument] = "*fp32"
    source = ASTSource(function, signature, constants)
    target = GPUTarget("cuda", int(sys.argv[1]), 32)
    compiled = triton.compile(source, target=target, options={"num_warps": warps})
    print(json.dumps({"name": name, "constants": str(constants), "ptx": compiled.asm["ptx"]}))
"""


@pytest.mark.parametrize("architecture", [80, 90, 120])
def test_kernels_compile_without_spills(architecture: int, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path / "cache")
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, str(architecture)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 14
    tools = Path(triton.__file__).parent / "backends/nvidia/bin"
    for line in lines:
        file = tmp_path / "kernel.ptx"
        file.write_text(line["ptx"])
        target = re.search(r"\.target (\S+?)[,\s]", line["ptx"])[1]
        tool = tools / ("ptxas-blackwell" if architecture >= 100 else "ptxas")
        told = subprocess.run(
            [tool, "-v", f"--gpu-name={target}", file, "-o", tmp_path / "out"],
            capture_output=True,
            text=True,
            check=True,
        )
        stored, loaded = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", told.stderr).groups()
        assert (stored, loaded) == ("0", "0"), (line["name"], line["constants"], told.stderr)
