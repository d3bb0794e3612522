"""Adam with clipped gradients: PyTorch's, or one pass of kernels that gathers the gradients it needs."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from crossdiff.crosscoders import kernels, ranks
from crossdiff.crosscoders.gradients import Pieces
from crossdiff.crosscoders.model import Crosscoder
from crossdiff.crosscoders.selection import Rounded
from crossdiff.device import is_synchronous

MATRICES = ("encoder", "decoder")


def new_optimiser(crosscoder: Crosscoder) -> "Adam":
    """The one that is fastest on the crosscoder's device. Their states are interchangeable."""
    return Adam(crosscoder) if kernels.of(crosscoder.decoder) is None else KernelAdam(crosscoder)


class Adam(torch.optim.Adam):
    """PyTorch's fused Adam, after the gradients were averaged over ranks and clipped."""

    def __init__(self, crosscoder: Crosscoder) -> None:
        super().__init__(crosscoder.parameters(), fused=True)
        self.crosscoder = crosscoder

    def update(self, learning_rate: float, limit: float | None) -> None:
        """One step, with all gradients scaled so that their common norm is at most ``limit``; then they are cleared."""
        ranks.average_gradients(self.crosscoder)
        for group in self.param_groups:
            group["lr"] = learning_rate
        self.move(limit)
        self.zero_grad()

    def move(self, limit: float | None) -> None:
        """What differs: the step itself."""
        if limit is not None:
            clip_gradients(self.crosscoder, limit)
        self.step()


def clip_gradients(module: nn.Module, limit: float) -> None:
    """Scale all gradients so that their common norm is at most ``limit``."""
    parameters = [parameter for parameter in module.parameters() if parameter.grad is not None]
    norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters])
    if not is_synchronous(norm.device) or norm > limit:  # scaling by 1 would be a pass over all weights
        nn.utils.clip_grads_with_norm_(parameters, limit, norm)


class KernelAdam(Adam):
    """The same step in one pass over each matrix and its moments. On one rank no gradient matrix is made: its pieces are gathered twice,
    for the common norm and for the step. Several ranks make and average them. The pass leaves what the next step needs of the weights."""

    def __init__(self, crosscoder: Crosscoder) -> None:
        super().__init__(crosscoder)
        if ranks.size() == 1:
            crosscoder.pieces = {name: Pieces() for name in MATRICES}
        low = crosscoder.precision == "bfloat16"
        self.rounded = (
            Rounded.of(crosscoder.encoder.detach().flatten(1)) if low else None
        )  # float32 products take the encoder itself
        crosscoder.know(self.rounded, crosscoder.decoder.detach().norm(dim=2))

    @torch.no_grad()
    def move(self, limit: float | None) -> None:
        crosscoder, parameters = self.crosscoder, dict(self.crosscoder.named_parameters())
        fast = kernels.of(crosscoder.decoder)
        names = sorted(
            parameters, key=lambda name: name not in MATRICES
        )  # while the matrices move, the host has time for the rest
        flat = {name: _matrix(name, parameters[name]) for name in names}
        gradients = {
            name: fast.Gradient(flat[name], parameters[name].grad, crosscoder.pieces.get(name, Pieces()))
            for name in names
        }
        factor = torch.ones((), device=crosscoder.decoder.device)
        if limit is not None:
            squares = torch.stack(
                [fast.squared_norm(flat[name], gradient) for name, gradient in gradients.items()]
            )
            factor = (limit / (squares.sum().sqrt() + 1e-6)).clamp_max_(1.0)
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
        """Its moments and number of steps, this one included, as PyTorch's Adam keeps them."""
        state = self.state[parameter]
        if not state:
            state |= {
                "step": torch.zeros(()),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
        state["step"] = state["step"].cpu() + 1  # on the device only after a resume
        return state

    @contextmanager
    def made(self) -> Iterator[None]:
        """Gradients are made, not noted as pieces."""
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
        """How far the gradients are from ``plain`` ones, by parameter: the norm of the difference over theirs, each ()."""
        fast, found = kernels.of(self.crosscoder.decoder), []
        for name, parameter in self.crosscoder.named_parameters():
            w, opposite = _matrix(name, parameter), -_matrix(name, plain[name].to(parameter.device))
            wanted = opposite.norm()
            if parameter.grad is not None:
                opposite += _matrix(name, parameter.grad)
            squares = fast.squared_norm(
                w, fast.Gradient(w, opposite, self.crosscoder.pieces.get(name, Pieces()))
            )
            found.append(squares.sqrt() / wanted.clamp_min(1e-30))
        return found


def _matrix(name: str, parameter: Tensor) -> Tensor:
    """A parameter as the kernels take it: (latents, width), or a bias as one row."""
    return parameter.detach().reshape(len(parameter) if name in MATRICES else 1, -1)
