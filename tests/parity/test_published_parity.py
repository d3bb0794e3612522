"""Crosscoders that the authors' own class wrote are read, and encode and decode as that class does.

README.md tells how the files were made, and how their class reads what we write.
"""

from pathlib import Path

import pytest
import torch
from record_published import CASES, K
from safetensors.torch import load_file
from torch import Tensor

import crossdiff
from crossdiff.crosscoders.model import Crosscoder
from crossdiff.crosscoders.published import read_published, write_published

FILES = Path(__file__).with_name("published")
RELATIVE = 1e-6  # of the largest magnitude, in float32


@pytest.fixture(scope="module")
def expected() -> dict[str, Tensor]:
    return load_file(FILES / "expected.safetensors")


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=RELATIVE * theirs.abs().max().item())


@torch.no_grad()
def reconstruction(crosscoder: Crosscoder, x: Tensor) -> Tensor:
    """Of raw activations, on their scale."""
    scaled = crosscoder.decode_active(crosscoder.active(crosscoder.normalise(x)))
    return scaled / crosscoder.scale[:, None] + crosscoder.mean


@pytest.mark.parametrize("name", CASES)
def test_codes_and_reconstructions_are_theirs(expected, name):
    crosscoder, k = read_published(FILES / name, layer=3)
    kind, normalisation, _ = CASES[name]
    assert (crosscoder.layer, crosscoder.code_normalisation) == (3, normalisation)
    assert k == (K if kind == "BatchTopKCrossCoder" else None)
    theirs = expected[f"{name}.codes"]
    codes = crosscoder.encode(crosscoder.normalise(expected["x"]))
    close(codes, theirs if theirs.dim() == 2 else theirs.amax(dim=1))
    close(reconstruction(crosscoder, expected["x"]), expected[f"{name}.reconstruction"])


@pytest.mark.parametrize("name", CASES)
def test_what_is_written_is_read_again_as_it_was(expected, tmp_path, name):
    first = read_published(FILES / name, layer=3)
    write_published(*first, tmp_path)
    again, k = read_published(tmp_path, layer=3)
    assert k == first.k
    for key, tensor in first.crosscoder.state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor), key


def test_front_door_opens_them(expected):
    loaded = crossdiff.load(FILES / "batchtopk_crosscoder_scaled", layer=3)
    codes = loaded.encode(expected["x"])
    close(codes.values, expected["batchtopk_crosscoder_scaled.codes"])
    close(loaded.decode(codes), expected["batchtopk_crosscoder_scaled.reconstruction"])
    with pytest.raises(crossdiff.UserError, match="does not name the layer; give load"):
        crossdiff.load(FILES / "ae_l1.pt")
    with pytest.raises(crossdiff.UserError, match=r"ae_none\.pt: not there"):
        crossdiff.load(FILES / "ae_none.pt", layer=3)
