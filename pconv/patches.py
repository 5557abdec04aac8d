"""Cells of 8x8 pixels and the patches around them: cut, put back, and compared with each other.

A patch is a cell with 4 pixels around it, 16x16 in all, so patches overlap. It is four quarters of
8x8 pixels, and four patches share a quarter.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

CELL = 8  # pixels per side
_PIXELS = (2 * CELL) ** 2  # of a patch
NEVER = 1e4  # taken from the logit of a cell that must not be copied from


def to_quarters(x: Tensor) -> Tensor:
    """Squares of 8x8 pixels, half a square off: (N, C, H, W) -> (N, C * 64, H/8 + 1, W/8 + 1)."""
    return F.pixel_unshuffle(F.pad(x, (4, 4, 4, 4)), CELL)  # outside is 0


def to_patches(x: Tensor) -> Tensor:
    """Overlapping patches of 16x16 pixels, one per cell: (N, C, H, W) -> (N, cells, 4 * C * 64).

    A patch is four quarters of 8x8 pixels, as pixel_unshuffle orders them. Outside is 0.
    """
    quarters = to_quarters(x)
    top, bottom = quarters[:, :, :-1], quarters[:, :, 1:]
    parts = [top[..., :-1], top[..., 1:], bottom[..., :-1], bottom[..., 1:]]
    return torch.cat(parts, 1).flatten(2).mT


def from_patches(patches: Tensor, height: int, width: int) -> Tensor:
    """The sum of overlapping patches, each times a window; the windows add up to 1.

    patches: (N, cells, 4 * C * 64) as `to_patches` makes them. height, width: in cells.
    """
    ramp = (torch.arange(2 * CELL, device=patches.device) + 0.5) / CELL
    ramp = torch.minimum(ramp, 2 - ramp).to(patches.dtype)  # up and down again
    window = (ramp[:, None] * ramp).view(2, CELL, 2, CELL).transpose(1, 2).reshape(4, 1, CELL**2)
    patches = patches.unflatten(2, (4, -1, CELL**2)) * window
    patches = patches.flatten(2).mT.unflatten(2, (height, width))  # (N, 4 * C * 64, H/8, W/8)
    places = ((0, 1, 0, 1), (1, 0, 0, 1), (0, 1, 1, 0), (1, 0, 1, 0))
    total = sum(F.pad(part, place) for part, place in zip(patches.chunk(4, 1), places))
    return F.pixel_shuffle(total, CELL)[:, :, 4:-4, 4:-4]


def log_distance(height: int, width: int, like: Tensor) -> Tensor:
    """log(1 + distance) of every two cells, in cells: (cells, cells)."""
    row, column = (torch.arange(size, device=like.device) for size in (height, width))
    squares = row[:, None] ** 2 + column**2  # how many rows and columns two cells are apart
    x = squares.to(like.dtype).sqrt().log1p()
    x = x[:, (column[:, None] - column).abs()].transpose(0, 1)  # (w, rows apart, w)
    x = x[:, (row[:, None] - row).abs()].transpose(0, 1)  # (h, w, h, w)
    return x.flatten(2).flatten(0, 1)


def compare_patches(known: Tensor, mask: Tensor, likeness: float) -> Tensor:
    """What the pixels say of a pair of patches, (N, cells, cells), to be added to its logit.

    A patch must know at least half of what the other lacks, so none is copied onto itself, and the
    more the better. Where both are known they should look alike: the mean squared difference.

    Args:
        known: (N, 3, H, W) in [0, 1], 0 in its holes; H and W are multiples of 8.
        mask: float32 or wider, (N, 1, H, W), 0 or 1.
        likeness: how much the difference counts.
    """
    valid = to_quarters(mask)  # (N, 64, H/8 + 1, W/8 + 1), 0 or 1
    both = compare_quarters(valid, valid)  # pixels that both know
    share = F.avg_pool2d(valid.mean(1), 2, 1).flatten(1)  # of each patch, known: (N, cells)
    lacks = _PIXELS * (1 - share[:, :, None])  # (N, cells, 1)
    # Of what one lacks, the other knows a whole number of pixels: a score for each, then looked up.
    number = torch.arange(_PIXELS + 1, device=mask.device)
    covered = number / lacks.clamp(min=1)  # (N, cells, 257)
    score = (2 * covered.clamp(min=1e-3).log() - NEVER * (covered < 0.5)) * (lacks > 0)
    known_to_other = _PIXELS * share[:, None] - both  # (N, cells, cells)
    score = score.gather(2, known_to_other.long())
    # In whole levels, 8 bits: sums of their products are exact in float32, whatever their order, so
    # that every library and device finds the same differences.
    x = to_quarters(((known * 255).round() - 128) * mask)
    squares = x.square().unflatten(1, (3, -1)).sum(1)  # (N, 64, H/8 + 1, W/8 + 1)
    # Σ m m' (x - x')² = Σ x² m' + Σ m x'² - 2 Σ x x', as x is 0 where m is
    left = torch.cat([squares, valid, x], 1)
    right = torch.cat([valid, squares, -2 * x], 1)
    difference = compare_quarters(left, right) / (255**2 * 3 * both.clamp(min=1))
    return score - likeness * difference * share[:, :, None] * (both > 4)


def compare_quarters(x: Tensor, y: Tensor) -> Tensor:
    """The product of each patch of x and each patch of y, (N, cells, cells).

    It is the sum of the products of their quarters, each of which is computed once, not four times.

    x, y: (N, K, H/8 + 1, W/8 + 1), K numbers per quarter.
    """
    grid = x.shape[2:]
    product = x.flatten(2).mT @ y.flatten(2)
    product = product.unflatten(2, grid).unflatten(1, grid)  # (N, *grid, *grid)
    product = product + _shift(product, 1, 0)
    product = product + _shift(product, 0, 1)
    product = F.pad(product, (0, -1) * 4)  # (N, H/8, W/8, H/8, W/8)
    return product.flatten(3).flatten(1, 2)


def neighbors_choice(choice: Tensor, height: int, width: int) -> Tensor:
    """The sum over the 8 neighbors of a cell of where their choice would continue in it.

    If the cell to the left copies cell j, it speaks for the cell to the right of j.
    choice: (N, cells, cells), a distribution per row. height, width: in cells.
    """
    x = choice.unflatten(2, (height, width)).unflatten(1, (height, width))  # (N, h, w, h, w)
    rows = x + _shift(x, 1, 0) + _shift(x, -1, 0)
    both = rows + _shift(rows, 0, 1) + _shift(rows, 0, -1)
    return (both - x).flatten(3).flatten(1, 2)


def _shift(x: Tensor, rows: int, columns: int) -> Tensor:
    """For each two cells, what x holds for those so far below and to the right of both; or 0.

    x: (N, h, w, h, w). One operation, as it takes as long as memory takes to be read and written.
    """
    return F.pad(x, (-columns, columns, -rows, rows) * 2)
