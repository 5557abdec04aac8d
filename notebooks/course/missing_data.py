"""What notebook 04 fills and compares in one and two dimensions: rows of photos, a disparity map.

A value that is unknown is NaN. How a filling is judged: by the values that were hidden from it.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from matplotlib.tri import LinearTriInterpolator, Triangulation
from scipy.ndimage import binary_dilation, distance_transform_edt
from scipy.stats import t as student
from skimage import data
from torch import Tensor

import pconv
from pconv.interpolation import pull_push
from pconv.photos import to_tensor


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


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Arrays this small have no work for more threads, which would wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


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

    gap: samples per gap. apart: known samples between two gaps. No gap begins or ends within 30
    samples of an end of the signal. Each signal has its gaps elsewhere.
    """
    length = shape[-1]
    phase = rng.integers(gap + apart, size=(*shape[:-1], 1))
    place = (np.arange(length) - phase) % (gap + apart)  # 0 where a gap begins
    begin = np.arange(length) - place
    whole = (begin >= 30) & (begin + gap <= length - 30)
    return torch.from_numpy((place >= gap) | ~whole)


def straight_lines(x: Tensor, known: Tensor) -> Tensor:
    """Straight lines across the gaps of signals, by np.interp; x and known: (..., L)."""
    position = np.arange(x.shape[-1])
    rows, masks = (t.reshape(-1, len(position)).numpy() for t in (x, known))
    lines = [np.interp(position, position[mask], row[mask]) for row, mask in zip(rows, masks)]
    return torch.from_numpy(np.stack(lines)).to(x.dtype).view_as(x)


# Two dimensions: each of these takes a map (..., H, W) with NaN and returns it filled.


def nearest(values: Tensor) -> Tensor:
    """Each unknown pixel gets the value of the nearest known one."""
    unknown = is_unknown(values)
    rows, columns = distance_transform_edt(
        unknown.numpy(), return_distances=False, return_indices=True
    )
    return values[..., torch.from_numpy(rows).long(), torch.from_numpy(columns).long()]


def linear(values: Tensor) -> Tensor:
    """Linear on triangles between the known pixels at the rims, as scipy's griddata does it.

    The nearest known pixel where no triangle is. Matplotlib has the triangles: scipy's are slow
    beside other busy programs.
    """
    unknown = is_unknown(values).numpy()
    rim = binary_dilation(unknown, iterations=2) & ~unknown
    triangles = Triangulation(*np.nonzero(rim))
    filled = nearest(values)
    for known, channel in zip(channels(values).numpy(), channels(filled).numpy()):
        inside = LinearTriInterpolator(triangles, known[rim])(*np.nonzero(unknown))
        channel[unknown] = np.where(inside.mask, channel[unknown], inside.data)
    return filled


def averages(values: Tensor) -> Tensor:
    """Layers of 3x3 partial averages until nothing is unknown; known pixels stay as they are."""
    x = channels(values)[None]
    known = ~is_unknown(values)[None, None]
    count = x.shape[1]
    average = pconv.PartialConv2d(count, count, 3, padding=1, groups=count, bias=False)
    average.requires_grad_(False).weight.fill_(1 / 9)
    y, valid = x, known
    while not valid.all():
        y, valid = average(y, valid)
        y = torch.where(known, x, y)
    return y.view_as(values)


def pull_push_map(values: Tensor) -> Tensor:
    """The pyramid of averages of notebook 02."""
    x = channels(values)[None]
    known = ~is_unknown(values)[None, None]
    return pull_push(torch.where(known, x, 0), known.float(), levels=8).view_as(values)


FILLINGS = {
    "nearest known pixel": nearest,
    "linear": linear,
    "partial averages": averages,
    "pull-push": pull_push_map,
}


def channels(values: Tensor) -> Tensor:
    """(..., H, W) -> (C, H, W)."""
    return values.reshape(-1, *values.shape[-2:])


def is_unknown(values: Tensor) -> Tensor:
    """(H, W), True where a channel is NaN."""
    return channels(values.isnan()).any(0)


def disparity_map(step: int = 1) -> Tensor:
    """The motorcycle's disparity in pixels, NaN where it is unknown; every step-th row and column.

    (500, 741) for step 1; the disparity is that of the full size, whatever the step.
    """
    values = torch.from_numpy(data.stereo_motorcycle()[2]).float()[::step, ::step]
    return values.where(values.isfinite(), torch.nan)


@one_thread()
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
    return {name: np.array(each) for name, each in errors.items()}
