"""The course's pictures: colors that differ in gray, titles and labels, a drawn network."""

import itertools

import matplotlib
import torch
from course import plots

import pconv
from pconv.cli.plots import PRECISION_STYLES

matplotlib.use("Agg")


def luminance(color):
    r, g, b = matplotlib.colors.to_rgb(color)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def test_colors_differ_in_gray():
    levels = [luminance(color) for color in (plots.VALID, plots.FILLED, plots.HOLE)]
    assert all(a - b > 0.15 for a, b in itertools.pairwise(levels))


def test_precisions_look_as_in_the_package():
    assert (
        plots.PRECISION_STYLES is PRECISION_STYLES
        and {"fp32", "bf16", "fp16"} <= PRECISION_STYLES.keys()
    )


def test_pictures_of_masks_and_damage():
    image = torch.full((1, 3, 2, 2), 0.5)
    image[..., 0, 0] = torch.nan
    mask, before = torch.tensor([[[[0.0, 1], [1, 1]]]]), torch.tensor([[[[0.0, 0], [1, 1]]]])
    hole, filled, valid = (
        matplotlib.colors.to_rgb(c) for c in (plots.HOLE, plots.FILLED, plots.VALID)
    )
    assert (
        tuple(plots.picture(image)[0, 0])
        == hole
        == tuple(plots.damaged(image.nan_to_num(9), mask)[0, 0])
    )
    drawn = plots.mask_picture(mask, before)
    assert [tuple(drawn[i]) for i in ((0, 0), (0, 1), (1, 0))] == [hole, filled, valid]
    assert plots.picture(image)[1, 1].tolist() == [0.5] * 3


def test_figures_have_titles_and_labels():
    axes = plots.pictures([("a", plots.mask_picture(torch.ones(1, 1, 4, 4)))] * 3, columns=2)
    plots.outline(axes[0], (1, 1), 3)
    assert [axis.get_title() for axis in axes] == ["a"] * 3 and len(axes[0].patches) == 2
    table = plots.numbers([("t", torch.tensor([[1.0, 2.25]]), torch.ones(1, 2))], digits=2)[0]
    assert [text.get_text() for text in table.texts] == ["1", "2.25"]
    curve = plots.curves({"bf16": ([1, 2], [3, 4])}, "training step", "loss")
    assert (curve.get_xlabel(), curve.get_ylabel()) == ("training step", "loss")
    assert curve.lines[0].get_color() == PRECISION_STYLES["bf16"]["color"]
    plots.plt.close("all")


def test_a_network_is_drawn_as_its_layers_are():
    axis = plots.unet(pconv.PConvUNet(1, 2, widths=(4, 6)), (5, 9))
    written = [text.get_text() for text in axis.texts if text.get_text()]
    # the encoder; two parts and the output, twice
    boxes = ["1", "4", "6", "4", "6", "4", "1", "4", "2"]
    assert sorted(written) == sorted(
        [*boxes, "7 × 7", "5 × 5", "3 × 3", "3 × 3", "5 × 9", "3 × 5", "2 × 3"]
    )
    x0, x1, y0, y1 = *axis.get_xlim(), *axis.get_ylim()
    assert all(x0 < x < x1 and y0 < y < y1 for x, y in (text.get_position() for text in axis.texts))
    colors = [matplotlib.colors.to_hex(patch.get_facecolor()) for patch in axis.patches]
    assert colors.count(plots.LINE) == len(boxes), "a mask beside all features"
    plots.plt.close("all")
