"""Checks of what a caller passes, by shape and dtype only, so that no device is waited for."""

from collections.abc import Sequence

import torch
from torch import Tensor


def check_mask_dtype(mask: Tensor) -> None:
    """Raises TypeError for a mask of integers, which may be 0 and 1 or 0 and 255."""
    if not (mask.is_floating_point() or mask.dtype == torch.bool):
        raise TypeError(
            f"mask is {mask.dtype}, 0/1 or 0/255? expected bool or floating, 1 = valid: mask > 0"
        )


def check_parts(layer, parts: Sequence[Tensor], masks: Sequence[Tensor]) -> None:
    """Checks the input of a partial convolution.

    Args:
        layer: has kernel_size and in_channels.
        parts: of x, (N, C_i, *size), whose channels add up to in_channels.
        masks: one per part, (N or 1, 1 or C_i, *size).

    Raises:
        TypeError, ValueError: with what is wrong, what was expected, and the fix.
    """
    name = type(layer).__name__
    if masks[0] is None:
        raise TypeError(f"{name} needs a mask: layer(x, mask), 1 = valid, 0 = hole, (N, 1, *size)")
    if len(parts) != len(masks):
        raise ValueError(
            f"{name}: {len(parts)} part(s) of x but {len(masks)} mask(s): one mask per part"
        )
    dims = len(layer.kernel_size) + 2
    channels = 0
    for part, mask in zip(parts, masks):
        _check_part(name, part, mask, dims)
        channels += part.shape[1]
    first = parts[0].shape
    if any((part.shape[0], part.shape[2:]) != (first[0], first[2:]) for part in parts[1:]):
        shapes = [tuple(part.shape) for part in parts]
        raise ValueError(f"{name}: parts of shapes {shapes} differ in batch or size")
    if channels != layer.in_channels:
        where = f"{channels} channels in {len(parts)} part(s)"
        raise ValueError(f"{name}: x has {where}; expected {layer.in_channels}")


def _check_part(name: str, x: Tensor, mask: Tensor, dims: int) -> None:
    """Raises TypeError or ValueError where one part of x and its mask do not fit."""
    size, mask_size = x.shape, mask.shape
    if not x.is_floating_point():
        raise TypeError(
            f"{name}: x is {x.dtype}; expected a floating image: x.float() / 255 for bytes"
        )
    if len(size) != dims:
        raise ValueError(
            f"{name}: x has shape {tuple(size)}; expected {dims} dimensions, (N, C, *size): "
            "add the batch with x[None]"
        )
    check_mask_dtype(mask)
    if mask.device != x.device:
        raise ValueError(
            f"{name}: x is on {x.device} but its mask on {mask.device}: mask.to(x.device)"
        )
    if mask_size[2:] != size[2:]:
        raise ValueError(
            f"{name}: mask has shape {tuple(mask_size)}; expected (N, 1, *size) of x's size "
            f"{tuple(size[2:])}, as x has shape {tuple(size)}"
        )
    if mask_size[0] != size[0] and mask_size[0] != 1:  # in this order an export stays general
        raise ValueError(f"{name}: mask is for a batch of {mask_size[0]}, x has {size[0]}; or 1")
    if mask_size[1] != size[1] and mask_size[1] != 1:
        expected = f"expected 1, or {size[1]}, one per feature"
        raise ValueError(f"{name}: mask has {mask_size[1]} channels; {expected}")


def check_images(output: Tensor, target: Tensor, mask: Tensor) -> None:
    """Raises ValueError unless output and target are (N, C, H, W) and mask (N or 1, 1, H, W)."""
    mask_fits = mask.shape[1:] == (1, *target.shape[2:]) and mask.shape[0] in (1, len(target))
    if output.shape != target.shape or not mask_fits:
        raise ValueError(
            f"output {tuple(output.shape)}, target {tuple(target.shape)} and mask "
            f"{tuple(mask.shape)} do not fit; expected (N, C, H, W) twice and (N or 1, 1, H, W)"
        )


def check_training_images(images: Tensor) -> None:
    """Raises TypeError or ValueError unless images are floating and about in [0, 1].

    The device is waited for.
    """
    if not images.is_floating_point():
        raise TypeError(
            f"images are {images.dtype}; expected floating, in [0, 1]: images.float() / 255"
        )
    low, high = (float(value) for value in images.aminmax())
    if low < -0.5 or high > 1.5:
        raise ValueError(f"images range from {low:g} to {high:g}; expected [0, 1]")


def check_training_batch(model, batch: int, height: int, width: int) -> None:
    """Raises ValueError, by name, for a batch that leaves a training batch norm one value.

    Its variance would be 0.

    Args:
        model: a PConvUNet.
        batch: images.
        height, width: their pixels.
    """
    sizes = [(height, width)]
    for _ in model.encoder:
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    blocks = zip((*model.encoder, *model.decoder), (*sizes[1:], *sizes[-2::-1]), strict=True)
    for index, (block, (h, w)) in enumerate(blocks):
        if block.norm is not None and block.norm.training and batch * h * w == 1:
            half, level = divmod(index, len(model.encoder))
            name = f"{('encoder', 'decoder')[half]}.{level}"
            raise ValueError(
                f"{name}: a training batch of {batch} image of {height}x{width} pixels leaves "
                "1 value per feature, too few for batch norm. Use a larger batch or image, "
                "fewer widths, or model.eval()"
            )
