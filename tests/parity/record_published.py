"""Let the authors' class write crosscoders, record what they encode and decode, and read what we write.

It only calls their classes by name: README.md tells which, and how to run this.
"""

import shutil
import sys
import tempfile
from pathlib import Path
from unittest.mock import MagicMock

import torch
from safetensors.torch import save_file
from torch import Tensor

UNUSED = ["nnsight", "zstandard", "datasets", "loguru"]  # imported, never called
D_MODEL, LATENTS, BATCH, K = 8, 24, 32, 4
# Name of a file or folder -> class, code normalisation, whether it scales activations.
CASES = {
    "batchtopk_crosscoder_scaled": ("BatchTopKCrossCoder", "crosscoder", True),
    "batchtopk_sae_scaled": ("BatchTopKCrossCoder", "sae", True),
    "batchtopk_mixed": ("BatchTopKCrossCoder", "mixed", False),
    "batchtopk_none": ("BatchTopKCrossCoder", "none", False),
    "batchtopk_decoupled": ("BatchTopKCrossCoder", "decoupled", False),
    "l1_crosscoder_scaled": ("CrossCoder", "crosscoder", True),
    "ae_batchtopk.pt": ("BatchTopKCrossCoder", "crosscoder", False),
    "ae_l1.pt": ("CrossCoder", "sae", False),
}


@torch.no_grad()
def made(dictionary: object, kind: str, normalisation: str, scaled: bool) -> torch.nn.Module:
    """One of their crosscoders with random weights."""
    given: dict[str, object] = {"code_normalization": normalisation}
    if kind == "BatchTopKCrossCoder":
        given["k"] = K
    if scaled:
        given |= {
            "activation_mean": 3 * torch.randn(2, D_MODEL),
            "activation_std": torch.rand(2, D_MODEL) + 0.5,
        }
        given["target_rms"] = 2.5
    crosscoder = getattr(dictionary, kind)(D_MODEL, LATENTS, 2, **given)
    crosscoder.decoder.weight.mul_(3 * torch.rand(2, LATENTS, 1))
    crosscoder.decoder.bias.normal_()
    crosscoder.encoder.bias.normal_()
    if kind == "BatchTopKCrossCoder":
        crosscoder.threshold.fill_(0.3)
    return crosscoder


@torch.no_grad()
def both(crosscoder: torch.nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Their codes and reconstruction of raw activations."""
    codes = crosscoder.encode(x.clone())
    return codes, crosscoder.decode(codes.clone())


def record(dictionary: object, folder: Path) -> None:
    """Write the cases below ``folder``, and what each gives for the same activations."""
    torch.manual_seed(0)
    found = {"x": 2 * torch.randn(BATCH, 2, D_MODEL)}
    for name, case in CASES.items():
        crosscoder = made(dictionary, *case)
        if name.endswith(".pt"):
            torch.save(crosscoder.state_dict(), folder / name)
        else:
            crosscoder.save_pretrained(folder / name)
            (folder / name / "README.md").unlink(
                missing_ok=True
            )  # a card of their library, not of the weights
        found[f"{name}.codes"], found[f"{name}.reconstruction"] = both(crosscoder, found["x"])
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, folder / "expected.safetensors")


def check(dictionary: object, folder: Path) -> None:
    """Let their class read what we write of each case, and compare what both give."""
    from crossdiff.crosscoders.published import read_published, write_published

    for name, (kind, normalisation, _) in CASES.items():
        published = read_published(folder / name, layer=0)
        with tempfile.TemporaryDirectory() as exported:
            write_published(*published, exported)
            theirs = getattr(dictionary, kind).from_pretrained(exported, from_hub=True)
        assert theirs.code_normalization.name == normalisation.upper()
        x = 2 * torch.randn(BATCH, 2, D_MODEL)
        codes, reconstruction = both(theirs, x)
        ours = published.crosscoder.active(published.crosscoder.normalise(x))
        raw = published.crosscoder.decode_active(ours) / published.crosscoder.scale[:, None]
        apart = [(raw + published.crosscoder.mean - reconstruction).abs().max() / reconstruction.abs().max()]
        if normalisation != "decoupled":  # theirs then have a model axis
            apart.append((ours.dense() - codes).abs().max() / codes.abs().max())
        print(f"{name:<30} largest relative difference {max(apart):.1e}")
        assert max(apart) < 1e-6


if __name__ == "__main__":
    dictionary_learning, out = map(Path, sys.argv[1:])
    sys.modules |= {name: MagicMock() for name in UNUSED}
    sys.path[:0] = [str(dictionary_learning)]
    from dictionary_learning import dictionary as authors

    if out.exists():
        shutil.rmtree(out)
    out.mkdir()
    record(authors, out)
    check(authors, out)
