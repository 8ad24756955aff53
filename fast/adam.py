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
        all_of_them = [parameter for group in self.param_groups for parameter in group["params"]]
        seen = [(p, p.shape, p.stride()) for p in all_of_them if p.grad is not None and p.device.type == "cpu"]
        try:
            for parameter, *_ in seen:
                self._view(parameter, (parameter.numel(),), (1,))
            return super().step()
        finally:
            for parameter, shape, stride in seen:
                self._view(parameter, shape, stride)
                torch.autograd.graph.increment_version(parameter)  # changes of `data` do not increment it

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
