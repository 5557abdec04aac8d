"""The U-Net: shapes, the masks of its layers, hole values that do not matter, memory."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from helpers import damaged
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from pconv import PartialConv2d, PConvUNet
from pconv.checks import check_training_batch
from pconv.interpolation import pull_push
from pconv.unet import Block

SIZES = [(1, 1), (1, 9), (2, 3), (37, 53), (64, 300)]


def gradients(model, image, mask):
    output = model(image, mask)
    return [output, *torch.autograd.grad(output.square().mean(), list(model.parameters()))]


# Shape --------------------------------------------------------------------------------------------


def test_the_papers_eight_levels():
    """Table 1: kernels, strides, features, batch norm, activations."""
    model = PConvUNet().eval()
    image, mask = damaged(96, 70, batch=1)
    assert model(image, mask).shape == (1, 3, 96, 70)
    encoder = [
        (b.conv.in_channels, b.conv.out_channels, b.conv.kernel_size[0], b.conv.stride[0])
        for b in model.encoder
    ]
    assert encoder == [
        (3, 64, 7, 2),
        (64, 128, 5, 2),
        (128, 256, 5, 2),
        (256, 512, 3, 2),
        *[(512, 512, 3, 2)] * 4,
    ]
    decoder = [
        (b.conv.in_channels, b.conv.out_channels, b.conv.kernel_size[0], b.conv.stride[0])
        for b in model.decoder
    ]
    assert decoder == [
        *[(512 + 512, 512, 3, 1)] * 4,
        (512 + 256, 256, 3, 1),
        (256 + 128, 128, 3, 1),
        (128 + 64, 64, 3, 1),
        (64 + 3, 3, 3, 1),
    ]
    assert [b.norm is not None for b in model.encoder] == [False, *[True] * 7]
    assert [b.norm is not None for b in model.decoder] == [*[True] * 7, False]
    assert {type(b.activation) for b in model.encoder} == {nn.ReLU}
    assert [getattr(b.activation, "negative_slope", None) for b in model.decoder] == [
        *[0.2] * 7,
        None,
    ]
    assert [b.conv.bias is not None for b in (*model.encoder, *model.decoder)] == [
        True,
        *[False] * 14,
        True,
    ]


@settings(max_examples=15)
@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=5),
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from([1, 4]),
)
def test_any_widths_any_size_and_the_mask_trace(widths, height, width, channels):
    torch.manual_seed(height * width)
    model = PConvUNet(channels, 2, widths).eval()
    image, mask = torch.rand(2, channels, height, width), torch.rand(2, 1, height, width) < 0.3
    names = {module: name.removesuffix(".conv") for name, module in model.named_modules()}
    computed = []
    for module in model.modules():
        if isinstance(module, PartialConv2d):
            module.register_forward_hook(
                lambda module, _, result: computed.append((names[module], result[1]))
            )
    output = model(image, mask)
    assert output.shape == (2, 2, height, width)
    assert output.dtype == torch.float32
    assert output.isfinite().all()
    trace = model.mask_trace(mask)
    assert [name for name, _ in trace] == [name for name, _ in computed]
    assert [name for name, _ in trace] == [
        f"{half}.{i}" for half in ("encoder", "decoder") for i in range(len(widths))
    ]
    for (_, traced), (_, expected) in zip(trace, computed, strict=True):
        assert traced.dtype == torch.float32 and torch.equal(traced, expected)
    assert not output.masked_select(trace[-1][1] == 0).any()  # what is still a hole is 0


def test_equals_the_paper_step_by_step():
    """Here every layer selects for itself, and batch norm fills the holes as it likes."""
    model = PConvUNet(widths=(4, 6, 8, 8))
    image, mask = damaged(37, 26)
    mask[:, :, 5:30, 3:20] = False
    plain, x, m, skips = copy.deepcopy(model), image, mask, []

    def run(block, x, m):
        y, m = block.conv(x, m)
        y = y if block.norm is None else block.norm(y)
        return (y if block.activation is None else block.activation(y.clone())), m

    def upsample(t, skip):
        t = t.repeat_interleave(2, 2).repeat_interleave(2, 3)
        return t[..., : skip.shape[2], : skip.shape[3]]

    for block in plain.encoder:
        skips.append((x, m))
        x, m = run(block, x, m)
    for block in plain.decoder:
        skip, skip_mask = skips.pop()
        x, m = run(block, (upsample(x, skip), skip), (upsample(m, skip), skip_mask))
    torch.testing.assert_close(model(image, mask), x)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value)


@pytest.mark.parametrize("size", SIZES)
def test_sizes_that_are_no_power_of_two(size):
    model = PConvUNet(widths=(4, 6, 8, 8)).eval()
    image, mask = damaged(*size)
    mask[..., 0, 0] = True
    assert model(image, mask).shape == image.shape


@pytest.mark.parametrize("size", [*SIZES[:4], (1, 2048), (1, 6999), (2, 12001)])
def test_upsampling_is_nearest_times_two_and_a_crop(size):
    model = PConvUNet(1, 1, widths=(2,)).eval()
    parts = []
    model.decoder[0].conv.register_forward_pre_hook(lambda _, inputs: parts.extend(inputs))
    features = []
    model.encoder[0].register_forward_hook(lambda _, __, result: features.append(result))
    model(torch.rand(1, 1, *size), torch.rand(1, 1, *size) < 0.1)
    ((upsampled, _),) = parts
    (small,) = features
    expected = small.repeat_interleave(2, 2).repeat_interleave(2, 3)[..., : size[0], : size[1]]
    assert torch.equal(upsampled, expected)


@pytest.mark.parametrize("widths", [(), (0,), (8, -1), (1.5,), (8, 0.5)])
def test_bad_widths_are_refused(widths):
    with pytest.raises(ValueError, match=r"widths=.*expected one or more whole numbers"):
        PConvUNet(widths=widths)


@pytest.mark.parametrize(
    ("image", "mask", "error", "words"),
    [
        (
            torch.rand(1, 4, 8, 8),
            torch.ones(1, 1, 8, 8),
            ValueError,
            "x has 4 channels.*expected 3",
        ),
        (
            torch.rand(1, 3, 8, 8),
            torch.ones(1, 1, 8, 9),
            ValueError,
            r"mask has shape \(1, 1, 8, 9\)",
        ),
        (torch.rand(3, 8, 8), torch.ones(1, 8, 8), ValueError, "expected 4 dimensions"),
        (torch.rand(1, 3, 8, 8), torch.ones(1, 1, 8, 8).int(), TypeError, "mask is torch.int32"),
        (torch.ones(1, 3, 8, 8).byte(), torch.ones(1, 1, 8, 8), TypeError, "x is torch.uint8"),
        (torch.rand(1, 3, 8, 8), None, TypeError, "needs a mask"),
    ],
)
def test_refusals(image, mask, error, words):
    with pytest.raises(error, match=words):
        PConvUNet(widths=(2,)).eval()(image, mask)


# Holes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [255.0, math.nan, math.inf])
def test_hole_values_never_matter_end_to_end(value):
    model = PConvUNet(widths=(4, 6, 8))
    image, mask = damaged(19, 30)
    mask[:, :, :14, :20] = False  # wide enough to survive a few layers
    clean = gradients(model, image, mask)
    for mine, theirs in zip(
        gradients(model, image.masked_fill(~mask, value), mask), clean, strict=True
    ):
        assert torch.equal(mine, theirs) and mine.isfinite().all()
    assert all(parameter.isfinite().all() for parameter in model.state_dict().values())


def test_nothing_valid_gives_zero():
    model = PConvUNet(widths=(4, 6))
    output = model(torch.full((2, 3, 9, 9), math.nan), torch.zeros(2, 1, 9, 9))
    assert torch.equal(output, torch.zeros_like(output))


def test_masks_of_batch_one_and_of_bool_and_float_are_the_same():
    model = PConvUNet(widths=(4, 6)).eval()
    image, mask = damaged(10, 11)
    expected = model(image, mask[:1].repeat(2, 1, 1, 1))
    for same in (mask[:1], mask[:1].float(), mask[:1] * 0.5, mask[:1].half() * 255):
        torch.testing.assert_close(model(image, same), expected)


# A residual on an interpolation -------------------------------------------------------------------


def pull_push_by_hand(image, mask, levels):
    """Loops over pixels, float64, of one channel (H, W)."""
    height, width = image.shape
    if levels == 0:
        return np.where(mask, image, image[mask].mean() if mask.any() else 0)
    small = np.zeros((-(-height // 2), -(-width // 2)))
    known = np.zeros(small.shape, bool)
    for y, x in np.ndindex(small.shape):
        window = mask[2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
        known[y, x] = window.any()
        small[y, x] = (
            image[2 * y : 2 * y + 2, 2 * x : 2 * x + 2][window].mean() if window.any() else 0
        )
    coarse = torch.from_numpy(pull_push_by_hand(small, known, levels - 1))[None, None]
    coarse = F.interpolate(coarse, size=image.shape, mode="bilinear", align_corners=False)[
        0, 0
    ].numpy()
    return np.where(mask, image, coarse)


@pytest.mark.parametrize("levels", [0, 1, 3, 6])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (16, 16), (13, 22)])
@pytest.mark.parametrize("keep", [0.0, 0.1, 0.7, 1.0])
def test_pull_push_equals_the_plain_loop(levels, size, keep):
    image, mask = torch.rand(2, 3, *size, dtype=torch.float64), torch.rand(2, 1, *size) < keep
    actual = pull_push(image * mask, mask.double(), levels)
    for n, c in itertools.product(range(2), range(3)):
        expected = pull_push_by_hand((image * mask)[n, c].numpy(), mask[n, 0].numpy(), levels)
        np.testing.assert_allclose(actual[n, c].numpy(), expected, atol=1e-12)


def test_an_untrained_residual_is_the_interpolation_and_a_trained_one_adds_to_it():
    image, mask = damaged(37, 53)
    model, paper = (
        PConvUNet(widths=(4, 6, 8), residual=True).eval(),
        PConvUNet(widths=(4, 6, 8)).eval(),
    )
    base = pull_push(image * mask, mask.float(), 3)
    assert torch.equal(model(image, mask), base)
    # so valid pixels are right from the start
    assert torch.equal(base.where(mask, 0), image.where(mask, 0))
    model.load_state_dict(paper.state_dict())
    torch.testing.assert_close(model(image, mask), base + paper(image, mask))


@pytest.mark.parametrize("value", [255.0, math.nan, -math.inf])
def test_a_residuals_hole_values_never_matter(value):
    model = PConvUNet(widths=(4, 6), residual=True)
    nn.init.normal_(model.decoder[-1].conv.weight)
    image, mask = damaged(19, 30)
    mask[1] = False  # not even where nothing is valid
    clean = gradients(model, image, mask)
    for mine, theirs in zip(
        gradients(model, image.masked_fill(~mask, value), mask), clean, strict=True
    ):
        assert torch.equal(mine, theirs) and mine.isfinite().all()


def test_a_residual_stays_float32_under_autocast():
    """bfloat16 has fewer levels than a photo: 0.7 would become 0.6992."""
    model, image = PConvUNet(widths=(4,), residual=True).eval(), torch.full((1, 3, 8, 8), 0.7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(image, torch.rand(1, 1, 8, 8) < 0.5)
    assert output.dtype == torch.float32 and torch.allclose(output, image, atol=1e-6)


def test_a_residual_of_other_channels_is_refused():
    with pytest.raises(
        ValueError, match="residual needs as many channels out as in: 1 and 3 differ"
    ):
        PConvUNet(3, 1, widths=(4,), residual=True)


# Batch norm ---------------------------------------------------------------------------------------


def test_frozen_encoder_batch_norm_stays_frozen():
    model = PConvUNet(widths=(4, 6, 8))
    model.freeze_encoder_batch_norm()
    norms = {
        name: module for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)
    }
    assert list(norms) == ["encoder.1.norm", "encoder.2.norm", "decoder.0.norm", "decoder.1.norm"]
    for mode in (None, True, False, True):  # at once, and after each change of mode
        mode = model.training if mode is None else model.train(mode).training
        assert {name: norm.training for name, norm in norms.items()} == {
            name: mode and name.startswith("decoder") for name in norms
        }
    before = {name: norm.running_mean.clone() for name, norm in norms.items()}
    model(*damaged(16, 16)).sum().backward()
    for name, norm in norms.items():
        frozen = name.startswith("encoder")
        assert torch.equal(norm.running_mean, before[name]) == frozen
        assert (norm.weight.grad is None) == frozen and norm.weight.requires_grad != frozen
    assert model.encoder[1].conv.weight.grad.any()


@pytest.mark.parametrize(
    ("size", "name"),
    [((8, 8), "encoder.2"), ((1, 5), "encoder.2"), ((4, 4), "encoder.1"), ((1, 1), "encoder.1")],
)
def test_training_batch_too_small_for_batch_norm_is_refused_by_name(size, name):
    model = PConvUNet(widths=(4, 4, 4))
    image, mask = torch.rand(1, 3, *size), torch.ones(1, 1, *size)
    for call in (lambda: model(image, mask), lambda: check_training_batch(model, 1, *size)):
        with pytest.raises(
            ValueError, match=rf"{name}: a training batch of 1.* leaves 1 value .*batch norm"
        ):
            call()
    assert model(torch.rand(2, 3, *size), mask).isfinite().all()
    model.eval()
    assert model(image, mask).isfinite().all()


# Precision and memory -----------------------------------------------------------------------------


@pytest.mark.parametrize("channels_last", [False, True])
def test_autocast_keeps_bfloat16_inside(channels_last):
    format = torch.channels_last if channels_last else torch.contiguous_format
    model = PConvUNet(widths=(8, 8, 8)).to(memory_format=format)
    seen = []

    def look(module, inputs, y):
        x, ratio, new_mask = inputs
        x = x if isinstance(x, tuple) else (x,)
        seen.append({*(part.dtype for part in x), ratio.dtype, y.dtype})
        assert new_mask.dtype == torch.float32
        assert y.is_contiguous(memory_format=format)

    for module in model.modules():
        if isinstance(module, Block):
            module.register_forward_hook(look)
    image, mask = damaged(20, 22)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(image.to(memory_format=format), mask)
    assert output.dtype == torch.bfloat16
    assert seen == [{torch.bfloat16}] * 6
    output.float().sum().backward()
    assert all(
        p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.parameters()
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_output_has_the_models_dtype(dtype):
    model = PConvUNet(widths=(4, 4)).to(dtype)
    image, mask = damaged(9, 10)
    assert model(image.to(dtype), mask).dtype == dtype


class PlainUNet(nn.Module):
    """The same network of `nn.Conv2d`: what one would write without masks."""

    def __init__(self, widths):
        super().__init__()
        features = (3, *widths)
        block = lambda a, b, k, stride, norm, act: nn.Sequential(  # noqa: E731
            nn.Conv2d(a, b, k, stride, k // 2, bias=not norm),
            *([nn.BatchNorm2d(b)] if norm else []),
            *act,
        )
        self.encoder = nn.ModuleList(
            block(a, b, (7, 5, 5, 3, 3)[level], 2, level > 0, [nn.ReLU(inplace=True)])
            for level, (a, b) in enumerate(itertools.pairwise(features))
        )
        self.decoder = nn.ModuleList(
            block(b + a, a, 3, 1, a != 3, [nn.LeakyReLU(0.2, inplace=True)] if a != 3 else [])
            for a, b in reversed(list(itertools.pairwise(features)))
        )

    def forward(self, x, mask):
        skips = []
        for block in self.encoder:
            skips.append(x)
            x = block(x)
        for block in self.decoder:
            skip = skips.pop()
            x = block(torch.cat((F.interpolate(x, size=skip.shape[2:]), skip), 1))
        return x


def saved_bytes(model, image, mask, autocast):
    """What a forward pass keeps for the backward pass beyond the parameters; each storage once."""
    storages, parameters = (
        {},
        {parameter.untyped_storage().data_ptr() for parameter in model.parameters()},
    )

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            output = model(image, mask)
        total = sum(storages.values())
    assert output.requires_grad
    return total


@pytest.mark.parametrize("autocast", [False, True])
def test_saves_little_more_than_plain_convolutions(autocast):
    widths = (64, 128, 256, 512, 512)
    image, mask = damaged(64, 64)
    mine, plain = (
        saved_bytes(model(widths=widths), image, mask, autocast) for model in (PConvUNet, PlainUNet)
    )
    assert 0.9 * plain < mine <= 1.15 * plain


# Export and compile -------------------------------------------------------------------------------


@pytest.mark.compile
@pytest.mark.parametrize("residual", [False, True])
def test_exported_and_compiled_agree(residual):
    model = PConvUNet(widths=(4, 6), residual=residual).eval()
    image, mask = damaged(11, 14)
    output = model(image, mask)
    torch.testing.assert_close(
        torch.export.export(model, (image, mask)).module()(image, mask), output
    )
    model.train()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for mine, theirs in zip(
        gradients(compiled, image, mask), gradients(model, image, mask), strict=True
    ):
        torch.testing.assert_close(mine, theirs)
