"""A large photo filled in tiles, so that cost and memory follow the holes, not the photo."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LARGEST = 1024 * 1024  # pixels that are filled in one pass
LARGEST_TEXTURE = 400 * 400  # the same where every cell is compared with every other
BLOCK = 128  # pixels per side of what is kept of a tile
CONTEXT = 96  # pixels that a tile sees around its block
DEEP = 64  # pixels: farther from all that is known, a hole is filled at half the resolution first
_CELL = 8  # pixels: how finely it is told what is deep


def fill(model: nn.Module, image: Tensor, mask: Tensor) -> Tensor:
    """The model's output, of any size.

    A small photo is filled in one pass. Of a large one, what lies deep in a hole comes from the
    same photo at half the resolution; the rest is filled tile by tile, each seeing those before it.

    Args:
        model: image, mask -> image.
        image: floating (1, C, H, W); what it holds in its holes does not matter.
        mask: bool (1, 1, H, W), True where valid.

    Returns:
        (1, C, H, W), to be used in the holes.
    """
    largest = LARGEST_TEXTURE if getattr(model, "copy_texture", False) else LARGEST
    if image.shape[2] * image.shape[3] <= largest or not mask.any():
        return model(image, mask)
    deep = _find_deep(mask)
    filled = torch.where(mask, image, 0)
    if deep.any():
        small = fill(model, *_halve(filled, mask))
        enlarged = F.interpolate(small, size=image.shape[2:], mode="bilinear")
        filled = torch.where(deep, enlarged.to(image.dtype), filled)
        mask = mask | deep
    known = mask.clone()
    for block, tile, inner in _tiles_with_holes(mask):
        output = model(filled[tile], known[tile])[inner]
        filled[block] = torch.where(known[block], filled[block], output)
        known[block] = True
    return filled


def _find_deep(mask: Tensor) -> Tensor:
    """The cells of a hole that lie DEEP or more pixels from what is known: bool (1, 1, H, W)."""
    cells = F.max_pool2d(mask.float(), _CELL, ceil_mode=True)
    reach = DEEP // _CELL
    near = F.max_pool2d(cells, 2 * reach + 1, stride=1, padding=reach)
    near = F.interpolate(near, scale_factor=_CELL)[:, :, : mask.shape[2], : mask.shape[3]]
    return near == 0


def _halve(known: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Half the resolution: each pixel is the mean of the valid ones of 2x2, and so is the mask."""
    fraction = F.avg_pool2d(mask.to(known.dtype), 2, ceil_mode=True)
    mean = F.avg_pool2d(known, 2, ceil_mode=True) / fraction.clamp(min=0.25)
    return mean, fraction > 0


def _tiles_with_holes(mask: Tensor):
    """Yields (block, tile, inner) slices for each block with a hole.

    `tile` is the block with its context; `inner` is where the block lies in its tile.
    """
    height, width = mask.shape[2:]
    for top in range(0, height, BLOCK):
        for left in range(0, width, BLOCK):
            bottom, right = min(top + BLOCK, height), min(left + BLOCK, width)
            block = (..., slice(top, bottom), slice(left, right))
            if mask[block].all():
                continue
            above, before = max(0, top - CONTEXT), max(0, left - CONTEXT)
            tile = (..., slice(above, bottom + CONTEXT), slice(before, right + CONTEXT))
            inner = (..., slice(top - above, bottom - above), slice(left - before, right - before))
            yield block, tile, inner
