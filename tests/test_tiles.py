"""Large photos in tiles: what is kept, what each tile sees, what lies deep."""

import numpy as np
import pytest
import torch
from torch import nn

from pconv import PConvUNet, inpaint
from pconv import tiles as module
from pconv.tiles import BLOCK, CONTEXT, DEEP, fill


class Watched(nn.Module):
    """Paints the mean of what it is shown, and remembers what that was."""

    copy_texture = True

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.calls = []

    def forward(self, image, mask):
        assert not (mask & image.isnan().any(1, keepdim=True)).any()
        self.calls.append((image.clone(), mask.clone()))
        known = torch.where(mask, image, 0).sum((2, 3), keepdim=True) / mask.sum()
        return known.expand_as(image).clone()


def make_case(height, width, *boxes):
    """An image of a slope with holes: (top, left, bottom, right) each."""
    rows = torch.linspace(0, 1, height)[:, None].expand(height, width)
    image = torch.stack([rows, rows / 2, 1 - rows])[None].clone()
    mask = torch.ones(1, 1, height, width, dtype=torch.bool)
    for top, left, bottom, right in boxes:
        mask[:, :, top:bottom, left:right] = False
    return image.masked_fill(~mask, torch.nan), mask


def test_a_small_photo_is_one_pass():
    model = Watched()
    image, mask = make_case(400, 400, (20, 20, 380, 380))
    fill(model, image, mask)
    assert len(model.calls) == 1 and model.calls[0][0].shape == image.shape


def test_a_small_hole_in_a_large_photo_is_one_small_tile():
    model = Watched()
    image, mask = make_case(1500, 2000, (700, 900, 730, 930))
    output = fill(model, image, mask)
    assert torch.isfinite(output).all() and torch.equal(output[:, :, :700], image[:, :, :700])
    assert 1 <= len(model.calls) <= 4
    assert all(max(seen.shape[2:]) <= BLOCK + 2 * CONTEXT for seen, _ in model.calls)


def test_a_tile_sees_those_before_it():
    model = Watched()
    image, mask = make_case(300, 900, (140, 20, 160, 880))
    fill(model, image, mask)
    shares = [1 - seen_mask.float().mean() for _, seen_mask in model.calls]
    holes = [int((~seen_mask).sum()) for _, seen_mask in model.calls]
    assert len(holes) > 6 and all(share < 0.1 for share in shares)
    # The first tile of a row of blocks still has its context's hole; the next one's left is filled.
    first, second = model.calls[0][1], model.calls[1][1]
    assert (~first[..., BLOCK:]).any() and second[..., :CONTEXT].all()


def test_what_is_deep_comes_from_half_the_resolution():
    model = Watched()
    image, mask = make_case(1024, 1024, (312, 312, 712, 712))
    output = fill(model, image, mask)
    assert torch.isfinite(output).all()
    assert model.calls[0][0].shape[2:] == (256, 256)  # 400 pixels are 100 there
    seen = [seen_mask for seen, seen_mask in model.calls if max(seen.shape[2:]) > 256]
    # No tile has a hole pixel farther than that from what is known in the photo.
    assert seen and all((~seen_mask).float().mean() < 0.8 for seen_mask in seen)
    deep = module._find_deep(mask)
    rows = torch.nonzero(deep[0, 0].any(1)).flatten()
    assert rows.min() >= 312 + DEEP - 8 and rows.max() < 712 - DEEP + 8
    assert torch.isfinite(output[deep.expand_as(output)]).all()


def test_half_the_resolution_is_the_mean_of_valid_pixels():
    image, mask = torch.rand(1, 3, 5, 6), torch.rand(1, 1, 5, 6) > 0.4
    known = torch.where(mask, image, 0)
    mean, valid = module._halve(known, mask)
    assert mean.shape == (1, 3, 3, 3)
    for row in range(3):
        for column in range(3):
            window = (..., slice(2 * row, 2 * row + 2), slice(2 * column, 2 * column + 2))
            inside = mask[window].expand(1, 3, -1, -1)
            assert bool(valid[0, 0, row, column]) == bool(inside.any())
            if inside.any():
                expected = known[window].sum((0, 2, 3)) / inside[0, 0].sum()
                torch.testing.assert_close(mean[0, :, row, column], expected)


@pytest.mark.parametrize("size", [(403, 611), (1000, 450)])
def test_outside_the_holes_a_large_photo_is_kept(size):
    torch.manual_seed(0)
    model = PConvUNet(widths=(4, 4, 4, 4), residual=True, copy_texture=True).eval()
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    holes = np.zeros(size, bool)
    holes[100:190, 50:120] = holes[300:390, 0:430] = True
    restored = inpaint(model, photo, holes)
    assert np.array_equal(restored[~holes], photo[~holes])
    assert np.array_equal(restored, inpaint(model, photo, holes))
    other = np.where(holes[:, :, None], 255 - photo, photo)
    assert np.array_equal(restored, inpaint(model, other, holes))


def test_a_gray_photo_stays_gray():
    torch.manual_seed(0)
    model = PConvUNet(widths=(4, 4)).eval()  # untrained: it paints colors
    photo = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    holes = np.zeros((32, 32), bool)
    holes[8:20, 8:20] = True
    gray = np.repeat(photo[:, :, :1], 3, 2)
    gray[holes] = photo[holes]  # what is in the holes does not matter
    restored = inpaint(model, gray, holes)
    assert (restored == restored[:, :, :1]).all()
    colored = inpaint(model, photo, holes)[holes]
    assert not (colored == colored[:, :1]).all()
