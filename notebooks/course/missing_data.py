"""What notebook 04 fills and compares: rows of photos, a disparity map, colors in a volume.

A value that is unknown is NaN. How a filling is judged: by the values that were hidden from it.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from matplotlib.tri import LinearTriInterpolator, Triangulation
from scipy.ndimage import binary_dilation, distance_transform_edt
from scipy.spatial import KDTree
from scipy.stats import t as student
from skimage import data
from torch import Tensor
from torch.nn import functional as F

import pconv
from pconv.interpolation import pull_push
from pconv.photos import to_tensor

COLORLESS = ("grass", "gravel", "brick")  # bundled photos that are gray


def mean_and_interval(values: Iterable[float]) -> tuple[float, float]:
    """The mean, and half the width of its 95 % interval by Student's t.

    values: independent ones, such as one difference per photo; at least two.
    """
    values = np.asarray(values, float)
    half = student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return float(values.mean()), float(half)


def verdict(differences: Iterable[float]) -> str:
    """ "lower" or "higher" if the 95 % interval of the mean leaves out 0, else "undecided"."""
    mean, half = mean_and_interval(differences)
    return "lower" if mean + half < 0 else "higher" if mean - half > 0 else "undecided"


# One dimension


def photo_rows(count: int, length: int, rng: np.random.Generator) -> Tensor:
    """Random pieces of rows of the bundled photos, in gray levels: (photos, count, length).

    The second view of the motorcycle is left out: it shows the same scene.
    """
    photos = pconv.bundled_photos() | pconv.bundled_photos(held_out=True)
    rows = []
    for name, photo in photos.items():
        if name == "motorcycle_right":
            continue
        gray = 255 * to_tensor(photo)[0].mean(0)  # (H, W)
        for _ in range(count):
            start = rng.integers(gray.shape[1] - length + 1)
            rows.append(gray[rng.integers(len(gray)), start : start + length])
    return torch.stack(rows).unflatten(0, (-1, count))


def gaps(shape: Sequence[int], gap: int, rng: np.random.Generator, apart: int = 60) -> Tensor:
    """What is known of signals with gaps: bool, of that shape; the last dimension is the signal.

    gap: samples per gap. apart: known samples between two gaps. Each signal begins elsewhere.
    """
    begins = rng.integers(gap + apart, size=(*shape[:-1], 1))
    return torch.from_numpy((np.arange(shape[-1]) - begins) % (gap + apart) >= gap)


def straight_lines(x: Tensor, known: Tensor) -> Tensor:
    """Straight lines across the gaps of signals, by np.interp; x and known: (..., L)."""
    position = np.arange(x.shape[-1])
    rows, masks = (t.reshape(-1, len(position)).numpy() for t in (x, known))
    lines = [np.interp(position, position[mask], row[mask]) for row, mask in zip(rows, masks)]
    return torch.from_numpy(np.stack(lines)).to(x.dtype).view_as(x)


# Two dimensions: each of these takes a map (..., H, W) with NaN and returns it filled.


def nearest(values: Tensor) -> Tensor:
    """Each unknown pixel gets the value of the nearest known one."""
    unknown = _unknown(values)
    rows, columns = distance_transform_edt(
        unknown.numpy(), return_distances=False, return_indices=True
    )
    return values[..., torch.from_numpy(rows).long(), torch.from_numpy(columns).long()]


def linear(values: Tensor) -> Tensor:
    """Linear on triangles between the known pixels at the rims, as scipy's griddata does it.

    The nearest known pixel where no triangle is. Matplotlib has the triangles: scipy's are slow
    beside other busy programs.
    """
    unknown = _unknown(values).numpy()
    rim = binary_dilation(unknown, iterations=2) & ~unknown
    triangles = Triangulation(*np.nonzero(rim))
    filled = nearest(values)
    for known, channel in zip(_channels(values).numpy(), _channels(filled).numpy()):
        inside = LinearTriInterpolator(triangles, known[rim])(*np.nonzero(unknown))
        channel[unknown] = np.where(inside.mask, channel[unknown], inside.data)
    return filled


def averages(values: Tensor) -> Tensor:
    """Layers of 3x3 partial averages until nothing is unknown; known pixels stay as they are."""
    x = _channels(values)[None]
    known = ~_unknown(values)[None, None]
    channels = x.shape[1]
    average = pconv.PartialConv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
    average.requires_grad_(False).weight.fill_(1 / 9)
    y, valid = x, known
    while not valid.all():
        y, valid = average(y, valid)
        y = torch.where(known, x, y)
    return y.view_as(values)


def pull_push_map(values: Tensor) -> Tensor:
    """The pyramid of averages of notebook 02."""
    x = _channels(values)[None]
    known = ~_unknown(values)[None, None]
    return pull_push(torch.where(known, x, 0), known.float(), levels=8).view_as(values)


FILLINGS = {
    "nearest known pixel": nearest,
    "linear": linear,
    "partial averages": averages,
    "pull-push": pull_push_map,
}


def _channels(values: Tensor) -> Tensor:
    """(..., H, W) -> (C, H, W)."""
    return values.reshape(-1, *values.shape[-2:])


def _unknown(values: Tensor) -> Tensor:
    """(H, W), True where a channel is NaN."""
    return _channels(values.isnan()).any(0)


def disparity_map(step: int = 1) -> Tensor:
    """The motorcycle's disparity in pixels, NaN where it is unknown; every step-th row and column.

    (500, 741) for step 1; the disparity is that of the full size, whatever the step.
    """
    values = torch.from_numpy(data.stereo_motorcycle()[2]).float()[::step, ::step]
    return values.where(values.isfinite(), torch.nan)


def hole_errors(values: Tensor, width: int, holes: int, noise: float, seed: int) -> dict:
    """Hides squares of a map, one at a time, and measures what each filling makes of it.

    Args:
        values: (H, W), NaN where unknown.
        width: of a square, in pixels. A square counts if at least half of it is known.
        holes: how many squares.
        noise: standard deviation of what is added to the pixels around.

    Returns:
        {name of the filling: mean absolute error of each square, (holes,)}.
    """
    rng, around, errors = np.random.default_rng(seed), 6, {name: [] for name in FILLINGS}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # maps this small have no work for more
    while len(errors["pull-push"]) < holes:
        row, column = (int(rng.integers(size - width + 1)) for size in values.shape)
        top, left = max(row - around, 0), max(column - around, 0)
        crop = values[top : row + width + around, left : column + width + around]
        hidden = torch.zeros_like(crop, dtype=torch.bool)
        hidden[row - top : row - top + width, column - left : column - left + width] = True
        scored = hidden & crop.isfinite()
        if 2 * scored.sum() < width**2:
            continue
        noisy = crop + noise * torch.from_numpy(rng.normal(size=crop.shape)).float()
        for name, fill in FILLINGS.items():
            filled = fill(noisy.where(~hidden, torch.nan))
            errors[name].append((filled - crop)[scored].abs().mean().item())
    torch.set_num_threads(threads)
    return {name: np.array(each) for name, each in errors.items()}


# Three dimensions: row, column and gray level


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
    known = ~_unknown(values)
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
    return torch.where(_unknown(values), filled, values)


def weighted_in_volume(values: Tensor, gray: Tensor, scale: float = 100) -> Tensor:
    """Without a volume: the mean of the 8 nearest of the same points (row, column, gray level).

    Their weights are 1 / distance^2 (Shepard 1968).

    scale: how many pixels apart black and white are.
    """
    known = ~_unknown(values)
    points = torch.cat((torch.ones_like(known).nonzero(), scale * gray.reshape(-1, 1)), 1).numpy()
    distance, near = KDTree(points[known.view(-1)]).query(points[~known.view(-1)], k=8)
    weight = torch.from_numpy(1 / distance.clip(1e-6) ** 2).float()
    filled = values.clone()
    total = (values[:, known][:, torch.from_numpy(near)] * weight).sum(2)
    filled[:, ~known] = total / weight.sum(1)
    return filled
