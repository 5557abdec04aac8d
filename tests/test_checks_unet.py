"""The checks of notebook 02 tell a stub, a right answer and each usual mistake apart."""

import functools

import numpy as np
import pytest
import torch
from course import checks
from course.checks.unet import kept_memory
from torch.nn import functional as F

import pconv

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
    "answer",
    [
        lambda width, kernels: float(levels(width, kernels)),
        lambda width, kernels: torch.tensor(levels(width, kernels)),
        lambda width, kernels: next(
            n
            for n in range(1, len(kernels) + 1)
            if sum((k - 1) / 2 * 2**i for i, k in enumerate(kernels[:n])) >= width
        ),
    ],
)
def test_levels_at_the_border_right_in_another_way(check_output, answer):
    assert "Exercise 1: right. 7 levels" in check_output(checks.levels_at_the_border, answer)


@pytest.mark.parametrize(
    "switches, hint",
    [
        ({"reach": lambda k, step: (k - 1) * step}, "Twice too far"),
        ({"reach": lambda k, step: (k - 1) // 2 * 2 * step}, "those of later layers only"),
        ({"reach": lambda k, step: (k - 1) // 2}, "Where are the strides?"),
        ({"more": 1}, "A reach just as long as the hole"),
        ({"first": 0}, "Levels count from 1"),
        ({"reach": lambda k, step: 100}, "4 pixels are gone at level 2, you say 1"),
        ({"reach": lambda k, step: step}, "3 pixels are gone at level 1, you say 2"),
        (
            {"reach": lambda k, step: (k - 1) // 2 * min(step, 8)},
            "39 pixels are gone at level 5, you say 6",
        ),
        (
            {"reach": lambda k, step: (k - 1) // 2 * step if step < 16 else 0},
            "24 pixels are gone at level 5, you return nothing",
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


@pytest.mark.parametrize(
    "answer, hint",
    [
        (lambda width, kernels: str(levels(width, kernels)) + "th", "your function returns str"),
        (lambda width, kernels: [levels(width, kernels)], "your function returns list"),
        (lambda width, kernels: torch.arange(3), "your function returns Tensor"),
        (lambda width, kernels: levels(width, kernels) + 0.5, "a whole number"),
        (lambda width, kernels: float("nan"), "your function returns nan"),
        (
            lambda width, kernels: levels(width, kernels[:3]),
            "16 pixels are gone at level 4, you re",
        ),
        (3, "Give the function itself"),
    ],
)
def test_levels_at_the_border_of_a_wrong_type(check_output, answer, hint):
    text = check_output(checks.levels_at_the_border, answer)
    assert text.startswith("Exercise 1: not right yet.") and hint in text


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
            "shape (2, 4, 11, 14), expected (2, 1, 11, 14): the parts are added up, too",
        ),
        (
            lambda m, c, k: box(valid_features(m, c), k, padding=0),
            "shape (2, 1, 7, 10), expected (2, 1, 11, 14): one sum per window",
        ),
        (lambda m, c, k: box(valid_features(m, c), k)[:, 0], "one sum per window"),
        (lambda m, c, k: box(valid_features(m, c), k).numpy(), "The result is a ndarray"),
        (lambda m, c, k: 3, "The result is a int"),
        (lambda m, c, k: box(valid_features(m, c), k) > 0, "This is the new mask"),
        (lambda m, c, k: box(valid_features([1 - x for x in m], c), k), "You count the holes"),
        (lambda m, c, k: box(valid_features(m, c) / sum(c), k), "This counts pixels"),
        (
            lambda m, c, k: box(8 * m[0] + m[1].sum(1, keepdim=True) + 3 * m[-1], k),
            "Kernel 3, channels [4, 6]",
        ),
        (lambda m, c, k: box(valid_features(m, c), 5), "Kernel 3, channels [4, 6]"),
        (torch.ones(2, 1, 11, 14), "Give the function itself"),
    ],
)
def test_window_sum_wrong(check_output, answer, hint):
    text = check_output(checks.window_sum, answer)
    assert text.startswith("Exercise 2: not right yet.") and hint in text


# Exercise 3

GOOD = (16, 32, 64, 128, 128, 128, 128, 128)


@pytest.mark.parametrize("stub", [..., None])
def test_network_for_large_photos_stub(check_output, stub):
    assert check_output(checks.network_for_large_photos, stub) == "Exercise 3: not attempted yet"


@pytest.mark.parametrize(
    "right",
    [
        GOOD,
        list(GOOD),
        np.array(GOOD),
        torch.tensor(GOOD),
        (16, 32, 64, 128, 128, 128, 160, 160),
        (16, 16, 32, 64, 128, 128, 128, 128, 128),
    ],
)
def test_network_for_large_photos_right(check_output, right):
    text = check_output(checks.network_for_large_photos, right)
    assert "Exercise 3: right." in text and f"{sum(right)} features" in text


@pytest.mark.parametrize(
    "answer, hint",
    [
        (GOOD[:6], "6 levels: a hole away from the border is not gone in 58 of the 64 places"),
        (
            GOOD[:7],
            "7 levels fill every hole away from the border, but not a strip at the left border or "
            "a square in the upper left corner: a pixel at the border sees only one half of its "
            "field, here 135 pixels of the 200",
        ),
        ((16,) * 8, "with 128 features in all"),
        ((32,) * 8, "are kept, at most 350: the first levels"),
        ((90,) * 8, "are kept, at most 350"),
        ((16, 32, 64, 96, 96, 96, 96, 96), "with 592 features in all"),
        ((16, 32, 64, 128, 256, 256, 256, 256), "6.34 million weights, at most 2.5"),
        (pconv.PConvUNet().widths, "million weights, at most 2.5"),
        ((16,) * 7 + (1600,), "Level 8 has 1600 features after 16"),
        ((128, 64, 32, 16, 16, 16, 16, 16), "Level 2 has 64 features after 128"),
        ((8,) * 8, "at least 16"),
        ((16,) * 11, "a single pixel at level 10"),
        ([], "Give a list"),
        (7, "Give a list"),
        ("widths", "Give a list"),
        ([16.0] * 8, "Give a list of whole numbers"),
        ([[16] * 8], "Give a list of whole numbers"),
        (pconv.PConvUNet(widths=(16,)), "Give a list"),
    ],
)
def test_network_for_large_photos_wrong(check_output, answer, hint):
    text = check_output(checks.network_for_large_photos, answer)
    assert text.startswith("Exercise 3: not right yet.") and hint in text


@pytest.mark.parametrize("levels, filled", [(7, False), (8, True)])
@pytest.mark.parametrize("rows, columns", [(1024, 200), (200, 200)])
def test_a_hole_at_the_border_needs_eight_levels(levels, filled, rows, columns):
    mask = torch.ones(1, 1, 1024, 1024)
    mask[..., :rows, :columns] = 0
    trace = pconv.PConvUNet(widths=(1,) * levels).mask_trace(mask)
    assert bool(trace[levels - 1][1].all()) == bool(trace[-1][1].all()) == filled


def test_kept_memory_is_that_of_the_large_photo():
    """A smaller photo is measured; that it keeps a fraction as large as its area is checked."""
    assert kept_memory(GOOD, side=256) == pytest.approx(kept_memory(GOOD, side=512), rel=0.005)
