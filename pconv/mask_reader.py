"""Mask files: which pixels a person meant to fill."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from pconv.image_reader import LOSSY_FORMATS, ImageFile, read_image, turn, white_level

# A soft edge belongs to the hole from this fraction of white on: less is noise, unless it lies
# beside a hole. JPEG and its like have more of it.
_NOISE = 0.02
_LOSSY_NOISE = 0.06
_BESIDE = 8  # pixels
_MANY = 0.5  # of the pixels neither black nor white: not a mask


class Mask(NamedTuple):
    """holes: bool (H, W), True = hole; notes: what is probably not meant, for people."""

    holes: np.ndarray
    notes: list[str]


def read_mask(path: str | Path, white_is: str = "holes", photo: ImageFile | None = None) -> Mask:
    """The holes that an image file shows.

    A file of two levels, whichever, is split between them. Of one with soft edges the edge belongs
    to the hole. What a layer with transparency shows is painted where it is opaque and, if it has
    several colors, bright. The mask of a photo that EXIF turns may be drawn on the unturned one.

    Args:
        path: an image of the photo's size, white in any of its channels.
        white_is: "holes" or "valid".
        photo: the one it belongs to.

    Raises:
        FileNotFoundError, ValueError: as `read_image`; ValueError also if it cannot be told what is
            black and what is white, and for another size than the photo's.
    """
    image = read_image(path)
    notes = list(image.notes)
    levels = _brightness(image)
    values, counts = _histogram(levels)
    if len(values) <= 2:
        holes = levels > _middle_of_two(path, levels, values)
        if white_is == "valid":
            holes = ~holes
    else:
        holes = _split_soft(path, levels, values, counts, image, white_is, notes)
    if photo is not None:
        holes = _fit(path, holes, image, photo, notes)
    return Mask(holes, notes)


def _brightness(image: ImageFile) -> np.ndarray:
    """How much of the paint each pixel has: (H, W), from 0."""
    levels = image.levels
    if levels.dtype == np.float64:
        levels = np.nan_to_num(levels, posinf=0, neginf=0).clip(0)
    brightest = levels if levels.ndim == 2 else levels.max(2)
    alpha = image.alpha
    if alpha is None or (alpha.min() == alpha.max() and alpha.max() > 0):
        return brightest
    opaque = levels[alpha > alpha.max() // 2]  # (pixels,) or (pixels, 3)
    if alpha.max() == 0 or np.ptp(opaque, axis=0).max() <= white_level(levels) // 32:
        return alpha  # one color, black or white: what is painted is what is opaque
    share = alpha.astype(np.float32) / np.iinfo(alpha.dtype).max
    return (brightest * share).astype(brightest.dtype)


def _histogram(levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The levels that occur, from dark to bright, and how often."""
    if levels.dtype == np.float64:
        return np.unique(levels, return_counts=True)
    counts = np.zeros(np.iinfo(levels.dtype).max + 1, np.int64)
    for rows in np.array_split(levels, max(1, levels.size // 2**20)):  # bincount takes 8 bytes each
        counts += np.bincount(rows.ravel(), minlength=len(counts))
    values = np.flatnonzero(counts)
    return values, counts[values]


def _white(levels: np.ndarray, values: np.ndarray) -> float:
    if levels.dtype == np.float64:
        return 1.0 if values[-1] <= 1 else 255.0
    return white_level(levels)


def _middle_of_two(path: str | Path, levels: np.ndarray, values: np.ndarray) -> float:
    if len(values) == 2:
        return (float(values[0]) + float(values[1])) / 2
    value, white = float(values[0]), _white(levels, values)
    if 0 < value < white and len(values) == 1:
        raise ValueError(f"{path} has one level, {value:g} of {white:g}: is it black or white?")
    return white / 2


def _split_soft(
    path: str | Path,
    levels: np.ndarray,
    values: np.ndarray,
    counts: np.ndarray,
    image: ImageFile,
    white_is: str,
    notes: list[str],
) -> np.ndarray:
    white = _white(levels, values)
    low, high = float(values[0]), float(values[-1])
    if high - low < white / 2:
        raise ValueError(
            f"{path} has {len(values)} levels from {low:g} to {high:g}, of {white:g}: which are "
            "holes? Expected black and white"
        )
    noise = (_LOSSY_NOISE if image.format in LOSSY_FORMATS else _NOISE) * (high - low)
    clear = (values <= low + noise) | (values >= high - noise)
    if counts[~clear].sum() > _MANY * counts.sum():
        notes.append(
            f"{path} has {len(values)} gray levels, split in the middle: is it a photo, or one "
            "with strokes on it? A mask is black and white"
        )
        bright = levels > white / 2
        return bright if white_is == "holes" else ~bright
    if white_is == "holes":
        sure, faint = levels > low + noise, levels > low
    else:
        sure, faint = levels < high - noise, levels < high
    if np.array_equal(sure, faint):
        return sure
    return sure | (faint & (ndimage.maximum_filter(sure, 2 * _BESIDE + 1)))


def _fit(
    path: str | Path, holes: np.ndarray, mask: ImageFile, photo: ImageFile, notes: list[str]
) -> np.ndarray:
    """The holes in the photo's size, turned if they were drawn on the unturned photo."""
    size = photo.levels.shape[:2]
    if holes.shape == size:
        return holes
    if photo.orientation >= 5 and mask.orientation == 1 and holes.shape == size[::-1]:
        notes.append(f"EXIF turns the photo, so {path} is turned, too")
        return turn(holes, photo.orientation)
    wide, high = holes.shape[::-1], size[::-1]
    raise ValueError(
        f"{path} has {wide[0]}×{wide[1]} pixels (width × height), the photo {high[0]}×{high[1]}"
    )
