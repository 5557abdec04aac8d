"""Partial convolutions against the equation, written once more as a plain loop in float64."""

import copy
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torchvision import models

from pconv import (
    PartialConv1d,
    PartialConv2d,
    PartialConv3d,
    PartialPaddingConv2d,
    use_partial_padding,
)
from pconv.layers import select

LAYERS = {1: PartialConv1d, 2: PartialConv2d, 3: PartialConv3d}
HOLE_VALUES = (0.0, 255.0, math.nan, math.inf, -math.inf)
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


# The equation -------------------------------------------------------------------------------------


def reference(layer, parts, masks):
    """arXiv 1804.07723, Eq. 1 and 2, one window and group at a time, in float64; differentiable."""
    dims = len(layer.kernel_size)
    x = torch.cat(
        [
            torch.where(mask.expand_as(part), part, 0)
            for part, mask in zip(parts, masks, strict=True)
        ],
        1,
    )
    valid = torch.cat(
        [mask.expand_as(part) for part, mask in zip(parts, masks, strict=True)], 1
    ).double()
    reach = [d * (k - 1) for k, d in zip(layer.kernel_size, layer.dilation, strict=True)]
    if layer.padding == "same":
        pads = [(r // 2, r - r // 2) for r in reach]
    else:
        pads = [(0, 0)] * dims if layer.padding == "valid" else [(p, p) for p in layer.padding]
    flat = [side for pad in reversed(pads) for side in pad]
    x, valid = F.pad(x, flat), F.pad(valid, flat)
    sizes = [(n - r - 1) // s + 1 for n, r, s in zip(x.shape[2:], reach, layer.stride, strict=True)]
    features, filters = layer.in_channels // layer.groups, layer.out_channels // layer.groups
    weight = layer.weight.double()
    bias = torch.zeros(layer.out_channels) if layer.bias is None else layer.bias
    outputs, new_masks = [], []
    for position in itertools.product(*map(range, sizes)):
        window = [
            slice(p * s, p * s + r + 1, d)
            for p, s, r, d in zip(position, layer.stride, reach, layer.dilation, strict=True)
        ]
        for g in range(layer.groups):
            of_group = (slice(None), slice(g * features, (g + 1) * features), *window)
            w = weight[g * filters : (g + 1) * filters].flatten(1)
            total = valid[of_group].flatten(1).sum(1, keepdim=True)
            seen = (total > 0).double()
            ratio = seen * w.shape[1] / total.clamp(min=1)
            outputs.append(
                x[of_group].flatten(1) @ w.T * ratio
                + seen * bias[g * filters : (g + 1) * filters].double()
            )
            new_masks.append(seen)
    y = torch.cat(outputs, 1).unflatten(1, (*sizes, layer.groups * filters)).movedim(-1, 1)
    new_mask = torch.cat(new_masks, 1).unflatten(1, (*sizes, layer.groups)).movedim(-1, 1)
    if layer.groups == 1 or (
        len(masks) == 1 and masks[0].shape[1] == 1
    ):  # one mask for all features
        new_mask = new_mask.amax(1, keepdim=True)
    return y, new_mask[: max(len(mask) for mask in masks)]


@st.composite
def cases(draw):
    """A layer, parts of an image with finite values everywhere, and their bool masks."""
    dims = draw(st.integers(1, 3))
    each = lambda low, high: tuple(draw(st.integers(low, high)) for _ in range(dims))  # noqa: E731
    groups = draw(st.integers(1, 3))
    features = draw(st.integers(1, 2 if dims == 3 else 3))
    kernel, dilation = each(1, 4 if dims < 3 else 3), each(1, 2)
    kind = draw(st.sampled_from(["int", "tuple", "same", "valid"]))
    padding = {"int": draw(st.integers(0, 2)), "tuple": each(0, 2)}.get(kind, kind)
    stride = each(1, 1) if kind == "same" else each(1, 3)
    size = [d * (k - 1) + 1 + n for k, d, n in zip(kernel, dilation, each(0, 3), strict=True)]
    torch.manual_seed(draw(st.integers(0, 999)))
    layer = LAYERS[dims](
        groups * features,
        groups * draw(st.integers(1, 2)),
        kernel,
        stride,
        padding,
        dilation,
        groups,
        bias=draw(st.booleans()),
        dtype=torch.float64,
    )
    cuts = (
        sorted(draw(st.sets(st.integers(1, groups * features - 1), max_size=2)))
        if groups * features > 1
        else []
    )
    channels = [b - a for a, b in itertools.pairwise([0, *cuts, groups * features])]
    batch, keep = draw(st.integers(1, 2)), draw(st.sampled_from([0.1, 0.5, 0.9]))
    parts = [torch.randn(batch, c, *size, dtype=torch.float64) for c in channels]
    masks = [
        torch.rand(draw(st.sampled_from([1, batch])), draw(st.sampled_from([1, c])), *size) < keep
        for c in channels
    ]
    return layer, parts, masks


def run(layer, parts, masks, forward=None):
    """Output, mask, and gradients of a weighted sum of the output to parts and parameters."""
    parts = [part.clone().requires_grad_() for part in parts]
    if forward is None:
        y, new_mask = layer(
            *((parts[0], masks[0]) if len(parts) == 1 else (tuple(parts), tuple(masks)))
        )
    else:
        y, new_mask = forward(layer, parts, masks)
    weighting = torch.linspace(-1, 2, y.numel(), dtype=torch.float64).view(y.shape)
    return (
        y,
        new_mask,
        *torch.autograd.grad((y.double() * weighting).sum(), [*parts, *layer.parameters()]),
    )


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@settings(max_examples=60)
@given(cases(), st.sampled_from([torch.float64, torch.float32]))
def test_equals_the_plain_loop(case, dtype):
    layer, parts, masks = case
    expected = run(layer, parts, masks, reference)
    actual = run(copy.deepcopy(layer).to(dtype), [part.to(dtype) for part in parts], masks)
    assert actual[1].dtype == torch.float32
    tolerance = (
        {"rtol": 1e-10, "atol": 1e-10} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-4}
    )
    for mine, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(mine.double(), theirs.double(), **tolerance)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@given(cases(), st.sampled_from(HOLE_VALUES))
def test_hole_values_never_matter(case, value):
    layer, parts, masks = case
    clean = run(layer, parts, masks)
    filled = [
        part.masked_fill(~mask.expand_as(part), value)
        for part, mask in zip(parts, masks, strict=True)
    ]
    for mine, theirs in zip(run(layer, filled, masks), clean, strict=True):
        assert torch.equal(mine, theirs) and mine.isfinite().all()


@given(
    st.sampled_from([1, 3, 5, (3, 5)]),
    st.integers(1, 3),
    st.sampled_from([1, 4]),
    st.integers(0, 99),
)
def test_what_is_valid_stays_valid(kernel, dilation, mask_channels, seed):
    torch.manual_seed(seed)
    mask = torch.rand(2, mask_channels, 7, 9) < 0.2
    _, new_mask = PartialConv2d(4, 2, kernel, padding="same", dilation=dilation)(
        torch.randn(2, 4, 7, 9), mask
    )
    assert (new_mask >= mask.any(1, keepdim=True)).all()
    assert set(new_mask.unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("bias", [False, True])
def test_without_holes_it_is_the_plain_convolution(dims, bias):
    layer = LAYERS[dims](4, 6, 3, groups=2, stride=2, bias=bias)
    x = torch.randn(2, 4, *[9] * dims)
    y, new_mask = layer(x, torch.ones(1, 1, *[9] * dims))
    plain = getattr(F, f"conv{dims}d")(x, layer.weight, layer.bias, stride=2, groups=2)
    assert torch.equal(new_mask, torch.ones(1, 1, *plain.shape[2:]))
    if bias:
        torch.testing.assert_close(y, plain)
    else:
        assert torch.equal(y, plain)


def test_ratio_is_three_halves_at_an_edge_and_nine_quarters_at_a_corner():
    x = torch.randn(1, 2, 5, 6)
    for layer, y in [
        (conv := PartialConv2d(2, 3, 3, padding=1, bias=False), conv(x, torch.ones(1, 1, 5, 6))[0]),
        (conv := PartialPaddingConv2d(2, 3, 3, padding=1, bias=False), conv(x)),
    ]:
        expected = torch.ones(5, 6)
        expected[[0, -1]] *= 1.5
        expected[:, [0, -1]] *= 1.5
        assert expected[0, 0] == 2.25
        torch.testing.assert_close(y, expected * F.conv2d(x, layer.weight, padding=1))


@pytest.mark.parametrize("channels", [1, 5])
def test_one_mask_channel_equals_it_repeated(channels):
    layer, x = PartialConv2d(5, 4, 3, padding=1), torch.randn(2, 5, 8, 8)
    mask = torch.rand(2, 1, 8, 8) < 0.3
    y, new_mask = layer(x, mask)
    for parts, masks in [
        (x, mask.expand(-1, channels, -1, -1)),
        (x.split((2, 3), 1), (mask, mask)),
        (x.split((1, 4), 1), (mask, mask.expand(-1, 4, -1, -1))),
    ]:
        other, other_mask = layer(parts, masks)
        torch.testing.assert_close(other, y)
        assert torch.equal(other_mask, new_mask)


def test_mask_of_a_group_is_its_own_where_features_do_not_share_one():
    layer, x = PartialConv2d(4, 4, 1, groups=2, bias=False), torch.ones(1, 4, 1, 2)
    mask = torch.tensor([[1, 0], [0, 0], [0, 0], [0, 1]]).view(1, 4, 1, 2).bool()
    y, new_mask = layer(x, mask)
    assert new_mask.tolist() == [[[[1, 0]], [[0, 1]]]]
    w, expected = layer.weight.flatten(1), torch.zeros(4, 2)
    # one of two features is valid: its product counts twice
    expected[:2, 0], expected[2:, 1] = (2 * w[:2, 0], 2 * w[2:, 1])
    torch.testing.assert_close(y[0, :, 0], expected)


def test_window_sums_are_exact_where_half_precision_is_not():
    features = 1024  # 9216 in a window: float16 counts to 2048, bfloat16 to 256
    layer = PartialConv2d(features, 1, 3, bias=False)
    nn.init.ones_(layer.weight)
    for dtype in DTYPES[:3]:
        mask = torch.ones(1, features, 3, 3, dtype=dtype)
        mask[0, 0, 0, 0] = 0
        y, _ = layer(torch.ones(1, features, 3, 3), mask)
        assert y.item() == pytest.approx(9215 * 9216 / 9215, rel=1e-6)


def test_window_may_hold_more_than_half_precision_can():
    # 9 * 9 * 1024 = 82944 > 65504
    layer = PartialConv2d(1024, 1, 9, bias=False, dtype=torch.float16)
    nn.init.constant_(layer.weight, 2.0**-10)
    mask = torch.ones(1, 1024, 9, 9)
    mask[0, 0, 0, 0] = 0
    y, new_mask = layer(torch.ones(1, 1024, 9, 9, dtype=torch.float16), mask)
    assert y.item() == 81 and new_mask.item() == 1


@pytest.mark.parametrize("groups", [1, 2])
def test_gradcheck(groups):
    layer = PartialConv2d(2, 2, 2, padding=1, groups=groups, dtype=torch.float64)
    mask = torch.tensor([[[1, 0, 0], [0, 0, 0], [0, 0, 1]]]).bool()[None]
    masks = (mask, mask.flip(3))
    x = [torch.randn(2, 1, 3, 3, dtype=torch.float64, requires_grad=True) for _ in range(2)]

    def f(a, b, weight, bias):
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, ((a, b), masks))[
            0
        ]

    assert torch.autograd.gradcheck(f, (*x, layer.weight, layer.bias), fast_mode=True)
    assert torch.autograd.gradgradcheck(f, (*x, layer.weight, layer.bias), fast_mode=True)


# Selecting ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mask_dtype", [torch.bool, torch.float32])
def test_select_is_where(dtype, mask_dtype):
    x = torch.tensor([*HOLE_VALUES, -0.0, 1.5, -3.0], dtype=dtype).repeat(2, 3, 1).requires_grad_()
    mask = torch.rand(2, 1, x.shape[2]) < 0.5
    y = select(x, mask.to(mask_dtype))
    assert y.dtype == dtype
    torch.testing.assert_close(y, torch.where(mask, x, 0), rtol=0, atol=0, equal_nan=True)
    y.backward(torch.full_like(y, math.nan))  # what comes back to a hole does not matter either
    torch.testing.assert_close(
        x.grad, torch.where(mask, y.new_tensor(math.nan), 0).expand_as(x), equal_nan=True
    )


def test_select_has_a_second_derivative():
    x = torch.randn(1, 2, 3, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([True, False, True])
    assert torch.autograd.gradgradcheck(lambda t: select(t, mask) ** 3, (x,))


# Precisions ---------------------------------------------------------------------------------------


def hole_case(dtype, size=5):
    """An image that is NaN in a hole wider than a window, and its mask."""
    mask = torch.ones(1, 1, size, size, dtype=torch.bool)
    mask[..., 1:-1, 1:-1] = False
    return torch.randn(2, 4, size, size).to(dtype).masked_fill(~mask, math.nan), mask


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("in_parts", [False, True])
@pytest.mark.parametrize(
    ("dtype", "autocast"), [*((d, None) for d in DTYPES), *((torch.float32, d) for d in DTYPES[:2])]
)
def test_window_without_a_valid_pixel_is_exactly_zero(dtype, autocast, in_parts, bias):
    layer = PartialConv2d(4, 3, 3, padding=1, bias=bias, dtype=dtype)
    x, mask = hole_case(dtype)
    x.requires_grad_()
    with torch.autocast("cpu", dtype=autocast, enabled=autocast is not None):
        y, new_mask = layer(x.split((3, 1), 1), (mask, mask)) if in_parts else layer(x, mask)
    assert y.dtype == (autocast or dtype)  # autocast keeps its memory gain
    assert new_mask.dtype == torch.float32 and new_mask.shape == (1, 1, 5, 5)
    assert new_mask.sum() == 24 and new_mask[0, 0, 2, 2] == 0
    assert (y[:, :, 2, 2] == 0).all() and y.isfinite().all()
    grads = torch.autograd.grad(y.float().square().sum(), [x, *layer.parameters()])
    assert all(grad.isfinite().all() for grad in grads)
    assert grads[0].dtype == dtype and (grads[0].masked_select(~mask) == 0).all()


@pytest.mark.parametrize("autocast", DTYPES[:2])
def test_autocast_rounds_only_the_features(autocast):
    """The same as rounding x and the weights, and multiplying in float32."""
    layer, x = PartialConv2d(4, 3, 3, padding=1), torch.randn(2, 4, 6, 6)
    mask = torch.rand(2, 1, 6, 6) < 0.4
    with torch.autocast("cpu", dtype=autocast):
        y, new_mask = layer(x, mask)
    rounded = copy.deepcopy(layer).to(autocast).float()
    expected, wanted_mask = rounded(x.to(autocast).float(), mask)
    assert torch.equal(new_mask, wanted_mask)
    torch.testing.assert_close(
        y.float(), expected, rtol=4 * torch.finfo(autocast).eps, atol=2 * torch.finfo(autocast).eps
    )


# Partial convolution as padding -------------------------------------------------------------------


def seen(size, kernel, stride, padding, dilation):
    """How many of a window's taps lie inside the image, along one axis, for each window."""
    starts = range(-padding, size + padding - dilation * (kernel - 1), stride)
    return torch.tensor(
        [sum(0 <= start + dilation * tap < size for tap in range(kernel)) for start in starts]
    )


@pytest.mark.parametrize("name", ["resnet50", "vgg16_bn", "mobilenet_v3_small"])
def test_use_partial_padding_on_torchvision(name):
    model = getattr(models, name)(weights=None).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    plain = [module for module in model.modules() if type(module) is nn.Conv2d]
    depthwise = sum(conv.groups > 1 for conv in plain)
    assert use_partial_padding(model) is model
    swapped = [module for module in model.modules() if type(module) is PartialPaddingConv2d]
    assert swapped == [conv for conv in plain if any(conv.padding)]
    assert (
        depthwise
        == (11 if name == "mobilenet_v3_small" else 0)
        == sum(conv.groups > 1 for conv in swapped)
    )
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], before[key]) for key in before)

    def check(conv, inputs, y):
        (x,) = inputs
        settings = zip(
            x.shape[2:], conv.kernel_size, conv.stride, conv.padding, conv.dilation, strict=True
        )
        rows, columns = (seen(*axis) for axis in settings)
        ratio = math.prod(conv.kernel_size) / (rows[:, None] * columns)
        products = F.conv2d(
            x, conv.weight, None, conv.stride, conv.padding, conv.dilation, conv.groups
        )
        bias = 0 if conv.bias is None else conv.bias.view(-1, 1, 1)
        scale = products.abs().max().item()
        torch.testing.assert_close(y, products * ratio + bias, rtol=1e-4, atol=1e-5 * scale)
        differs = (y - (products + bias)).abs().amax((0, 1)) > 1e-5 * scale
        assert torch.equal(differs, ratio > 1)  # different where padding reaches, and only there
        checked.append(conv)

    checked = []
    hooks = [conv.register_forward_hook(check) for conv in swapped]
    with torch.inference_mode():
        y = model(torch.rand(1, 3, 64, 64))
    assert y.shape == (1, 1000) and y.isfinite().all()
    assert len(checked) == len(hooks) == len(swapped)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_use_partial_padding_leaves_the_rest_alone():
    class Own(nn.Conv2d):
        pass

    kept = [nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 3, padding="valid"), Own(1, 1, 3, padding=1)]
    kept += [nn.Conv1d(1, 1, 3, padding=1)]
    kept += [
        nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"),
        PartialConv2d(1, 1, 3, padding=1),
    ]
    swapped = [nn.Conv2d(1, 1, (1, 3), padding=(0, 1)), nn.Conv2d(1, 1, 4, padding="same")]
    types = [type(module) for module in kept]
    use_partial_padding(nn.ModuleList([*kept, *swapped]))
    assert [type(module) for module in kept] == types
    assert {type(module) for module in swapped} == {PartialPaddingConv2d}
    x = torch.rand(1, 1, 5, 6)  # "same" with an even kernel pads 1 before and 2 after
    rows, columns = torch.tensor([3, 4, 4, 3, 2]), torch.tensor([3, 4, 4, 4, 3, 2])
    ratio = 16 / (rows[:, None] * columns)
    conv = swapped[1]
    expected = F.conv2d(x, conv.weight, padding="same") * ratio + conv.bias
    torch.testing.assert_close(conv(x), expected)
