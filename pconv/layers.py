"""Partial convolution: a convolution that reads only valid pixels, and the padding scheme made of it.

Liu et al., "Image Inpainting for Irregular Holes Using Partial Convolutions", arXiv 1804.07723, Eq. 1 and 2;
Liu et al., "Partial Convolution based Padding", arXiv 1811.11718.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # the integer dtype as wide as a float of that many bytes


class _Select(torch.autograd.Function):
    """`torch.where(valid, x, 0)` as a bitwise AND with all ones or all zeros, whatever bits `x` holds, NaN too.

    PyTorch vectorises the AND on every device and memory format; on a CPU `where` with a broadcast mask is not and
    costs 4 to 10 times as much.
    """

    @staticmethod
    def forward(ctx, x: Tensor, bits: Tensor) -> Tensor:
        ctx.save_for_backward(bits)
        return (x.view(bits.dtype) & bits).view(x.dtype)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        return _Select.apply(grad, *ctx.saved_tensors), None


def select(x: Tensor, mask: Tensor) -> Tensor:
    """`x` where `mask` is 1 and exactly 0 where it is 0, forward and backward; a hole may hold NaN or infinity.

    x: floating, (N, C, ...). mask: bool, or float32 of 0 and 1, broadcastable to x. Returns x's shape and dtype.
    """
    return _Select.apply(x, mask.to(_BITS[x.element_size()]).neg())  # -1 is all ones


def check_mask_dtype(mask: Tensor) -> None:
    """Raises TypeError for a mask of integers, which may be 0 and 1 or 0 and 255."""
    if not (mask.is_floating_point() or mask.dtype == torch.bool):
        raise TypeError(f"mask is {mask.dtype}, 0/1 or 0/255? expected bool or floating, 1 = valid: mask > 0")


def _lowered(x: Tensor) -> Tensor:
    """x in the dtype in which autocast lets a convolution read it."""
    device = x.device.type
    if not torch.is_autocast_enabled(device) or x.dtype == torch.float64:
        return x
    return x.to(torch.get_autocast_dtype(device))


class _PartialConv:
    """What the 1-d, 2-d and 3-d layers share; stands before `nn.Conv1d/2d/3d` among a layer's bases."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: int | tuple[int, ...] | str = 0,
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device=None,
        dtype=None,
    ):
        if padding_mode != "zeros":
            raise ValueError(
                f"padding_mode={padding_mode!r} is not possible: a partial convolution treats what lies outside the "
                "image as a hole. Use padding_mode='zeros', or pad image and mask yourself and use padding=0."
            )
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype
        )

    def forward(self, x, mask=None, *, selected: bool = False) -> tuple[Tensor, Tensor]:
        """Pixel update and mask update (arXiv 1804.07723, Eq. 1 and 2).

        x: floating (N, C_in, *size), or a tuple of parts whose channels add up to C_in (a skip connection).
        mask: bool or floating, > 0 where valid: (N or 1, 1, *size), shared by all features of x, or (N or 1, C, *size),
            one a feature; for parts, a tuple with one mask a part.
        selected: x is 0 in its holes already and mask is float32, 0 or 1, as a layer returned it; saves passes.

        Returns y (N, C_out, *size') and the new mask, float32 (N or 1, 1, *size'), 1 where the window held a valid
        pixel; (N or 1, groups, *size') if groups > 1 and the features do not share one mask (`repeat_interleave` it to
        C_out for a next layer).

        Raises TypeError for a mask that is missing or of integers and for an image of integers; ValueError for sizes,
        channels, devices or numbers of parts that do not fit.
        """
        parts, masks = self._checked(x, mask)
        parts = [_lowered(part) for part in parts]  # before the passes, not after
        if not selected:
            masks = [(part_mask > 0).float() for part_mask in masks]
            parts = [select(part, part_mask) for part, part_mask in zip(parts, masks, strict=True)]
        ratio, new_mask = self.window_ratio(masks, [part.shape[1] for part in parts], parts[0].dtype)
        return self._renormalised(torch.cat(parts, 1) if len(parts) > 1 else parts[0], ratio, new_mask), new_mask

    def window_ratio(self, masks: Sequence[Tensor], channels: Sequence[int], dtype=torch.float32):
        """The mask's side of a layer: sum(1)/sum(M) and the new mask, by one convolution with one output row a group.

        masks: float32, 0 or 1, one a part, shaped as in `forward`; channels: the features of each part; dtype: theirs.
        Returns ratio, float32 or wider, 0 where the window sum is 0, and new_mask, float32, both (N or 1, 1 or groups,
        *size'). Summed in float32, outside autocast: half precision counts exactly to 2048 only.
        """
        groups, window = 1, math.prod(self.kernel_size)
        if len(masks) == 1 and masks[0].shape[1] == 1:
            counts = masks[0]  # one mask for all features: their number cancels out of the ratio
        else:  # the valid features at each pixel, of all features or of each group's own
            window *= self.in_channels // self.groups
            if self.groups == 1:
                counts = sum(
                    mask * count if mask.shape[1] == 1 else mask.sum(1, keepdim=True)
                    for mask, count in zip(masks, channels, strict=True)
                )
            else:
                groups, batch = self.groups, max(mask.shape[0] for mask in masks)
                masks = [mask.expand(batch, n, *mask.shape[2:]) for mask, n in zip(masks, channels, strict=True)]
                counts = torch.cat(masks, 1).unflatten(1, (groups, -1)).sum(2)
        box = counts.new_ones(groups, 1, *self.kernel_size)
        with torch.autocast(counts.device.type, enabled=False):
            total = self._convolution(counts, box, None, self.stride, self.padding, self.dilation, groups)
        total = total.round_()  # a sum of ones, whatever the rounding of a Winograd or FFT convolution
        new_mask = total.clamp(max=1)
        total = total.to(torch.promote_types(dtype, total.dtype))
        return new_mask * window / total.clamp_(min=1), new_mask

    def _renormalised(self, x: Tensor, ratio: Tensor, valid: Tensor) -> Tensor:
        """W x * ratio + b * valid (Eq. 1), in the dtype of W x, so that AMP keeps its memory gain."""
        y = self._weighted(x)
        groups = ratio.shape[1]
        if groups > 1:  # group g makes the output channels from g * C_out/G on
            ratio, valid = (t.repeat_interleave(self.out_channels // groups, 1) for t in (ratio, valid))
        if y.dtype == torch.float16 and math.prod(self.kernel_size) * self.in_channels > 65504:
            y = (y.float() * ratio).to(y.dtype)  # a ratio may be larger than float16 can hold
        else:
            y = y.mul_(ratio.to(y.dtype))  # in place: a convolution does not need its output for the backward pass
        if self.bias is None:
            return y
        bias = self.bias.view(1, -1, *(1 for _ in self.kernel_size))
        return y.addcmul_(bias.to(y.dtype), valid.to(y.dtype))

    def _weighted(self, x: Tensor) -> Tensor:
        """W x. On a CPU, oneDNN leaves taps of the weight's BF16 gradient unwritten where the image is narrower than
        the stride, as at the bottom of a deep U-Net (torch 2.9 to 2.15): such a small one is convolved in float32.
        """
        if x.dtype != torch.bfloat16 or x.device.type != "cpu" or x.shape[-1] >= self.stride[-1]:
            return self._conv_forward(x, self.weight, None)
        with torch.autocast("cpu", enabled=False):
            return self._conv_forward(x.float(), self.weight.float(), None).to(x.dtype)

    def _checked(self, x, mask) -> tuple[list[Tensor], list[Tensor]]:
        """The parts and their masks, or an error that says what is wrong; looks at shapes and dtypes only."""
        name = type(self).__name__
        if mask is None:
            raise TypeError(f"{name} needs a mask: layer(x, mask), 1 = valid, 0 = hole, (N, 1, *size)")
        parts, masks = ([t] if isinstance(t, Tensor) else list(t) for t in (x, mask))
        if len(parts) != len(masks):
            raise ValueError(f"{name}: {len(parts)} part(s) of x but {len(masks)} mask(s); give one mask a part")
        for part, part_mask in zip(parts, masks, strict=True):
            if not part.is_floating_point():
                raise TypeError(f"{name}: x is {part.dtype}; expected a floating image: x.float() / 255 for bytes")
            if part.ndim != len(self.kernel_size) + 2:
                raise ValueError(
                    f"{name}: x has shape {tuple(part.shape)}; expected {len(self.kernel_size) + 2} dimensions, "
                    "(N, C, *size): add the batch with x[None]"
                )
            check_mask_dtype(part_mask)
            if part_mask.device != part.device:
                raise ValueError(f"{name}: x is on {part.device} but its mask on {part_mask.device}: mask.to(x.device)")
            if part_mask.ndim != part.ndim or part_mask.shape[2:] != part.shape[2:]:
                raise ValueError(
                    f"{name}: mask has shape {tuple(part_mask.shape)}; expected (N, 1, *size) of x's size "
                    f"{tuple(part.shape[2:])}, as x has shape {tuple(part.shape)}"
                )
            if part_mask.shape[0] not in (1, part.shape[0]):
                raise ValueError(f"{name}: mask is for a batch of {part_mask.shape[0]}, x has {part.shape[0]}; or 1")
            if part_mask.shape[1] not in (1, part.shape[1]):
                raise ValueError(
                    f"{name}: mask has {part_mask.shape[1]} channels; expected 1, or {part.shape[1]}, one a feature"
                )
        if any(part.shape[:1] + part.shape[2:] != parts[0].shape[:1] + parts[0].shape[2:] for part in parts):
            raise ValueError(f"{name}: parts of shapes {[tuple(part.shape) for part in parts]} differ in batch or size")
        channels = sum(part.shape[1] for part in parts)
        if channels != self.in_channels:
            raise ValueError(f"{name}: x has {channels} channels in {len(parts)} part(s); expected {self.in_channels}")
        return parts, masks


class PartialConv1d(_PartialConv, nn.Conv1d):
    """Partial convolution of a signal with gaps, (N, C, L): `y, new_mask = conv(x, mask)`. See PartialConv2d."""

    _convolution = staticmethod(F.conv1d)


class PartialConv2d(_PartialConv, nn.Conv2d):
    """Partial convolution (arXiv 1804.07723, Eq. 1 and 2): `y, new_mask = conv(x, mask)`.

    Takes the arguments of `nn.Conv2d` and loads its state_dict. With sums over the window and all features,

        y = W (x * M) * sum(1) / sum(M) + b,  new_mask = 1   where sum(M) > 0
        y = 0,                                new_mask = 0   elsewhere

    x: floating (N, C_in, H, W); mask: bool or floating (N or 1, 1 or C_in, H, W), > 0 where valid; a skip connection
    gives both as tuples of parts. What x holds in a hole never matters, NaN and infinity included. There is no epsilon.
    Raises ValueError for a padding_mode other than "zeros"; for the errors of a call see `forward`.
    """

    _convolution = staticmethod(F.conv2d)


class PartialConv3d(_PartialConv, nn.Conv3d):
    """Partial convolution of a volume with unknown voxels, (N, C, D, H, W): see PartialConv2d."""

    _convolution = staticmethod(F.conv3d)


class PartialPaddingConv2d(_PartialConv, nn.Conv2d):
    """Partial convolution as a padding scheme (arXiv 1811.11718): `y = conv(x)`, a drop-in for `nn.Conv2d`.

    The image is all valid and its zero padding is the hole: where the window hangs over the border, the sum over the
    pixels it does see is scaled up by (window size) / (pixels seen): 1.5 at an edge, 2.25 at a corner for a 3x3 kernel.
    x: floating (N, C_in, H, W) -> y (N, C_out, H', W'). Raises as PartialConv2d.
    """

    _convolution = staticmethod(F.conv2d)

    def forward(self, x: Tensor) -> Tensor:
        ones = torch.ones(1, 1, *x.shape[2:], device=x.device)
        self._checked(x, ones)
        ratio, valid = self.window_ratio([ones], [self.in_channels], x.dtype)
        return self._renormalised(_lowered(x), ratio, valid)


def use_partial_padding(model: nn.Module) -> nn.Module:
    """Makes every zero-padded `nn.Conv2d` in `model` a PartialPaddingConv2d, in place, and returns the model.

    Weights, state_dict keys, hooks and the module objects stay; convolutions without padding are left alone (nothing
    would change), as are subclasses of `nn.Conv2d`, which have a meaning of their own.
    """
    for module in model.modules():
        if (
            type(module) is nn.Conv2d
            and module.padding_mode == "zeros"
            and any(module._reversed_padding_repeated_twice)
        ):
            module.__class__ = PartialPaddingConv2d
    return model
