"""The masks' way through a U-Net, as notebook 02 draws it: the layer that fills a pixel, widths."""

import matplotlib
import numpy as np
import pytest
import torch
from course import plots, unet_masks
from torch.nn import functional as F

from pconv import PConvUNet, random_holes

matplotlib.use("Agg")
SMALL = PConvUNet(widths=(16, 32, 64, 64))
FIELDS = (7, 15, 31, 47)  # of its levels


def square(width, start, size=160):
    mask = torch.ones(1, 1, size, size)
    mask[..., start : start + width, start : start + width] = 0
    return mask


def row_with_hole(width, windows_from=64):
    """A hole that begins where a window of level 4 begins."""
    row, start = torch.ones(1, 1, 1, 256), windows_from - 47 // 2
    row[..., start : start + width] = 0
    return row


def test_the_averaging_net_returns_the_color_of_a_plain_photo():
    model = unet_masks.averaging_unet(3)
    photo = torch.tensor([0.2, 0.5, 0.8]).view(1, 3, 1, 1).expand(1, 3, 24, 20)
    output = model(photo, square(6, 9, 24)[..., :20])
    torch.testing.assert_close(output, photo, atol=1e-3, rtol=0)


def test_filling_layer_is_the_first_layer_after_which_a_pixel_is_valid():
    rng = np.random.default_rng(1)
    holes = random_holes(75, 83, (0.3, 0.5), rng)
    mask = torch.from_numpy(~holes)[None, None].float()
    layers = unet_masks.filling_layer(SMALL, mask)
    assert torch.equal(layers == 0, mask[0, 0] > 0)
    masks = [m for _, m in SMALL.mask_trace(mask)]
    for row, column in rng.integers(0, 75, (200, 2)):
        levels = [1, 2, 3, 4, 3, 2, 1, 0]
        valid = [m[0, 0, row >> n, column >> n] > 0 for m, n in zip(masks, levels, strict=True)]
        first = valid.index(True) + 1 if True in valid else 9
        assert layers[row, column] == (0 if mask[0, 0, row, column] else first)
        assert valid == sorted(valid)  # what is valid stays valid


@pytest.mark.parametrize("width, after", [(6, 1), (14, 2), (30, 3), (46, 4), (62, 5), (78, 9)])
def test_a_square_hole_is_gone_after_the_layer_that_its_width_says(width, after):
    holes = [square(width, start) for start in range(1, 17)]
    last = [int(unet_masks.filling_layer(SMALL, mask).max()) for mask in holes]
    assert max(last) == after


@pytest.mark.parametrize("width, filled", [(23, True), (24, False)])
def test_a_hole_of_24_pixels_in_a_corner_is_never_gone(width, filled):
    assert (int(unet_masks.filling_layer(SMALL, square(width, 0)).max()) < 9) == filled


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_a_hole_with_no_room_for_a_field_is_gone_for_certain(level):
    """Of any shape, if it does not touch the border."""
    field, gone = FIELDS[level - 1], 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        holes = random_holes(128, 128, (0.02, 0.3), rng, border=False)
        mask = torch.from_numpy(~holes)[None, None].float()
        if F.max_pool2d(mask, field, 1).all():
            assert SMALL.mask_trace(mask)[level - 1][1].all()
            gone += 1
    assert gone


@pytest.mark.parametrize(
    "width, at_level_4_and_after",
    [(47, [16, 0, 0, 0, 0]), (63, [32, 16, 8, 4, 2]), (79, [48, 32, 24, 20, 18])],
)
def test_what_the_decoder_leaves_in_photo_pixels(width, at_level_4_and_after):
    extents = unet_masks.extents(SMALL, row_with_hole(width))
    assert extents[0] == (width, 41, width)
    assert [pixels for _, _, pixels in extents[4:]] == at_level_4_and_after


def test_colors_of_layers():
    mask, photo = square(100, 30), torch.full((1, 3, 160, 160), 0.5)
    colors = unet_masks.color_layers(SMALL, photo, mask)
    layers = unet_masks.filling_layer(SMALL, mask).numpy()
    assert set(np.unique(layers)) >= {0, 1, 2, 3, 4, 5, 9}
    for layer, color in (
        (1, unet_masks.LEVEL_COLORS[0]),
        (4, unet_masks.LEVEL_COLORS[3]),
        (5, matplotlib.colors.to_rgb(unet_masks.DECODER)),
        (9, matplotlib.colors.to_rgb(plots.HOLE)),
    ):
        np.testing.assert_allclose(colors[layers == layer], [color] * (layers == layer).sum())
    red, green, blue = colors[layers == 0].T
    assert (red == green).all() and (green == blue).all()  # the photo is gray


def test_example_holes_show_all_that_can_happen():
    mask = torch.from_numpy(~unet_masks.example_holes(512, 512))[None, None].float()
    never = {n: unet_masks.filling_layer(unet_masks.averaging_unet(n), mask) for n in (4, 6)}
    assert {1, 2, 3, 4, 5, 9} <= set(never[4].unique().tolist())
    assert never[6].max() <= 6
    assert (never[4][350:, 20:425].unique() == torch.tensor([0, 1])).all()  # the line


def test_drawings_have_names_for_every_level():
    axis = unet_masks.draw_network(SMALL, (37, 53))
    names = {text.get_text(): text.get_position()[1] for text in axis.texts}
    assert names["photo"] == names["37 × 53"] and names["level 4"] == names["3 × 4"]
    titles = [axis.get_title() for axis in unet_masks.draw_masks(SMALL, square(50, 9)[..., 61:])]
    assert titles[:2] == ["photo", "level 1\nencoder.0"]
    assert titles[5:] == ["decoder.3", "decoder.2", "decoder.1", "decoder.0"]
    axes = unet_masks.draw_hole_rows(SMALL, {"a": square(50, 40), "b": square(30, 0)})
    assert [axis.get_title() for axis in axes[:9]] == ["photo", *unet_masks.layer_titles(SMALL)]
    assert axes[0].get_xlabel() == "2500 left" and axes[8].get_xlabel() == "full"
    assert axes[17].get_xlabel() == "1 left" and axes[9].get_ylabel() == "b"
    bars = unet_masks.draw_extents(SMALL, {"63": row_with_hole(63)})[0]
    assert [text.get_text() for text in bars.texts][-5:] == [
        "2 × 16 = 32",
        "2 × 8 = 16",
        "2 × 4 = 8",
        "2 × 2 = 4",
        "2",
    ]
    plots.plt.close("all")
