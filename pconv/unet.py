"""The inpainting U-Net of Liu et al., arXiv 1804.07723, Section 3.2, of partial convolutions.

The masks of all layers come first, as they do not depend on any feature; then the features.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pconv.checks import check_mask_dtype, check_training_batch
from pconv.interpolation import pull_push
from pconv.layers import PartialConv2d, binarize, cast_for_autocast, select, to_float
from pconv.texture import TextureCopier

SMALL_WIDTHS = (32, 64, 128, 128, 128)  # a U-Net that a laptop trains in minutes


class Block(nn.Module):
    """PartialConv2d, batch norm, activation; what it returns is 0 in the holes of its mask."""

    def __init__(self, conv: PartialConv2d, norm: bool, activation: nn.Module | None):
        super().__init__()
        self.conv = conv
        self.norm = nn.BatchNorm2d(conv.out_channels) if norm else None
        self.activation = activation

    def forward(self, x: Tensor | Sequence[Tensor], ratio: Tensor, mask: Tensor) -> Tensor:
        """x: (N, C, H, W), or parts of it; ratio, mask: (N or 1, 1, H', W'), of its windows."""
        y, _ = self.conv(x, window=(ratio, mask))
        if self.norm is not None:
            # Batch norm moves the zeros in the holes. They are put back here, once, not by each
            # layer that reads these features; and before the activation, which maps 0 to 0 and so
            # can work in place on the copy.
            y = select(self.norm(y), mask)
        return y if self.activation is None else self.activation(y)


def upsample(x: Tensor, size: Sequence[int]) -> Tensor:
    """Nearest neighbor x2 of (N, C, H, W), cropped to `size` (H', W'), in x's own dtype.

    Autocast is off, as on a GPU it would return float32.
    """
    if torch.compiler.is_exporting():  # so that no crop depends on whether a size is even
        rows, columns = (torch.arange(length, device=x.device) // 2 for length in size)
        return x.index_select(2, rows).index_select(3, columns)
    with torch.autocast(x.device.type, enabled=False):
        x = F.interpolate(x, scale_factor=2)
    if x.shape[2:] != size:
        x = x[:, :, : size[0], : size[1]]
    if x.requires_grad and x.device.type == "cpu" and not torch.compiler.is_compiling():
        # The gradient of a concatenation is a slice, of which the CPU's backward of upsampling is
        # 4 to 7 times slower than of a dense copy, the copy included.
        x.register_hook(torch.clone)
    return x


class PConvUNet(nn.Module):
    """U-Net of partial convolutions: `output = model(image, mask)` (arXiv 1804.07723, Section 3.2).

    One encoder level per width: stride 2, kernels 7, 5, 5 and then 3, ReLU, batch norm but in the
    first. As many decoder levels: 3x3 on the upsampled features beside the skip's, each with its
    mask, LeakyReLU(0.2), batch norm but in the last, which has no activation and sees the image.

    Args:
        in_channels, out_channels: of the image and of the output.
        widths: features of each encoder level, from the full resolution down.
        residual: the network learns what to add to `pull_push`, an interpolation, and begins as
            that interpolation: it has the right colors from the first step on. The paper's network
            paints from nothing.
        copy_texture: a `TextureCopier` refines the output with the texture of what is known. The
            paper's network has none.

    Raises:
        ValueError: for empty or non-positive widths, for a residual whose output has other channels
            than the image, and for texture with less than 4 widths or other than 3 channels.
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        widths: Sequence[int] = (64, 128, 256, 512, 512, 512, 512, 512),
        residual: bool = False,
        copy_texture: bool = False,
    ):
        super().__init__()
        if len(widths) == 0 or any(int(width) != width or width < 1 for width in widths):
            expected = "expected one or more whole numbers of features, such as (32, 64)"
            raise ValueError(f"widths={tuple(widths)}: {expected}")
        if residual and in_channels != out_channels:
            channels = f"{out_channels} and {in_channels} differ"
            raise ValueError(f"a residual needs as many channels out as in: {channels}")
        if copy_texture and (len(widths) < 4 or (in_channels, out_channels) != (3, 3)):
            raise ValueError("copy_texture needs 4 or more widths, and 3 channels in and out")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.widths = tuple(int(width) for width in widths)
        self.residual = residual
        self.encoder_norm_frozen = False
        features = (in_channels, *self.widths)
        self.encoder = nn.ModuleList()
        for level, width in enumerate(self.widths):
            kernel = (7, 5, 5)[level] if level < 3 else 3
            norm = level > 0
            conv = PartialConv2d(
                features[level], width, kernel, stride=2, padding=kernel // 2, bias=not norm
            )
            self.encoder.append(Block(conv, norm, nn.ReLU(inplace=True)))
        self.decoder = nn.ModuleList()
        for level in reversed(range(len(self.widths))):
            skip = features[level]
            last = level == 0
            conv = PartialConv2d(
                features[level + 1] + skip, out_channels if last else skip, 3, padding=1, bias=last
            )
            activation = None if last else nn.LeakyReLU(0.2, inplace=True)
            self.decoder.append(Block(conv, not last, activation))
        if residual:
            nn.init.zeros_(self.decoder[-1].conv.weight)
            nn.init.zeros_(self.decoder[-1].conv.bias)
        self.copier = TextureCopier(self.widths[2], self.widths[0]) if copy_texture else None

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """The inpainted image.

        Args:
            image: float (N, C_in, H, W), any H and W. What it holds in its holes does not matter.
            mask: bool or floating (N or 1, 1, H, W), > 0 where valid.

        Returns:
            (N, C_out, H, W). What is still a hole after the last layer is 0, or interpolated where
            the model is residual.

        Raises:
            TypeError, ValueError: as PartialConv2d, and ValueError for a training batch too small
                for batch norm.
        """
        self.encoder[0].conv.check_inputs(image, mask)
        check_training_batch(self, image.shape[0], *image.shape[2:])
        valid = binarize(mask)
        mask = to_float(valid)
        known = select(image, valid)
        x = cast_for_autocast(known)
        windows = iter(self.window_ratios(mask, x.dtype))
        skips = []
        for block in self.encoder:
            skips.append(x)
            x = block(x, *next(windows))
        encoded = skips[3] if self.copier is not None else None  # at 1/8
        decoded = {}
        for block in self.decoder:
            skip = skips.pop()
            x = block((upsample(x, skip.shape[2:]), skip), *next(windows))
            if self.copier is not None and len(skips) in (1, 3):  # at 1/2 and 1/8
                decoded[len(skips)] = x
        if self.residual:  # in float32: bfloat16 has fewer levels for a color than a photo
            wide = torch.promote_types(image.dtype, torch.float32)
            filled = pull_push(known.to(wide), mask.to(wide), len(self.widths))
            x = (x + filled).to(image.dtype)
        if self.copier is not None:
            x = self.copier(known, mask, x, encoded, decoded[3], decoded[1]).to(image.dtype)
        return x

    @property
    def copy_texture(self) -> bool:
        """Whether it has a copier; without one (`model.copier = None`) it is the U-Net alone."""
        return self.copier is not None

    def window_ratios(self, mask: Tensor, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
        """The ratio sum(1)/sum(M) and the new mask of every layer, in order of the forward pass.

        Args:
            mask: float32 (N, 1, H, W), 0 or 1.
            dtype: of the ratios, which is that of the features.

        Returns:
            (ratio, mask) pairs, both (N, 1, H', W'), the mask float32.
        """
        totals, numerators, masks, skips = [], [], [], []

        def add_layer(conv: PartialConv2d, parts: list[Tensor], channels: list[int]) -> Tensor:
            total, full = conv.window_sum(parts, channels)
            totals.append(total)
            masks.append(total.clamp(max=1))
            numerators.append(masks[-1] * full)
            return masks[-1]

        features = (self.in_channels, *self.widths)
        for block, channels in zip(self.encoder, features):
            skips.append(mask)
            mask = add_layer(block.conv, [mask], [channels])
        for block, level in zip(self.decoder, reversed(range(len(self.widths)))):
            parts = [upsample(mask, skips[level].shape[2:]), skips[level]]
            mask = add_layer(block.conv, parts, [features[level + 1], features[level]])
        # One division for all layers: on a GPU such small tensors cost little but their launches.
        wide = torch.promote_types(dtype, torch.float32)
        numerator = torch.cat([n.flatten(1) for n in numerators], 1).to(wide)  # (N, all H' W')
        total = torch.cat([t.flatten(1) for t in totals], 1).clamp_(min=1)
        ratios = (numerator / total).to(dtype).split([m.shape[2] * m.shape[3] for m in masks], 1)
        return [(ratio.view_as(m), m) for ratio, m in zip(ratios, masks, strict=True)]

    def mask_trace(self, mask: Tensor) -> list[tuple[str, Tensor]]:
        """The mask after every layer, in order of the forward pass, without computing a feature.

        mask: bool or floating (N, 1, H, W), > 0 where valid. Returns (layer name as in
        `named_modules()`, float32 mask) pairs. Raises TypeError for a mask of integers.
        """
        check_mask_dtype(mask)
        windows = self.window_ratios(to_float(binarize(mask)), torch.float32)
        names = [f"{half}.{i}" for half in ("encoder", "decoder") for i in range(len(self.widths))]
        return [(name, new_mask) for name, (_, new_mask) in zip(names, windows, strict=True)]

    def freeze_encoder_batch_norm(self) -> None:
        """The paper's second phase (Section 4.2): the encoder's batch norm no longer changes."""
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
