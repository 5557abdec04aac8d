"""The pictures of the course.

The same thing has the same color in every notebook, and all is readable in gray, too.

A function here draws and returns; the cell ends its figure with `plt.show()`. A figure that shows
photos is a `PhotoFigure`, which a notebook stores as JPEG.
"""

import io
from collections.abc import Iterable, Sequence

import matplotlib.pyplot as plt
import numpy as np
from IPython import get_ipython
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor, ones

from pconv import PConvUNet
from pconv.cli.plots import PRECISION_STYLES

# Light, middle, dark.
VALID = "#f3efe4"
FILLED = "#f0a830"  # a hole until this layer
HOLE = "#96123c"
LINE = "#0f8b8d"  # an outline that stands out on all three

LEVEL_HEIGHT = 1.25  # of a level that `unet` draws, in units of its axes

# Color and dash of each padding: no padding has the color of a hole.
PADDING_STYLES = {
    "zero": {"color": "#222222", "linestyle": "-"},
    "reflect": {"color": "#7a7a7a", "linestyle": "--"},
    "replicate": {"color": "#8f4fbf", "linestyle": "-."},
    "partial": {"color": LINE, "linestyle": "-"},
}

plt.rcParams.update(
    {
        "figure.dpi": 90,
        "font.size": 10,
        "axes.titlesize": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": False,
        "legend.frameon": False,
        "image.interpolation": "nearest",
    }
)


class PhotoFigure(Figure):
    """A figure that a notebook shows as JPEG, for photos: as PNG they take several times the bytes.

    Use it as `plt.figure(FigureClass=PhotoFigure, ...)`.
    """

    def _repr_jpeg_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="jpeg", bbox_inches="tight", pil_kwargs={"quality": 85})
        return file.getvalue()


if (_shell := get_ipython()) is not None:
    # Matplotlib has registered a PNG for every figure; for this class there is none.
    _shell.display_formatter.formatters["image/png"].for_type(PhotoFigure, lambda figure: None)


def picture(image: Tensor) -> np.ndarray:
    """(1, 3, H, W) or (3, H, W), in [0, 1] -> (H, W, 3) to draw.

    A pixel that is not finite has the color of a hole.
    """
    rgb = image.detach().float().cpu().reshape(-1, *image.shape[-2:]).permute(1, 2, 0).numpy()
    known = np.isfinite(rgb).all(2, keepdims=True)
    return np.where(known, np.nan_to_num(rgb).clip(0, 1), to_rgb(HOLE))


def damaged(image: Tensor, mask: Tensor) -> np.ndarray:
    """A picture whose holes have the color of a hole, whatever `image` holds there.

    mask: (1, 1, H, W)
    """
    return np.where(_plane(mask)[:, :, None] > 0, picture(image), to_rgb(HOLE))


def mask_picture(mask: Tensor, before: Tensor | None = None) -> np.ndarray:
    """A mask (1, 1, H, W) to draw.

    before: the mask of the layer before; pixels that it did not have get a color of their own.
    """
    valid = _plane(mask)[:, :, None] > 0
    old = valid if before is None else _plane(before)[:, :, None] > 0
    return np.where(valid, np.where(old, to_rgb(VALID), to_rgb(FILLED)), to_rgb(HOLE))


def pictures(
    panels: Sequence[tuple[str, np.ndarray]], columns: int | None = None, width: float = 2.0
) -> list[Axes]:
    """Draws (title, picture) pairs side by side, and returns their axes.

    columns: pictures per row, by default all of them; width: of a picture, in inches.
    """
    columns = columns or len(panels)
    rows = -(-len(panels) // columns)
    height, length = panels[0][1].shape[:2]
    size = (columns * width, rows * (width * height / length + 0.3))
    has_photos = any(_is_photo(pixels) for _, pixels in panels)
    figure = plt.figure(
        figsize=size, layout="constrained", FigureClass=PhotoFigure if has_photos else Figure
    )
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, (title, pixels) in zip(axes, panels):
        axis.set_axis_on()
        axis.imshow(pixels)
        axis.set(title=title, xticks=[], yticks=[])
        for spine in axis.spines.values():
            spine.set(visible=True, color="#888888", linewidth=0.6)
    return list(axes[: len(panels)])


def outline(axis: Axes, center: tuple[float, float], size: float) -> None:
    """Outlines the `size` x `size` pixels around center = (row, column).

    The line lies just inside, and is cut off where the picture ends.
    """
    axis.set_autoscale_on(False)
    size -= 0.8
    corner = (center[1] - size / 2, center[0] - size / 2)
    axis.add_patch(Rectangle(corner, size, size, fill=False, edgecolor="white", linewidth=4))
    axis.add_patch(Rectangle(corner, size, size, fill=False, edgecolor=LINE, linewidth=2.2))


def numbers(
    panels: Sequence[tuple[str, Tensor, Tensor]], digits: int = 0, width: float = 1.9
) -> list[Axes]:
    """Draws (title, values, mask) triples as tables; values and mask are (H, W) each."""
    axes = pictures([(title, mask_picture(mask)) for title, _, mask in panels], width=width)
    for axis, (_, values, mask) in zip(axes, panels):
        values, mask = _plane(values), _plane(mask)
        for (row, column), value in np.ndenumerate(values):
            color = "black" if mask[row, column] > 0 else "white"
            axis.text(
                column,
                row,
                f"{round(float(value), digits):g}",
                ha="center",
                va="center",
                color=color,
            )
        axis.set_xticks(np.arange(1, values.shape[1]) - 0.5)
        axis.set_yticks(np.arange(1, values.shape[0]) - 0.5)
        axis.tick_params(length=0, labelbottom=False, labelleft=False)
        axis.grid(color="#888888", linewidth=0.6)
    return axes


def curves(lines: dict[str, tuple[Sequence, Sequence]], xlabel: str, ylabel: str) -> Axes:
    """Draws {name: (x, y)} as curves with labeled axes.

    A precision has its own color and dash, the same in every notebook.
    """
    axis = plt.figure(figsize=(5.4, 3.0), layout="constrained").subplots()
    for name, (x, y) in lines.items():
        axis.plot(x, y, label=name, linewidth=2, **PRECISION_STYLES.get(name, {}))
    axis.set(xlabel=xlabel, ylabel=ylabel)
    axis.grid(alpha=0.3)
    axis.legend()
    return axis


def band(axis: Axes, x: Sequence[float], values: np.ndarray, **settings) -> None:
    """Draws the mean of the rows of `values`, and a band from the least to the largest of them.

    values: (rows, len(x)), a row per seed, say.
    """
    axis.plot(x, values.mean(0), linewidth=2, **settings)
    color = settings.get("color")
    axis.fill_between(x, values.min(0), values.max(0), color=color, alpha=0.18, linewidth=0)


def unet(model: PConvUNet, size: tuple[int, int]) -> Axes:
    """Draws a PConvUNet as its layers describe it.

    size: (H, W) of an image; its size at every level is written beside the level.
    """
    levels, widths = len(model.widths), (model.in_channels, *model.widths)
    sizes = [size, *(mask.shape[2:] for _, mask in model.mask_trace(ones(1, 1, *size))[:levels])]
    down = 0.85  # to the right, per level of the encoder
    up = 1.6  # to the right, per level of the decoder
    deep = LEVEL_HEIGHT  # downwards, per level
    bottom = down * levels + 1.35
    right = bottom + up * levels + 1.9
    axis = plt.figure(
        figsize=(0.53 * (right + 0.9), 0.53 * (deep * levels + 2.4)), layout="constrained"
    ).subplots()
    axis.set(xlim=(-0.9, right), ylim=(-deep * levels - 1.6, 0.8), aspect="equal")
    axis.set_axis_off()

    def box(x: float, y: float, channels: int) -> tuple[float, float]:
        """Features and, at their right, their mask; returns where they begin and end."""
        width = 0.08 + 0.42 * (channels / max(widths)) ** 0.5
        left = x - width / 2
        features = Rectangle(
            (left, y - 0.25), width, 0.5, facecolor="#d5d5d5", edgecolor="#333333", linewidth=0.8
        )
        mask = Rectangle((left + width + 0.03, y - 0.25), 0.1, 0.5, color=LINE, linewidth=0)
        axis.add_patch(features).set_label("features, and how many")
        axis.add_patch(mask).set_label("their mask, one channel")
        axis.text(x, y + 0.28, channels, ha="center", va="bottom")
        return left, left + width + 0.13

    def arrow(start: tuple[float, float], end: tuple[float, float], color: str = "#333333") -> None:
        bend = "arc3" if start[0] == end[0] or start[1] == end[1] else "angle,angleA=-90,angleB=0"
        style = {
            "arrowstyle": "-|>",
            "color": color,
            "shrinkA": 1,
            "shrinkB": 1,
            "mutation_scale": 8,
        }
        axis.annotate("", end, start, arrowprops=style | {"connectionstyle": bend})

    def text(x: float, y: float, pair: Iterable[int], align: str) -> None:
        axis.text(x, y, " × ".join(map(str, pair)), ha=align, va="center")

    ends = []  # of the encoder's boxes
    for level, width in enumerate(widths):
        before, x, y = down * (level - 1), down * level if level < levels else bottom, -deep * level
        left, end = box(x, y, width)
        if level:
            arrow((before, y + deep - 0.25), (left, y))
            text(before - 0.08, y + 0.5, model.encoder[level - 1].conv.kernel_size, "right")
        ends.append(end)
    text(end + 0.12, y, sizes[levels], "left")
    for level, block in zip(reversed(range(levels)), model.decoder):
        y += deep
        box(x - 0.72, y, widths[level])
        box(x, y, widths[level + 1])
        pair = Rectangle((x - 1.06, y - 0.33), 1.5, 0.98, fill=False, linestyle=":")
        axis.add_patch(pair).set_label("both read by one convolution")
        arrow((x, y - deep + 0.62), (x, y - 0.33))
        for shift, color in ((0.07, "#333333"), (-0.07, LINE)):
            arrow((ends[level], y + shift), (x - 1.06, y + shift), color)
        left, end = box(x + up, y, block.conv.out_channels)
        arrow((x + 0.44, y), (left, y))
        text((x + 0.44 + left) / 2, y + 0.19, block.conv.kernel_size, "center")
        text(end + 0.12, y, sizes[level], "left")
        x += up
    axis.legend(handles=[axis.patches[0], axis.patches[1], pair], loc="lower left")
    return axis


def _is_photo(pixels: np.ndarray) -> bool:
    """Masks and tables have a handful of colors; photos have many."""
    return len(np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0)) > 16


def _plane(values: Tensor) -> np.ndarray:
    """(1, 1, H, W), (1, H, W) or (H, W) -> (H, W)."""
    return values.detach().cpu().reshape(values.shape[-2:]).numpy()
