"""Fills a hole with patches that are copied from the known part of the photo.

No network and no training: the texture synthesis of Efros and Leung (ICCV 1999), patch by patch
from the rim inwards as Criminisi, Perez and Toyama do (IEEE TIP 2004), without their term for
edges.
"""

import numpy as np
import torch
from scipy.ndimage import binary_dilation, binary_erosion, uniform_filter
from torch.nn import functional as F

from pconv.photos import center_crop

LARGEST = 512 * 512  # pixels: each patch is compared with the whole photo


def exemplar_fill(
    photo: np.ndarray, holes: np.ndarray, size: int = 17, choices: int = 3, seed: int = 0
) -> np.ndarray:
    """The photo with its holes filled by copied patches.

    The patch that is filled next is the one on the rim of the hole of which most is known. It is
    compared with every patch that was known from the start, where it is known itself: the mean
    squared difference. What it lacks is copied from one of the best few.

    Args:
        photo: uint8 (H, W, 3), of at most 512x512 pixels.
        holes: bool (H, W), True = hole.
        size: of a patch, odd, in pixels.
        choices: how many of the best patches to draw from. With 1 the same patch follows itself.
        seed: of the draw.

    Returns:
        uint8 (H, W, 3).

    Raises ValueError for a larger photo, and if fewer than `choices` patches are known.
    """
    if holes.size > LARGEST:
        raise ValueError(f"{holes.size} pixels, at most {LARGEST}: cut out what is around the hole")
    filled, known, rng = photo.copy(), ~holes, np.random.default_rng(seed)
    around = size // 2
    sources = binary_erosion(known, np.ones((size, size)))[around:-around, around:-around]
    if sources.sum() < choices:
        raise ValueError(f"{sources.sum()} patches of {size}x{size} pixels are known: too few")
    searched = _searched(np.where(holes[:, :, None], np.uint8(0), photo))
    while not known.all():
        patch = _next_patch(known, size)
        distance = _distances(searched, filled[patch], known[patch])
        distance[~sources] = np.inf
        best = np.argsort(distance, axis=None, kind="stable")[:choices]
        row, column = np.unravel_index(rng.choice(best), distance.shape)
        missing = ~known[patch]
        filled[patch][missing] = photo[row : row + size, column : column + size][missing]
        known[patch] = True
    return filled


def _next_patch(known: np.ndarray, size: int) -> tuple[slice, slice]:
    """The patch around that pixel of the hole's rim around which most is known."""
    rim = ~known & binary_dilation(known, np.ones((3, 3)))
    share = uniform_filter(known.astype(np.float32), size, mode="constant")
    center = np.unravel_index(np.where(rim, share, -1).argmax(), rim.shape)
    starts = [min(max(c - size // 2, 0), n - size) for c, n in zip(center, known.shape)]
    return tuple(slice(start, start + size) for start in starts)


def _searched(photo: np.ndarray) -> torch.Tensor:
    """(1, 4, H, W): the colors, around 0, and the sum of their squares."""
    colors = torch.from_numpy(photo.astype(np.float32) / 255 - 0.5).permute(2, 0, 1)
    return torch.cat([colors, colors.square().sum(0, keepdim=True)])[None]


def _distances(searched: torch.Tensor, patch: np.ndarray, known: np.ndarray) -> np.ndarray:
    """How far each patch of the photo is from this one, where this one is known.

    Σ m (x - t)² = Σ m x² - 2 Σ m t x + Σ m t², and the last term is the same for all: left out. The
    rest is one convolution. Returns (H - size + 1, W - size + 1).
    """
    mask = torch.from_numpy(known.astype(np.float32))
    target = torch.from_numpy(patch.astype(np.float32) / 255 - 0.5).permute(2, 0, 1)
    kernel = torch.cat([-2 * target * mask, mask[None]])[None]  # (1, 4, size, size)
    return F.conv2d(searched, kernel)[0, 0].numpy()


def texture_photos(photos: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Textures to make holes in, by name, uint8 (256, 256, 3), of the bundled photos.

    Gravel, grass and brick are at half their size, so that a patch is larger than a stone.
    """
    halved = {name: center_crop(photos[name], 256) for name in ("gravel", "grass", "brick")}
    return {**halved, "fur": photos["chelsea"][:256, 44:300]}


def square_hole(width: int, center: tuple[int, int], size: int = 256) -> np.ndarray:
    """bool (size, size): a square hole, its center as (row, column)."""
    sides = [abs(np.arange(size) + 0.5 - at) < width / 2 for at in center]
    return sides[0][:, None] & sides[1]
