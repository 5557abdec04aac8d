"""How layers are called: masks and shapes, again and again, exported, compiled, and wrongly."""

import copy
import io
import math
import pickle

import pytest
import torch
from torch import nn

from pconv import PartialConv1d, PartialConv2d, PartialConv3d, PartialPaddingConv2d

LAYERS = {1: PartialConv1d, 2: PartialConv2d, 3: PartialConv3d}
HOLE_VALUES = (0.0, 255.0, math.nan, math.inf, -math.inf)
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


# Masks and shapes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_anything_above_zero_is_valid(dtype):
    layer, x = PartialConv2d(2, 3, 3, padding=1), torch.randn(1, 2, 4, 4)
    values = torch.tensor(
        [0, 1, 0.25, 255, math.nan, -1, math.inf, 0, -math.inf, 0, 0, 1e-5, 0, 0, 0, 0], dtype=dtype
    )
    mask = values.view(1, 1, 4, 4).requires_grad_()
    y, new_mask = layer(x, mask)
    valid = torch.tensor([0, 1, 1, 1, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0]).view(1, 1, 4, 4).bool()
    expected, wanted_mask = layer(x, valid)
    assert torch.equal(y, expected)
    assert torch.equal(new_mask, wanted_mask)
    assert new_mask.dtype == torch.float32
    assert not new_mask.requires_grad
    y.sum().backward()
    assert mask.grad is None  # a mask is no variable


def test_mask_of_batch_one_serves_every_image():
    layer, x, mask = (
        PartialConv2d(2, 3, 3, groups=1),
        torch.randn(3, 2, 6, 6),
        torch.rand(1, 1, 6, 6) < 0.3,
    )
    y, new_mask = layer(x, mask)
    expected, wanted_mask = layer(x, mask.repeat(3, 1, 1, 1))
    assert torch.equal(y, expected)
    assert new_mask.shape[0] == 1
    assert torch.equal(new_mask.expand(3, -1, -1, -1), wanted_mask)


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
    [
        (2, 3, 2, 1, (1, 1), False),
        (2, 5, 4, 2, (2, 3), False),
        (2, 3, 2, 1, (6, 1), False),
        (2, 3, 2, 1, (1, 1), True),
        (1, 3, 2, 1, (1,), False),
        (3, 3, 2, 1, (1, 1, 1), False),
    ],
)
def test_bf16_gradients_of_an_image_narrower_than_the_stride(
    dims, kernel, stride, padding, size, partial_padding
):
    """oneDNN leaves taps of that weight gradient unwritten: they keep what was there, here NaN."""
    torch.manual_seed(0)
    kind = PartialPaddingConv2d if partial_padding else LAYERS[dims]
    layer = kind(64, 64, kernel, stride, padding)
    x = torch.randn(2, 64, *size)
    arguments = (x,) if partial_padding else (x, torch.ones(1, 1, *size))

    def gradient(autocast: bool) -> torch.Tensor:
        poison = [
            torch.full((n * layer.weight.numel(),), math.nan, dtype=dtype)
            for n, dtype in ((1, torch.float32), (2, torch.float32), (1, torch.bfloat16))
        ]
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
        torch.testing.assert_close(
            gradient(autocast=True), exact, rtol=0.05, atol=0.02 * exact.abs().max().item()
        )


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
    expected, _ = layer.to(memory_format=torch.contiguous_format)(cut(x), masks)
    torch.testing.assert_close(y, expected)


# One layer, many calls ----------------------------------------------------------------------------


def test_nothing_is_remembered_between_calls():
    """Masks are not cached by shape: other masks, other shapes and dtypes, copies, pickles."""
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
    assert isinstance(partial, type(plain))
    assert list(partial.state_dict()) == list(plain.state_dict())
    x, mask = torch.randn(1, 4, *[5] * dims), torch.ones(1, 1, *[5] * dims)
    partial.load_state_dict(plain.state_dict())
    torch.testing.assert_close(partial(x, mask)[0], plain(x))
    nn.init.normal_(partial.weight)
    buffer = io.BytesIO()
    torch.save(partial.state_dict(), buffer)
    buffer.seek(0)
    plain.load_state_dict(torch.load(buffer, weights_only=True))
    torch.testing.assert_close(partial(x, mask)[0], plain(x))


# Export and compile -------------------------------------------------------------------------------


class InParts(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = PartialConv2d(5, 4, 3, padding=1, groups=1)

    def forward(self, a, b, mask_a, mask_b):
        return self.conv((a, b), (mask_a, mask_b))


def graph_case(kind):
    """A module and two lots of arguments of different sizes."""
    if kind == "padding":
        return PartialPaddingConv2d(3, 4, 3, padding=1), [
            (torch.randn(2, 3, n, n),) for n in (6, 9)
        ]
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
    return layer, [
        (torch.randn(2, 4, *[n] * kind), (torch.rand(2, 4, *[n] * kind) < 0.1).float())
        for n in (6, 9)
    ]


def flat(result):
    return [result] if isinstance(result, torch.Tensor) else list(result)


@pytest.mark.compile
@pytest.mark.parametrize("kind", [1, 2, 3, "parts", "padding"])
def test_export_with_any_size_agrees(kind):
    module, calls = graph_case(kind)
    sizes = {dim: torch.export.Dim.DYNAMIC for dim in range(2, calls[0][0].ndim)}
    exported = torch.export.export(module, calls[0], dynamic_shapes=tuple(sizes for _ in calls[0]))
    for arguments in calls:
        for mine, theirs in zip(
            flat(exported.module()(*arguments)), flat(module(*arguments)), strict=True
        ):
            torch.testing.assert_close(mine, theirs)


@pytest.mark.skipif(
    " " in torch.__file__ and torch.__version__.startswith("2.9."),
    reason="torch 2.9 does not quote the folder of its libraries, and this one has a space",
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
            x = [
                a.clone().requires_grad_() if a.is_floating_point() and a.shape[1] > 1 else a
                for a in arguments
            ]
            with torch.autocast("cpu", dtype=autocast, enabled=autocast is not None):
                outputs = flat(call(*x))
            outputs[0].float().square().sum().backward()
            results.append([*outputs, *(p.grad for p in module.parameters()), x[0].grad])
        for mine, theirs in zip(*results, strict=True):
            assert mine.dtype == theirs.dtype
            torch.testing.assert_close(
                mine, theirs, **({"rtol": 2e-2, "atol": 2e-2} if autocast else {})
            )


# Errors -------------------------------------------------------------------------------------------

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
        (
            ((X[:, :2], X[:1, :2]), (M, M[:1])),
            ValueError,
            "parts of shapes .* differ in batch or size",
        ),
        (
            ((X[:, :2], X[:, :2, :5]), (M, M[:, :, :5])),
            ValueError,
            "parts of shapes .* differ in batch or size",
        ),
    ],
)
def test_refusals_say_what_is_wrong(arguments, error, words):
    with pytest.raises(error, match=words):
        PartialConv2d(4, 2, 3)(*arguments)


@pytest.mark.parametrize("layer", [*LAYERS.values(), PartialPaddingConv2d])
@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_other_padding_modes_are_refused_by_name(layer, mode):
    with pytest.raises(
        ValueError, match=f"padding_mode='{mode}' is not possible.*padding_mode='zeros'"
    ):
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
