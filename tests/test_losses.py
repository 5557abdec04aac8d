"""Every term of the loss against a plain float64 formula; the Gram matrix in half precision."""

import copy
import itertools

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from pconv import InpaintingLoss, LossTerms, LossWeights, VGGFeatures, gram_matrix
from pconv.losses import l1, ssim, total_variation

TERMS = LossWeights._fields
PAPERS = TERMS[:-1]  # without 1 - SSIM


@pytest.fixture(scope="module")
def vgg():
    """Two layers of random filters: small enough for a test, and more than the pixels."""
    return VGGFeatures("random", layers=("relu1_1", "pool1"))


def images(batch=2, size=12):
    mask = torch.rand(batch, 1, size, size) < 0.6
    return torch.rand(batch, 3, size, size), torch.rand(batch, 3, size, size), mask


# The terms ----------------------------------------------------------------------------------------


def plain_formula(vgg, output, target, mask):
    """arXiv 1804.07723, Section 3.3, Eq. 1 to 6, norms as means, in NumPy's float64 except VGG."""
    vgg = copy.deepcopy(vgg).double()
    features = lambda image: [f.numpy() for f in vgg(torch.from_numpy(image))]  # noqa: E731
    gram = lambda f: np.einsum("nihw,njhw->nij", f, f) / np.prod(f.shape[1:])  # noqa: E731
    l1 = lambda a, b: np.abs(a - b).mean()  # noqa: E731
    output, target = output.double().numpy(), target.double().numpy()
    mask = np.broadcast_to(mask.numpy(), output.shape).astype(float)
    composite = mask * target + (1 - mask) * output
    out, comp, real = features(output), features(composite), features(target)
    n, _, height, width = mask.shape
    region = np.zeros(mask.shape, bool)
    for i, y, x in itertools.product(range(n), range(height), range(width)):
        region[i, :, y, x] = (mask[i, 0, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2] == 0).any()
    tv = 0.0
    for y, x in itertools.product(range(height), range(width)):
        for dy, dx in ((0, 1), (1, 0)):
            if y + dy < height and x + dx < width:
                both = region[:, :, y, x] & region[:, :, y + dy, x + dx]
                tv += (np.abs(composite[:, :, y + dy, x + dx] - composite[:, :, y, x]) * both).sum()
    return {
        "valid": (mask * np.abs(output - target)).mean(),
        "hole": ((1 - mask) * np.abs(output - target)).mean(),
        "perceptual": sum(l1(o, r) + l1(c, r) for o, c, r in zip(out, comp, real)),
        "style_out": sum(l1(gram(o), gram(r)) for o, r in zip(out, real)),
        "style_comp": sum(l1(gram(c), gram(r)) for c, r in zip(comp, real)),
        "tv": tv / composite.size,
        "ssim": 1 - np.mean([similarity(c, t) for c, t in zip(composite, target)]),
    }


def similarity(a, b):
    """scikit-image's SSIM of two (3, H, W) images, over every second window that lies inside."""
    _, full = structural_similarity(a, b, channel_axis=0, data_range=1, full=True)
    return full[:, 3:-3:2, 3:-3:2].mean()


@pytest.mark.parametrize("mask_batch", [1, 2])
@pytest.mark.parametrize("weights", [LossWeights(), LossWeights(0.3, 2, 7, 11, 13, 17, 19)])
def test_every_term_equals_the_plain_formula(vgg, weights, mask_batch):
    output, target, mask = images()
    mask = mask[:mask_batch]
    expected = plain_formula(vgg, output, target, mask)
    for given in (mask, mask.float(), mask * 0.5):
        terms = InpaintingLoss(vgg, weights)(output, target, given)
        for name in TERMS if weights.ssim else PAPERS:
            assert getattr(terms, name).item() == pytest.approx(expected[name], rel=1e-5), name
        total = sum(getattr(weights, name) * expected[name] for name in TERMS)
        assert terms.total.item() == pytest.approx(total, rel=1e-5)
        assert all(term.dtype == torch.float32 and term.ndim == 0 for term in terms)


def test_the_papers_weights():
    assert LossWeights() == (1, 6, 0.05, 120, 120, 0.1, 0)  # the last is not the paper's
    assert LossWeights._fields == (
        "valid",
        "hole",
        "perceptual",
        "style_out",
        "style_comp",
        "tv",
        "ssim",
    )
    assert LossTerms._fields == (*PAPERS, "total", "ssim")


def test_what_has_no_weight_is_not_computed(monkeypatch):
    """VGG is most of the time of a step."""
    monkeypatch.setattr("pconv.losses.ssim", None)  # cannot be called, nor can the features below
    terms = InpaintingLoss(None, LossWeights(perceptual=0, style_out=0, style_comp=0))(*images())
    assert terms.hole > 0 and terms.total == terms.valid + 6 * terms.hole + 0.1 * terms.tv
    assert [terms.perceptual, terms.style_out, terms.style_comp, terms.ssim] == [0] * 4


@pytest.mark.parametrize("size", [(7, 7), (7, 30), (33, 41)])
def test_ssim_is_scikit_images(size):
    a = torch.rand(2, 3, *size, dtype=torch.float64)
    b = (a + 0.2 * torch.randn_like(a)).clamp(0, 1)
    expected = np.mean(
        [
            structural_similarity(*(t.numpy() for t in pair), channel_axis=0, data_range=1)
            for pair in zip(a, b)
        ]
    )
    assert ssim(a, b).item() == pytest.approx(expected, abs=1e-12)
    assert ssim(a.float(), b.float()).item() == pytest.approx(expected, abs=1e-5)
    assert ssim(a.float(), a.float()).item() == 1


def test_ssim_differentiates_and_refuses_what_is_smaller_than_its_window():
    a, b = torch.rand(2, 1, 2, 8, 9, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a: ssim(a, b, stride=2), a.requires_grad_())
    with pytest.raises(ValueError, match="6x9 pixels have no SSIM: its window has 7x7"):
        ssim(a[:, :, :6], b[:, :, :6])


@pytest.mark.parametrize(
    ("composite", "hole", "expected"),
    [
        (
            lambda y, x: (y == 2) & (x == 2),
            (2, 2),
            4,
        ),  # four neighbours of the one pixel that differs
        (lambda y, x: x, (2, 2), 3 * 2),  # a 3x3 region: 3 rows of 2 horizontal pairs
        (lambda y, x: 10 * y + x, (0, 0), 2 * 1 + 2 * 10),  # at the corner the region is 2x2
        (lambda y, x: x, None, 0),
        (
            lambda y, x: 100 * (x > 3),
            (2, 2),
            0,
        ),  # the step lies between the region and its neighbours
    ],
)
def test_total_variation_of_the_dilated_hole_by_hand(composite, hole, expected):
    mask = torch.ones(1, 1, 5, 5, dtype=torch.bool)
    if hole:
        mask[0, 0, hole[0], hole[1]] = False
    y, x = torch.meshgrid(torch.arange(5), torch.arange(5), indexing="ij")
    picture = composite(y, x).float().expand(1, 3, 5, 5)
    assert total_variation(picture, mask).item() == pytest.approx(expected * 3 / 75)


def test_a_perfect_output_costs_nothing_but_its_own_variation(vgg):
    _, target, mask = images()
    terms = InpaintingLoss(vgg)(target, target, mask)
    assert terms[:5] == (0, 0, 0, 0, 0)
    assert terms.total.item() == pytest.approx(0.1 * terms.tv.item()) and terms.tv > 0


@pytest.mark.parametrize("name", ["hole", "style_comp", "tv"])
def test_composite_sends_gradient_to_the_output_through_holes_only(vgg, name):
    output, target, mask = images()
    output.requires_grad_()
    getattr(InpaintingLoss(vgg)(output, target, mask), name).backward()
    inside, outside = output.grad[~mask.expand_as(output)], output.grad[mask.expand_as(output)]
    assert not outside.any() and inside.any()


def test_valid_term_sends_gradient_through_valid_pixels_only(vgg):
    output, target, mask = images()
    output.requires_grad_()
    InpaintingLoss(vgg)(output, target, mask).valid.backward()
    sign = (output - target).sign() / output.numel()
    torch.testing.assert_close(output.grad, torch.where(mask, sign, 0))


def test_targets_features_are_computed_once_and_without_gradient():
    class Spy(nn.Module):
        def forward(self, image):
            calls.append((len(image), torch.is_grad_enabled()))
            return [image * 2]

    calls = []
    output, target, mask = images()
    output.requires_grad_(), target.requires_grad_()
    # all hole: the composite is the output
    terms = InpaintingLoss(Spy())(output, target, torch.zeros_like(mask))
    assert sorted(calls) == [(2, False), (4, True)]
    (terms.perceptual + terms.style_out + terms.style_comp).backward()
    assert output.grad.any() and (target.grad is None or not target.grad.any())


def test_terms_are_float32_under_autocast(vgg):
    output, target, mask = images()
    expected = InpaintingLoss(vgg)(output, target, mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = InpaintingLoss(vgg)(output.bfloat16(), target, mask)
    assert {term.dtype for term in terms} == {torch.float32}
    torch.testing.assert_close(torch.stack(terms), torch.stack(expected), rtol=0.05, atol=1e-3)


@pytest.mark.parametrize(
    ("output", "target", "mask"),
    [
        ((1, 3, 8, 8), (1, 3, 8, 9), (1, 1, 8, 8)),
        ((1, 3, 8, 8), (1, 3, 8, 8), (1, 1, 8, 9)),
        ((1, 3, 8, 8), (1, 3, 8, 8), (1, 3, 8, 8)),
        ((2, 3, 8, 8), (1, 3, 8, 8), (1, 1, 8, 8)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(vgg, output, target, mask):
    with pytest.raises(
        ValueError, match=r"output \(.*target \(.*mask \(.*do not fit; expected \(N, C, H, W\)"
    ):
        InpaintingLoss(vgg)(torch.rand(output), torch.rand(target), torch.ones(mask))


# The Gram matrix ----------------------------------------------------------------------------------


def float64_gram(features):
    flat = features.double().flatten(2)
    return flat @ flat.mT / features[0].numel()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
def test_gram_matrix_is_the_formula_in_both_memory_formats(dtype, format):
    features = torch.randn(2, 5, 7, 9).to(dtype, memory_format=format)
    gram = gram_matrix(features)
    assert gram.shape == (2, 5, 5) and gram.dtype == dtype
    tolerance = 2 * torch.finfo(dtype).eps if dtype != torch.float64 else 1e-14
    torch.testing.assert_close(
        gram.double(), float64_gram(features), rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_gram_matrix_where_the_divisor_rounds_to_zero_in_half(dtype):
    """c·h·w = 2^25: 1/(c·h·w) is 0 in float16; the sum of the squares is far over 65504."""
    features = torch.rand(1, 2, 4096, 4096).to(dtype)
    assert torch.tensor(1 / features.numel()).half() == 0
    gram = gram_matrix(features)
    assert gram.isfinite().all() and (gram > 0).all()
    relative = (gram.double() / float64_gram(features) - 1).abs().max()
    # a float32 sum of 2^24 numbers is itself rounded
    assert relative < 2 * max(torch.finfo(dtype).eps, 1e-3)


@pytest.mark.parametrize("autocast", [False, True])
def test_gram_matrix_where_the_product_overflows_half(autocast):
    features = torch.full((1, 4, 256, 256), 1.1, dtype=torch.float32 if autocast else torch.float16)
    flat = features.half().flatten(2)
    assert torch.bmm(flat, flat.mT).isinf().all()  # dividing afterwards comes too late
    with torch.autocast("cpu", dtype=torch.float16, enabled=autocast):
        gram = gram_matrix(features)
    assert gram.dtype == torch.float16
    torch.testing.assert_close(gram, torch.full_like(gram, 1.1**2 / 4), rtol=2e-3, atol=0)


def test_gram_matrix_keeps_a_mean_that_half_can_just_hold():
    """Activations of 2^-9: their mean product 2^-18 / 4 is subnormal in float16 and not 0."""
    gram = gram_matrix(torch.full((1, 4, 64, 64), 2.0**-9, dtype=torch.float16))
    assert (gram.double() == 2.0**-20).all()


def test_gram_matrix_differentiates():
    features = torch.randn(1, 2, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(gram_matrix, features)


@pytest.mark.parametrize("shape", [(3, 4, 4), (1, 2, 3, 4, 5)])
def test_gram_matrix_refuses_other_dimensions(shape):
    with pytest.raises(ValueError, match=r"features have shape .*expected \(N, C, H, W\)"):
        gram_matrix(torch.rand(shape))


@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
def test_gram_matrixs_own_gradient_is_autograds_and_lies_in_memory_as_vgg_needs_it(format):
    features = (
        torch.randn(2, 3, 5, 4, dtype=torch.float64).to(memory_format=format).requires_grad_()
    )
    weight = torch.randn(2, 3, 3, dtype=torch.float64)  # not symmetric
    plain = features.flatten(2) @ features.flatten(2).mT / (3 * 5 * 4)
    (expected,) = torch.autograd.grad((plain * weight).sum(), features)
    (actual,) = torch.autograd.grad((gram_matrix(features) * weight).sum(), features)
    torch.testing.assert_close(actual, expected)
    # or max-pooling's backward copies it, slowly
    assert actual.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_l1_of_half_features_makes_no_float32_copy(dtype):
    a, b = torch.rand(2, 2, 8, 16, 16, dtype=torch.float64).to(dtype)
    a.requires_grad_()
    shapes = []

    class Look(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
            result = function(*arguments, **(keywords or {}))
            if isinstance(result, torch.Tensor) and result.dtype != dtype:
                shapes.append(result.shape)
            return result

    with Look():
        distance = l1(a, b)
    assert all(shape.numel() == 1 for shape in shapes)
    assert distance.dtype == torch.float32
    expected = (a.double() - b.double()).abs().mean().item()
    assert distance.item() == pytest.approx(expected, rel=4 * torch.finfo(dtype).eps)
    distance.backward()
    torch.testing.assert_close(a.grad, (a - b).sign() / a.numel(), rtol=1e-2, atol=0)


def test_l1_does_not_overflow_half():
    a, b = torch.full((1, 1, 512, 512), 60000.0).half(), torch.zeros(1, 1, 512, 512).half()
    assert l1(a, b).item() == 60000 - 60000 % 32


# The grid of the features -------------------------------------------------------------------------


def test_a_shift_crops_all_images_alike_at_a_random_place():
    seen = []

    def features(images):
        seen.append(images)
        return [images]

    loss = InpaintingLoss(features, LossWeights(), shift=8)
    target = torch.rand(1, 3, 24, 20)
    mask = torch.ones(1, 1, 24, 20)  # no hole: the composite is the target
    places = set()
    for _ in range(40):
        seen.clear()
        loss(target, target, mask)
        real, both = seen
        assert real.shape == (1, 3, 17, 13) and torch.equal(both, real.repeat(2, 1, 1, 1))
        found = [
            (top, left)
            for top in range(8)
            for left in range(8)
            if torch.equal(target[:, :, top : top + 17, left : left + 13], real)
        ]
        assert len(found) == 1
        places |= set(found)
    assert len(places) > 20 and {top for top, _ in places} == set(range(8))
    seen.clear()
    InpaintingLoss(features)(target, target, mask)
    assert torch.equal(seen[0], target)


def test_the_scale_of_the_texture_terms_is_a_factor_of_these_alone():
    loss = InpaintingLoss(lambda image: [image], LossWeights(ssim=2))
    output, target = torch.rand(2, 1, 3, 16, 16)
    mask = torch.rand(1, 1, 16, 16) > 0.4
    whole = loss(output, target, mask)
    loss.texture_scale = 0.25
    part = loss(output, target, mask)
    texture = 0.05 * whole.perceptual + 120 * (whole.style_out + whole.style_comp)
    assert float(whole.total - part.total) == pytest.approx(0.75 * float(texture), rel=1e-4)
    assert part[:6] == whole[:6] and part.ssim == whole.ssim  # the terms are before weighting
