"""The crosscoder: its start, its shapes, what counts as active, and its files."""

import json
from pathlib import Path

import pytest
import torch
from helpers_activations import LAYER, batchtopk_settings, l1_settings, random_activations, random_crosscoder

from crossdiff.config import CrosscoderSettings
from crossdiff.crosscoders.model import Crosscoder, load_crosscoder
from crossdiff.errors import UserError

WIDTH, LATENTS = 8, 20


def initialised(settings: CrosscoderSettings, seed: int = 0) -> Crosscoder:
    crosscoder = Crosscoder(WIDTH, LATENTS, LAYER, settings.code_normalisation)
    crosscoder.initialise(settings, torch.Generator().manual_seed(seed))
    return crosscoder


# The start (docs/method.md 2)


def test_both_models_start_from_the_same_weights() -> None:
    crosscoder = initialised(l1_settings())
    assert torch.equal(crosscoder.encoder[:, 0], crosscoder.encoder[:, 1])
    assert torch.equal(crosscoder.decoder[:, 0], crosscoder.decoder[:, 1])


def test_models_start_apart_without_same_init() -> None:
    crosscoder = initialised(l1_settings(same_init=False))
    assert not torch.isclose(crosscoder.encoder[:, 0], crosscoder.encoder[:, 1]).any()


def test_decoder_starts_as_a_copy_of_the_encoder() -> None:
    crosscoder = initialised(l1_settings())
    assert torch.equal(crosscoder.decoder, crosscoder.encoder)
    with torch.no_grad():
        crosscoder.encoder.add_(1)
    assert not torch.equal(crosscoder.decoder, crosscoder.encoder)  # not tied


def test_decoder_starts_apart_from_the_encoder_without_transpose_init() -> None:
    crosscoder = initialised(l1_settings(transpose_init=False))
    assert not torch.isclose(crosscoder.encoder, crosscoder.decoder).any()


@pytest.mark.parametrize("same_init", [True, False])
@pytest.mark.parametrize("transpose_init", [True, False])
@pytest.mark.parametrize("init_norm", [0.005, 1.0])
def test_every_direction_starts_with_the_set_norm(
    same_init: bool, transpose_init: bool, init_norm: float
) -> None:
    crosscoder = initialised(
        l1_settings(same_init=same_init, transpose_init=transpose_init, init_norm=init_norm)
    )
    torch.testing.assert_close(crosscoder.decoder_norms(), torch.full((LATENTS, 2), init_norm))
    torch.testing.assert_close(crosscoder.encoder.norm(dim=2), torch.full((LATENTS, 2), init_norm))


def test_paper_norms_are_the_defaults() -> None:
    assert l1_settings().init_norm == 0.005
    assert batchtopk_settings().init_norm == 1.0


def test_biases_and_threshold_start_at_zero() -> None:
    crosscoder = initialised(batchtopk_settings())
    for tensor in (crosscoder.encoder_bias, crosscoder.decoder_bias, crosscoder.threshold):
        assert not tensor.any()


def test_latents_start_in_different_directions() -> None:
    directions = initialised(batchtopk_settings()).decoder[:, 0]
    cosines = directions @ directions.T - torch.eye(LATENTS)
    assert cosines.abs().max() < 0.99


def test_start_depends_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = initialised(l1_settings(), seed=5)
    torch.manual_seed(2)
    assert torch.equal(initialised(l1_settings(), seed=5).encoder, first.encoder)
    assert not torch.equal(initialised(l1_settings(), seed=6).encoder, first.encoder)


# Encoding and decoding


def test_codes_and_reconstructions_follow_the_definition() -> None:
    crosscoder = random_crosscoder(WIDTH, LATENTS)
    x = random_activations(5, WIDTH).float()
    codes = torch.relu(torch.einsum("bmd,jmd->bj", x, crosscoder.encoder) + crosscoder.encoder_bias)
    reconstruction = torch.einsum("bj,jmd->bmd", codes, crosscoder.decoder) + crosscoder.decoder_bias
    assert codes.shape == (5, LATENTS)
    assert reconstruction.shape == (5, 2, WIDTH)
    torch.testing.assert_close(crosscoder.encode(x), codes)
    torch.testing.assert_close(crosscoder.decode(codes), reconstruction)


def test_normalise_subtracts_the_mean_and_multiplies_with_the_scale_of_each_model() -> None:
    crosscoder = random_crosscoder(WIDTH, LATENTS)
    raw = random_activations(5, WIDTH)
    x = crosscoder.normalise(raw)
    assert x.dtype == torch.float32
    for model in range(2):
        torch.testing.assert_close(
            x[:, model], (raw[:, model].float() - crosscoder.mean[model]) * crosscoder.scale[model]
        )


@pytest.mark.parametrize(
    ("kind", "weight"),
    [("crosscoder", 3.0 + 4.0), ("sae", 5.0), ("mixed", 5.0 + 0.1 * 7.0), ("none", 1.0)],  # docs/method.md 4
)
def test_code_weight_of_decoder_norms_three_and_four(kind: str, weight: float) -> None:
    crosscoder = Crosscoder(WIDTH, LATENTS, LAYER, kind)
    with torch.no_grad():
        crosscoder.decoder[:, 0, 1] = 3.0
        crosscoder.decoder[:, 1, 2] = -4.0
    torch.testing.assert_close(crosscoder.code_weights(), torch.full((LATENTS,), weight))


def test_only_scaled_activations_above_the_threshold_count() -> None:
    crosscoder = Crosscoder(2, 3, LAYER)
    with torch.no_grad():
        crosscoder.encoder[:, 0, 0] = torch.tensor([1.0, 2.0, 4.0])
        crosscoder.decoder[:, 0, 0] = torch.tensor([4.0, 2.0, 0.5])
    x = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])  # codes 1, 2, 4; scaled 4, 4, 2
    for threshold, expected in [(1.9, [1.0, 2.0, 4.0]), (2.0, [1.0, 2.0, 0.0]), (4.0, [0.0, 0.0, 0.0])]:
        crosscoder.threshold.fill_(threshold)
        assert crosscoder.encode(x).tolist() == [expected]


@pytest.mark.parametrize("threshold", [0.0, -1.0])
def test_negative_preactivations_never_count(threshold: float) -> None:
    crosscoder = random_crosscoder(WIDTH, LATENTS)
    crosscoder.threshold.fill_(threshold)
    x = random_activations(50, WIDTH).float()
    assert torch.equal(crosscoder.encode(x) > 0, crosscoder.preactivations(x) > 0)


# Files


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, Path]:
    crosscoder = random_crosscoder(WIDTH, LATENTS, code_normalisation="sae")
    crosscoder.threshold.fill_(0.25)
    crosscoder.save(
        tmp_path / "weights.safetensors", tmp_path / "config.json", training={"loss": "l1", "seed": 3}
    )
    return tmp_path / "weights.safetensors", tmp_path / "config.json"


def test_saved_crosscoder_comes_back_whole(saved: tuple[Path, Path]) -> None:
    original = random_crosscoder(WIDTH, LATENTS, code_normalisation="sae")
    loaded = load_crosscoder(*saved, LAYER, WIDTH)
    original.threshold.fill_(0.25)
    assert loaded.state_dict().keys() == original.state_dict().keys()
    for name, tensor in original.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert (loaded.layer, loaded.code_normalisation, loaded.d_model, loaded.latents) == (
        LAYER,
        "sae",
        WIDTH,
        LATENTS,
    )
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_config_beside_the_weights_tells_how_they_were_trained(saved: tuple[Path, Path]) -> None:
    assert json.loads(saved[1].read_text())["training"] == {"loss": "l1", "seed": 3}


@pytest.mark.parametrize("damaged", [0, 1])
@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_truncated_file_is_refused_by_name(saved: tuple[Path, Path], damaged: int, keep: float) -> None:
    data = saved[damaged].read_bytes()
    saved[damaged].write_bytes(data[: int(keep * len(data)) - 1] if keep else b"")
    with pytest.raises(UserError, match=r"not a whole crosscoder|not a JSON file") as caught:
        load_crosscoder(*saved)
    assert str(saved[damaged]) in str(caught.value)


@pytest.mark.parametrize("key", ["latents", "d_model"])
def test_weights_that_do_not_fit_their_config_are_refused_by_name(saved: tuple[Path, Path], key: str) -> None:
    config = json.loads(saved[1].read_text())
    saved[1].write_text(json.dumps(config | {key: config[key] + 1}))
    with pytest.raises(UserError) as caught:
        load_crosscoder(*saved)
    assert str(saved[0]) in str(caught.value)


def test_config_of_something_else_is_refused_by_name(saved: tuple[Path, Path]) -> None:
    saved[1].write_text('{"model_type": "llama"}')
    with pytest.raises(UserError) as caught:
        load_crosscoder(*saved, LAYER, WIDTH)
    assert str(saved[1]) in str(caught.value)


@pytest.mark.parametrize(
    ("layer", "d_model", "message"),
    [
        (LAYER + 1, WIDTH, f"trained at layer {LAYER}, the activations have layer {LAYER + 1}"),
        (LAYER, WIDTH + 1, f"trained at d_model {WIDTH}, the activations have d_model {WIDTH + 1}"),
    ],
)
def test_activations_of_another_layer_or_width_are_refused_by_name(
    saved: tuple[Path, Path], layer: int, d_model: int, message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_crosscoder(*saved, layer, d_model)
    assert str(caught.value).startswith(f"{saved[0]}: ")


def test_crosscoder_of_a_newer_crossdiff_is_refused(tmp_path: Path) -> None:
    """What it does not know may change what the weights mean."""
    weights, config = tmp_path / "weights.safetensors", tmp_path / "config.json"
    random_crosscoder(WIDTH, LATENTS).save(weights, config, {})
    config.write_text(json.dumps(json.loads(config.read_text()) | {"rotation": [1]}))
    with pytest.raises(UserError, match=r"config\.json: found rotation, allowed: d_model, .*update this one"):
        load_crosscoder(weights, config)
