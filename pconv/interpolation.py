"""Holes filled by interpolation: what a residual U-Net starts from."""

import torch
from torch import Tensor
from torch.nn import functional as F


def pull_push(image: Tensor, mask: Tensor, levels: int) -> Tensor:
    """Fills the holes by interpolation: Gortler et al., The Lumigraph, SIGGRAPH 1996, Section 3.4.

    Pull: each level is the mean of the valid pixels of a 2x2 window, a partial convolution with
    equal weights and stride 2. Push: a hole is taken from the level below, enlarged.

    Args:
        image: floating (N, C, H, W), 0 in its holes.
        mask: float (N or 1, 1, H, W), 0 or 1.
        levels: how many. Below the last one the mean of all valid pixels is taken.

    Returns:
        The image with its holes filled, (N, C, H, W).
    """
    if levels == 0:
        mean = image.sum((2, 3), keepdim=True) / mask.sum((2, 3), keepdim=True).clamp(min=1)
        return torch.where(mask > 0, image, mean)
    coarse = pull_push(*halve(image, mask), levels - 1)
    coarse = F.interpolate(coarse, size=image.shape[2:], mode="bilinear")
    return torch.where(mask > 0, image, coarse)


def halve(image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Half the resolution, rounded up: each pixel is the mean of the valid ones of 2x2, or 0.

    Args and result: image and mask as in `pull_push`; the mask is 1 where one of them is valid.
    """
    exporting = torch.compiler.is_exporting()
    if exporting:  # so that nothing depends on whether a size is even
        height, width = image.shape[2:]
        odd = 0, 2 * ((width + 1) // 2) - width, 0, 2 * ((height + 1) // 2) - height
        image, mask = F.pad(image, odd), F.pad(mask, odd)
    fraction = F.avg_pool2d(mask, 2, ceil_mode=not exporting)
    mean = F.avg_pool2d(image, 2, ceil_mode=not exporting)
    return mean / fraction.clamp(min=0.25), (fraction > 0).to(mask.dtype)
