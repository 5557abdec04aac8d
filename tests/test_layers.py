"""Partial convolutions against the equation, written once more as a plain loop in float64."""

import copy
import io
import itertools
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torchvision import models

from pconv import PartialConv1d, PartialConv2d, PartialConv3d, PartialPaddingConv2d, use_partial_padding
from pconv.layers import select

LAYERS = {1: PartialConv1d, 2: PartialConv2d, 3: PartialConv3d}
HOLE_VALUES = (0.0, 255.0, math.nan, math.inf, -math.inf)
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


# The equation ---------------------------------------------------------------------------------------------------------


def reference(layer, parts, masks):
    """arXiv 1804.07723, Eq. 1 and 2, one window and one group at a time, on float64 tensors; differentiable."""
    dims = len(layer.kernel_size)
    x = torch.cat([torch.where(mask.expand_as(part), part, 0) for part, mask in zip(parts, masks, strict=True)], 1)
    valid = torch.cat([mask.expand_as(part) for part, mask in zip(parts, masks, strict=True)], 1).double()
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
            outputs.append(x[of_group].flatten(1) @ w.T * ratio + seen * bias[g * filters : (g + 1) * filters].double())
            new_masks.append(seen)
    y = torch.cat(outputs, 1).unflatten(1, (*sizes, layer.groups * filters)).movedim(-1, 1)
    new_mask = torch.cat(new_masks, 1).unflatten(1, (*sizes, layer.groups)).movedim(-1, 1)
    if layer.groups == 1 or (len(masks) == 1 and masks[0].shape[1] == 1):  # one mask for all features
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
    cuts = sorted(draw(st.sets(st.integers(1, groups * features - 1), max_size=2))) if groups * features > 1 else []
    channels = [b - a for a, b in itertools.pairwise([0, *cuts, groups * features])]
    batch, keep = draw(st.integers(1, 2)), draw(st.sampled_from([0.1, 0.5, 0.9]))
    parts = [torch.randn(batch, c, *size, dtype=torch.float64) for c in channels]
    masks = [
        torch.rand(draw(st.sampled_from([1, batch])), draw(st.sampled_from([1, c])), *size) < keep for c in channels
    ]
    return layer, parts, masks


def run(layer, parts, masks, forward=None):
    """Output, mask, and the gradients of a fixed weighting of the output to the parts and the parameters."""
    parts = [part.clone().requires_grad_() for part in parts]
    if forward is None:
        y, new_mask = layer(*((parts[0], masks[0]) if len(parts) == 1 else (tuple(parts), tuple(masks))))
    else:
        y, new_mask = forward(layer, parts, masks)
    weighting = torch.linspace(-1, 2, y.numel(), dtype=torch.float64).view(y.shape)
    return y, new_mask, *torch.autograd.grad((y.double() * weighting).sum(), [*parts, *layer.parameters()])


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@settings(max_examples=60)
@given(cases(), st.sampled_from([torch.float64, torch.float32]))
def test_equals_the_plain_loop(case, dtype):
    layer, parts, masks = case
    wanted = run(layer, parts, masks, reference)
    got = run(copy.deepcopy(layer).to(dtype), [part.to(dtype) for part in parts], masks)
    assert got[1].dtype == torch.float32
    tolerance = {"rtol": 1e-10, "atol": 1e-10} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-4}
    for mine, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine.double(), theirs.double(), **tolerance)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@given(cases(), st.sampled_from(HOLE_VALUES))
def test_hole_values_never_matter(case, value):
    layer, parts, masks = case
    clean = run(layer, parts, masks)
    filled = [part.masked_fill(~mask.expand_as(part), value) for part, mask in zip(parts, masks, strict=True)]
    for mine, theirs in zip(run(layer, filled, masks), clean, strict=True):
        assert torch.equal(mine, theirs) and mine.isfinite().all()


@given(st.sampled_from([1, 3, 5, (3, 5)]), st.integers(1, 3), st.sampled_from([1, 4]), st.integers(0, 99))
def test_what_is_valid_stays_valid(kernel, dilation, mask_channels, seed):
    torch.manual_seed(seed)
    mask = torch.rand(2, mask_channels, 7, 9) < 0.2
    _, new_mask = PartialConv2d(4, 2, kernel, padding="same", dilation=dilation)(torch.randn(2, 4, 7, 9), mask)
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
        wanted = torch.ones(5, 6)
        wanted[[0, -1]] *= 1.5
        wanted[:, [0, -1]] *= 1.5
        assert wanted[0, 0] == 2.25
        torch.testing.assert_close(y, wanted * F.conv2d(x, layer.weight, padding=1))


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
    w, wanted = layer.weight.flatten(1), torch.zeros(4, 2)
    wanted[:2, 0], wanted[2:, 1] = 2 * w[:2, 0], 2 * w[2:, 1]  # one of two features is valid: its product counts twice
    torch.testing.assert_close(y[0, :, 0], wanted)


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
    layer = PartialConv2d(1024, 1, 9, bias=False, dtype=torch.float16)  # 9 * 9 * 1024 = 82944 > 65504
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
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, ((a, b), masks))[0]

    assert torch.autograd.gradcheck(f, (*x, layer.weight, layer.bias), fast_mode=True)
    assert torch.autograd.gradgradcheck(f, (*x, layer.weight, layer.bias), fast_mode=True)


# Selecting ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mask_dtype", [torch.bool, torch.float32])
def test_select_is_where(dtype, mask_dtype):
    x = torch.tensor([*HOLE_VALUES, -0.0, 1.5, -3.0], dtype=dtype).repeat(2, 3, 1).requires_grad_()
    mask = torch.rand(2, 1, x.shape[2]) < 0.5
    y = select(x, mask.to(mask_dtype))
    assert y.dtype == dtype
    torch.testing.assert_close(y, torch.where(mask, x, 0), rtol=0, atol=0, equal_nan=True)
    y.backward(torch.full_like(y, math.nan))  # what comes back to a hole does not matter either
    torch.testing.assert_close(x.grad, torch.where(mask, y.new_tensor(math.nan), 0).expand_as(x), equal_nan=True)


def test_select_has_a_second_derivative():
    x = torch.randn(1, 2, 3, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([True, False, True])
    assert torch.autograd.gradgradcheck(lambda t: select(t, mask) ** 3, (x,))


# Precisions -----------------------------------------------------------------------------------------------------------


def hole_case(dtype, size=5):
    """An image that is NaN in a hole wider than a window, and the mask; the middle window sees nothing."""
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
    wanted, wanted_mask = rounded(x.to(autocast).float(), mask)
    assert torch.equal(new_mask, wanted_mask)
    torch.testing.assert_close(
        y.float(), wanted, rtol=4 * torch.finfo(autocast).eps, atol=2 * torch.finfo(autocast).eps
    )


# Masks and shapes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_anything_above_zero_is_valid(dtype):
    layer, x = PartialConv2d(2, 3, 3, padding=1), torch.randn(1, 2, 4, 4)
    values = torch.tensor([0, 1, 0.25, 255, math.nan, -1, math.inf, 0, -math.inf, 0, 0, 1e-5, 0, 0, 0, 0], dtype=dtype)
    mask = values.view(1, 1, 4, 4).requires_grad_()
    y, new_mask = layer(x, mask)
    valid = torch.tensor([0, 1, 1, 1, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0]).view(1, 1, 4, 4).bool()
    wanted, wanted_mask = layer(x, valid)
    assert torch.equal(y, wanted) and torch.equal(new_mask, wanted_mask) and new_mask.dtype == torch.float32
    assert not new_mask.requires_grad
    y.sum().backward()
    assert mask.grad is None  # a mask is no variable


def test_mask_of_batch_one_serves_every_image():
    layer, x, mask = PartialConv2d(2, 3, 3, groups=1), torch.randn(3, 2, 6, 6), torch.rand(1, 1, 6, 6) < 0.3
    y, new_mask = layer(x, mask)
    wanted, wanted_mask = layer(x, mask.repeat(3, 1, 1, 1))
    assert (
        torch.equal(y, wanted) and new_mask.shape[0] == 1 and torch.equal(new_mask.expand(3, -1, -1, -1), wanted_mask)
    )


@pytest.mark.parametrize("mask_channels", [1, 4])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("mask_batch", [0, 1])
def test_empty_batch(groups, mask_channels, mask_batch):
    layer = PartialConv2d(4, 6, 3, groups=groups)
    x = torch.zeros(0, 4, 5, 5, requires_grad=True)
    y, new_mask = layer(x, torch.ones(mask_batch, mask_channels, 5, 5))
    own = groups if mask_channels > 1 else 1
    assert y.shape == (0, 6, 3, 3) and new_mask.shape == (mask_batch, own, 3, 3)
    y.sum().backward()
    assert x.grad.shape == x.shape and not layer.weight.grad.any()


@pytest.mark.parametrize(
    "dims, kernel, stride, padding, size, partial_padding",
    [(2, 3, 2, 1, (1, 1), False), (2, 5, 4, 2, (2, 3), False), (2, 3, 2, 1, (6, 1), False), (2, 3, 2, 1, (1, 1), True),
     (1, 3, 2, 1, (1,), False), (3, 3, 2, 1, (1, 1, 1), False)],
)  # fmt: skip
def test_bf16_gradients_of_an_image_narrower_than_the_stride(dims, kernel, stride, padding, size, partial_padding):
    """oneDNN leaves taps of that weight gradient unwritten: they hold what lay in that memory before, here NaN."""
    torch.manual_seed(0)
    kind = PartialPaddingConv2d if partial_padding else LAYERS[dims]
    layer = kind(64, 64, kernel, stride, padding)
    x = torch.randn(2, 64, *size)
    arguments = (x,) if partial_padding else (x, torch.ones(1, 1, *size))

    def gradient(autocast: bool) -> torch.Tensor:
        poison = [torch.full((n * layer.weight.numel(),), math.nan, dtype=dtype)
                  for n, dtype in ((1, torch.float32), (2, torch.float32), (1, torch.bfloat16))]  # fmt: skip
        del poison  # this memory is what is handed out next
        layer.weight.grad = None
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            y = layer(*arguments)
        y = y if partial_padding else y[0]
        assert y.dtype == (torch.bfloat16 if autocast else torch.float32)
        y.float().square().sum().backward()
        return layer.weight.grad

    exact = gradient(autocast=False)
    for _ in range(20):
        torch.testing.assert_close(gradient(autocast=True), exact, rtol=0.05, atol=0.02 * exact.abs().max().item())


@pytest.mark.parametrize("in_parts", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_channels_last_is_kept(dtype, in_parts):
    layer = PartialConv2d(8, 6, 3, padding=1, dtype=dtype).to(memory_format=torch.channels_last)
    x = torch.randn(2, 8, 7, 9).to(dtype)
    mask = torch.rand(2, 1, 7, 9) < 0.5
    last = x.to(memory_format=torch.channels_last)
    cut = lambda t: t.split((5, 3), 1) if in_parts else t  # noqa: E731
    masks = (mask, mask) if in_parts else mask
    y, _ = layer(cut(last), masks)
    assert y.is_contiguous(memory_format=torch.channels_last)
    wanted, _ = layer.to(memory_format=torch.contiguous_format)(cut(x), masks)
    torch.testing.assert_close(y, wanted)


# One layer, many calls ------------------------------------------------------------------------------------------------


def test_nothing_is_remembered_between_calls():
    """Masks cached by shape go stale: same shapes with other masks, then other shapes, dtypes, copies and pickles."""
    layer = PartialConv2d(2, 3, 3, padding=1)
    pickled = lambda module: pickle.loads(pickle.dumps(module))  # noqa: E731
    changes = (
        nn.Identity(),
        copy.deepcopy,
        pickled,
        nn.Module.double,
        nn.Module.half,
        nn.Module.bfloat16,
        nn.Module.float,
    )
    for change in changes:
        for size, batch in ((5, 1), (5, 1), (5, 2), (4, 2)):
            layer = change(layer)
            x = torch.randn(batch, 2, size, size).to(layer.weight.dtype)
            mask = torch.rand(batch, 1, size, size) < 0.3
            fresh = PartialConv2d(2, 3, 3, padding=1, dtype=layer.weight.dtype)
            fresh.load_state_dict(layer.state_dict())
            for mine, theirs in zip(layer(x, mask), fresh(x, mask), strict=True):
                assert torch.equal(mine, theirs)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_state_dict_to_and_from_the_plain_convolution(dims):
    make = {"in_channels": 4, "out_channels": 2, "kernel_size": 3, "groups": 2}
    partial, plain = LAYERS[dims](**make), getattr(nn, f"Conv{dims}d")(**make)
    assert isinstance(partial, type(plain)) and list(partial.state_dict()) == list(plain.state_dict())
    x, mask = torch.randn(1, 4, *[5] * dims), torch.ones(1, 1, *[5] * dims)
    partial.load_state_dict(plain.state_dict())
    torch.testing.assert_close(partial(x, mask)[0], plain(x))
    nn.init.normal_(partial.weight)
    buffer = io.BytesIO()
    torch.save(partial.state_dict(), buffer)
    buffer.seek(0)
    plain.load_state_dict(torch.load(buffer, weights_only=True))
    torch.testing.assert_close(partial(x, mask)[0], plain(x))


# Export and compile ---------------------------------------------------------------------------------------------------


class InParts(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = PartialConv2d(5, 4, 3, padding=1, groups=1)

    def forward(self, a, b, mask_a, mask_b):
        return self.conv((a, b), (mask_a, mask_b))


def graph_case(kind):
    """A module and two lots of arguments of different sizes."""
    if kind == "padding":
        return PartialPaddingConv2d(3, 4, 3, padding=1), [(torch.randn(2, 3, n, n),) for n in (6, 9)]
    if kind == "parts":
        return InParts(), [
            (
                torch.randn(2, 3, n, n),
                torch.randn(2, 2, n, n),
                torch.rand(2, 1, n, n) < 0.3,
                torch.rand(2, 2, n, n) < 0.3,
            )
            for n in (6, 9)
        ]
    layer = LAYERS[kind](4, 4, 3, stride=2, padding=1, groups=2)
    return layer, [(torch.randn(2, 4, *[n] * kind), (torch.rand(2, 4, *[n] * kind) < 0.1).float()) for n in (6, 9)]


def flat(result):
    return [result] if isinstance(result, torch.Tensor) else list(result)


@pytest.mark.compile
@pytest.mark.parametrize("kind", [1, 2, 3, "parts", "padding"])
def test_export_with_any_size_agrees(kind):
    module, calls = graph_case(kind)
    sizes = {dim: torch.export.Dim.DYNAMIC for dim in range(2, calls[0][0].ndim)}
    exported = torch.export.export(module, calls[0], dynamic_shapes=tuple(sizes for _ in calls[0]))
    for arguments in calls:
        for mine, theirs in zip(flat(exported.module()(*arguments)), flat(module(*arguments)), strict=True):
            torch.testing.assert_close(mine, theirs)


@pytest.mark.skipif(
    " " in torch.__file__ and torch.__version__.startswith("2.9."),
    reason="torch 2.9 hands the compiler the folder of its libraries unquoted, and this one has a space",
)
@pytest.mark.compile
@pytest.mark.parametrize(
    ("kind", "backend", "autocast"),
    [
        (2, "aot_eager", None),
        ("parts", "aot_eager", torch.bfloat16),
        ("padding", "aot_eager", None),
        ("parts", "inductor", None),
    ],
)
def test_compiled_whole_agrees(kind, backend, autocast):
    module, calls = graph_case(kind)
    compiled = torch.compile(module, fullgraph=True, backend=backend)
    for arguments in calls[:1] if backend == "inductor" else calls:
        results = []
        for call in (compiled, module):
            module.zero_grad()
            x = [a.clone().requires_grad_() if a.is_floating_point() and a.shape[1] > 1 else a for a in arguments]
            with torch.autocast("cpu", dtype=autocast, enabled=autocast is not None):
                outputs = flat(call(*x))
            outputs[0].float().square().sum().backward()
            results.append([*outputs, *(p.grad for p in module.parameters()), x[0].grad])
        for mine, theirs in zip(*results, strict=True):
            assert mine.dtype == theirs.dtype
            torch.testing.assert_close(mine, theirs, **({"rtol": 2e-2, "atol": 2e-2} if autocast else {}))


# Errors ---------------------------------------------------------------------------------------------------------------

X, M = torch.zeros(2, 4, 6, 6), torch.ones(2, 1, 6, 6)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((X,), TypeError, r"PartialConv2d needs a mask.*layer\(x, mask\)"),
        (((X[:, :1], X[:, :3]),), TypeError, "needs a mask"),
        ((X, M[..., :5]), ValueError, r"mask has shape \(2, 1, 6, 5\).*\(6, 6\)"),
        ((X, M[0]), ValueError, r"mask has shape \(1, 6, 6\)"),
        ((X, M.repeat(1, 3, 1, 1)), ValueError, "mask has 3 channels; expected 1, or 4"),
        ((X, M.repeat(2, 1, 1, 1)), ValueError, "mask is for a batch of 4, x has 2"),
        (((X[:, :1], X[:, :3]), (M,)), ValueError, r"2 part\(s\) of x but 1 mask"),
        ((X, (M, M)), ValueError, r"1 part\(s\) of x but 2 mask"),
        (((X[:, :1], X[:, :3]), M), ValueError, r"2 part\(s\) of x but 1 mask"),
        ((X, M.long()), TypeError, "mask is torch.int64, 0/1 or 0/255.*mask > 0"),
        ((X, M.byte()), TypeError, "mask is torch.uint8"),
        ((X, M.to("meta")), ValueError, "x is on cpu but its mask on meta"),
        ((X.byte(), M), TypeError, r"x is torch.uint8.*x.float\(\) / 255"),
        ((X[0], M[0]), ValueError, r"x has shape \(4, 6, 6\); expected 4 dimensions.*x\[None\]"),
        ((X[:, :3], M), ValueError, "x has 3 channels in 1 part.*expected 4"),
        (((X[:, :2], X[:, :1]), (M, M)), ValueError, "x has 3 channels in 2 part.*expected 4"),
        (((X[:, :2], X[:1, :2]), (M, M[:1])), ValueError, "parts of shapes .* differ in batch or size"),
        (((X[:, :2], X[:, :2, :5]), (M, M[:, :, :5])), ValueError, "parts of shapes .* differ in batch or size"),
    ],
)
def test_refusals_say_what_is_wrong(arguments, error, words):
    with pytest.raises(error, match=words):
        PartialConv2d(4, 2, 3)(*arguments)


@pytest.mark.parametrize("layer", [*LAYERS.values(), PartialPaddingConv2d])
@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_other_padding_modes_are_refused_by_name(layer, mode):
    with pytest.raises(ValueError, match=f"padding_mode='{mode}' is not possible.*padding_mode='zeros'"):
        layer(1, 1, 3, padding=1, padding_mode=mode)


@pytest.mark.parametrize(
    ("x", "error", "words"),
    [
        (X.byte(), TypeError, "x is torch.uint8"),
        (X[0], ValueError, "expected 4 dimensions"),
        (X[:, :3], ValueError, "x has 3 channels"),
    ],
)
def test_partial_padding_refuses_as_well(x, error, words):
    with pytest.raises(error, match=f"PartialPaddingConv2d.*{words}"):
        PartialPaddingConv2d(4, 2, 3, padding=1)(x)


# Partial convolution as padding ---------------------------------------------------------------------------------------


def seen(size, kernel, stride, padding, dilation):
    """How many of a window's taps lie inside the image, along one axis, for each window."""
    starts = range(-padding, size + padding - dilation * (kernel - 1), stride)
    return torch.tensor([sum(0 <= start + dilation * tap < size for tap in range(kernel)) for start in starts])


@pytest.mark.parametrize("name", ["resnet50", "vgg16_bn", "mobilenet_v3_small"])
def test_use_partial_padding_on_torchvision(name):
    model = getattr(models, name)(weights=None).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    plain = [module for module in model.modules() if type(module) is nn.Conv2d]
    depthwise = sum(conv.groups > 1 for conv in plain)
    assert use_partial_padding(model) is model
    swapped = [module for module in model.modules() if type(module) is PartialPaddingConv2d]
    assert swapped == [conv for conv in plain if any(conv.padding)]
    assert depthwise == (11 if name == "mobilenet_v3_small" else 0) == sum(conv.groups > 1 for conv in swapped)
    after = model.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[key], before[key]) for key in before)

    def check(conv, inputs, y):
        (x,) = inputs
        settings = zip(x.shape[2:], conv.kernel_size, conv.stride, conv.padding, conv.dilation, strict=True)
        rows, columns = (seen(*axis) for axis in settings)
        ratio = math.prod(conv.kernel_size) / (rows[:, None] * columns)
        products = F.conv2d(x, conv.weight, None, conv.stride, conv.padding, conv.dilation, conv.groups)
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

    kept = [
        nn.Conv2d(1, 1, 3),
        nn.Conv2d(1, 1, 3, padding="valid"),
        Own(1, 1, 3, padding=1),
        nn.Conv1d(1, 1, 3, padding=1),
    ]
    kept += [nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"), PartialConv2d(1, 1, 3, padding=1)]
    swapped = [nn.Conv2d(1, 1, (1, 3), padding=(0, 1)), nn.Conv2d(1, 1, 4, padding="same")]
    types = [type(module) for module in kept]
    use_partial_padding(nn.ModuleList([*kept, *swapped]))
    assert [type(module) for module in kept] == types
    assert {type(module) for module in swapped} == {PartialPaddingConv2d}
    x = torch.rand(1, 1, 5, 6)  # "same" with an even kernel pads 1 before and 2 after
    rows, columns = torch.tensor([3, 4, 4, 3, 2]), torch.tensor([3, 4, 4, 4, 3, 2])
    ratio = 16 / (rows[:, None] * columns)
    conv = swapped[1]
    wanted = F.conv2d(x, conv.weight, padding="same") * ratio + conv.bias
    torch.testing.assert_close(conv(x), wanted)
