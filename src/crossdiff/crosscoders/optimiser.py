"""Adam with clipped gradients: PyTorch's, or one pass of kernels that gathers the gradients itself."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import ModuleType

import torch
from torch import Tensor, nn

from crossdiff.crosscoders import kernels, ranks
from crossdiff.crosscoders.gradients import Pieces, made_gradient
from crossdiff.crosscoders.losses.base import Loss
from crossdiff.crosscoders.model import Crosscoder
from crossdiff.crosscoders.selection import Rounded
from crossdiff.device import is_synchronous

MATRICES = ("encoder", "decoder")


def new_optimiser(crosscoder: Crosscoder, loss: Loss) -> "Adam":
    """Return the fastest optimiser on the crosscoder's device. ``loss`` may change the gradients.

    ``Adam`` and ``KernelAdam`` can load each other's state.
    """
    fast = kernels.of(crosscoder.decoder)
    changes = type(loss).change_gradients is not Loss.change_gradients
    change = partial(loss.change_gradients, crosscoder) if changes else None
    return Adam(crosscoder, change) if fast is None else KernelAdam(crosscoder, fast, change)


class Adam(torch.optim.Adam):
    """PyTorch's fused Adam. It first averages the gradients over ranks, changes them, and clips them."""

    def __init__(self, crosscoder: Crosscoder, change: Callable[[], None] | None = None) -> None:
        super().__init__(crosscoder.parameters(), fused=True)
        self.crosscoder, self.change = crosscoder, change

    def update(self, learning_rate: float, limit: float | None) -> None:
        """Make one step and clear the gradients.

        All gradients are scaled so that their common norm is at most ``limit``. None leaves them as they are.
        """
        ranks.average_gradients(self.crosscoder)
        if self.change is not None:
            self.change()
        for group in self.param_groups:
            group["lr"] = learning_rate
        self.move(limit)
        self.zero_grad()

    def move(self, limit: float | None) -> None:
        """Clip the gradients and move the weights. ``KernelAdam`` does this in its own way."""
        if limit is not None:
            clip_gradients(self.crosscoder, limit)
        self.step()


def clip_gradients(module: nn.Module, limit: float) -> None:
    """Scale all gradients so that their common norm is at most ``limit``."""
    parameters = [parameter for parameter in module.parameters() if parameter.grad is not None]
    norm = nn.utils.get_total_norm([made_gradient(parameter) for parameter in parameters])
    # A CPU knows the norm at once and can save the pass over all gradients that scales by 1.
    if not is_synchronous(norm.device) or norm > limit:
        nn.utils.clip_grads_with_norm_(parameters, limit, norm)


class KernelAdam(Adam):
    """The same step in one pass over each matrix and its moments.

    On one rank no gradient matrix is made. Its pieces are gathered twice, once for the common norm and once
    for the step. Several ranks make the gradients and average them, and so does a loss that changes them. The
    pass also computes what the next step needs from the weights (``Crosscoder.know``). ``fast`` is the module
    with the kernels (``kernels.of``).
    """

    def __init__(
        self, crosscoder: Crosscoder, fast: ModuleType, change: Callable[[], None] | None = None
    ) -> None:
        super().__init__(crosscoder, change)
        self.fast = fast
        if ranks.size() == 1 and change is None:
            crosscoder.pieces = {name: Pieces() for name in MATRICES}
        low = crosscoder.precision == "bfloat16"  # float32 products take the encoder itself
        self.rounded = Rounded.of(crosscoder.encoder.detach().flatten(1)) if low else None
        crosscoder.know(self.rounded, crosscoder.decoder.detach().norm(dim=2))

    @torch.no_grad()
    def move(self, limit: float | None) -> None:
        crosscoder, fast = self.crosscoder, self.fast
        parameters = dict(crosscoder.named_parameters())
        # The matrices come first: the host prepares the biases' steps while they move.
        names = sorted(parameters, key=lambda name: name not in MATRICES)
        flat = {name: _matrix(name, parameters[name]) for name in names}
        gradients = {
            name: fast.Gradient(flat[name], parameters[name].grad, crosscoder.pieces.get(name, Pieces()))
            for name in names
        }
        factor = torch.ones((), device=crosscoder.decoder.device)
        if limit is not None:
            squares = [fast.squared_norm(flat[name], gradient) for name, gradient in gradients.items()]
            factor = (limit / (torch.stack(squares).sum().sqrt() + 1e-6)).clamp_max_(1.0)
        left, step = {}, 0
        for name in names:
            state = self._state_of(parameters[name])
            step = step or int(state["step"])
            left[name] = fast.adam(
                flat[name],
                *(state[moment].view_as(flat[name]) for moment in ("exp_avg", "exp_avg_sq")),
                gradients[name],
                factor,
                self.param_groups[0]["lr"],
                step,
                rounded=self.rounded.copy if self.rounded is not None and name == "encoder" else None,
                per_model=name == "decoder",
            )
        self.forget()
        known = None if self.rounded is None else Rounded(self.rounded.copy, left["encoder"])
        crosscoder.know(known, left["decoder"].T.contiguous())

    def _state_of(self, parameter: Tensor) -> dict[str, Tensor]:
        """Return a parameter's moments and number of steps, with this one, as PyTorch's Adam keeps them."""
        state = self.state[parameter]
        if not state:
            state |= {
                "step": torch.zeros(()),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
        state["step"] = state["step"].cpu() + 1  # after a resume it is on the device
        return state

    @contextmanager
    def made(self) -> Iterator[None]:
        """Return a context in which gradients are made as usual, not noted as pieces."""
        pieces, self.crosscoder.pieces = self.crosscoder.pieces, {}
        try:
            yield
        finally:
            self.crosscoder.pieces = pieces

    def forget(self) -> None:
        """Drop all gradients."""
        self.zero_grad()
        for pieces in self.crosscoder.pieces.values():
            pieces.clear()

    @torch.no_grad()
    def differences(self, plain: dict[str, Tensor]) -> list[Tensor]:
        """Return how far each parameter's gradient is from the one in ``plain``.

        Each entry, (), is the norm of the difference over the norm of the plain gradient.
        """
        fast, found = self.fast, []
        for name, parameter in self.crosscoder.named_parameters():
            w, opposite = _matrix(name, parameter), -_matrix(name, plain[name].to(parameter.device))
            wanted = opposite.norm()
            if parameter.grad is not None:
                opposite += _matrix(name, parameter.grad)
            pieces = self.crosscoder.pieces.get(name, Pieces())
            squares = fast.squared_norm(w, fast.Gradient(w, opposite, pieces))
            found.append(squares.sqrt() / wanted.clamp_min(1e-30))
        return found


def _matrix(name: str, parameter: Tensor) -> Tensor:
    """Return a parameter as the kernels take it: (latents, width), or a bias as (1, width)."""
    return parameter.detach().reshape(len(parameter) if name in MATRICES else 1, -1)
