"""torch's fused Adam, without its copies on a CPU."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class Adam(torch.optim.Adam):
    """Fused Adam on flat views of the parameters' memory.

    torch's CPU kernel copies a gradient whose axes are permuted in memory, which takes several times as long as the update.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float):
        super().__init__(parameters, lr=lr, weight_decay=weight_decay, fused=True)

    def step(self, closure: Any = None) -> Any:
        assert closure is None  # it would run on flat weights
        updated = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        permuted = [(p, p.shape, p.stride()) for p in updated if p.device.type == "cpu" and self._is_permuted(p)]
        try:
            for parameter, *_ in permuted:
                self._view(parameter, (parameter.numel(),), (1,))
            return super().step()
        finally:
            for parameter, shape, stride in permuted:
                self._view(parameter, shape, stride)
            torch.autograd.graph.increment_version(updated)  # neither torch's kernel nor a change of `data` does it

    def _is_permuted(self, parameter: nn.Parameter) -> bool:
        """True if the axes of a parameter, its gradient or its moments are permuted in memory."""
        assert parameter.grad is not None
        memory = (parameter, parameter.grad, *self.state[parameter].values())
        return not all(values.is_contiguous() for values in memory)

    def _view(self, parameter: nn.Parameter, shape: tuple[int, ...], stride: tuple[int, ...]) -> None:
        """View the memory of a parameter, its gradient and its moments in another shape."""

        def view(values: Tensor) -> Tensor:
            if values.stride() != parameter.stride():
                values = torch.empty_like(parameter).copy_(values)
            return values.as_strided(shape, stride)

        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        state.update({key: view(state[key]) for key in ("exp_avg", "exp_avg_sq") if key in state})
        parameter.grad = None  # torch forbids a new shape while there is a gradient
        parameter.data, parameter.grad = view(parameter.data), view(gradient)
