"""What notebook 05 cuts out of photos, and how it draws distances and the terms of the loss."""

import math
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.functional import gaussian_blur

import pconv
from course import plots

# The terms of the loss as lines: they differ in dash and gray, too.
TERM_LINES = {
    "hole": ("black", "-"),
    "perceptual": ("#666666", "--"),
    "tv": ("#999999", ":"),
    "style_comp": (plots.LINE, "-"),
    "total": (plots.LINE, "--"),
}


def blurred(image: Tensor, sigma: float) -> Tensor:
    """A Gaussian blur of (N, C, H, W); sigma in pixels, 0 leaves the image as it is."""
    return gaussian_blur(image, 2 * math.ceil(3 * sigma) + 1, sigma) if sigma else image


def crop(image: Tensor, top: int, left: int, size: int = 128) -> Tensor:
    """A square of (N, C, H, W), (N, C, size, size)."""
    return image[..., top : top + size, left : left + size]


def heat(values: Tensor) -> np.ndarray:
    """(H, W), not negative, to draw: black is 0, the largest 1 % are the brightest."""
    values = values.detach().float().cpu()
    return plt.cm.magma((values / values.quantile(0.99)).clamp(0, 1).numpy())[:, :, :3]


def bars(axis: Axes, values: dict[str, float], xlabel: str, limit: float) -> None:
    """Horizontal bars with a line at 1, dark where larger than 1."""
    colors = ["#444444" if value > 1 else plots.LINE for value in values.values()]
    drawn = axis.barh(list(values), values.values(), color=colors)
    axis.bar_label(drawn, fmt="%.2f", padding=3)
    axis.axvline(1, color="#888888", linewidth=1, linestyle="--", zorder=0)
    axis.set(xlabel=xlabel, xlim=(0, limit))
    axis.invert_yaxis()


def draw_ratios(ratios: dict[str, float]) -> None:
    """Draws how far the shifted copy is by each measure, over how far the blurred one is."""
    figure = plt.figure(figsize=(6.6, 0.32 * len(ratios) + 0.8), layout="constrained")
    xlabel = "distance of the shifted copy / distance of the blurred one"
    bars(figure.subplots(), ratios, xlabel, 1.2 * max(ratios.values()))


def draw_distances(tables: dict[str, Tensor], names: Sequence[str]) -> dict[str, float]:
    """Draws tables of distances, (N, N) each, between crops of textures, as many crops of each.

    names: of the textures.

    Returns:
        {table: mean distance between different textures / between crops of the same one}.
    """
    count = len(next(iter(tables.values())))
    each = count // len(names)
    texture = torch.arange(count) // each
    same = (texture[:, None] == texture) & ~torch.eye(count, dtype=torch.bool)
    different = texture[:, None] != texture
    contrast = {}
    figure = plt.figure(figsize=(9, 3.9), layout="constrained")
    axes = figure.subplots(1, len(tables), squeeze=False)[0]
    for axis, (title, table) in zip(axes, tables.items()):
        contrast[title] = (table[different].mean() / table[same].mean()).item()
        axis.figure.colorbar(
            axis.imshow(table.numpy(), cmap="magma"), ax=axis, shrink=0.8, label="distance"
        )
        axis.set_title(f"{title}: different / same = {contrast[title]:.1f}")
        middles = [each * i + (each - 1) / 2 for i in range(len(names))]
        axis.set(xticks=middles, yticks=middles, xticklabels=names, yticklabels=names)
        axis.tick_params(length=0)
        for label in axis.get_xticklabels():
            label.set(verticalalignment="baseline", y=-0.03)
        for line in range(each, count, each):
            axis.axhline(line - 0.5, color="white")
            axis.axvline(line - 0.5, color="white")
    return contrast


def draw_terms(strips: dict[str, dict[float, dict[str, float]]], ylabel: str) -> None:
    """Draws {xlabel: {x: {term: value}}}, a chart for each xlabel, a line for each term."""
    figure = plt.figure(figsize=(9, 3.4), layout="constrained")
    axes = figure.subplots(1, len(strips), sharey=True, squeeze=False)[0]
    for axis, (xlabel, points) in zip(axes, strips.items()):
        for name, (color, dash) in TERM_LINES.items():
            values = [point[name] for point in points.values()]
            axis.plot(list(points), values, dash, color=color, marker="o", markersize=3, label=name)
        axis.set(xlabel=xlabel, ylim=(0, None))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel(ylabel)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center")


def term_maps(
    vgg: pconv.VGGFeatures, output: Tensor, photo: Tensor, mask: Tensor
) -> dict[str, Tensor]:
    """Where the terms of the loss come from: {term: (1, 3 or 1, H, W)}, whose mean is the term.

    output, photo: (1, 3, H, W) in [0, 1]. mask: bool (1, 1, H, W), True where valid.
    """
    composite = torch.where(mask, photo, output)
    difference = (output - photo).abs()
    region = F.max_pool2d((~mask).float(), 3, stride=1, padding=1)  # the holes and a rim of 1 pixel
    tv = torch.zeros_like(photo)
    tv[..., :-1] += composite.diff(dim=3).abs() * region[..., 1:] * region[..., :-1]
    tv[..., :-1, :] += composite.diff(dim=2).abs() * region[..., 1:, :] * region[..., :-1, :]
    perceptual = 0
    for image in (output, composite):
        for f, g in zip(vgg(image), vgg(photo)):
            one_layer = (f - g).abs().mean(1, keepdim=True)  # (1, 1, H / 2^n, W / 2^n)
            perceptual = perceptual + F.interpolate(one_layer, size=photo.shape[2:])
    return {
        "valid": torch.where(mask, difference, 0),
        "hole": torch.where(mask, 0, difference),
        "tv": tv,
        "perceptual": perceptual,
    }
