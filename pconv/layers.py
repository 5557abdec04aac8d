"""Partial convolution: a convolution that reads only valid pixels, and a padding scheme made of it.

Liu et al., "Image Inpainting for Irregular Holes Using Partial Convolutions", arXiv 1804.07723,
Eq. 1 and 2; Liu et al., "Partial Convolution based Padding", arXiv 1811.11718.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pconv.checks import check_parts

# The integer dtype as wide as a float of that many bytes.
_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def _multiply_bits(x: Tensor, mask: Tensor) -> Tensor:
    """The bits of `x`, as an integer, times `mask`, bool or that integer dtype, 0 or 1."""
    return (x.view(_INTEGERS[x.element_size()]) * mask).view(x.dtype)


class _Select(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, mask: Tensor) -> Tensor:
        ctx.save_for_backward(mask)
        return _multiply_bits(x, mask)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        return select(grad, *ctx.saved_tensors), None


def select(x: Tensor, mask: Tensor) -> Tensor:
    """`x` where `mask` is 1 and exactly 0 where it is 0, NaN or not; the same for the gradient.

    x: floating (N, C, *size). mask: bool, or 0 and 1 in any dtype, broadcastable to x.
    """
    if torch.compiler.is_compiling():  # a compiler fuses this, and ONNX has no cast of bits
        return torch.where(mask > 0, x, 0)
    # An integer product keeps or clears all bits, even those of NaN. On a CPU it is vectorized in
    # every memory format, unlike `where` with a broadcast mask, which takes 4 to 10 times as long.
    if mask.is_floating_point():
        mask = mask.to(_INTEGERS[x.element_size()])
    return _Select.apply(x, mask) if x.requires_grad else _multiply_bits(x, mask)


def binarize(mask: Tensor) -> Tensor:
    """A bool mask: True where `mask`, bool or floating, is > 0."""
    return mask if mask.dtype == torch.bool else mask > 0


def to_float(mask: Tensor) -> Tensor:
    """A bool mask as float32, contiguous: one channel may count as channels-last, which is slow."""
    return mask.to(torch.float32, memory_format=torch.contiguous_format)


def cast_for_autocast(x: Tensor) -> Tensor:
    """`x` in the dtype in which autocast lets a convolution read it."""
    device = x.device.type
    if not torch.is_autocast_enabled(device) or x.dtype == torch.float64:
        return x
    return x.to(torch.get_autocast_dtype(device))


class _PartialConv:
    """What the 1-d, 2-d and 3-d layers share. It comes before `nn.Conv1d/2d/3d` in their bases."""

    def reset_parameters(self) -> None:
        """Called at the end of `nn.Conv2d.__init__`, whose signature so stays as it is."""
        super().reset_parameters()
        if self.padding_mode != "zeros":
            raise ValueError(
                f"padding_mode={self.padding_mode!r} is not possible: what lies outside the image "
                "is a hole. Use padding_mode='zeros', or pad image and mask and use padding=0."
            )

    def forward(
        self,
        x: Tensor | Sequence[Tensor],
        mask: Tensor | Sequence[Tensor] | None = None,
        *,
        window: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Pixel update and mask update (arXiv 1804.07723, Eq. 1 and 2).

        Args:
            x: floating (N, C_in, *size), or for a skip connection a tuple of parts whose channels
                add up to C_in. What it holds in a hole does not matter.
            mask: bool or floating, > 0 where valid: (N or 1, 1, *size), shared by all features of
                x, or (N or 1, C, *size), one per feature. Parts have a tuple with one mask each.
            window: what `window_ratio` returns, for a caller that has computed it before the
                features. Then x must be 0 in its holes, and no mask is needed.

        Returns:
            y, (N, C_out, *size'), and the new mask, float32 (N or 1, 1, *size'), 1 where the window
            held a valid pixel. If groups > 1 and the features do not share one mask, the new mask
            is (N or 1, groups, *size'): `repeat_interleave` it to C_out for a next layer.

        Raises:
            TypeError: for a mask that is missing or of integers, and for an image of integers.
            ValueError: for sizes, channels, devices or numbers of parts that do not fit.
        """
        if window is not None:
            x = x if isinstance(x, Tensor) else torch.cat(x, 1)  # (N, C_in, *size)
            return self.update_pixels(x, *window), window[1]
        parts, masks = self.check_inputs(x, mask)
        masks = [binarize(part_mask) for part_mask in masks]
        # Cast first: the passes over half the bytes take half the time.
        parts = [select(cast_for_autocast(part), valid) for part, valid in zip(parts, masks)]
        masks = [to_float(part_mask) for part_mask in masks]
        channels = [part.shape[1] for part in parts]
        ratio, new_mask = self.window_ratio(masks, channels, parts[0].dtype)
        x = torch.cat(parts, 1) if len(parts) > 1 else parts[0]  # (N, C_in, *size)
        return self.update_pixels(x, ratio, new_mask), new_mask

    def window_ratio(
        self, masks: Sequence[Tensor], channels: Sequence[int], dtype: torch.dtype = torch.float32
    ) -> tuple[Tensor, Tensor]:
        """The mask's side of a layer: sum(1)/sum(M) and the new mask; no feature is needed for it.

        Args:
            masks: float32, 0 or 1, one per part, shaped as in `forward`.
            channels: how many features each part has.
            dtype: of the features; the ratio of float64 features is float64.

        Returns:
            The ratio, float32 or wider, 0 where the window holds no valid pixel, and the new mask,
            float32. Both are (N or 1, 1 or groups, *size').
        """
        total, full = self.window_sum(masks, channels)
        new_mask = total.clamp(max=1)
        if dtype == torch.float64:
            total = total.double()
        return new_mask * full / total.clamp_(min=1), new_mask

    def window_sum(self, masks: Sequence[Tensor], channels: Sequence[int]) -> tuple[Tensor, int]:
        """sum(M) and sum(1) of each window; masks, channels: as in `window_ratio`.

        The sums are float32 (N or 1, 1 or groups, *size'). A factor that all features share, such
        as their number where they share one mask, is left out of both: it cancels in the ratio.
        """
        counts, features = masks[0], 1
        if len(masks) > 1 or counts.shape[1] > 1:
            counts, features = self._count_features(masks, channels)
        return self._sum_windows(counts), features * math.prod(self.kernel_size)

    def _count_features(self, masks, channels) -> tuple[Tensor, int]:
        """Valid features per pixel, (N or 1, 1 or groups, *size), and how many there can be."""
        pairs = list(zip(masks, channels, strict=True))
        if self.groups > 1:
            batch = max(mask.shape[0] for mask in masks)
            masks = [mask.expand(batch, count, *mask.shape[2:]) for mask, count in pairs]
            grouped = torch.cat(masks, 1).unflatten(1, (self.groups, -1))  # (N, G, C/G, *size)
            return grouped.sum(2), self.in_channels // self.groups
        weights = [count // mask.shape[1] for mask, count in pairs]  # of one channel of each mask
        divisor = math.gcd(*weights)
        masks = [mask if mask.shape[1] == 1 else mask.sum(1, keepdim=True) for mask in masks]
        smallest, *others = sorted(range(len(masks)), key=weights.__getitem__)
        counts = masks[smallest]  # (N, 1, *size)
        if weights[smallest] > divisor:
            counts = counts * (weights[smallest] // divisor)
        for i in others:
            counts = torch.add(counts, masks[i], alpha=weights[i] // divisor)
        return counts, sum(channels) // divisor

    def _sum_windows(self, counts: Tensor) -> Tensor:
        """The sum over each window, in float32: half precision counts exactly to 2048 only."""
        kernel, padding, groups = self.kernel_size, self.padding, counts.shape[1]
        if len(kernel) == 2 and groups == 1 and self.dilation == (1, 1) and padding != "same":
            padding = (0, 0) if padding == "valid" else padding
            if 2 * padding[0] <= kernel[0] and 2 * padding[1] <= kernel[1]:
                if torch.compiler.is_exporting():  # ONNX has no pooling that adds up
                    mean = F.avg_pool2d(counts, kernel, self.stride, padding)
                    return (mean * math.prod(kernel)).round()
                return F.avg_pool2d(counts, kernel, self.stride, padding, divisor_override=1)
        box = counts.new_ones(groups, 1, *kernel)
        with torch.autocast(counts.device.type, enabled=False):
            total = self._convolution(
                counts, box, None, self.stride, self.padding, self.dilation, groups
            )
        return total.round_()  # a sum of ones, whatever a Winograd or FFT convolution rounds it to

    def update_pixels(self, x: Tensor, ratio: Tensor, new_mask: Tensor) -> Tensor:
        """W x * ratio + b * new_mask (Eq. 1), in the dtype of W x: so AMP keeps its memory gain.

        x: floating (N, C_in, *size), 0 in its holes. ratio, new_mask: as `window_ratio` returns
        them. Returns (N, C_out, *size').
        """
        y = self._convolve(x)
        groups = ratio.shape[1]
        if groups > 1:  # group g makes the C_out/G output channels from g * C_out/G on
            ratio = ratio.repeat_interleave(self.out_channels // groups, 1)  # (N, C_out, *size')
            new_mask = new_mask.repeat_interleave(self.out_channels // groups, 1)
        if y.dtype == torch.float16 and math.prod(self.kernel_size) * self.in_channels > 65504:
            y = (y.float() * ratio).to(y.dtype)  # the ratio may be larger than float16 can hold
        else:
            y = y.mul_(ratio.to(y.dtype))  # in place: the backward pass does not need W x
        if self.bias is None:
            return y
        bias = self.bias.view(1, -1, *(1 for _ in self.kernel_size))
        return y.addcmul_(bias.to(y.dtype), new_mask.to(y.dtype))

    def _convolve(self, x: Tensor) -> Tensor:
        """W x, without the bias."""
        # On a CPU, oneDNN leaves parts of the weight's BF16 gradient unwritten where the image is
        # narrower than the stride, as at the bottom of a deep U-Net (torch 2.9 to 2.15).
        if x.dtype != torch.bfloat16 or x.device.type != "cpu" or x.shape[-1] >= self.stride[-1]:
            return self._conv_forward(x, self.weight, None)
        with torch.autocast("cpu", enabled=False):
            return self._conv_forward(x.float(), self.weight.float(), None).to(x.dtype)

    def check_inputs(self, x, mask) -> tuple[list[Tensor], list[Tensor]]:
        """The parts of x and their masks, if they fit this layer; raises as `forward`."""
        parts = [x] if isinstance(x, Tensor) else list(x)
        masks = [mask] if isinstance(mask, Tensor) or mask is None else list(mask)
        check_parts(self, parts, masks)
        return parts, masks


class PartialConv1d(_PartialConv, nn.Conv1d):
    """Partial convolution of a signal with gaps, (N, C, L): see PartialConv2d."""

    _convolution = staticmethod(F.conv1d)


class PartialConv2d(_PartialConv, nn.Conv2d):
    """Partial convolution (arXiv 1804.07723, Eq. 1 and 2): `y, new_mask = conv(x, mask)`.

    Takes the arguments of `nn.Conv2d` and loads its state_dict. With sums over the window and all
    features,

        y = W (x * M) * sum(1) / sum(M) + b,  new_mask = 1   where sum(M) > 0
        y = 0,                                new_mask = 0   elsewhere

    There is no epsilon. What x holds in a hole never matters, NaN and infinity included.

    x: floating (N, C_in, H, W). mask: bool or floating (N or 1, 1 or C_in, H, W), > 0 where valid.
    A skip connection gives both as tuples of parts. Raises ValueError for a padding_mode other than
    "zeros"; for the errors of a call see `forward`.
    """

    _convolution = staticmethod(F.conv2d)


class PartialConv3d(_PartialConv, nn.Conv3d):
    """Partial convolution of a volume with unknown voxels, (N, C, D, H, W): see PartialConv2d."""

    _convolution = staticmethod(F.conv3d)


class PartialPaddingConv2d(_PartialConv, nn.Conv2d):
    """Partial convolution as a padding scheme (arXiv 1811.11718): `y = conv(x)`.

    A drop-in for `nn.Conv2d`. The image is all valid and its zero padding is the hole: the sum over
    a window at the border is scaled up by (window size) / (pixels seen), for a 3x3 kernel by 1.5
    at an edge and 2.25 at a corner.

    x: floating (N, C_in, H, W) -> y (N, C_out, H', W'). Raises as PartialConv2d.
    """

    _convolution = staticmethod(F.conv2d)

    def forward(self, x: Tensor) -> Tensor:
        ones = torch.ones(1, 1, *x.shape[2:], device=x.device)
        self.check_inputs(x, ones)
        ratio, new_mask = self.window_ratio([ones], [self.in_channels], x.dtype)
        return self.update_pixels(cast_for_autocast(x), ratio, new_mask)


def use_partial_padding(model: nn.Module) -> nn.Module:
    """Makes every zero-padded `nn.Conv2d` in `model` a PartialPaddingConv2d, and returns the model.

    It is changed in place: weights, state_dict keys, hooks and the module objects stay. Unpadded
    convolutions are not changed (nothing would differ), nor are subclasses of `nn.Conv2d`.
    """
    for module in model.modules():
        if (
            type(module) is nn.Conv2d
            and module.padding_mode == "zeros"
            and any(module._reversed_padding_repeated_twice)
        ):
            module.__class__ = PartialPaddingConv2d
    return model
