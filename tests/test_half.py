"""FP16 without FP16 units rounds, overflows and underflows as half precision does."""

import math

import torch
from course.half import emulated_fp16, round_to_half
from torch import nn

from pconv import PartialConv2d


def test_round_to_half_rounds_values_and_gradients():
    x = torch.tensor([1 + 2**-12, 70000.0, 2.0**-24, 2.0**-26], requires_grad=True)
    y = round_to_half(x)
    assert y.dtype == torch.float32 and y.tolist() == [1.0, math.inf, 2.0**-24, 0.0]
    y.backward(torch.tensor([2.0**-26, 2.0**-24, 1 + 2**-12, 3.0]))
    assert x.grad.tolist() == [0.0, 2.0**-24, 1.0, 3.0]


def test_emulated_fp16_is_what_half_convolutions_return():
    torch.manual_seed(0)
    conv, mask = PartialConv2d(3, 4, 3), (torch.rand(1, 1, 8, 8) > 0.3).float()
    x = torch.rand(1, 3, 8, 8)
    plain, half = conv(x, mask)[0], PartialConv2d(3, 4, 3)
    half.load_state_dict({name: value.half().float() for name, value in conv.state_dict().items()})
    with emulated_fp16(nn.Sequential(conv)):
        y, new_mask = conv(x, mask)
    assert torch.equal(y, half(x.half().float(), mask)[0].half().float())
    assert not torch.equal(y, plain)
    # over when it is over
    assert new_mask.dtype == torch.float32
    assert torch.equal(conv(x, mask)[0], plain)


def test_emulated_fp16_shows_the_underflow_that_a_scale_cures():
    layer = nn.Linear(4, 1)
    weight, gradients = layer.weight, {}
    for scale in (1.0, 65536.0):
        layer.zero_grad()
        with emulated_fp16(layer):
            (layer(torch.ones(1, 4)) * 1e-9 * scale).sum().backward()
        gradients[scale] = layer.weight.grad / scale
    assert layer.weight is weight and list(layer.state_dict()) == ["weight", "bias"]
    assert (gradients[1.0] == 0).all()
    assert torch.allclose(gradients[65536.0], torch.full((1, 4), 1e-9), rtol=1e-3)


def test_emulated_fp16_loses_the_weight_gradients_that_half_loses():
    """The gradient of the output survives, its product with the input does not."""
    layer, x = nn.Linear(1, 1, bias=False), torch.full((1, 1), 1e-4)
    with emulated_fp16(layer):
        (layer(x) * 1e-4).sum().backward()
    assert layer.weight.grad.item() == 0
    with emulated_fp16(layer):
        assert layer(torch.full((1, 1), 1e5)).isinf().all()  # 1e5 is infinite in half
