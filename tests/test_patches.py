"""Patches against plain loops: cut out and put back, compared, and their neighbors' choices."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pconv.patches import (
    compare_patches,
    compare_quarters,
    from_patches,
    log_distance,
    neighbors_choice,
    to_patches,
    to_quarters,
)


def test_patches_are_windows_of_16_pixels_and_sum_to_the_image_again():
    x = torch.rand(2, 3, 24, 32)
    patches = to_patches(x)
    assert patches.shape == (2, 3 * 4, 4 * 3 * 64)
    padded = F.pad(x, (4, 4, 4, 4))
    for row in range(3):
        for column in range(4):
            window = padded[:, :, 8 * row : 8 * row + 16, 8 * column : 8 * column + 16]
            quarters = window.unfold(2, 8, 8).unfold(3, 8, 8)  # (N, 3, 2, 2, 8, 8)
            expected = quarters.permute(0, 2, 3, 1, 4, 5).flatten(1)
            assert torch.equal(patches[:, 4 * row + column], expected)
    inside = (slice(None), slice(None), slice(4, -4), slice(4, -4))
    torch.testing.assert_close(from_patches(patches, 3, 4)[inside], x[inside])


def test_patches_are_compared_where_both_are_known():
    torch.manual_seed(0)
    known, mask = torch.rand(1, 3, 16, 24), (torch.rand(1, 1, 16, 24) > 0.3).float()
    mask[:, :, :, 16:] = 1
    known = known * mask
    score = compare_patches(known, mask, likeness=7.0)[0]
    x, m = (to_patches(t)[0].double() for t in (known, mask))
    x = x.view(6, 4, 3, 64).transpose(1, 2).reshape(6, 3, 256)  # channels apart
    for i in range(6):
        for j in range(6):
            lacks = 1 - m[i]
            covered = (lacks * m[j]).sum() / lacks.sum()
            expected = 2 * covered.clamp(min=1e-3).log() - 1e4 * (covered < 0.5)
            both = m[i] * m[j]
            if both.sum() > 4:
                squares = ((x[i] - x[j]) ** 2 * both).sum() / 3 / both.sum()
                expected = expected - 7 * squares * m[i].mean()
            assert float(score[i, j]) == pytest.approx(float(expected), rel=1e-4, abs=1e-3)
    assert (score.diagonal() < -9e3).all()  # no patch with a hole is copied onto itself


def test_products_of_quarters_add_up_to_those_of_patches():
    """In whole numbers, for which a float32 is exact."""
    torch.manual_seed(0)
    x = torch.randint(-128, 128, (2, 3, 24, 40)).float()
    x[0, :, :8] = -128  # black
    products = compare_quarters(to_quarters(x), to_quarters(x + 1))
    expected = to_patches(x).double() @ to_patches(x + 1).double().mT
    assert torch.equal(products.double(), expected) and products.shape == (2, 15, 15)


def test_the_comparison_equals_its_definition_at_the_scale_of_the_shipped_weights():
    torch.manual_seed(0)
    known, mask = torch.rand(2, 3, 24, 40), (torch.rand(2, 1, 24, 40) > 0.3).float()
    mask[1, :, :, 20:] = 1
    levels = ((known * 255).round() - 128) * mask
    m, x = to_patches(mask), to_patches(levels).unflatten(2, (4, 3, 64)).transpose(2, 3).flatten(3)
    one, other = m[:, :, None], m[:, None]  # the 256 pixels of each pair
    both, lacks = (one * other).sum(3), (1 - m).sum(2, keepdim=True)
    covered = ((1 - one) * other).sum(3) / lacks.clamp(min=1)
    score = (2 * covered.clamp(min=1e-3).log() - 1e4 * (covered < 0.5)) * (lacks > 0)
    squares = (x[:, :, None] - x[:, None]).double().square().sum(3) * one * other
    difference = squares.sum(3).float() / (3 * 255**2 * both.clamp(min=1))
    expected = score - 3000 * difference * m.mean(2, keepdim=True) * (both > 4)
    actual = compare_patches(known * mask, mask, likeness=3000.0)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6)


def test_neighbors_speak_for_where_their_choice_would_continue():
    height, width = 3, 4
    choice = torch.rand(2, 12, 12).softmax(2)
    actual = neighbors_choice(choice, height, width)
    expected = torch.zeros_like(choice)
    steps = [(r, c) for r in (-1, 0, 1) for c in (-1, 0, 1) if (r, c) != (0, 0)]
    for i in range(12):
        for j in range(12):
            for r, c in steps:
                a, b = i // width + r, i % width + c
                d, e = j // width + r, j % width + c
                if 0 <= a < height and 0 <= d < height and 0 <= b < width and 0 <= e < width:
                    expected[:, i, j] += choice[:, a * width + b, d * width + e]
    torch.testing.assert_close(actual, expected)


def test_distance_is_that_of_the_cells():
    row, column = np.divmod(np.arange(12), 4)
    expected = np.log1p(np.hypot(row[:, None] - row, column[:, None] - column))
    np.testing.assert_allclose(log_distance(3, 4, torch.zeros(())), expected, rtol=1e-6)
