"""The figures of notebook 04. What is unknown has the color of a hole.

`python -m course.missing_pictures` in the folder of the notebooks writes the picture of its title.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator
from torch import Tensor
from torch.nn import functional as F

import pconv
from course import color_volume, plots
from course.missing_data import disparity_map, mean_and_interval

FARTHEST = 60  # the largest disparity of the map, in pixels
VIRIDIS = plt.colormaps["viridis"].with_extremes(bad=plots.HOLE)
# Color and dash of each way, to be told apart in gray, too. Partial convolutions are solid lines.
OTHER = ("#b0305c", (0, (6, 1, 1, 1, 1, 1)))
LINES = {
    "set to 0": ("#999999", (0, (1, 1))),
    "straight lines": ("black", (0, (5, 2))),
    "partial, one layer": ("#e08a00", "-"),
    "partial, fill and smooth": (plots.LINE, "-"),
    "averages, then lines": ("#7a4fa3", (0, (4, 1, 1, 1))),
    "leave it gray": ("#999999", (0, (1, 1))),
    "linear": ("black", (0, (5, 2))),
    "nearest known pixel": ("#555555", (0, (1, 1))),
    "pull-push": ("#999999", (0, (3, 1, 1, 1))),
    "partial averages": ("#e08a00", "-"),
    "partial, in the volume": (plots.LINE, "-"),
    "8 nearest, no volume": ("#7a4fa3", (0, (4, 1, 1, 1))),
}


def draw_maps(panels: Mapping[str, Tensor], columns: int = 3, width: float = 3.2) -> list[Axes]:
    """Disparity maps {title: (..., H, W)}, in pixels, NaN where unknown, with one color bar."""
    rows = -(-len(panels) // columns)
    height, length = next(iter(panels.values())).shape[-2:]
    figure = plt.figure(
        figsize=(columns * width + 0.8, rows * (width * height / length + 0.3)),
        layout="constrained",
        FigureClass=plots.PhotoFigure,
    )
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, (title, values) in zip(axes, panels.items()):
        image = axis.imshow(
            values.reshape(values.shape[-2:]).cpu(), cmap=VIRIDIS, vmin=0, vmax=FARTHEST
        )
        axis.set_title(title)
    figure.colorbar(image, ax=axes, label="disparity (pixels)", pad=0.02)
    return list(axes)


def shade_gaps(axis: Axes, known: Tensor) -> None:
    """Shades what is unknown of a signal; known: bool (L,)."""
    edges = np.flatnonzero(np.diff(np.r_[False, ~known.numpy(), False]))
    for start, end in zip(edges[::2], edges[1::2]):
        axis.axvspan(start - 0.5, end - 0.5, color=plots.HOLE, alpha=0.15, linewidth=0)


def draw_signals(panels: Sequence[tuple[str, Tensor, Tensor, Tensor, dict[str, Tensor]]]) -> None:
    """One panel per (title, signal, known, wanted, {way: result}); each tensor is (1, 1, L)."""
    figure = plt.figure(figsize=(max(3.2 * len(panels), 7), 3.8), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (title, x, known, wanted, results) in zip(axes, panels):
        shade_gaps(axis, known[0, 0])
        place = np.arange(x.shape[2])
        axis.plot(place, x.where(known, torch.nan)[0, 0], ".", color="#bbbbbb", markersize=3)
        axis.plot(place, wanted[0, 0], color="black", linewidth=4, alpha=0.3, label="wanted")
        for name, y in results.items():
            color, dash = LINES.get(name, OTHER)
            axis.plot(place, y[0, 0], color=color, linestyle=dash, label=name)
        axis.set(title=title, xlabel="sample", xlim=(0, x.shape[2] - 1), ylim=(0, 300))
    axes[0].set_ylabel("gray level (of 255)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)


def draw_errors(
    errors: dict[tuple, np.ndarray],
    columns: Sequence,
    places: Sequence,
    title: str,
    xlabel: str,
    ylabel: str,
    reference: str,
    logarithmic: bool = False,
) -> None:
    """Errors against `places`, a column of panels for each of `columns`; below, the differences.

    Args:
        errors: {(column, place, way): one error per photo or hole}; NaN is not drawn.
        title: of a column; it contains {}.
        reference: the way that the others are compared with, below. The band is the 95 % interval
            of the mean difference.
        logarithmic: whether `places` are drawn on a logarithmic axis.
    """
    ways = list(dict.fromkeys(way for _, _, way in errors))
    below_each_other = len(columns) > 1
    shape = (2, len(columns)) if below_each_other else (1, 2)
    sharing = {"sharex": True, "sharey": "row"} if below_each_other else {}
    size = (max(3.2 * shape[1], 8.4), 2.5 * shape[0] + 0.7)
    axes = plt.figure(figsize=size, layout="constrained").subplots(*shape, squeeze=False, **sharing)
    pairs = axes.T if below_each_other else axes
    for (top, below), column in zip(pairs, columns):
        for way in ways:
            each = [errors[column, place, way] for place in places]
            color, dash = LINES.get(way, OTHER)
            top.plot(places, np.mean(each, 1), ".", color=color, linestyle=dash, label=way)
            if way not in (reference, "set to 0", "leave it gray"):
                differences = [one - errors[column, p, reference] for one, p in zip(each, places)]
                _draw_difference(below, places, differences, (color, dash))
        below.axhline(0, color=LINES[reference][0], linestyle=LINES[reference][1])
        top.set(title=title.format(column), yscale="log")
        for axis in (top, below):
            _set_ticks(axis, places if logarithmic else None)
        for axis in (below,) if below_each_other else (top, below):
            axis.set_xlabel(xlabel)
    pairs[0][0].set_ylabel(ylabel)
    pairs[0][1].set_ylabel(f"minus {reference}")
    handles, labels = pairs[0][0].get_legend_handles_labels()
    ncols = len(ways) if len(ways) < 5 else 3
    axes[0, 0].figure.legend(handles, labels, loc="outside upper center", ncols=ncols)


def _set_ticks(axis: Axes, places: Sequence | None) -> None:
    """Readable numbers on logarithmic axes; places: where the horizontal one has its ticks."""
    axis.grid(alpha=0.3)
    if axis.get_yscale() == "log":
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())
    if places is not None:
        axis.set_xscale("log")
        axis.set_xticks(places, [f"{place:g}" for place in places])
        axis.xaxis.set_minor_locator(NullLocator())


def _draw_difference(
    axis: Axes, places: Sequence, differences: Sequence[np.ndarray], line: tuple
) -> None:
    """The mean difference at each place, with its 95 % interval."""
    color, dash = line
    mean, half = np.transpose([mean_and_interval(each) for each in differences])
    axis.plot(places, mean, color=color, linestyle=dash)
    axis.fill_between(places, mean - half, mean + half, color=color, alpha=0.2, linewidth=0)


def photo_with_dots(photo: Tensor, known: Tensor, radius: int = 1) -> np.ndarray:
    """A gray photo with a dot of the true color around each known pixel, to draw.

    photo: (3, H, W) in [0, 1]; known: bool (H, W).
    """
    size = 2 * radius + 1
    dots = F.max_pool2d(torch.where(known, photo, 0)[None], size, 1, radius)[0]
    near = F.max_pool2d(known.float()[None, None], size, 1, radius)[0] > 0
    return plots.picture(torch.where(near, dots, photo.mean(0).expand(3, -1, -1)))


def draw_slice(volume: Tensor, known: Tensor, row: int, axis: Axes, title: str) -> None:
    """One row of a volume of colors: column x gray level; volume (1, 3, levels, rows, columns).

    The colors are differences to the gray level. known: bool (1, 1, levels, rows, columns).
    """
    levels = volume.shape[2]
    gray = torch.linspace(0, 1, levels)[None, :, None]
    colors = plots.damaged(volume[0, :, :, row] + gray, known[0, :, :, row])
    axis.imshow(colors, origin="lower", aspect="auto", extent=(0, volume.shape[4], 0, levels))
    axis.set(title=title, xlabel="column (voxels)", ylabel="gray level (voxels)")


def write_title_picture(path: Path) -> None:
    """Depth and color, each with its gaps and without them."""
    disparity = disparity_map()
    known = disparity.isfinite()
    average = pconv.PartialConv2d(1, 1, 9, padding=4, bias=False).requires_grad_(False)
    average.weight.fill_(1 / 81)
    filled, _ = average(disparity[None, None], known[None, None])
    photo = color_volume.small_color_photos(400)["coffee"]
    gray = photo.mean(0)
    seen = torch.from_numpy(np.random.default_rng(0).random(gray.shape) < 0.01)
    given = (photo - gray).where(seen, torch.nan)
    colored = gray + color_volume.fill_in_volume(given, gray, cell=12)
    panels = {
        "depth: unknown in red": VIRIDIS(disparity / FARTHEST),
        "partial average": VIRIDIS(filled[0, 0] / FARTHEST),
        "color: known at the dots": photo_with_dots(photo, seen, 1),
        "partial average in a volume": plots.picture(colored),
    }
    figure = plt.figure(figsize=(9, 1.7), layout="constrained", FigureClass=plots.PhotoFigure)
    for axis, (title, pixels) in zip(figure.subplots(1, len(panels)), panels.items()):
        axis.imshow(pixels)
        axis.set_title(title)
        axis.set_axis_off()
    figure.savefig(path, dpi=130, bbox_inches="tight", pad_inches=0.02, pil_kwargs={"quality": 88})
    plt.close(figure)


if __name__ == "__main__":
    write_title_picture(Path(__file__).parents[1] / "images" / "04_missing_data.jpg")
