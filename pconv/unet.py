"""The inpainting U-Net of Liu et al., arXiv 1804.07723, Section 3.2: partial convolutions throughout."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pconv.layers import PartialConv2d, check_mask_dtype, select


class _Block(nn.Module):
    """PartialConv2d, batch norm, activation; the features it returns are 0 in the holes of the mask it returns."""

    def __init__(self, conv: PartialConv2d, norm: bool, activation: nn.Module | None):
        super().__init__()
        self.conv = conv
        self.norm = nn.BatchNorm2d(conv.out_channels) if norm else None
        self.activation = activation

    def forward(self, x, mask):
        y, mask = self.conv(x, mask, selected=True)
        if self.norm is not None:
            # Batch norm moves the zeros in the holes. They are put back here, once, and not by each layer that reads
            # these features; before the activation, which maps 0 to 0 and so can work in place on the copy.
            y = select(self.norm(y), mask)
        return (y if self.activation is None else self.activation(y)), mask


class _DenseGradient(torch.autograd.Function):
    """The identity; its gradient is made dense on the way back.

    The gradient of a concatenation comes in slices, on which the CPU's backward of upsampling is 4 to 7 times slower
    than on a dense copy, the copy included.
    """

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return grad.clone()


def _upsampled(x: Tensor, skip: Tensor) -> Tensor:
    """Nearest neighbour x2, cropped to the size of the skip connection, in x's own dtype also under CUDA autocast."""
    with torch.autocast(x.device.type, enabled=False):
        x = F.interpolate(x, scale_factor=2)
    if x.shape[2:] != skip.shape[2:]:
        x = x[:, :, : skip.shape[2], : skip.shape[3]]
    return _DenseGradient.apply(x) if x.requires_grad else x


def pull_push(image: Tensor, mask: Tensor, levels: int) -> Tensor:
    """The image with its holes filled by interpolation: Gortler et al., The Lumigraph, SIGGRAPH 1996, Section 3.4.

    Pull: each level is the mean of the valid pixels of a 2x2 window, a partial convolution with equal weights and
    stride 2. Push: what is still a hole is taken from the level below, enlarged. image: floating (N, C, H, W), 0 in its
    holes; mask: float (N or 1, 1, H, W), 0 or 1. After `levels` levels the mean of all valid pixels is taken.
    """
    if levels == 0:
        mean = image.sum((2, 3), keepdim=True) / mask.sum((2, 3), keepdim=True).clamp(min=1)
        return torch.where(mask > 0, image, mean)
    share = F.avg_pool2d(mask, 2, ceil_mode=True)
    mean = F.avg_pool2d(image, 2, ceil_mode=True) / share.clamp(min=0.25)
    coarse = pull_push(mean, (share > 0).to(mask.dtype), levels - 1)
    coarse = F.interpolate(coarse, size=image.shape[2:], mode="bilinear")
    return torch.where(mask > 0, image, coarse)


class PConvUNet(nn.Module):
    """U-Net of partial convolutions: `output = model(image, mask)` (arXiv 1804.07723, Section 3.2).

    One encoder level a width, stride 2, kernels 7, 5, 5 and then 3, ReLU, batch norm but in the first; as many decoder
    levels, 3x3 on the upsampled features beside the skip's, each with its mask, LeakyReLU(0.2), batch norm but in the
    last, which has no activation and sees the image itself.

    in_channels, out_channels: of the image and of the output. widths: encoder features, from the full resolution down.
    residual: the network learns what to add to `pull_push`, an interpolation, and begins as that interpolation; it then
    has the right colours from the first step on. The paper's network paints from nothing. Raises ValueError for an
    empty or non-positive `widths`, and for a residual of other channels than the image's.
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        widths: Sequence[int] = (64, 128, 256, 512, 512, 512, 512, 512),
        residual: bool = False,
    ):
        super().__init__()
        if len(widths) == 0 or any(int(width) != width or width < 1 for width in widths):
            raise ValueError(
                f"widths={tuple(widths)}: expected one or more whole numbers of features, such as (32, 64)"
            )
        if residual and in_channels != out_channels:
            raise ValueError(f"a residual needs as many channels out as in: {out_channels} and {in_channels} differ")
        self.in_channels, self.out_channels, self.residual = in_channels, out_channels, residual
        self.widths = tuple(int(width) for width in widths)
        features = (in_channels, *self.widths)
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        for level, width in enumerate(self.widths):
            kernel, norm = (7, 5, 5)[level] if level < 3 else 3, level > 0
            conv = PartialConv2d(features[level], width, kernel, stride=2, padding=kernel // 2, bias=not norm)
            self.encoder.append(_Block(conv, norm, nn.ReLU(inplace=True)))
        for level in reversed(range(len(widths))):
            norm, skip = level > 0, features[level]
            conv = PartialConv2d(
                features[level + 1] + skip, skip if norm else out_channels, 3, padding=1, bias=not norm
            )
            self.decoder.append(_Block(conv, norm, nn.LeakyReLU(0.2, inplace=True) if norm else None))
        if residual:
            nn.init.zeros_(self.decoder[-1].conv.weight)
            nn.init.zeros_(self.decoder[-1].conv.bias)
        self.encoder_norm_frozen = False

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """image: float (N, C_in, H, W), any H and W; mask: bool or floating (N or 1, 1, H, W), > 0 where valid.

        Returns (N, C_out, H, W); what is still a hole after the last layer is 0, or interpolated where the model is
        residual. What the image holds in its holes does not matter. Raises as PartialConv2d, and ValueError for a
        training batch too small for batch norm.
        """
        self.encoder[0].conv._checked(image, mask)
        self.check_batch(*image.shape[:1], *image.shape[2:])
        mask = (mask > 0).float()
        x = known = select(image, mask)
        skips, valid = [], mask
        for block in self.encoder:
            skips.append((x, mask))
            x, mask = block(x, mask)
        for block in self.decoder:
            skip, skip_mask = skips.pop()
            x, mask = block((_upsampled(x, skip), skip), (_upsampled(mask, skip), skip_mask))
        if self.residual:  # in float32: bfloat16 has fewer levels for a colour than a photo
            wide = torch.promote_types(image.dtype, torch.float32)
            filled = pull_push(known.to(wide), valid.to(wide), len(self.widths))
            x = (x + filled).to(image.dtype)
        return x

    def mask_trace(self, mask: Tensor) -> list[tuple[str, Tensor]]:
        """The mask after every layer, in order of the forward pass, without computing a feature.

        mask: bool or floating (N, 1, H, W). Returns (layer name as in `named_modules()`, float32 mask) pairs.
        """
        check_mask_dtype(mask)
        mask, skips, trace = (mask > 0).float(), [], []
        for level, block in enumerate(self.encoder):
            skips.append(mask)
            mask = block.conv.window_ratio([mask], [block.conv.in_channels])[1]
            trace.append((f"encoder.{level}", mask))
        for level, block in enumerate(self.decoder):
            skip = skips.pop()  # which pixels are valid does not depend on how many features there are: count one each
            mask = block.conv.window_ratio([_upsampled(mask, skip), skip], [1, 1])[1]
            trace.append((f"decoder.{level}", mask))
        return trace

    def freeze_encoder_batch_norm(self) -> None:
        """The paper's second phase (Section 4.2): the encoder's batch norm keeps its statistics and is not trained."""
        self.encoder_norm_frozen = True
        for block in self.encoder[1:]:
            block.norm.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "PConvUNet":
        super().train(mode)
        if self.encoder_norm_frozen:
            for block in self.encoder[1:]:
                block.norm.eval()
        return self

    def check_batch(self, batch: int, height: int, width: int) -> None:
        """Raises ValueError, by name, for a batch that leaves a training batch norm one value: its variance is 0."""
        sizes, image_size = [(height, width)], f"{height}x{width}"
        for _ in self.encoder:
            sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
        blocks = [(f"encoder.{i}", block, size) for i, (block, size) in enumerate(zip(self.encoder, sizes[1:]))]
        blocks += [(f"decoder.{i}", block, size) for i, (block, size) in enumerate(zip(self.decoder, sizes[-2::-1]))]
        for name, block, (height, width) in blocks:
            if block.norm is not None and block.norm.training and batch * height * width == 1:
                raise ValueError(
                    f"{name}: a training batch of {batch} image of {image_size} pixels leaves 1 value a feature, "
                    "too few for batch norm. Use a larger batch or image, fewer widths, or model.eval()"
                )
