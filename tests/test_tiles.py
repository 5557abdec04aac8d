"""Large photos in tiles: what is kept, what each tile sees, what lies deep."""

import numpy as np
import pytest
import torch
from torch import nn

from pconv import PConvUNet, inpaint
from pconv import tiles as module
from pconv.interpolation import halve
from pconv.tiles import BLOCK, CONTEXT, DEEP, LARGEST_TEXTURE, MARGIN, find_regions, make_plan


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


def fill(model, image, mask):
    return module.fill(model, image, make_plan(mask, LARGEST_TEXTURE))


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
    assert len(model.calls) == 1
    assert max(model.calls[0][0].shape[2:]) <= BLOCK + 2 * CONTEXT


def test_specks_far_apart_are_tiles_of_their_own_size():
    model = Watched()
    boxes = [(row, column, row + 1, column + 1) for row in (100, 500) for column in (80, 400, 700)]
    image, mask = make_case(600, 800, *boxes)
    fill(model, image, mask)
    assert len(model.calls) == 6
    assert all(max(seen.shape[2:]) <= 67 for seen, _ in model.calls)


def test_a_tile_sees_those_before_it():
    model = Watched()
    image, mask = make_case(300, 900, (140, 20, 160, 880))
    fill(model, image, mask)
    holes = [int((~seen_mask).sum()) for _, seen_mask in model.calls]
    assert sum(holes) < 860 * 20 + 7 * CONTEXT * 20  # its own, and those to the right
    first, second = model.calls[0][1], model.calls[1][1]
    assert not first.all() and second[..., :CONTEXT].all()


@pytest.mark.parametrize("seed", range(5))
def test_blocks_cover_all_holes_once_and_little_else(seed):
    rng = np.random.default_rng(seed)
    holes = np.zeros((500, 700), bool)
    for _ in range(6):
        top, left = rng.integers(0, 480), rng.integers(0, 680)
        holes[top : top + rng.integers(1, 300), left : left + rng.integers(1, 40)] = True
    covered = np.zeros(holes.shape, int)
    for block in module._split(holes, np.s_[0:500, 0:700]):
        covered[block] += 1
        assert max(side.stop - side.start for side in block) <= BLOCK
        rows, columns = (np.flatnonzero(holes[block].any(axis)) for axis in (1, 0))
        assert rows[0] == columns[0] == 0  # it begins and ends with holes
        assert (rows[-1] + 1, columns[-1] + 1) == holes[block].shape
    assert covered.max() == 1 and (covered[holes] == 1).all()


# What is cut out ----------------------------------------------------------------------------------


def make_holes(height, width, *boxes):
    return ~make_case(height, width, *boxes)[1][0, 0].numpy()


def test_a_photo_that_fits_is_not_cut():
    holes = make_holes(400, 400, (10, 10, 20, 20))
    assert find_regions(holes, LARGEST_TEXTURE) == [np.s_[0:400, 0:400]]


def test_what_is_cut_out_follows_the_holes():
    holes = make_holes(2000, 3000, (500, 700, 530, 730), (1500, 2000, 1510, 2400))
    regions = find_regions(holes, LARGEST_TEXTURE)
    assert len(regions) == 2
    covered = np.zeros(holes.shape, bool)
    for rows, columns in regions:
        covered[rows, columns] = True
        inside = np.argwhere(holes[rows, columns])
        sizes = rows.stop - rows.start, columns.stop - columns.start
        for axis, size in enumerate(sizes):
            assert MARGIN <= inside[:, axis].min() < MARGIN + 16
            assert MARGIN <= size - 1 - inside[:, axis].max() < MARGIN + 16
    assert covered[holes].all()


def test_a_deep_hole_is_cut_out_with_more_around_it():
    deep = make_holes(3000, 3000, (1000, 1000, 1800, 1800))  # 400 deep: four times halved
    ((rows, columns),) = find_regions(deep, LARGEST_TEXTURE)
    assert rows == columns
    assert 15 * MARGIN <= 1000 - rows.start <= 17 * MARGIN
    at_corner = make_holes(3000, 3000, (0, 0, 800, 800))
    ((rows, columns),) = find_regions(at_corner, LARGEST_TEXTURE)
    assert (rows.start, columns.start) == (0, 0) and rows.stop >= 800 + 31 * MARGIN


# Depth --------------------------------------------------------------------------------------------


def test_what_is_deep_comes_from_half_the_resolution():
    model = Watched()
    image, mask = make_case(1024, 1024, (312, 312, 712, 712))
    output = fill(model, image, mask)
    assert torch.isfinite(output).all()
    assert model.calls[0][0].shape[2:] == (256, 256)  # 400 pixels are 100 there
    seen = [seen_mask for _, seen_mask in model.calls[1:]]
    # No tile has a hole pixel farther than that from what is known in the photo.
    assert seen and all((~seen_mask).float().mean() < 0.8 for seen_mask in seen)
    deep = module._find_deep(mask)
    rows = torch.nonzero(deep[0, 0].any(1)).flatten()
    assert rows.min() >= 312 + DEEP - 8 and rows.max() < 712 - DEEP + 8
    assert torch.isfinite(output[deep.expand_as(output)]).all()


def test_half_the_resolution_is_the_mean_of_valid_pixels():
    image, mask = torch.rand(1, 3, 5, 6), torch.rand(1, 1, 5, 6) > 0.4
    known = torch.where(mask, image, 0)
    mean, valid = halve(known, mask.float())
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


# 16 bits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_16_bits_stay_16_bits_and_are_filled_in_them(bits):
    torch.manual_seed(0)
    model = PConvUNet(widths=(8, 8, 8), residual=True).eval()
    white = 2**bits - 1
    ramp = np.linspace(0, white, 64 * 64).reshape(64, 64)
    photo = np.stack([ramp, ramp[::-1], ramp.T], 2).round().astype(np.uint16)
    holes = np.zeros((64, 64), bool)
    holes[20:40, 20:40] = True
    restored = inpaint(model, photo, holes)
    assert restored.dtype == np.uint16 and np.array_equal(restored[~holes], photo[~holes])
    assert len(np.unique(restored[holes])) > 256  # as many as 8 bits have
    error = np.abs(restored[holes].astype(int) - photo[holes].astype(int))
    assert error.max() < 0.1 * white
    in_8_bits = (photo / white * 255).round().astype(np.uint8)
    expected = inpaint(model, in_8_bits, holes)[holes] / 255
    np.testing.assert_allclose(restored[holes] / white, expected, atol=0.01)
    other = np.where(holes[:, :, None], np.uint16(65535), photo)  # in the holes: no matter
    assert np.array_equal(inpaint(model, other, holes), restored)
