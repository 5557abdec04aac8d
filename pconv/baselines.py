"""The same U-Net of other convolutions: what PConvUNet is compared with."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pconv.layers import cast_for_autocast
from pconv.unet import Block, PConvUNet, upsample


class PlainUNet(PConvUNet):
    """The same U-Net of `nn.Conv2d`, the baseline of a partial convolution; it ignores the mask."""

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        x = cast_for_autocast(image)
        skips = []
        for block in self.encoder:
            skips.append(x)
            x = self._run_block(block, x)
        for block in self.decoder:
            skip = skips.pop()
            x = self._run_block(block, torch.cat((upsample(x, skip.shape[2:]), skip), 1))
        return x

    @staticmethod
    def _run_block(block: Block, x: Tensor) -> Tensor:
        y = nn.Conv2d.forward(block.conv, x)
        y = y if block.norm is None else block.norm(y)
        return y if block.activation is None else block.activation(y)


class MultiChannelUNet(PConvUNet):
    """The same U-Net of the textbook layer: a mask per feature, summed by a C_out x C_in kernel.

    The rules of NVIDIA/partialconv with multi_channel=True: x * mask, ratio = K / (sum + 1e-8),
    clamped masks.
    """

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        x = image
        mask = mask.expand_as(image).float()  # (N, C, H, W)
        skips = []
        for block in self.encoder:
            skips.append((x, mask))
            x, mask = self._run_block(block, x, mask)
        for block in self.decoder:
            skip, skip_mask = skips.pop()
            x = torch.cat((upsample(x, skip.shape[2:]), skip), 1)
            mask = torch.cat((upsample(mask, skip.shape[2:]), skip_mask), 1)
            x, mask = self._run_block(block, x, mask)
        return x

    @staticmethod
    def _run_block(block: Block, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        conv = block.conv
        with torch.no_grad():
            ones = torch.ones_like(conv.weight)
            total = F.conv2d(mask, ones, None, conv.stride, conv.padding)
            new_mask = total.clamp(0, 1)
            ratio = ones[0].numel() / (total + 1e-8) * new_mask
        y = nn.Conv2d.forward(conv, x * mask)
        if conv.bias is None:
            y = y * ratio
        else:
            bias = conv.bias.view(1, -1, 1, 1)
            y = ((y - bias) * ratio + bias) * new_mask
        y = y if block.norm is None else block.norm(y)
        return (y if block.activation is None else block.activation(y)), new_mask
