"""Training on small paired caches with planted directions."""

import csv
import itertools
from contextlib import closing
from pathlib import Path

import pytest
import torch
from helpers_activations import (
    LAYER,
    batchtopk_settings,
    l1_settings,
    paired,
    planted_activations,
    random_activations,
)
from helpers_paths import on_path
from helpers_waits import Waits

from crossdiff.activations.pairs import PairedActivations
from crossdiff.config import BASE, CHAT, CrosscoderSettings, Normalisation
from crossdiff.crosscoders import kernels, trainer
from crossdiff.crosscoders.losses.l1 import L1Loss
from crossdiff.crosscoders.model import Crosscoder
from crossdiff.crosscoders.trainer import (
    Training,
    fraction_of_variance_explained,
    learning_rate,
    new_crosscoder,
    train,
)
from crossdiff.errors import UserError

WIDTH, LATENTS = 16, 32
SETTINGS = {
    "l1": l1_settings(tokens=19_200, learning_rate=1e-2, init_norm=0.1, log_every=50),
    "batchtopk": batchtopk_settings(
        tokens=19_200, learning_rate=1e-2, log_every=50, threshold_start_step=100, threshold_decay=0.9
    ),
}


@pytest.fixture(scope="module")
def activations(tmp_path_factory: pytest.TempPathFactory) -> PairedActivations:
    """Two shards of 3,000 token pairs."""
    parts = planted_activations(6000, WIDTH).split(3000)
    return paired(tmp_path_factory.mktemp("caches"), *parts)


def trained(
    activations: PairedActivations, settings: CrosscoderSettings, log: Path, seed: int = 0
) -> tuple[Crosscoder, list[dict[str, float]]]:
    crosscoder = train(activations, settings, seed, torch.device("cpu"), log)
    with log.open() as file:
        return crosscoder, [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


# Learning rate


def test_learning_rate_warms_up_stays_and_decays() -> None:
    # 20 steps
    settings = l1_settings(batch=10, tokens=200, learning_rate=1.0, warmup_steps=4, decay_fraction=0.25)
    rates = [learning_rate(step, settings) for step in range(20)]
    assert rates == pytest.approx([0.0, 0.25, 0.5, 0.75] + 12 * [1.0] + [0.8, 0.6, 0.4, 0.2])


def test_learning_rate_is_constant_without_warmup_and_decay() -> None:
    settings = l1_settings(batch=10, tokens=200, learning_rate=0.3, warmup_steps=0)
    assert [learning_rate(step, settings) for step in range(20)] == 20 * [0.3]


# The start


def test_new_crosscoder_knows_its_layer_size_and_scaling(activations: PairedActivations) -> None:
    settings = l1_settings(
        latents=None,
        expansion=3,
        normalisation=Normalisation(kind="per_model", target_rms=2.0),
        code_normalisation="sae",
    )
    crosscoder = new_crosscoder(activations, settings, seed=0)
    assert (crosscoder.layer, crosscoder.d_model, crosscoder.latents) == (LAYER, WIDTH, 3 * WIDTH)
    assert crosscoder.code_normalisation == "sae"
    x = torch.cat([crosscoder.normalise(block.activations) for block in activations.blocks()])
    torch.testing.assert_close(x.mean(dim=0), torch.zeros(2, WIDTH), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.square().sum(dim=2).mean(dim=0).sqrt(), torch.tensor([2.0, 2.0]))


def test_fraction_of_variance_explained_is_one_zero_or_below() -> None:
    x = random_activations(50, WIDTH).float()
    mean = x.mean(dim=0, keepdim=True).expand_as(x)
    halfway = torch.stack([x[:, 0], (x[:, 1] + mean[:, 1]) / 2], dim=1)
    torch.testing.assert_close(fraction_of_variance_explained(x, mean + 3), torch.zeros(2))
    torch.testing.assert_close(fraction_of_variance_explained(x, halfway), torch.tensor([1.0, 0.75]))
    assert (fraction_of_variance_explained(x, -x) < 0).all()


# Training


@pytest.mark.parametrize("loss", ["l1", "batchtopk"])
def test_training_learns_and_logs_it(activations: PairedActivations, tmp_path: Path, loss: str) -> None:
    settings = SETTINGS[loss]
    crosscoder, log = trained(activations, settings, tmp_path / "training.csv")
    own = {"l1": {"sparsity_loss"}, "batchtopk": {"auxiliary_loss"}}[loss]
    common = "step tokens learning_rate loss fve_base fve_chat l0 dead reconstruction_loss"
    assert set(log[0]) == {*common.split(), *own}
    assert [row["step"] for row in log] == [50, 100, 150, 200, 250, 300]
    assert all(
        row["tokens"] == 64 * row["step"] and 0 <= row["dead"] <= LATENTS and row["learning_rate"] == 0.01
        for row in log
    )
    for model in ("fve_base", "fve_chat"):
        assert log[-1][model] > max(0.75, log[0][model])
        assert all(row[model] <= 1 for row in log)
    assert log[-1]["loss"] < log[0]["loss"]
    assert all(torch.isfinite(tensor).all() for tensor in crosscoder.state_dict().values())
    assert not any(parameter.is_cuda for parameter in crosscoder.parameters())


def test_batchtopk_has_k_active_latents_per_token_in_training_and_about_k_after(
    activations: PairedActivations, tmp_path: Path
) -> None:
    crosscoder, log = trained(activations, SETTINGS["batchtopk"], tmp_path / "training.csv")
    assert {row["l0"] for row in log} == {4.0}
    assert crosscoder.threshold > 0
    codes = torch.cat(
        [crosscoder.encode(crosscoder.normalise(block.activations)) for block in activations.blocks()]
    )
    assert 3 < (codes > 0).sum(dim=1).float().mean() < 5


def test_held_out_threshold_comes_from_the_held_out_activations(
    activations: PairedActivations, tmp_path: Path
) -> None:
    held_out = paired(tmp_path, 2 * planted_activations(256, WIDTH, seed=5))
    settings = SETTINGS["batchtopk"]
    assert settings.needs_held_out is False
    running = train(activations, settings, 0, torch.device("cpu"), tmp_path / "log.csv")
    exact = train(
        activations,
        settings.model_copy(update={"threshold": "held_out"}),
        0,
        torch.device("cpu"),
        tmp_path / "log.csv",
        held_out,
    )
    assert torch.equal(exact.decoder, running.decoder)
    assert exact.threshold > 1.3 * running.threshold  # activations are twice as strong there


def test_decoder_bias_of_batchtopk_alone_starts_near_the_mean_of_the_activations(tmp_path: Path) -> None:
    shifted = paired(tmp_path, planted_activations(500, WIDTH) + 5)
    one_step = {"tokens": 64, "learning_rate": 1e-6}
    batchtopk, _ = trained(
        shifted, batchtopk_settings(threshold_start_step=0, **one_step), tmp_path / "batchtopk.csv"
    )
    l1, _ = trained(shifted, l1_settings(**one_step), tmp_path / "l1.csv")
    assert (batchtopk.decoder_bias - 5).abs().max() < 0.5
    assert l1.decoder_bias.abs().max() < 1e-4


def test_batchtopk_is_saved_with_a_threshold_only_once_it_began(
    activations: PairedActivations, tmp_path: Path
) -> None:
    crosscoder, _ = trained(
        activations, batchtopk_settings(tokens=640, threshold_start_step=9), tmp_path / "training.csv"
    )
    assert crosscoder.threshold > 0  # the tenth and last step gives the first value


def test_last_step_is_logged_though_it_is_no_multiple(activations: PairedActivations, tmp_path: Path) -> None:
    _, log = trained(activations, l1_settings(tokens=64 * 25, log_every=10), tmp_path / "training.csv")
    assert [row["step"] for row in log] == [10, 20, 25]


def test_dead_counts_latents_that_did_not_fire_since_the_row_before(
    activations: PairedActivations, tmp_path: Path
) -> None:
    settings = batchtopk_settings(tokens=64 * 40, learning_rate=1e-6, latents=200, k=1, log_every=1)
    _, each_step = trained(activations, settings, tmp_path / "each.csv")
    _, every_forty = trained(
        activations, settings.model_copy(update={"log_every": 40}), tmp_path / "forty.csv"
    )
    assert every_forty[0]["dead"] < min(row["dead"] for row in each_step)
    assert min(row["dead"] for row in each_step) >= 200 - 64  # at most one latent per token


@pytest.mark.parametrize("loss", ["l1", "batchtopk"])
def test_training_depends_on_the_seed_alone(
    activations: PairedActivations, tmp_path: Path, loss: str
) -> None:
    settings = SETTINGS[loss].model_copy(update={"tokens": 64 * 120})
    torch.manual_seed(1)
    first, _ = trained(activations, settings, tmp_path / "first.csv", seed=3)
    torch.manual_seed(2)
    again, _ = trained(activations, settings, tmp_path / "again.csv", seed=3)
    other, _ = trained(activations, settings, tmp_path / "other.csv", seed=4)
    assert (tmp_path / "first.csv").read_bytes() == (tmp_path / "again.csv").read_bytes()
    for name, tensor in first.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    assert not torch.equal(other.decoder, first.decoder)


@pytest.mark.parametrize("normalisation", ["crosscoder", pytest.param("decoupled", marks=pytest.mark.slow)])
@pytest.mark.parametrize("path", ["device", "kernels"])
def test_batchtopk_step_on_a_device_waits_for_its_selection_alone(
    activations: PairedActivations, normalisation: str, path: str
) -> None:
    """It asks how many candidates there are, whether they suffice, and which were chosen.

    This holds between rows of the log, and while no latent may have died. The interpreter asks, too.
    """
    settings = batchtopk_settings(
        log_every=50, code_normalisation=normalisation, k_max=8, k_annealing_steps=3
    )
    with on_path(path):
        training = Training(activations, settings, 0, torch.device("cpu"))
        first, *batches = itertools.islice(activations.shuffled_batches(64, 6000, 0), 6)
        training.step(first)
        for batch in batches:
            with Waits() as waits:
                training.step(batch)
            assert len(waits.seen) <= {"device": 4, "kernels": 6}[path], waits.seen
    assert training.crosscoder.decoder.isfinite().all()


@pytest.mark.parametrize("wrong", [1.5, float("nan")])
def test_kernels_that_compute_something_else_stop_the_training(
    activations: PairedActivations, monkeypatch: pytest.MonkeyPatch, wrong: float
) -> None:
    with on_path("kernels"):
        fast = kernels.of(torch.zeros(1))
        products = fast.dot_products  # of gradients, too
        training = Training(
            activations, batchtopk_settings(latents=16, k=2, tokens=10**6), 0, torch.device("cpu")
        )
        monkeypatch.setattr(fast, "dot_products", lambda *arguments: products(*arguments) * wrong)
        with pytest.raises(
            UserError,
            match=(
                r"found a relative difference of .* between the Triton kernels and the plain path .* "
                r"kernels: plain"
            ),
        ):
            training.step(torch.randn(32, 2, WIDTH, generator=torch.Generator().manual_seed(0)))


def test_what_the_kernels_left_is_forgotten_when_weights_move(activations: PairedActivations) -> None:
    with on_path("kernels"):
        training = Training(
            activations, batchtopk_settings(latents=16, k=2, tokens=10**6), 0, torch.device("cpu")
        )
        crosscoder = training.crosscoder
        for change in (
            lambda: crosscoder.load_state_dict(crosscoder.state_dict()),
            lambda: crosscoder.double().float(),
            lambda: crosscoder.decoder.detach().mul_(2),
        ):
            crosscoder.know(
                crosscoder.known.encoder if crosscoder.known else None,
                crosscoder.decoder.detach().norm(dim=2),
            )
            change()
            assert crosscoder.known is None
            torch.testing.assert_close(crosscoder.decoder_norms(), crosscoder.decoder.norm(dim=2))


@pytest.mark.parametrize("loss", ["l1", "batchtopk"])
def test_loss_that_is_not_finite_is_refused(
    activations: PairedActivations, tmp_path: Path, loss: str
) -> None:
    settings = SETTINGS[loss].model_copy(update={"learning_rate": 1e30, "log_every": 10})
    with pytest.raises(UserError, match=r"the loss is (nan|inf) at step 10; lower learning_rate"):
        train(activations, settings, 0, torch.device("cpu"), tmp_path / "training.csv")


def test_gradient_clip_bounds_the_step_of_batchtopk(activations: PairedActivations, tmp_path: Path) -> None:
    """Adam's eps is far above a clipped gradient, so the weights hardly move."""
    settings = batchtopk_settings(tokens=64 * 21, learning_rate=1e-2)
    start = new_crosscoder(activations, settings, 0).decoder
    free, _ = trained(activations, settings, tmp_path / "free.csv")
    clipped, _ = trained(
        activations, settings.model_copy(update={"gradient_clip": 1e-12}), tmp_path / "clipped.csv"
    )
    assert (clipped.decoder - start).abs().max() < 1e-3 < (free.decoder - start).abs().max()


class _Masking(L1Loss):
    """Holds the base decoder of the first latents at zero."""

    def after_step(self, crosscoder: Crosscoder, step: int) -> None:
        crosscoder.decoder[:4, BASE] = 0
        self.steps = [*getattr(self, "steps", []), step]


def test_loss_may_project_the_weights_after_each_step(
    activations: PairedActivations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "new_loss", _Masking)
    training = Training(activations, SETTINGS["l1"], 0, torch.device("cpu"))
    for batch in itertools.islice(activations.shuffled_batches(SETTINGS["l1"].batch, 500, 0), 3):
        training.step(batch)
    assert training.loss.steps == [0, 1, 2]
    assert (training.crosscoder.decoder[:4, BASE] == 0).all()
    assert (training.crosscoder.decoder[4:, BASE] != 0).any(dim=1).all()
    assert (training.crosscoder.decoder[:4, CHAT] != 0).any(dim=1).all()


def test_log_grows_while_the_training_runs(activations: PairedActivations, tmp_path: Path) -> None:
    settings, file = SETTINGS["l1"], tmp_path / "training.csv"
    training = Training(activations, settings, 0, torch.device("cpu"), file)
    rows = []
    with closing(training.batches(activations)) as batches:
        for batch in itertools.islice(batches, 2 * settings.log_every):
            training.step(batch)
            rows.append(len(list(csv.DictReader(file.open()))) if file.exists() else 0)
    every = settings.log_every
    assert rows == [0] * (every - 1) + [1] * every + [2]
