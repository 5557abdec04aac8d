"""The checks of notebook 02 tell a stub, a right answer and each usual mistake apart."""

import functools

import pytest
import torch
from course import checks
from torch.nn import functional as F

import pconv
from pconv.benchmark import saved_bytes

# Exercise 1


def levels(width, kernels, *, reach=lambda kernel, step: (kernel - 1) // 2 * step, more=0, first=1):
    """The solution, with a switch for each mistake."""
    total, step = 0, 1
    for level, kernel in enumerate(kernels, first):
        total, step = total + reach(kernel, step), 2 * step
        if total >= width + more:
            return level


@pytest.mark.parametrize("stub", [lambda width, kernels: ..., lambda width, kernels: None])
def test_levels_at_the_border_stub(check_output, stub):
    assert check_output(checks.levels_at_the_border, stub) == "Exercise 1: not attempted yet"


def test_levels_at_the_border_right(check_output):
    assert "Exercise 1: right. 7 levels" in check_output(checks.levels_at_the_border, levels)


@pytest.mark.parametrize(
    "switches, hint",
    [
        ({"reach": lambda k, step: (k - 1) * step}, "Twice too far"),
        ({"reach": lambda k, step: (k - 1) // 2}, "Where are the strides?"),
        ({"more": 1}, "A reach just as long as the hole"),
        ({"first": 0}, "Levels count from 1"),
        ({"reach": lambda k, step: 100}, "4 pixels are gone at level 2, you say 1"),
        ({"reach": lambda k, step: step}, "3 pixels are gone at level 1, you say 2"),
        (
            {"reach": lambda k, step: (k - 1) // 2 * min(step, 8)},
            "39 pixels are gone at level 5, you say 6",
        ),
    ],
)
def test_levels_at_the_border_wrong(check_output, switches, hint):
    text = check_output(checks.levels_at_the_border, functools.partial(levels, **switches))
    assert text.startswith("Exercise 1: not right yet.") and hint in text


def test_levels_at_the_border_for_the_papers_kernels_only(check_output):
    text = check_output(
        checks.levels_at_the_border, lambda width, kernels: levels(width, (7, 5, 5, *[3] * 20))
    )
    assert "Kernels 3, 3, 3, 3, ...: 3 pixels are gone at level 2, you say 1" in text


# Exercise 2


def box(counts, kernel, outputs=1, padding=None):
    ones = torch.ones(outputs, counts.shape[1], kernel, kernel)
    return F.conv2d(counts, ones, padding=kernel // 2 if padding is None else padding)


def valid_features(masks, channels):
    return sum(
        m * c if m.shape[1] == 1 else m.sum(1, keepdim=True)
        for m, c in zip(masks, channels, strict=True)
    )


def every_mask(masks, channels):
    return torch.cat(
        [mask.expand(-1, c, -1, -1) for mask, c in zip(masks, channels, strict=True)], 1
    )


@pytest.mark.parametrize("stub", [lambda m, c, k: ..., lambda m, c, k: None])
def test_window_sum_stub(check_output, stub):
    assert check_output(checks.window_sum, stub) == "Exercise 2: not attempted yet"


@pytest.mark.parametrize(
    "right",
    [
        lambda m, c, k: box(valid_features(m, c), k),
        lambda m, c, k: F.avg_pool2d(valid_features(m, c), k, 1, k // 2) * k * k,
        lambda m, c, k: box(every_mask(m, c).sum(1, keepdim=True), k),
        lambda m, c, k: (
            F.unfold(valid_features(m, c), k, padding=k // 2)
            .sum(1)
            .unflatten(1, m[0].shape[2:])[:, None]
        ),
    ],
)
def test_window_sum_right(check_output, right):
    assert "Exercise 2: right." in check_output(checks.window_sum, right)


@pytest.mark.parametrize(
    "answer, hint",
    [
        (lambda m, c, k: box(sum(x.sum(1, keepdim=True) for x in m), k), "it counts C_i times"),
        (
            lambda m, c, k: box(sum(x.sum(1, keepdim=True) * n for x, n in zip(m, c)), k),
            "and that is all",
        ),
        (lambda m, c, k: box(valid_features(m, c), k) / k**2, "the mean over the window"),
        (lambda m, c, k: box(every_mask(m, c), k), "16 times the multiplications"),
        (
            lambda m, c, k: sum(box(valid_features([x], [n]), k) for x, n in zip(m, c)),
            "3 times the multiplications",
        ),
        (
            lambda m, c, k: box(every_mask(m, c), k, outputs=4),
            "Shape (2, 4, 11, 14), expected (2, 1, 11, 14)",
        ),
        (lambda m, c, k: box(valid_features(m, c), k, padding=0), "Shape (2, 1, 7, 10)"),
        (lambda m, c, k: box(valid_features(m, c), k).numpy(), "Shape ndarray"),
        (lambda m, c, k: 3, "Shape int"),
        (lambda m, c, k: box(valid_features(m, c), k) > 0, "features are valid, not 1"),
        (
            lambda m, c, k: box(8 * m[0] + m[1].sum(1, keepdim=True) + 3 * m[-1], k),
            "Kernel 3, channels [4, 6]",
        ),
        (lambda m, c, k: box(valid_features(m, c), 5), "Kernel 3, channels [4, 6]"),
    ],
)
def test_window_sum_wrong(check_output, answer, hint):
    text = check_output(checks.window_sum, answer)
    assert text.startswith("Exercise 2: not right yet.") and hint in text


# Exercise 3


@pytest.mark.parametrize("stub", [..., None])
def test_network_for_large_photos_stub(check_output, stub):
    assert check_output(checks.network_for_large_photos, stub) == "Exercise 3: not attempted yet"


@pytest.mark.parametrize("right", [(32,) * 7, [16, 32, 64, 128, 128, 128, 128], (16,) * 8])
def test_network_for_large_photos_right(check_output, right):
    text = check_output(checks.network_for_large_photos, right)
    assert "Exercise 3: right." in text and f"{sum(right)} features" in text


@pytest.mark.parametrize(
    "answer, hint",
    [
        ((16,) * 6, "6 levels: the hole is not gone in 116 of the 128 places"),
        ((64,) * 7, "are kept, at most 400"),
        ((16, 16, 32, 64, 128, 256, 512), "million weights, at most 2"),
        (pconv.PConvUNet().widths, "million weights, at most 2"),
        ((8,) * 7, "at least 16"),
        ([], "Give a list"),
        (7, "Give a list"),
    ],
)
def test_network_for_large_photos_wrong(check_output, answer, hint):
    text = check_output(checks.network_for_large_photos, answer)
    assert text.startswith("Exercise 3: not right yet.") and hint in text


def test_kept_memory_is_that_of_the_large_photo():
    """It measures a photo of 128 x 128 and expects 64 times that; 16 times is one mistake."""
    model = pconv.PConvUNet(widths=(16,) * 7).eval()
    kernels = sum(block.conv.weight.nbytes for block in (*model.encoder, *model.decoder))
    photos = [torch.rand(1, 3, size, size) for size in (128, 512)]
    small, large = (
        saved_bytes(lambda p=photo: model(p, p[:, :1] > 0.3)) - kernels for photo in photos
    )
    assert 15.9 < large / small < 16.1
