"""FP16 for machines without units for it: the values it can hold, at float32's speed."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


class _RoundToHalf(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.half().to(x.dtype)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return grad.half().to(grad.dtype)


def round_to_half(x: Tensor) -> Tensor:
    """Rounds x through float16, and on the way back its gradient; same shape, same dtype."""
    return _RoundToHalf.apply(x)


class _HalfWeight(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return round_to_half(weight)


@contextmanager
def emulated_fp16(model: nn.Module) -> Iterator[None]:
    """Rounds what convolutions and linear layers read and return to float16.

    So it does with their weights, and with all gradients. Arithmetic stays in float32, as inside
    tensor cores: FP16's overflow and underflow show at a CPU's float32 speed.
    """
    layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.modules.conv._ConvNd)]

    def round_all(value):
        if isinstance(value, tuple | list):  # the parts that a partial convolution reads
            return type(value)(map(round_all, value))
        return round_to_half(value)

    def round_output(module, inputs, output):
        if isinstance(output, tuple):  # of a partial convolution; its mask stays in float32
            return round_all(output[0]), *output[1:]
        return round_all(output)

    handles = [
        layer.register_forward_pre_hook(lambda _, inputs: (round_all(inputs[0]), *inputs[1:]))
        for layer in layers
    ]
    handles += [layer.register_forward_hook(round_output) for layer in layers]
    named = [(layer, name) for layer in layers for name, _ in layer.named_parameters(recurse=False)]
    for layer, name in named:
        parametrize.register_parametrization(layer, name, _HalfWeight())
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for layer, name in named:
            parametrize.remove_parametrizations(layer, name, leave_parametrized=False)
