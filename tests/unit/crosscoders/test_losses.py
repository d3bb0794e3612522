"""The losses against plain dense autograd, written from docs/method.md 5 and 6."""

from collections.abc import Iterator

import pytest
import torch
from helpers_activations import batchtopk_settings, l1_settings, random_crosscoder
from helpers_dense import (
    BATCH,
    LATENTS,
    WIDTH,
    Dense,
    assert_trains_like,
    batch,
    dense_batchtopk,
    dense_codes,
    dense_l1,
    new_batchtopk,
    new_l1,
    norm_sums,
)
from helpers_paths import PATHS, on_path
from helpers_waits import Waits
from torch import Tensor

from crossdiff.crosscoders import selection
from crossdiff.crosscoders.losses import new_loss
from crossdiff.crosscoders.losses.batchtopk import geometric_median
from crossdiff.crosscoders.model import Crosscoder
from crossdiff.errors import UserError


@pytest.fixture(params=PATHS)
def any_path(request: pytest.FixtureRequest) -> Iterator[None]:
    """On a CPU, as on a GPU, and with Triton's kernels, which are interpreted: slow."""
    with on_path(request.param):
        yield


def paths(values: list, kernels_with: object) -> pytest.MarkDecorator:
    """Every value on the plain paths, one of them with the kernels, too."""
    return pytest.mark.parametrize(
        ("value", "path"),
        [(value, path) for value in values for path in PATHS if path != "kernels" or value == kernels_with],
    )


@pytest.fixture(params=[path for path in PATHS if path != "kernels"])
def plain_path(request: pytest.FixtureRequest) -> Iterator[None]:
    with on_path(request.param):
        yield


# Decoupled code normalisation (docs/method.md 4): each model has its own scaled values, selection and
# threshold.


def dense_decoupled(crosscoder: Crosscoder, x: Tensor, k: int) -> Dense:
    codes, norms = dense_codes(crosscoder, x), crosscoder.decoder.norm(dim=2)
    scaled = (codes[:, None] * norms.T).detach()  # (batch, model, latents)
    bounds = torch.stack(
        [scaled[:, m].flatten().sort(descending=True).values[k * BATCH - 1] for m in range(2)]
    )
    kept = codes[:, None] * ((scaled >= bounds[:, None]) & (scaled > 0))
    reconstruction = torch.einsum("bmj,jmd->bmd", kept, crosscoder.decoder) + crosscoder.decoder_bias
    error = (x - reconstruction).square().sum(dim=2).sqrt().mean()
    return Dense(error, reconstruction, kept.amax(dim=1), scaled.sum(dim=1), torch.zeros(()))


@pytest.mark.usefixtures("any_path")
def test_decoupled_batchtopk_trains_like_dense_autograd() -> None:
    crosscoder = random_crosscoder(WIDTH, LATENTS, code_normalisation="decoupled")
    loss = new_loss(crosscoder, batchtopk_settings(k=3, code_normalisation="decoupled"))
    seen = assert_trains_like(
        loss, crosscoder, lambda twin, x, step: dense_decoupled(twin, x, 3), "decoupled"
    )
    assert all(3 * BATCH < parts.fired.sum() <= 6 * BATCH for parts in seen)


def test_decoupled_l1_is_the_crosscoder_l1() -> None:
    losses = []
    for name in ("decoupled", "crosscoder"):
        crosscoder = random_crosscoder(WIDTH, LATENTS, code_normalisation=name)
        losses.append(new_loss(crosscoder, l1_settings(code_normalisation=name))(crosscoder, batch(), 0).loss)
    assert losses[0] == losses[1]


@pytest.mark.usefixtures("plain_path")
@pytest.mark.parametrize("normalisation", ["crosscoder", "decoupled"])
def test_held_out_threshold_is_the_mean_of_each_batch_s_smallest_selected_value(normalisation: str) -> None:
    crosscoder = random_crosscoder(WIDTH, LATENTS, code_normalisation=normalisation)
    held_out = [batch(step) for step in range(3)]
    for threshold in ("running", "held_out"):
        settings = batchtopk_settings(k=3, code_normalisation=normalisation, threshold=threshold)
        crosscoder.threshold.fill_(-1)
        new_loss(crosscoder, settings).finish(crosscoder, held_out)
        assert (crosscoder.threshold == -1).all() == (threshold == "running")
    weights = (
        crosscoder.decoder.norm(dim=2) if normalisation == "decoupled" else norm_sums(crosscoder)[:, None]
    )
    scaled = [
        (dense_codes(crosscoder, x)[..., None] * weights).flatten(0, 1).sort(dim=0, descending=True).values
        for x in held_out
    ]
    expected = torch.stack([values[3 * BATCH - 1] for values in scaled]).mean(dim=0)
    torch.testing.assert_close(crosscoder.threshold.reshape(-1), expected.detach())


# L1 (docs/method.md 5)


@pytest.mark.parametrize("is_sparse", [False, True], ids=["dense branch", "sparse branch"])
@paths([False, True], kernels_with=False)
def test_l1_trains_like_dense_autograd(
    monkeypatch: pytest.MonkeyPatch, is_sparse: bool, value: bool, path: str
) -> None:
    """``value``: whether the error is squared."""
    monkeypatch.setattr(selection, "is_sparse", lambda *_: is_sparse)
    with on_path(path):
        loss, crosscoder = new_l1(l1_coefficient=0.1, squared_error=value)
        assert_trains_like(loss, crosscoder, lambda twin, x, step: dense_l1(twin, x, 0.1, value))


def test_l1_penalty_warms_up_linearly() -> None:
    loss, crosscoder = new_l1(l1_coefficient=0.2, l1_warmup_steps=4)
    for step, coefficient in enumerate([0.05, 0.1, 0.15, 0.2, 0.2]):
        torch.testing.assert_close(
            loss(crosscoder, batch(), step).loss, dense_l1(crosscoder, batch(), coefficient, False).loss
        )


def test_l1_log_tells_both_parts_of_the_loss() -> None:
    loss, crosscoder = new_l1(l1_coefficient=0.1)
    expected = dense_l1(crosscoder, batch(), 0.1, False)
    log = loss(crosscoder, batch(), 0).log
    torch.testing.assert_close(log["sparsity_loss"], expected.scaled.sum(dim=1).mean())
    torch.testing.assert_close(log["reconstruction_loss"] + 0.1 * log["sparsity_loss"], expected.loss)


def test_l1_of_a_perfect_reconstruction_has_finite_gradients() -> None:
    loss, crosscoder = new_l1()
    with torch.no_grad():
        crosscoder.encoder_bias.fill_(-100)
    parts = loss(crosscoder, crosscoder.decoder_bias.detach().expand(BATCH, 2, WIDTH).clone(), 0)
    parts.loss.backward()
    assert parts.loss.item() < 1e-10
    assert all(torch.isfinite(parameter.grad).all() for parameter in crosscoder.parameters())


# BatchTopK (docs/method.md 6)


@paths([False, True], kernels_with=False)
def test_batchtopk_trains_like_dense_autograd(value: bool, path: str) -> None:
    """``value``: whether the error is squared."""
    with on_path(path):
        loss, crosscoder = new_batchtopk(squared_error=value)
        nothing_dead = torch.zeros(LATENTS, dtype=torch.bool)
        seen = assert_trains_like(
            loss, crosscoder, lambda twin, x, step: dense_batchtopk(twin, x, 3, value, nothing_dead, 0, 0.0)
        )
    assert all(parts.log["auxiliary_loss"] == 0 for parts in seen)


@paths([2, 512], kernels_with=2)
def test_batchtopk_with_dead_latents_trains_like_dense_autograd(value: int, path: str) -> None:
    """``value``: the auxiliary k."""
    with on_path(path):
        loss, crosscoder = new_batchtopk(
            k=1, auxiliary_coefficient=0.5, auxiliary_k=value, dead_after_tokens=2 * BATCH
        )
        with torch.no_grad():
            crosscoder.decoder[:8] *= (
                0.05  # small code weights: not selected, so dead, though they have activations
            )
        silent = torch.zeros(LATENTS, dtype=torch.long)

        def reference(twin: Crosscoder, x: Tensor, step: int) -> Dense:
            found = dense_batchtopk(twin, x, 1, False, silent + BATCH >= 2 * BATCH, value, 0.5)
            silent.add_(BATCH).masked_fill_((found.codes > 0).any(dim=0), 0)
            return found

        seen = assert_trains_like(loss, crosscoder, reference)
        auxiliary = torch.stack([parts.log["auxiliary_loss"] for parts in seen])
        assert auxiliary[0] == 0  # nothing is dead before 32 tokens
        assert (auxiliary[1:] > 0).all()
        assert torch.equal(loss.tokens_since_fired, silent)


@pytest.mark.usefixtures("plain_path")
def test_auxiliary_loss_equals_its_formula() -> None:
    loss, crosscoder = new_batchtopk(auxiliary_coefficient=0.25, auxiliary_k=3, dead_after_tokens=1000)
    dead = torch.zeros(LATENTS, dtype=torch.bool)
    dead[[1, 4, 5, 13, 20]] = True
    loss.tokens_since_fired[dead] = 1000 - BATCH
    loss.tokens_since_fired[~dead] = 999 - BATCH
    expected = dense_batchtopk(crosscoder, batch(), 3, False, dead, 3, 0.25)
    parts = loss(crosscoder, batch(), 0)
    assert 0 < (parts.fired[dead] > 0).sum() < dead.sum()  # what fires now is not dead any more
    torch.testing.assert_close(parts.log["auxiliary_loss"], expected.auxiliary)
    torch.testing.assert_close(parts.loss, parts.log["reconstruction_loss"] + 0.25 * expected.auxiliary)


@pytest.mark.usefixtures("plain_path")
def test_auxiliary_loss_does_not_teach_live_latents() -> None:
    loss, crosscoder = new_batchtopk(auxiliary_coefficient=1.0, dead_after_tokens=1000)
    loss.tokens_since_fired[:5] = 1000
    with torch.no_grad():
        crosscoder.decoder[:5] *= 0.01  # small code weights: not selected
    loss(crosscoder, batch(), 0).log["auxiliary_loss"].backward()
    for parameter in (crosscoder.encoder, crosscoder.encoder_bias, crosscoder.decoder):
        assert parameter.grad[:5].any()
        assert not parameter.grad[5:].any()
    assert crosscoder.decoder_bias.grad is None or not crosscoder.decoder_bias.grad.any()


@pytest.mark.usefixtures("plain_path")
def test_silent_tokens_are_counted_until_a_latent_is_selected() -> None:
    loss, crosscoder = new_batchtopk(k=1)
    fired = [loss(crosscoder, batch(step), step).fired for step in range(3)]
    steps_since = [
        next((2 - step for step in (2, 1, 0) if fired[step][latent]), 3) for latent in range(LATENTS)
    ]
    assert loss.tokens_since_fired.tolist() == [BATCH * steps for steps in steps_since]
    assert {0, 3} <= set(steps_since)


@pytest.mark.usefixtures("plain_path")
def test_k_anneals_linearly_and_rules_what_fires() -> None:
    loss, crosscoder = new_batchtopk(k=2, k_max=10, k_annealing_steps=4)
    assert [loss.k(step) for step in range(6)] == [10, 8, 6, 4, 2, 2]
    assert [int(loss(crosscoder, batch(), step).fired.sum()) for step in range(6)] == [
        k * BATCH for k in (10, 8, 6, 4, 2, 2)
    ]


def test_k_is_constant_by_default() -> None:
    loss, _ = new_batchtopk(k=3)
    assert {loss.k(step) for step in (0, 1, 1000)} == {3}


@pytest.mark.usefixtures("plain_path")
def test_threshold_is_a_running_mean_of_the_smallest_selected_scaled_activation() -> None:
    loss, crosscoder = new_batchtopk(k=2, threshold_start_step=2, threshold_decay=0.75)
    loss.start(crosscoder, batch())
    expected = -1.0
    for step in range(5):
        dense = dense_batchtopk(
            crosscoder, batch(step), 2, False, torch.zeros(LATENTS, dtype=torch.bool), 0, 0.0
        )
        smallest = dense.scaled[dense.codes > 0].min().item()
        if step == 2:
            expected = smallest  # the first value replaces the -1 of the start
        elif step > 2:
            expected = 0.75 * expected + 0.25 * smallest
        loss(crosscoder, batch(step), step)
        assert crosscoder.threshold.item() == pytest.approx(expected, rel=1e-6), step


@pytest.mark.usefixtures("any_path")
def test_batch_without_any_positive_code_leaves_the_threshold_as_it_was() -> None:
    loss, crosscoder = new_batchtopk(threshold_start_step=0)
    loss.start(crosscoder, batch())
    loss(crosscoder, batch(), 0)
    before = crosscoder.threshold.clone()
    with torch.no_grad():
        crosscoder.encoder_bias.fill_(-100)
    assert not loss(crosscoder, batch(), 1).fired.any()
    assert crosscoder.threshold == before


def test_device_is_asked_for_dead_latents_only_when_one_may_have_died() -> None:
    """The longest silent latent rules when the next question is due. The selection asks in every step."""
    for silent, expected in ((0, [0, 10, 20]), (1, [0, *range(9, 25)])):
        loss, crosscoder = new_batchtopk(k=LATENTS, dead_after_tokens=10 * BATCH, log_every=1000)
        with torch.no_grad():
            crosscoder.encoder_bias.fill_(100)
            crosscoder.encoder_bias[:silent] = -100
        asked = []
        for step in range(25):
            with Waits() as waits, on_path("device"):
                loss(crosscoder, batch(step), step)
            asked.append(len(waits.seen))
            died = bool((loss.tokens_since_fired >= 10 * BATCH).any())
            assert died == (silent > 0 and step >= 9)
        assert [step for step in range(25) if asked[step] > min(asked)] == expected


def test_held_out_threshold_without_active_latents_is_refused() -> None:
    loss, crosscoder = new_batchtopk(threshold="held_out")
    with torch.no_grad():
        crosscoder.encoder_bias.fill_(-100)
    with pytest.raises(UserError, match="no latent is active on the held-out tokens"):
        loss.finish(crosscoder, [batch()])


def test_decoder_bias_starts_at_the_geometric_median_of_the_first_batch() -> None:
    loss, crosscoder = new_batchtopk()
    loss.start(crosscoder, batch())
    distances = (batch() - crosscoder.decoder_bias).norm(dim=2, keepdim=True)
    pull = ((batch() - crosscoder.decoder_bias) / distances).sum(dim=0)  # the gradient of the summed distance
    assert (pull.norm(dim=1) < 1e-2).all()
    assert crosscoder.decoder_bias.requires_grad


def test_geometric_median_of_a_triangle_is_its_fermat_point_in_each_model() -> None:
    triangle = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    fermat = (3 - 3**0.5) / 6
    median = geometric_median(torch.stack([triangle, 10 * triangle + 5], dim=1))
    torch.testing.assert_close(
        median, torch.tensor([[fermat, fermat], [10 * fermat + 5, 10 * fermat + 5]]), rtol=1e-3, atol=1e-4
    )


def test_geometric_median_does_not_follow_an_outlier() -> None:
    cloud = torch.randn(101, 2, 4, generator=torch.Generator().manual_seed(0))
    cloud[0] = 27_000
    assert (geometric_median(cloud) - cloud[1:].mean(dim=0)).abs().max() < 0.3
    assert cloud.mean(dim=0).min() > 200
