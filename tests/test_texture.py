"""Copying texture: the U-Net that does it. Its patches are tested in test_patches."""

import pytest
import torch
from torch.nn import functional as F

from pconv import PConvUNet, load_weights, save_weights
from pconv.texture import TextureCopier, _smooth

WIDTHS = (4, 6, 8, 8)


def make_model():
    """Small, and with no weight at 0, as after a training."""
    torch.manual_seed(3)
    model = PConvUNet(widths=WIDTHS, residual=True, copy_texture=True)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1) if parameter.ndim > 1 else None
    return model.eval()


def make_case(height=40, width=56, batch=2):
    image = torch.rand(batch, 3, height, width)
    mask = torch.ones(batch, 1, height, width)
    mask[:, :, 12:30, 10:33] = 0
    mask[0, :, :5, :9] = 0
    return image, mask


# The parts ----------------------------------------------------------------------------------------


def test_smooth_is_the_means_of_cells_interpolated():
    x, ones = torch.rand(1, 3, 64, 64), torch.ones(1, 1, 64, 64)
    for levels in (3, 4):
        side = 2**levels
        expected = F.interpolate(F.avg_pool2d(x, side), scale_factor=side, mode="bilinear")
        torch.testing.assert_close(_smooth(x, ones, levels), expected)


def test_a_stripe_is_copied_through_a_hole():
    """With keys and queries that say nothing, the pixels around the hole tell what to copy."""
    torch.manual_seed(0)
    copier = TextureCopier(8, 4).eval()
    columns = torch.arange(96)
    stripes = 0.5 + 0.4 * torch.sin(2 * torch.pi * columns / 8).expand(1, 3, 96, 96)
    mask = torch.ones(1, 1, 96, 96)
    mask[:, :, 32:64, 32:64] = 0
    known = stripes * mask
    detail = (known - _smooth(known, mask)) * mask
    nothing = torch.zeros(1, 8, 12, 12)
    logits = copier.match(known, mask, nothing, nothing)
    copied, amount = copier.copy(logits, detail, mask)
    hole = (slice(None), slice(None), slice(36, 60), slice(36, 60))
    assert (amount[hole] > 0.1).all()
    assert (copied[hole] - (stripes - 0.5)[hole]).abs().max() < 1e-4


# The U-Net ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.0, 1e30, torch.inf, -torch.inf, torch.nan])
def test_hole_values_never_matter(value):
    model = make_model()
    image, mask = make_case()
    with torch.inference_mode():
        expected = model(image, mask)
        actual = model(torch.where(mask > 0, image, value), mask)
    assert torch.isfinite(expected).all() and torch.equal(actual, expected)


@pytest.mark.parametrize("size", [(16, 16), (33, 47), (40, 8), (5, 61)])
def test_any_size_and_batch_members_do_not_matter_to_each_other(size):
    model = make_model()
    image, mask = torch.rand(2, 3, *size), (torch.rand(2, 1, *size) > 0.4).float()
    with torch.inference_mode():
        both = model(image, mask)
        alone = [model(image[i : i + 1], mask[i : i + 1]) for i in range(2)]
        shared = model(image, mask[:1])
        again = model(image[1:], mask[:1])
    assert both.shape == image.shape and both.dtype == image.dtype
    torch.testing.assert_close(both, torch.cat(alone), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(shared[1:], again, rtol=1e-4, atol=1e-4)


def test_where_nothing_is_known_it_is_finite():
    image = torch.rand(1, 3, 24, 24)
    with torch.inference_mode():
        assert torch.isfinite(make_model()(image, torch.zeros(1, 1, 24, 24))).all()


def test_the_result_is_the_same_every_time_and_noise_is_drawn_anew_in_training():
    model = make_model()
    image, mask = make_case()
    with torch.no_grad():
        assert torch.equal(model(image, mask), model(image, mask))
        like = torch.rand(2, 3, 8, 80)
        fixed = model.copier._make_noise(like)
        assert torch.equal(fixed[..., 64:], fixed[..., :16])
        model.train()
        noise = model.copier._make_noise(like)
    assert noise.shape == fixed.shape and not torch.equal(noise[0], noise[1])


@pytest.mark.parametrize("autocast", [False, True])
def test_it_trains_and_gradients_are_finite(autocast):
    model = make_model().train()
    image, mask = make_case()
    image = torch.where(mask > 0, image, torch.nan)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output = model(image, mask)
    output.square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_what_it_begins_with_is_the_coarse_fill_and_copied_detail():
    model = PConvUNet(widths=WIDTHS, residual=True, copy_texture=True).eval()
    plain = PConvUNet(widths=WIDTHS, residual=True).eval()
    plain.load_state_dict(
        {k: v for k, v in model.state_dict().items() if not k.startswith("copier.")}
    )
    image, mask = make_case(40, 56)
    with torch.inference_mode():
        difference = model(image, mask) - plain(image, mask).clamp(0, 1)
    smooth = F.avg_pool2d(difference, 8)  # of detail the means of cells are about 0
    assert smooth.abs().max() < 0.35 * difference.abs().max()


def test_the_argument_needs_levels_and_colors():
    for wrong in ({"widths": (4, 4, 4)}, {"widths": WIDTHS, "in_channels": 4}):
        with pytest.raises(ValueError, match="copy_texture needs 4 or more widths, and 3 channels"):
            PConvUNet(copy_texture=True, **wrong)
    assert PConvUNet(widths=WIDTHS).copier is None
    assert not any(name.startswith("copier") for name in PConvUNet(widths=WIDTHS).state_dict())


def test_weights_are_saved_and_loaded(tmp_path):
    model = make_model()
    save_weights(model, tmp_path / "w.safetensors")
    loaded = load_weights(tmp_path / "w.safetensors")
    assert loaded.copy_texture
    image, mask = make_case()
    with torch.inference_mode():
        torch.testing.assert_close(loaded(image, mask), model(image, mask), rtol=1e-3, atol=1e-4)


@pytest.mark.compile
def test_it_exports():
    model = make_model()
    image, mask = make_case(37, 53, batch=1)
    program = torch.export.export(model, (image, mask))
    with torch.inference_mode():
        actual = program.module()(image, mask)
        torch.testing.assert_close(actual, model(image, mask), rtol=1e-3, atol=1e-4)


@pytest.mark.compile
def test_it_compiles_whole():
    model = make_model()
    image, mask = make_case(32, 32, batch=1)
    with torch.inference_mode():
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(image, mask), model(image, mask), rtol=1e-3, atol=1e-4)
