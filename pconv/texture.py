"""Copies the texture of what is known into the holes, and refines the fill at full resolution.

A convolution cannot copy. Deep in a hole it sees the same smooth features everywhere, so what it
paints there is smooth, or repeats the grid of its strides. Here every cell of 8x8 pixels looks for
the cells whose texture would suit it, among those that are known: the masks say which. It is the
contextual attention of Yu et al. (CVPR 2018, arXiv 1801.07892) on overlapping patches, which copies
detail only, as the contextual residuals of Yi et al. (CVPR 2020, arXiv 2005.09704) do.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pconv.interpolation import halve, pull_push
from pconv.patches import (
    CELL,
    NEVER,
    compare_patches,
    from_patches,
    log_distance,
    neighbors_choice,
    to_patches,
)

_KEY_CHANNELS = 64
_NOISE_SIDE = 64  # pixels; the noise repeats after them


class TextureCopier(nn.Module):
    """`copier(known, mask, coarse, encoded, decoded, half) -> refined fill`, of any size.

    Args:
        eighth: channels of the U-Net's encoder and of its decoder at 1/8 of the resolution.
        half: channels of its decoder at 1/2.
        full_width, half_width: features of the refinement at the full and the half resolution.
        noise: channels of a fixed noise, from which the refinement makes texture that repeats
            nothing; while training it is drawn anew.
        rounds: how often the cells compare their choices with their neighbors'.
        agreement: how much that counts.
        certainty: what the logits are multiplied with before a softmax. High, as cells that cannot
            decide magnify rounding errors from round to round, and blur.
        likeness: how much it counts that the known part of a patch looks like what is copied.
    """

    def __init__(
        self,
        eighth: int,
        half: int,
        *,
        full_width: int = 24,
        half_width: int = 48,
        noise: int = 2,
        rounds: int = 6,
        agreement: float = 30.0,
        certainty: float = 10.0,
        likeness: float = 3000.0,
    ):
        super().__init__()
        self.rounds = rounds
        self.agreement = agreement
        self.certainty = certainty
        self.likeness = likeness
        self.texture = nn.Sequential(
            nn.Conv2d(3, 32, 4, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(32, 64, 4, 2, 1),
            nn.LeakyReLU(0.2),
        )
        self.key = nn.Sequential(
            nn.Conv2d(2 * eighth + 64, 128, 1), nn.LeakyReLU(0.2), nn.Conv2d(128, _KEY_CHANNELS, 1)
        )
        self.query = nn.Sequential(
            nn.Conv2d(eighth + _KEY_CHANNELS, 128, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(128, 128, 3, padding=2, dilation=2),
            nn.LeakyReLU(0.2),
            nn.Conv2d(128, _KEY_CHANNELS, 1),
        )
        self.log_sharpness = nn.Parameter(torch.tensor(math.log(15.0)))
        self.distance_weight = nn.Parameter(torch.tensor(0.5))
        generator = torch.Generator().manual_seed(5)
        side = _NOISE_SIDE
        self.register_buffer("noise", torch.randn(1, noise, side, side, generator=generator))
        # The composite (3), the mask, the copied detail (3) and how much of it was known, noise.
        self.enter = _conv(8 + noise, full_width)
        self.down = nn.Conv2d(full_width, half_width, 3, 2, 1)
        self.skip = nn.Conv2d(half, half_width, 1)
        self.middle = nn.ModuleList(_conv(half_width, half_width, d) for d in (1, 2, 4, 1))
        self.up = nn.Conv2d(half_width, full_width, 1)
        self.leave = _conv(2 * full_width + noise, full_width)
        self.out = nn.Conv2d(full_width, 4, 3, padding=1)
        # It begins as: the coarse fill, with 70 % of its detail replaced by what is copied.
        for conv in (self.query[-1], self.out):
            nn.init.zeros_(conv.weight)
            nn.init.zeros_(conv.bias)

    def forward(
        self,
        known: Tensor,
        mask: Tensor,
        coarse: Tensor,
        encoded: Tensor,
        decoded: Tensor,
        half: Tensor,
    ) -> Tensor:
        """The refined fill, (N, 3, H, W), in float32 or wider.

        Args:
            known: (N, 3, H, W) in [0, 1], 0 in its holes.
            mask: float (N or 1, 1, H, W), 0 or 1.
            coarse: (N, 3, H, W), the U-Net's fill.
            encoded, decoded: features of the U-Net at 1/8, (N, C, H/8, W/8), rounded up.
            half: features of its decoder at 1/2, (N, C', H/2, W/2), rounded up.
        """
        height, width = known.shape[2:]
        rows, columns = (height + CELL - 1) // CELL, (width + CELL - 1) // CELL
        bottom, right = CELL * rows - height, CELL * columns - width
        known, coarse, mask = (
            F.pad(x.to(self._wide), (0, right, 0, bottom))  # what is added is a hole
            for x in (known, coarse, mask.expand(known.shape[0], -1, -1, -1))
        )
        bottom, right = known.shape[2] // 2 - half.shape[2], known.shape[3] // 2 - half.shape[3]
        half = F.pad(half, (0, right, 0, bottom))
        if not self.training:
            coarse = coarse.clamp(0, 1)
        composite = torch.where(mask > 0, known, coarse)
        detail = (known - _smooth(known, mask)) * mask
        logits = self.match(known, mask, encoded, decoded)
        copied, amount = self.copy(logits, detail, mask)
        noise = self._make_noise(known)
        inputs = torch.cat([composite * 2 - 1, mask, copied * 4, amount, noise], 1)
        full = self.enter(inputs.to(self._narrow))
        x = F.leaky_relu(self.down(full) + self.skip(half), 0.2)
        for conv in self.middle:
            x = x + conv(x)
        x = F.interpolate(self.up(x), scale_factor=2, mode="bilinear")
        x = self.leave(torch.cat([full, x, noise.to(full.dtype)], 1))
        change, share = self.out(x).to(self._wide).split([3, 1], 1)
        own = composite - _smooth(composite, torch.ones_like(mask))
        refined = coarse + change + (share + 0.7) * (copied - own)
        return refined[:, :, :height, :width]

    def match(self, known: Tensor, mask: Tensor, encoded: Tensor, decoded: Tensor) -> Tensor:
        """How well each cell suits each other, float32 (N, cells, cells): a logit per pair.

        Rows are the cells to paint, columns those to copy from. Arguments as in `forward`; known
        and mask are multiples of 8 pixels high and wide.
        """
        valid = F.avg_pool2d(F.pad(mask, (4, 4, 4, 4)), 2 * CELL, CELL)  # of each patch, a fraction
        usable = (valid > 0.5).float()
        fine = (known - _smooth(known, mask, levels=3)) * mask
        texture = F.avg_pool2d(self.texture((fine * 4).to(self._narrow)), 2)
        same = encoded.dtype
        key = self.key(torch.cat([encoded, decoded.to(same), texture.to(same)], 1)).to(self._wide)
        key = F.normalize(key, dim=1)
        spread = pull_push(key * usable, usable, 4)  # what is near, where a cell has no key
        query = self.query(torch.cat([decoded, spread.to(decoded.dtype)], 1)).to(self._wide)
        query = F.normalize(spread + query, dim=1)
        with torch.autocast(known.device.type, enabled=False):  # differences of large sums follow
            logits = query.flatten(2).mT @ key.flatten(2) * self.log_sharpness.to(self._wide).exp()
            height, width = valid.shape[2:]
            logits = logits - self.distance_weight * log_distance(height, width, logits)
            valid, usable = valid.flatten(1), usable.flatten(1)
            logits = logits + (2 * valid.clamp(min=1e-3).log() - NEVER * (1 - usable))[:, None]
            return logits + compare_patches(known, mask, self.likeness)

    def copy(self, logits: Tensor, detail: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The detail that each cell copies, (N, 3, H, W), and how much of it was known, 0 to 1."""
        height, width = (size // CELL for size in mask.shape[2:])
        with torch.autocast(mask.device.type, enabled=False):
            prior = logits.new_zeros(())
            with torch.no_grad():
                for _ in range(self.rounds):
                    choice = (self.certainty * (logits + prior)).softmax(2)
                    total = neighbors_choice(choice, height, width)
                    prior = self.agreement / 8 * total  # the mean of 8 neighbors
            choice = (2 * self.certainty * (logits + prior)).softmax(2)
            patches = choice @ to_patches(torch.cat([detail, mask], 1))  # (N, cells, 4 * 64 * 4)
            total = from_patches(patches, height, width)
        detail, known = total.split([3, 1], 1)
        return detail / known.clamp(min=1e-2), known.clamp(max=1)

    @property
    def _narrow(self) -> torch.dtype:
        """That of the weights."""
        return self.log_sharpness.dtype

    @property
    def _wide(self) -> torch.dtype:
        """That of pixels and of logits: float32, or wider."""
        return torch.promote_types(self._narrow, torch.float32)

    def _make_noise(self, like: Tensor) -> Tensor:
        count, _, height, width = like.shape
        if self.training:
            shape = (count, self.noise.shape[1], height, width)
            return torch.randn(shape, device=like.device, dtype=like.dtype)
        rows, columns = (
            torch.arange(size, device=like.device) % _NOISE_SIDE for size in (height, width)
        )
        noise = self.noise.to(like.dtype)[:, :, rows][..., columns]
        return noise.expand(count, -1, -1, -1)


def _conv(in_channels: int, out_channels: int, dilation: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=dilation, dilation=dilation)
    return nn.Sequential(conv, nn.LeakyReLU(0.2))


def _smooth(known: Tensor, mask: Tensor, levels: int = 4) -> Tensor:
    """The means of the known pixels of squares of 2^levels pixels, interpolated: (N, 3, H, W)."""
    mean, valid = known, mask
    for _ in range(levels):
        mean, valid = halve(mean, valid)
    filled = pull_push(mean, valid, 6 - levels)
    return F.interpolate(filled, size=known.shape[2:], mode="bilinear")
