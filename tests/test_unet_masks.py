"""The masks' way through the U-Net, before any feature: the same masks, and few operations."""

import pytest
import torch
from helpers import count_operations, damaged

from pconv import PConvUNet
from pconv.baselines import PlainUNet


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_windows_of_all_layers_are_those_of_each_layer(dtype):
    model = PConvUNet(3, 2, widths=(4, 6, 12, 12))
    _, mask = damaged(37, 26)
    mask = mask.float()
    windows = model.window_ratios(mask, dtype)
    masks = [mask]
    for block, (ratio, new_mask) in zip(model.encoder, windows[:4], strict=True):
        expected, expected_mask = block.conv.window_ratio([masks[-1]], [1], dtype)
        assert torch.equal(ratio, expected.to(dtype)) and torch.equal(new_mask, expected_mask)
        masks.append(new_mask)
    lower = masks.pop()
    features = (12, 12, 6, 4, 3)
    for level, (block, (ratio, new_mask)) in enumerate(
        zip(model.decoder, windows[4:], strict=True)
    ):
        skip = masks.pop()
        upper = lower.repeat_interleave(2, 2).repeat_interleave(2, 3)
        parts = [upper[..., : skip.shape[2], : skip.shape[3]], skip]
        expected, expected_mask = block.conv.window_ratio(parts, features[level : level + 2], dtype)
        assert torch.equal(ratio, expected.to(dtype)) and torch.equal(new_mask, expected_mask)
        lower = new_mask


def test_a_layer_inside_the_net_returns_what_it_returns_alone():
    model = PConvUNet(widths=(4, 6)).eval()
    image, mask = damaged(16, 16)
    calls = []
    model.encoder[0].conv.register_forward_hook(lambda *call: calls.append(call[1:]))
    model(image, mask)
    ((inputs, (y, new_mask)),) = calls
    expected, expected_mask = model.encoder[0].conv(image, mask)
    assert torch.equal(y.relu(), expected.relu()) and torch.equal(new_mask, expected_mask)
    assert torch.equal(inputs[0], image.where(mask, 0))


@pytest.mark.parametrize("autocast", [False, True])
def test_masks_cost_few_operations_and_no_convolution(autocast):
    """What a GPU launches: per layer a pooling, a clamp, a ratio, a product, a selection."""
    image, mask = damaged(64, 64)
    operations = {}
    for kind in (PConvUNet, PlainUNet):
        model = kind(widths=(4,) * 5)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            forward = count_operations(lambda model=model: model(image, mask))
            output = model(image, mask)
        backward = count_operations(output.float().sum().backward)
        operations[kind] = forward, backward
    (ours, ours_back), (plain, plain_back) = operations.values()
    assert ours["convolution"] == plain["convolution"] == 10
    assert ours.total() - plain.total() <= 8 * 10
    assert ours_back.total() - plain_back.total() <= 4 * 10
