"""Files in the authors' format that can't be read, and crosscoders that it can't hold: one line each."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from crossdiff.crosscoders.model import DIFFERENCE, Crosscoder
from crossdiff.crosscoders.published import CONFIG, WEIGHTS, read_published, write_published
from crossdiff.errors import UserError

D_MODEL, LATENTS = 3, 5


def crosscoder(normalisation: str = "crosscoder") -> Crosscoder:
    made = Crosscoder(D_MODEL, LATENTS, 2, normalisation)
    for number, parameter in enumerate(made.parameters()):
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(number))
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    scaled = crosscoder()
    scaled.mean.fill_(3)
    write_published(scaled, 4, tmp_path)
    return tmp_path


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as error:
        read_published(path, 2)
    assert "\n" not in str(error.value)
    return str(error.value)


def changed(folder: Path, **tensors: torch.Tensor | None) -> Path:
    """The folder, with other tensors; None takes one away."""
    found = load_file(folder / WEIGHTS) | {name.replace("__", "."): one for name, one in tensors.items()}
    save_file({name: one for name, one in found.items() if one is not None}, folder / WEIGHTS)
    return folder


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"decoder__bias": None}, "lacks decoder.bias; allowed"),
        ({"more": torch.ones(1)}, "has more, which is unknown here; allowed"),
        ({"encoder__bias": torch.ones(4)}, "encoder.bias: found the shape (4,), allowed: (5,)"),
        ({"encoder__weight": torch.ones(3, 3, 5)}, "encoder.weight: found the shape (3, 3, 5), allowed: (2,"),
        ({"encoder__weight": torch.ones(3, 5)}, "encoder.weight: found the shape (3, 5), allowed: (2,"),
        ({"threshold": torch.ones(2)}, "threshold: found the shape (2,), allowed: ()"),
        ({"activation_global_scale": None}, "lacks activation_global_scale"),
        ({"k": torch.ones(2)}, "k: found the shape (2,), allowed: ()"),
        ({"code_normalization_id": torch.ones(2)}, "code_normalization_id: found the shape (2,)"),
        ({"code_normalization_id": torch.tensor(9)}, "code_normalization_id: found 9, allowed: 1 to 5"),
        (
            {"encoder__bias": torch.full((5,), torch.nan)},
            "encoder_bias holds values that are NaN or infinite",
        ),
    ],
)
def test_tensors_that_do_not_fit(folder: Path, tensors: dict, said: str) -> None:
    assert said in refusal(changed(folder, **tensors))


@pytest.mark.parametrize(
    ("key", "value"),
    [("encoder_layers", [0]), ("num_decoder_layers", 3), ("code_normalization_alpha_sae", 0.5)],
)
def test_options_of_their_class_that_crossdiff_lacks(folder: Path, key: str, value: object) -> None:
    config = json.loads((folder / CONFIG).read_text()) | {key: value}
    (folder / CONFIG).write_text(json.dumps(config))
    assert f"{key}: found {value}, allowed: " in refusal(folder)


def test_configuration_that_is_no_table(folder: Path) -> None:
    (folder / CONFIG).write_text("[]")
    assert "found no table of arguments" in refusal(folder)


def test_file_of_the_older_kind_is_read(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "ae_old.pt"
    torch.save(load_file(folder / WEIGHTS), path, _use_new_zipfile_serialization=False)
    assert torch.equal(read_published(path, 2).crosscoder.decoder, crosscoder().decoder)


def test_name_of_the_code_normalisation_counts_where_its_number_is_missing(folder: Path) -> None:
    changed(folder, code_normalization_id=None)
    config = json.loads((folder / CONFIG).read_text())
    for name, found in (("SAE", "sae"), ("mixed", "mixed")):
        (folder / CONFIG).write_text(json.dumps(config | {"code_normalization": name}))
        assert read_published(folder, 2).crosscoder.code_normalisation == found
    (folder / CONFIG).write_text(json.dumps(config | {"code_normalization": "other"}))
    assert "code_normalization: found other, allowed: crosscoder, sae" in refusal(folder)


class Hostile:
    def __reduce__(self) -> tuple:
        return (print, ("this code must not run",))


def test_pickled_code_is_refused_and_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "ae_bad.pt"
    torch.save({"encoder.weight": Hostile()}, path)
    assert "holds more than tensors, or is damaged" in refusal(path)
    path.write_bytes(pickle.dumps(Hostile()))
    assert "allowed: weights without pickled code" in refusal(path)
    assert "this code must not run" not in capsys.readouterr().out


def test_damaged_and_empty_files(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-9])
    assert "not a whole file of weights" in refusal(folder)
    path = folder / "ae_none.pt"
    path.write_bytes(b"")
    assert "damaged" in refusal(path)
    torch.save([1, 2], path)
    assert "found no table of tensors" in refusal(path)


def test_names_of_a_compiled_training_are_stripped(folder: Path, tmp_path: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    torch.save({f"_orig_mod.{name}": tensor for name, tensor in tensors.items()}, tmp_path / "ae_1.pt")
    assert torch.equal(read_published(tmp_path / "ae_1.pt", 2).crosscoder.encoder, crosscoder().encoder)


def test_decoupled_codes_with_scaled_activations_are_refused(folder: Path) -> None:
    changed(folder, code_normalization_id=torch.tensor(5), threshold=torch.ones(2))
    assert "decoupled codes with scaled activations are not exchanged" in refusal(folder)


def test_threshold_that_was_never_set_keeps_every_positive_activation(folder: Path) -> None:
    changed(folder, threshold=torch.tensor(-1.0))
    assert read_published(folder, 2).crosscoder.threshold == 0


def test_activations_that_were_not_scaled(folder: Path) -> None:
    nothing = torch.full((2, D_MODEL), torch.nan)
    found = read_published(changed(folder, activation_mean=nothing), 2).crosscoder
    assert found.mean.eq(0).all() and found.scale.eq(1).all()


def test_what_their_class_can_not_hold_is_not_written(tmp_path: Path) -> None:
    difference, own, above = crosscoder(), crosscoder(), crosscoder()
    difference.target = DIFFERENCE
    own.give_thresholds()
    above.threshold.fill_(0.5)
    scaled = crosscoder("decoupled")
    scaled.scale.fill_(2)
    cases = [(difference, "of the difference"), (own, "one for each latent"), (above, "without k")]
    for made, said in (*cases, (scaled, "decoupled codes with scaled activations")):
        with pytest.raises(UserError, match=said):
            write_published(made, None, tmp_path)
    assert not list(tmp_path.iterdir())
