"""The masks' way through a PConvUNet, drawn, for notebook 02.

Level 0 is the photo and level n what n layers of stride 2 leave of it: encoder.0 makes level 1. The
decoder goes back up: of L levels decoder.0 makes level L - 1, and its last layer level 0.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

import pconv
from course import plots
from pconv import PConvUNet
from pconv.photos import to_tensor

# The color of a hole pixel that level 1, 2, ... 8 fills, from light to dark.
_SHADES = (0.02, 0.2, 0.35, 0.5, 0.65, 0.78, 0.9, 1.0)
LEVEL_COLORS = [plt.get_cmap("YlOrBr")(shade)[:3] for shade in _SHADES]
DECODER = "#3f78b4"  # filled by a layer of the decoder


def averaging_unet(levels: int) -> PConvUNet:
    """A U-Net of three features per level, red, green and blue, whose weights are plain averages.

    Each feature of each layer is the average of what is valid of that color in all its parts.
    """
    model = PConvUNet(widths=(3,) * levels).eval().requires_grad_(False)
    for block in [*model.encoder, *model.decoder]:
        conv = block.conv
        parts = conv.in_channels // 3
        colors = torch.eye(3).repeat(1, parts) / (parts * conv.kernel_size[0] ** 2)  # (3, 3 parts)
        conv.weight.copy_(colors[:, :, None, None].expand_as(conv.weight))
        if conv.bias is not None:
            conv.bias.zero_()
    return model


def example_holes(height: int, width: int) -> np.ndarray:
    """Four discs of 30, 60, 100 and 150 pixels, a line 6 pixels wide, and 40 x 40 in a corner.

    Bool (height, width), True = hole; it wants at least 320 x 450 pixels.
    """
    rows, columns = np.mgrid[:height, :width]
    holes = np.zeros((height, width), bool)
    middle = height // 2
    for diameter, column in ((30, 35), (60, 105), (100, 205), (150, 350)):
        holes |= np.hypot(rows - middle, columns - column) < diameter / 2
    holes[middle + 110 : middle + 116, 20:425] = True
    holes[:40, :40] = True
    return holes


def layer_titles(model: PConvUNet) -> list[str]:
    """A name per layer, in order of the forward pass: level 1, ..., decoder.0, ..."""
    levels = len(model.widths)
    down = [f"level {n + 1}" for n in range(levels)]
    return down + [f"decoder.{i}" for i in range(levels)]


def level_of_layer(layer: int, levels: int) -> int:
    """The level that a layer makes; layer 0 stands for the photo, 1 for encoder.0."""
    return min(layer, 2 * levels - layer)


def filling_layer(model: PConvUNet, mask: Tensor) -> Tensor:
    """The first layer after which each pixel of the photo is valid.

    A pixel of level n stands for the 2^n x 2^n pixels of the photo that it is enlarged to.

    Args:
        model: with L levels; its features are not computed.
        mask: float (1, 1, H, W), 1 = valid.

    Returns:
        Integers (H, W): 0 for a valid pixel, n for a hole that level n fills, L + 1 + i for one
        that decoder.i fills, and 2 L + 1 for one that is never filled.
    """
    height, width = mask.shape[2:]
    masks = [mask, *(new_mask for _, new_mask in model.mask_trace(mask))]
    layers = torch.zeros(height, width, dtype=torch.long)
    for layer, new_mask in enumerate(masks):
        step = 2 ** level_of_layer(layer, len(model.widths))
        large = new_mask.repeat_interleave(step, 2).repeat_interleave(step, 3)
        layers += (large[0, 0, :height, :width] == 0).cpu()
    return layers


def color_layers(model: PConvUNet, photo: Tensor, mask: Tensor) -> np.ndarray:
    """The photo in light gray, and its holes in the color of the layer that fills them.

    photo: (1, 3, H, W) in [0, 1]; mask: float (1, 1, H, W). Returns floats (H, W, 3) in [0, 1].
    """
    levels = len(model.widths)
    colors = [*LEVEL_COLORS[:levels], *[to_rgb(DECODER)] * levels, to_rgb(plots.HOLE)]
    layers = filling_layer(model, mask).numpy()
    gray = 0.45 + 0.5 * plots.picture(photo).mean(2, keepdims=True)  # (H, W, 1)
    filled = np.array([(0, 0, 0), *colors])[layers]  # (H, W, 3)
    return np.where(layers[:, :, None] > 0, filled, gray)


def draw_layers(
    models: Mapping[str, PConvUNet], photo: Tensor, mask: Tensor, width: float = 2.6
) -> list[Axes]:
    """For each {title: model} the layer that fills each hole pixel, with one legend for all.

    photo, mask: as in `color_layers`; width: of a picture, in inches.
    """
    panels = [(title, color_layers(model, photo, mask)) for title, model in models.items()]
    axes = plots.pictures(panels, width=width)
    for axis, model in zip(axes, models.values()):
        never = int((filling_layer(model, mask) == 2 * len(model.widths) + 1).sum())
        axis.set_xlabel(f"{never} px never filled" if never else "all filled")
    deepest = max(len(model.widths) for model in models.values())
    figure = axes[0].figure
    figure.set_figheight(figure.get_figheight() + 0.7)
    figure.legend(
        handles=_layer_patches(deepest), loc="outside lower center", ncols=deepest + 2, fontsize=9
    )
    return axes


def _layer_patches(levels: int) -> list[Patch]:
    colors = {f"level {n + 1}": LEVEL_COLORS[n] for n in range(levels)}
    colors |= {"decoder": DECODER, "never": plots.HOLE}
    return [Patch(facecolor=c, edgecolor="#888888", label=name) for name, c in colors.items()]


def draw_network(model: PConvUNet, size: tuple[int, int]) -> Axes:
    """`plots.unet`, with the number of each level at the left. size: (H, W) of a photo."""
    axis = plots.unet(model, size)
    left, right = axis.get_xlim()
    more = 1.5  # room for the names, in units of the drawing
    axis.set_xlim(left - more, right)
    axis.figure.set_figwidth(axis.figure.get_figwidth() * (right - left + more) / (right - left))
    for level in range(len(model.widths) + 1):
        name = f"level {level}" if level else "photo"
        axis.text(left - more, -plots.LEVEL_HEIGHT * level, name, va="center", color="#555555")
    axis.get_legend().set_loc("lower right")
    return axis


def draw_levels(levels: Sequence[tuple[Tensor, Tensor]], width: float = 1.8) -> list[Axes]:
    """Features of every level, and below them their masks.

    levels: (features, mask) of level 0, 1, ..., (1, 3, h, w) and (1, 1, h, w); width: of a picture,
    in inches.
    """
    photo_mask = levels[0][1]
    panels = [
        (f"level {n}, {mask.shape[2]} × {mask.shape[3]}", plots.damaged(features, mask))
        for n, (features, mask) in enumerate(levels)
    ]
    panels += [("", _since_photo(mask, photo_mask, n)) for n, (_, mask) in enumerate(levels)]
    axes = plots.pictures(panels, columns=len(levels), width=width)
    axes[len(levels)].set_title("its mask")
    return axes


def draw_masks(model: PConvUNet, mask: Tensor, width: float = 1.4) -> list[Axes]:
    """The masks in the shape of the network: the encoder, and below it the decoder.

    Below each stands how many hole pixels are left. mask: float (1, 1, H, W); width: of a picture,
    in inches.
    """
    levels = len(model.widths)
    names = ["photo", *(f"level {n + 1}\nencoder.{n}" for n in range(levels))]
    names += [f"decoder.{n}" for n in range(levels)]
    masks = [mask, *(new_mask for _, new_mask in model.mask_trace(mask))]
    order = [*range(levels + 1), *range(2 * levels, levels, -1)]
    panels = [(names[i], _since_photo(masks[i], mask, level_of_layer(i, levels))) for i in order]
    axes = plots.pictures(panels, columns=levels + 1, width=width)
    for axis, i in zip(axes, order):
        axis.set_xlabel(_left(masks[i]))
    axes[0].figure.set_figheight(axes[0].figure.get_figheight() + 0.7)
    return axes


def draw_hole_rows(model: PConvUNet, masks: Mapping[str, Tensor], width: float = 1.1) -> list[Axes]:
    """A row per {name: mask}: the mask, and what is left of its hole after each layer in turn."""
    levels, titles = len(model.widths), ["photo", *layer_titles(model)]
    panels, left = [], []
    for mask in masks.values():
        trace = [mask, *(new_mask for _, new_mask in model.mask_trace(mask))]
        for layer, new_mask in enumerate(trace):
            panels.append(("", _since_photo(new_mask, mask, level_of_layer(layer, levels))))
            left.append(_left(new_mask))
    axes = plots.pictures(panels, columns=len(titles), width=width)
    for axis, title in zip(axes, titles):
        axis.set_title(title, fontsize=9)
    for axis, words in zip(axes, left):
        axis.set_xlabel(words, fontsize=8)
    for axis, name in zip(axes[:: len(titles)], masks):
        axis.set_ylabel(name)
    return axes


def _since_photo(mask: Tensor, photo_mask: Tensor, level: int) -> np.ndarray:
    """A mask of that level. Orange: filled since the photo, of which every 2^level-th is shown."""
    return plots.mask_picture(mask, before=photo_mask[..., :: 2**level, :: 2**level])


def _left(mask: Tensor) -> str:
    left = int((mask == 0).sum())
    return f"{left} left" if left else "full"


def extents(model: PConvUNet, row: Tensor) -> list[tuple[int, int, int]]:
    """Where the hole of a row of pixels lies: in the photo, and after each layer.

    row: float (1, 1, 1, W), with one hole. Returns (pixels, start, width) triples: how many pixels
    of the layer's level are hole, and the pixels of the photo they stand for; (0, 0, 0) for none.
    """
    result = []
    masks = [row, *(new_mask for _, new_mask in model.mask_trace(row))]
    for layer, mask in enumerate(masks):
        step = 2 ** level_of_layer(layer, len(model.widths))
        hole = torch.nonzero(mask[0, 0, 0] == 0).flatten().tolist()
        result.append((len(hole), hole[0] * step, len(hole) * step) if hole else (0, 0, 0))
    return result


def draw_extents(model: PConvUNet, rows: Mapping[str, Tensor]) -> list[Axes]:
    """For each {title: row of pixels} what is left of its hole after each layer, in photo pixels.

    rows: float (1, 1, 1, W), with one hole each.
    """
    names = ["photo", *layer_titles(model)]
    levels = len(model.widths)
    figure = plt.figure(figsize=(3.3 * len(rows), 3.4), layout="constrained")
    axes = figure.subplots(1, len(rows), sharex=True, sharey=True, squeeze=False)[0]
    for axis, (title, row) in zip(axes, rows.items()):
        bars = extents(model, row)
        center = bars[0][1] + bars[0][2] / 2
        for layer, (pixels, start, width) in enumerate(bars):
            step = 2 ** level_of_layer(layer, levels)
            axis.barh(layer, width, left=start - center, height=0.7, color=plots.HOLE)
            words = f"{pixels} × {step} = {width}" if pixels and step > 1 else str(width)
            x = start - center + width if pixels else 0
            axis.text(x + 2, layer, words if pixels else "full", va="center", fontsize=9)
        axis.axhline(levels + 0.5, color=plots.LINE, linestyle=":")
        axis.set(title=title, xlabel="photo pixels from the middle", yticks=range(len(names)))
        axis.set_yticklabels(names)
        axis.set(xlim=(-45, 80), xticks=[-40, 0, 40])
    axes[0].invert_yaxis()
    return list(axes)


def draw_gone_after(
    model: PConvUNet,
    widths: Sequence[int],
    lines: Mapping[str, Sequence[int]],
    fields: Sequence[int],
) -> Axes:
    """After which layer holes are gone, against their width.

    Args:
        widths: of the holes, in pixels.
        lines: {name: layer per width}; 1 is encoder.0, and what is beyond decoder.0 is "never".
        fields: widths to mark with a dotted line.
    """
    never = len(model.widths) + 2
    styles = ("-", "--", ":")
    axis = plt.figure(figsize=(8, 3.8), layout="constrained").subplots()
    for (name, layers), style in zip(lines.items(), styles):
        height = [min(layer, never) for layer in layers]
        axis.step(widths, height, style, where="mid", color="black", label=name, linewidth=2)
    for field in fields:
        axis.axvline(field - 0.5, color=plots.LINE, linewidth=1)
        axis.text(field, never + 0.25, field, color=plots.LINE)
    axis.set(xlabel="width of the hole (pixels)", ylabel="gone after", ylim=(0.6, never + 0.7))
    axis.set_yticks(range(1, never + 1), [*layer_titles(model)[: never - 1], "never"])
    axis.grid(alpha=0.3)
    axis.legend(loc="lower right")
    return axis


def save_title_picture(path: str | Path) -> Figure:
    """Draws the picture of the notebook's title: a damaged photo, its layers, its trained fill."""
    model = pconv.load_pretrained()
    coffee = pconv.bundled_photos(held_out=True)["coffee"]  # the network was not trained on it
    rng = np.random.default_rng(16)
    holes = pconv.random_holes(*coffee.shape[:2], ratio=(0.2, 0.3), rng=rng, border=False)
    photo, mask = to_tensor(coffee), torch.from_numpy(~holes)[None, None].float()
    axes = plots.pictures(
        [
            ("damaged", plots.damaged(photo, mask)),
            ("which level fills it", color_layers(model, photo, mask)),
            ("filled by the trained U-Net", pconv.inpaint(model, coffee, holes) / 255),
        ],
        width=3.2,
    )
    figure = axes[0].figure
    figure.set_figheight(figure.get_figheight() + 0.3)
    deepest = int(filling_layer(model, mask).max())
    figure.legend(
        handles=_layer_patches(len(model.widths))[:deepest],
        loc="outside lower center",
        ncols=deepest,
        fontsize=8,
    )
    figure.savefig(path, dpi=110, bbox_inches="tight", pil_kwargs={"quality": 85})
    return figure
