"""The mask's side of a layer: window sums, pooled where that is exact, and computed beforehand."""

import pytest
import torch
from helpers import count_operations
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from pconv import PartialConv2d
from pconv.layers import binarize, to_float


@given(
    st.integers(1, 7), st.integers(1, 7), st.integers(1, 3), st.integers(1, 3), st.integers(0, 999)
)
def test_window_sums_by_pooling_are_those_of_a_convolution(height, width, stride, batch, seed):
    generator = torch.Generator().manual_seed(seed)
    padding = (seed % (height // 2 + 1), seed // 7 % (width // 2 + 1))
    layer = PartialConv2d(5, 1, (height, width), stride, padding)
    masks = [
        (torch.rand(batch, 1, 11, 13, generator=generator) < 0.4).float(),
        (torch.rand(1, 1, 11, 13, generator=generator) < 0.4).float(),
    ]
    total, full = layer.window_sum(masks, [2, 3])
    counts = 2 * masks[0] + 3 * masks[1]
    box = torch.ones(1, 1, height, width)
    assert torch.equal(total, F.conv2d(counts, box, None, stride, padding).round())
    assert full == 5 * height * width


def count_convolutions(layer, x, mask) -> int:
    operations = count_operations(lambda: layer(x, mask))
    return operations["convolution"]


@pytest.mark.parametrize(
    ("options", "mask_channels", "expected"),
    [
        ({"padding": 1}, 1, 1),  # the mask is pooled
        ({"padding": 1}, 4, 1),
        ({"padding": 0, "stride": 2}, 1, 1),
        ({"padding": "valid"}, 1, 1),
        ({"padding": "same"}, 1, 2),
        ({"padding": 2, "dilation": 2}, 1, 2),
        ({"padding": 2}, 1, 2),  # more than half the window
        ({"padding": 1, "groups": 2}, 1, 1),
        ({"padding": 1, "groups": 2}, 4, 2),  # a sum per group
    ],
)
def test_a_mask_is_pooled_where_that_is_exact(options, mask_channels, expected):
    layer = PartialConv2d(4, 4, 3, **options)
    mask = torch.rand(1, mask_channels, 8, 8) < 0.5
    assert count_convolutions(layer, torch.rand(1, 4, 8, 8), mask) == expected


def test_window_sums_keep_no_factor_that_all_features_share():
    """It cancels out of the ratio: 512 and 256 features count as 2 and 1."""
    layer = PartialConv2d(768, 1, 3)
    ones = torch.ones(1, 1, 3, 3)
    total, full = layer.window_sum([ones, ones], [512, 256])
    assert total.item() == full == 27


def test_a_window_computed_before_the_features_gives_the_same():
    layer = PartialConv2d(5, 4, 3, padding=1)
    parts = (torch.randn(2, 2, 8, 8), torch.randn(2, 3, 8, 8))
    masks = (torch.rand(2, 1, 8, 8) < 0.4, torch.rand(2, 1, 8, 8) < 0.4)
    expected, expected_mask = layer(parts, masks)
    window = layer.window_ratio([mask.float() for mask in masks], [2, 3])
    clean = tuple(torch.where(mask, part, 0) for part, mask in zip(parts, masks))
    y, new_mask = layer(clean, window=window)
    assert torch.equal(y, expected) and torch.equal(new_mask, expected_mask)


@pytest.mark.parametrize("size", [8, 64])
def test_channels_last_masks_are_pooled_as_contiguous_ones(size):
    """A mask of one channel counts as both formats; pooling is several times slower for one."""
    mask = torch.empty_strided((2, 1, size, size), (size * size, 1, size, 1))
    valid = binarize(mask.fill_(0.5))
    assert valid.stride() == mask.stride()
    assert to_float(valid).stride() == (size * size, size * size, size, 1)
