"""The experiment of notebook 01: partial convolutions, and a plain network that is given the mask.

Two U-Nets of the same widths learn to fill the same holes of the same crops. One has partial
convolutions; the other plain ones, and reads the mask as a fourth channel beside the photo, whose
holes are 0.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

import pconv
from course.records import mean_over_photos
from pconv.baselines import PlainUNet
from pconv.data import TrainingBatches
from pconv.photos import center_crop, to_tensor

NETWORKS = ("partial", "mask channel")
TRAINED = (0.1, 0.3)  # hole ratios in training
MEASURED = {"as in training": TRAINED, "larger": (0.4, 0.6)}  # and when measured
SIZE = 64  # of a training crop, in pixels


class MaskChannelUNet(nn.Module):
    """The same U-Net of plain convolutions; the mask is its fourth input channel."""

    def __init__(self, widths: Sequence[int]):
        super().__init__()
        self.unet = PlainUNet(in_channels=4, out_channels=3, widths=widths)

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """image (N, 3, H, W), in [0, 1]; mask (N, 1, H, W), 1 = valid -> (N, 3, H, W)."""
        known = torch.where(mask > 0, image, 0)
        return self.unet(torch.cat((known, mask.to(image.dtype)), 1), mask)


def make_network(name: str, seed: int, widths: Sequence[int] = (16, 32, 64, 64)) -> nn.Module:
    """One of NETWORKS, its weights drawn by `seed`."""
    torch.manual_seed(seed)
    return pconv.PConvUNet(widths=widths) if name == "partial" else MaskChannelUNet(widths)


def train(model: nn.Module, photos: Sequence[np.ndarray], steps: int, seed: int, device: str):
    """Trains by Adam, on the L1 error with holes six times; returns the model in eval mode.

    The learning rate falls to 0 along a cosine, so each length of training is a run of its own.
    """
    model.to(device).train()
    batches = iter(TrainingBatches(photos, SIZE, 8, seed=seed, ratio=TRAINED, device=device))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        image, mask = next(batches)
        optimizer.zero_grad()
        error = (model(image, mask) - image).abs()
        (error * torch.where(mask, 1.0, 6.0)).mean().backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.inference_mode()
def error_in_holes(
    model: nn.Module, photos: dict[str, np.ndarray], ratio: tuple[float, float], device: str
) -> dict[str, float]:
    """Mean absolute error over the hole pixels of each photo, in gray levels of 255.

    Args:
        photos: {name: uint8 (H, W, 3)}; the middle 128 x 128 pixels are filled, under 16 masks.
        ratio: (lo, hi) of the masks.
    """
    generator = np.random.default_rng(0)
    masks = [pconv.random_holes(128, 128, ratio=ratio, rng=generator) for _ in range(16)]
    mask = torch.from_numpy(~np.stack(masks))[:, None].to(device)  # (16, 1, 128, 128)
    errors = {}
    for name, photo in photos.items():
        image = to_tensor(center_crop(photo, 128)).to(device).expand(len(masks), -1, -1, -1)
        difference = (model(image, mask).clamp(0, 1) - image).abs()
        errors[name] = 255 * difference[~mask.expand_as(image)].mean().item()
    return errors


def recorded_errors(record: dict) -> dict[tuple[str, str], np.ndarray]:
    """{(holes, network): errors (seeds, lengths of training)} of a record, averaged over photos."""
    return mean_over_photos(record, "error", lambda row: (row["holes"], row["network"]))
