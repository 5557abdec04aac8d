"""A photo of any size filled so that time and memory follow its holes.

What a hole needs is cut out; in a large cut, tiles are filled one by one, each seeing those before
it. What lies so deep in a hole that a tile knows little around it comes from the same cut at half
the resolution, where it is half as deep.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F

from pconv.interpolation import halve

LARGEST = 1024 * 1024  # pixels that are filled in one pass
LARGEST_TEXTURE = 400 * 400  # the same where every cell is compared with every other
BLOCK = 128  # pixels per side, at most, of what is kept of a tile
CONTEXT = 32  # pixels that a tile sees around its block
MARGIN = 64  # pixels that are cut out around holes
DEEP = 32  # pixels: farther from all that is known, a hole is filled at half the resolution first
CELL = 8  # pixels: how finely it is told where holes are

Box = tuple[slice, slice]  # rows, columns


class Step(NamedTuple):
    """What is done at one resolution.

    mask: bool (1, 1, H, W), True where known from the start.
    deep: bool (1, 1, H, W), True where the half resolution fills; None where all is filled here.
    tiles: (block, tile) boxes in order; the block of each tile is kept.
    """

    mask: Tensor
    deep: Tensor | None
    tiles: list[tuple[Box, Box]]


def find_regions(holes: np.ndarray, largest: int) -> list[Box]:
    """What to cut out of a photo: boxes that hold all holes, with as much around as they need.

    A photo that fits in one pass is not cut.

    Args:
        holes: bool (H, W).
        largest: pixels that fit in one pass.
    """
    height, width = holes.shape
    if height * width <= largest:
        return [np.s_[0:height, 0:width]]
    cells = _by_cells(holes, np.logical_or)
    depth = ndimage.distance_transform_edt(_by_cells(holes, np.logical_and)) * CELL
    near = ndimage.maximum_filter(cells, 2 * (MARGIN // CELL) + 1)
    groups, _ = ndimage.label(near, np.ones((3, 3)))
    regions = []
    for rows, columns in ndimage.find_objects(groups):
        halvings = max(0, math.ceil(math.log2(max(1, depth[rows, columns].max()) / DEEP)))
        more = MARGIN * (2**halvings - 1)
        regions.append((_grow(rows, CELL, more, height), _grow(columns, CELL, more, width)))
    return regions


def make_plan(mask: Tensor, largest: int) -> list[Step]:
    """The steps that fill a cut, from the full resolution to the coarsest.

    Args:
        mask: bool (1, 1, H, W), True where valid.
        largest: pixels that fit in one pass.
    """
    steps = []
    while mask.shape[2] * mask.shape[3] > largest:
        deep = _find_deep(mask)
        holes = (~(mask | deep))[0, 0].cpu().numpy()
        blocks = _split(holes, np.s_[0 : holes.shape[0], 0 : holes.shape[1]])
        tiles = [(block, _add_context(block, holes.shape)) for block in blocks]
        if not deep.any():
            return [*steps, Step(mask, None, tiles)]
        steps.append(Step(mask, deep, tiles))
        mask = F.max_pool2d(mask.float(), 2, ceil_mode=True) > 0
    whole = np.s_[0 : mask.shape[2], 0 : mask.shape[3]]
    return [*steps, Step(mask, None, [(whole, whole)])]


def fill(
    model: nn.Module, image: Tensor, plan: list[Step], on_tile: Callable[[], object] = lambda: None
) -> Tensor:
    """The model's output for one cut, to be used in its holes.

    Args:
        model: image, mask -> image.
        image: floating (1, C, H, W); what it holds in its holes does not matter.
        plan: as `make_plan` made it of its mask.
        on_tile: called after every tile.

    Returns:
        (1, C, H, W).
    """
    image = torch.where(plan[0].mask, image, 0)
    images = [image]
    for step in plan[:-1]:
        images.append(halve(images[-1], step.mask.to(image.dtype))[0])
    image = coarse = None  # large ones are freed as soon as they can be
    for step in reversed(plan):
        filled, known = images.pop(), step.mask
        if step.deep is not None:
            enlarged = F.interpolate(coarse, size=filled.shape[2:], mode="bilinear")
            coarse = None
            torch.where(step.deep, enlarged, filled, out=filled)
            del enlarged
            known = known | step.deep
        known = known.clone()
        for block, tile in step.tiles:
            inner = tuple(_within(b, t) for b, t in zip(block, tile))
            output = model(filled[(..., *tile)], known[(..., *tile)])[(..., *inner)]
            block = (..., *block)
            filled[block] = torch.where(known[block], filled[block], output.to(filled.dtype))
            known[block] = True
            on_tile()
        coarse = filled
    return coarse


def _by_cells(holes: np.ndarray, combine: np.ufunc) -> np.ndarray:
    """`combine` of the pixels of every cell: bool (H / CELL, W / CELL), rounded up."""
    rows, columns = (np.arange(0, size, CELL) for size in holes.shape)
    return combine.reduceat(combine.reduceat(holes, rows, 0), columns, 1)


def _grow(cells: slice, scale: int, more: int, size: int) -> slice:
    return slice(max(0, cells.start * scale - more), min(size, cells.stop * scale + more))


def _find_deep(mask: Tensor) -> Tensor:
    """The cells of a hole that lie DEEP or more pixels from what is known: bool (1, 1, H, W)."""
    cells = F.max_pool2d(mask.float(), CELL, ceil_mode=True)
    reach = DEEP // CELL
    near = F.max_pool2d(cells, 2 * reach + 1, stride=1, padding=reach)
    near = F.interpolate(near, scale_factor=CELL)[:, :, : mask.shape[2], : mask.shape[3]]
    return near == 0


def _split(holes: np.ndarray, box: Box) -> Iterator[Box]:
    """Boxes of at most BLOCK pixels per side that hold all holes of `box`, and little else."""
    inside = holes[box]
    rows, columns = (np.flatnonzero(inside.any(axis)) for axis in (1, 0))
    if not len(rows):
        return
    top, left = box[0].start + rows[0], box[1].start + columns[0]
    bottom, right = box[0].start + rows[-1] + 1, box[1].start + columns[-1] + 1
    longer = max(bottom - top, right - left)
    if longer <= BLOCK:
        yield slice(top, bottom), slice(left, right)
        return
    pieces = math.ceil(longer / BLOCK)
    cut = longer * (pieces // 2) // pieces
    if longer == bottom - top:
        halves = np.s_[top : top + cut, left:right], np.s_[top + cut : bottom, left:right]
    else:
        halves = np.s_[top:bottom, left : left + cut], np.s_[top:bottom, left + cut : right]
    for half in halves:
        yield from _split(holes, half)


def _add_context(block: Box, size: tuple[int, int]) -> Box:
    return tuple(_grow(side, 1, CONTEXT, end) for side, end in zip(block, size))


def _within(inner: slice, outer: slice) -> slice:
    return slice(inner.start - outer.start, inner.stop - outer.start)
