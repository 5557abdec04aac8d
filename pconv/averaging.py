"""A moving average of the weights, which is often better than the weights themselves."""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


class MovingAverage(AveragedModel):
    """Exponential moving average of a model's weights; batch norm's statistics are the model's.

    After each step `update_parameters(model)` moves `module` towards the model by 1 - decay. At
    first the decay is (1 + n) / (10 + n) after n steps, so that the start is soon forgotten.

    Args:
        model: a copy of it is where the average begins.
        decay: between 0 and 1, such as 0.999, an average over about 1,000 steps.
    """

    def __init__(self, model: nn.Module, decay: float):
        super().__init__(model, multi_avg_fn=self._move)
        self.decay = decay

    @torch.no_grad()
    def _move(self, averaged: list[Tensor], current: list[Tensor], _) -> None:
        steps = int(self.n_averaged)  # stays on the CPU: the device is not waited for
        decay = min(self.decay, (1 + steps) / (10 + steps))
        torch._foreach_lerp_(averaged, current, 1 - decay)
