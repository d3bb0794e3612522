"""Weights that are written piece by piece, and crosscoders that are imported so."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save, save_file

from crossdiff.config import ImportedCrosscoder
from crossdiff.crosscoders import weights_file
from crossdiff.crosscoders.imported import import_crosscoder
from crossdiff.crosscoders.model import Crosscoder, load_crosscoder
from crossdiff.crosscoders.published import WEIGHTS, read_published, write_published
from crossdiff.crosscoders.weights_file import pieces, save_weights
from crossdiff.errors import UserError

D_MODEL, LATENTS = 6, 40

shapes = st.lists(st.integers(0, 5), max_size=3).map(tuple)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights_file, "PIECE", 3 * D_MODEL)


@given(
    st.dictionaries(st.text("ab_.ü", min_size=1), shapes, min_size=1, max_size=4),
    st.dictionaries(st.just("crossdiff-record"), st.text(max_size=5)),
)
def test_bytes_are_those_of_the_library(tmp_path_factory, named, metadata):
    tensors = {name: torch.randn(shape) for name, shape in named.items()}
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    save_weights(tensors, path, metadata)
    assert path.read_bytes() == save(tensors, metadata)


def test_views_and_other_types_are_written_in_order_and_in_float32(tmp_path):
    view = torch.randn(2, D_MODEL, LATENTS).permute(2, 0, 1)
    half = torch.randn(7).bfloat16()
    save_weights({"view": view, "half": half}, tmp_path / "weights.safetensors", {})
    found = load_file(tmp_path / "weights.safetensors")
    assert torch.equal(found["view"], view) and torch.equal(found["half"], half.float())


@given(shapes.filter(len))
def test_pieces_are_rows_of_bounded_size(shape):
    tensor = torch.randn(shape)
    found = list(pieces(tensor))
    assert torch.equal(torch.cat(found), tensor)
    assert all(piece.numel() <= weights_file.PIECE or len(piece) == 1 for piece in found)


def crosscoder(normalisation: str = "crosscoder") -> Crosscoder:
    made = Crosscoder(D_MODEL, LATENTS, 2, normalisation)
    for number, parameter in enumerate(made.parameters()):
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(number))
    return made


def entry(folder: Path, latents: int = LATENTS) -> ImportedCrosscoder:
    return ImportedCrosscoder.model_validate(
        {"import": {"folder": str(folder), "layer": 2, "latents": latents}}
    )


def imported(folder: Path, to: Path, latents: int = LATENTS) -> Path:
    to.mkdir()
    weights = to / "weights.safetensors"
    import_crosscoder(entry(folder, latents), D_MODEL, "theirs", str(weights), str(to / "config.json"))
    return weights


def as_safetensors(folder: Path) -> None:
    write_published(crosscoder("sae"), 4, folder)


def as_half(folder: Path) -> None:
    as_safetensors(folder)
    whole = load_file(folder / WEIGHTS)
    save_file({name: one.half() if one.dim() > 1 else one for name, one in whole.items()}, folder / WEIGHTS)


def as_pickle(folder: Path, zipped: bool = True) -> None:
    as_safetensors(folder)
    torch.save(load_file(folder / WEIGHTS), folder / "ae_9.pt", _use_new_zipfile_serialization=zipped)
    (folder / WEIGHTS).unlink()


def as_old_pickle(folder: Path) -> None:
    as_pickle(folder, zipped=False)


@pytest.mark.parametrize("write", [as_safetensors, as_half, as_pickle, as_old_pickle])
def test_import_writes_what_the_crosscoder_would_save(write, tmp_path):
    folder = tmp_path / "theirs"
    folder.mkdir()
    write(folder)
    weights = imported(folder, tmp_path / "ours")
    read = read_published(next(folder.glob("ae_*.pt"), folder), 2).crosscoder
    assert read.encoder.dtype == torch.float32 and read.encoder.is_contiguous()
    assert weights.read_bytes() == save(read.state_dict(), {})
    assert json.loads((tmp_path / "ours/config.json").read_text())["latents"] == LATENTS


@pytest.mark.parametrize("own_thresholds", [False, True])
def test_import_of_our_own_format_keeps_its_bytes(own_thresholds, tmp_path):
    made = crosscoder()
    if own_thresholds:
        made.give_thresholds()
        made.threshold.fill_(0.5)
    made.save(tmp_path / "weights.safetensors", tmp_path / "config.json", {"loss": "l1"})
    weights = imported(tmp_path, tmp_path / "ours")
    assert weights.read_bytes() == (tmp_path / "weights.safetensors").read_bytes()
    found = load_crosscoder(weights, tmp_path / "ours/config.json")
    assert found.has_thresholds == own_thresholds and torch.equal(found.decoder, made.decoder)


def in_file(tensor: torch.Tensor, path: Path) -> bool:
    """Whether a tensor's values lie in the memory that ``path`` is mapped to."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith(str(path)):
            begin, end = (int(place, 16) for place in line.split()[0].split("-"))
            if begin <= tensor.data_ptr() < end:
                return True
    return False


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="Linux tells what is mapped")
def test_mapped_weights_take_no_memory_of_their_own(tmp_path):
    made = crosscoder()
    write_published(made, 4, tmp_path)
    made.save(tmp_path / "weights.safetensors", tmp_path / "ours.json", {})
    ours = (tmp_path / "weights.safetensors", tmp_path / "ours.json")
    theirs = read_published(tmp_path, 2, mapped=True).crosscoder
    for read, file in ((theirs, WEIGHTS), (load_crosscoder(*ours, mapped=True), "weights.safetensors")):
        for name in ("encoder", "decoder"):
            assert torch.equal(getattr(read, name), getattr(made, name))
            assert in_file(getattr(read, name), tmp_path / file)
    assert not in_file(read_published(tmp_path, 2).crosscoder.encoder, tmp_path / WEIGHTS)


def test_import_that_is_refused_leaves_no_file(tmp_path):
    folder = tmp_path / "theirs"
    folder.mkdir()
    as_safetensors(folder)
    with pytest.raises(UserError, match="with latents 40, allowed: 8, which"):
        imported(folder, tmp_path / "ours", latents=8)
    tensors = load_file(folder / WEIGHTS)
    tensors["decoder.weight"][1, -1, -1] = torch.inf  # in the last piece
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(UserError, match="decoder holds values that are NaN or infinite"):
        imported(folder, tmp_path / "other")
    assert not [*(tmp_path / "ours").iterdir(), *(tmp_path / "other").iterdir()]
