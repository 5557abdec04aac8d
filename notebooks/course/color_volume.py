"""The volume of notebook 04: gray level x row x column, in which pixels of a photo find their like.

Two pixels on the two sides of an edge are close in the photo, and far apart in the volume: averages
in it do not mix them. Chen, Paris and Durand, "Real-time Edge-Aware Image Processing with the
Bilateral Grid", SIGGRAPH 2007.
"""

import torch
from scipy.spatial import KDTree
from torch import Tensor
from torch.nn import functional as F

import pconv
from course.missing_data import is_unknown
from pconv.photos import to_tensor

COLORLESS = ("grass", "gravel", "brick")  # bundled photos that are gray


def small_color_photos(size: int = 250) -> dict[str, Tensor]:
    """The bundled photos that have color, (3, H, W) in [0, 1], their longer side about `size`."""
    photos = pconv.bundled_photos() | pconv.bundled_photos(held_out=True)
    small = {}
    for name, photo in photos.items():
        if name not in (*COLORLESS, "motorcycle_right"):
            shrink = max(1, round(max(photo.shape) / size))
            small[name] = F.avg_pool2d(to_tensor(photo), shrink)[0]
    return small


def into_volume(values: Tensor, gray: Tensor, cell: int, levels: int) -> tuple[Tensor, Tensor]:
    """Puts the known pixels of a map into a volume of gray level x row x column.

    Args:
        values: (C, H, W), NaN where unknown.
        gray: (H, W) in [0, 1].
        cell: rows and columns per voxel, in pixels.
        levels: voxels along the gray level.

    Returns:
        The mean of the pixels of each voxel, (1, C, levels, rows, columns), and which voxels hold
        a pixel, bool (1, 1, levels, rows, columns).
    """
    channels, height, width = values.shape
    shape = (levels, -(-height // cell), -(-width // cell))
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    level = (gray * (levels - 1)).round().long()
    voxel = (level * shape[1] + rows // cell) * shape[2] + columns // cell  # (H, W)
    known = ~is_unknown(values)
    count = torch.bincount(voxel[known], minlength=shape[0] * shape[1] * shape[2])
    total = torch.zeros(channels, len(count)).index_add_(1, voxel[known], values[:, known])
    mean = total / count.clamp(min=1)
    return mean.view(1, channels, *shape), (count > 0).view(1, 1, *shape)


def out_of_volume(volume: Tensor, gray: Tensor, cell: int) -> Tensor:
    """Reads a volume at each pixel, linearly between its voxels.

    volume: (1, C, levels, rows, columns); gray, cell: as in `into_volume`. Returns (C, H, W).
    """
    levels, rows, columns = volume.shape[2:]
    row, column = torch.meshgrid(*(torch.arange(n) + 0.5 for n in gray.shape), indexing="ij")
    places = ((column / cell, columns), (row / cell, rows), (gray * (levels - 1) + 0.5, levels))
    grid = torch.stack([2 * place / size - 1 for place, size in places], -1)[None, None]
    return F.grid_sample(volume, grid, padding_mode="border", align_corners=False)[0, :, 0]


def fill_in_volume(values: Tensor, gray: Tensor, cell: int = 8, levels: int = 16) -> Tensor:
    """Fills a map by partial averages in the volume; known pixels stay as they are.

    Arguments as in `into_volume`. Returns (C, H, W).
    """
    volume, known = into_volume(values, gray, cell, levels)
    channels = len(values)
    average = pconv.PartialConv3d(channels, channels, 3, padding=1, groups=channels, bias=False)
    average.requires_grad_(False).weight.fill_(1 / 27)
    valid = known
    while not valid.all():
        y, new_mask = average(volume, valid)
        volume, valid = torch.where(valid, volume, y), new_mask > 0
    volume, _ = average(volume, valid)
    filled = out_of_volume(volume, gray, cell)
    return torch.where(is_unknown(values), filled, values)


def weighted_in_volume(values: Tensor, gray: Tensor, scale: float = 100) -> Tensor:
    """Without a volume: the mean of the 8 nearest of the same points (row, column, gray level).

    Their weights are 1 / distance^2 (Shepard 1968).

    scale: how many pixels apart black and white are.
    """
    known = ~is_unknown(values)
    points = torch.cat((torch.ones_like(known).nonzero(), scale * gray.reshape(-1, 1)), 1).numpy()
    distance, near = KDTree(points[known.view(-1)]).query(points[~known.view(-1)], k=8)
    weight = torch.from_numpy(1 / distance.clip(1e-6) ** 2).float()
    filled = values.clone()
    total = (values[:, known][:, torch.from_numpy(near)] * weight).sum(2)
    filled[:, ~known] = total / weight.sum(1)
    return filled
