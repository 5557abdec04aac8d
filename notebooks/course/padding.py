"""The experiment of notebook 03: small networks that differ in nothing but their padding.

They clean squares of photos that are blurred and noisy. The squares are cut out after blurring, so
the blur at their border contains what lay outside, and the true clean square is known everywhere.

What the border costs a network is its error on a square alone, padded by its own padding, minus its
error on the same square among its real neighbors.
"""

import itertools
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.functional import gaussian_blur

import pconv
from course.records import mean_over_photos
from pconv.photos import to_tensor

PADDINGS = ("zero", "reflect", "replicate", "partial")
LAYERS = 4  # of 3 x 3: the padding reaches that many pixels into the square
SIZE = 40  # of a square that is measured, in pixels
AROUND = 8  # real neighbors on each side of it, in pixels
RINGS = 9  # distances to the border that are measured, in pixels, from 0 on


def make_conv(scheme: str, *arguments, **settings) -> nn.Conv2d:
    """A convolution with one of PADDINGS; its weights are drawn alike whichever it is."""
    if scheme == "partial":
        return pconv.PartialPaddingConv2d(*arguments, **settings)
    modes = {"zero": "zeros", "reflect": "reflect", "replicate": "replicate"}
    return nn.Conv2d(*arguments, padding_mode=modes[scheme], **settings)


def make_network(
    padding: str, seed: int, layers: int = LAYERS, channels: int = 16
) -> nn.Sequential:
    """Layers of 3 x 3 with ReLU between them, from one channel to one.

    The networks of one seed begin with the same weights.
    """
    torch.manual_seed(seed)
    widths = (1, *[channels] * (layers - 1), 1)
    parts = []
    for before, after in itertools.pairwise(widths):
        parts += [make_conv(padding, before, after, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*parts[:-1])


def half_size_gray(photos: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """Each photo as (1, H/2, W/2) in [0, 1]."""
    return {name: F.avg_pool2d(to_tensor(photo).mean(1), 2) for name, photo in photos.items()}


def draw_squares(
    photos: Sequence[Tensor], count: int, size: int, generator: torch.Generator, blurred: int = 6
) -> tuple[Tensor, Tensor]:
    """Draws random squares of the photos: damaged and clean, (count, 1, size, size) each.

    photos: (1, H, W) each. blurred: how far around a square the photo is blurred with it, in
    pixels.
    """
    side = size + 2 * blurred
    clean = []
    for _ in range(count):
        photo = photos[int(torch.randint(len(photos), (), generator=generator))]
        top, left = (
            int(torch.randint(length - side + 1, (), generator=generator))
            for length in photo.shape[1:]
        )
        clean.append(photo[:, top : top + side, left : left + side])
    clean = torch.stack(clean)
    noise = 0.1 * torch.randn(clean.shape, generator=generator)
    inner = (..., slice(blurred, -blurred), slice(blurred, -blurred))
    return (gaussian_blur(clean, 9, 1.2) + noise)[inner], clean[inner]


def training_batches(
    photos: Sequence[Tensor], steps: int, seed: int
) -> Iterable[tuple[Tensor, Tensor]]:
    """Batches of four squares of 32 x 32; the same for all networks of one seed."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        yield draw_squares(photos, 4, 32, generator)


def train(
    network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], steps: int, device: str = "cpu"
) -> nn.Module:
    """Trains by Adam with a learning rate that falls to a twentieth; returns the frozen network."""
    network.to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.05, total_iters=steps)
    for damaged, clean in batches:
        optimizer.zero_grad()
        F.mse_loss(network(damaged.to(device)), clean.to(device)).backward()
        optimizer.step()
        schedule.step()
    return network.requires_grad_(False)


def distance_to_border(size: int = SIZE) -> Tensor:
    """(size, size): 0 for the outermost pixels of a square."""
    edge = torch.minimum(torch.arange(size), torch.arange(size).flip(0))
    return torch.minimum(edge[:, None], edge)


def measure_border(
    network: nn.Module, damaged: Tensor, clean: Tensor, layers: int = LAYERS
) -> dict[str, float | list[float]]:
    """What the border costs a network, in gray levels of 255.

    Args:
        damaged, clean: (N, 1, SIZE + 2 * AROUND, SIZE + 2 * AROUND), in [0, 1].

    Returns:
        alone, real: RMS error at each distance to the border, for the squares alone and among
            their real neighbors. cost: alone minus real, over the pixels that the padding reaches.
            alone_everywhere, real_everywhere: RMS error over the whole squares.
    """
    inner = (..., slice(AROUND, -AROUND), slice(AROUND, -AROUND))
    distance = distance_to_border().to(damaged.device)
    outputs = {"alone": network(damaged[inner]), "real": network(damaged)[inner]}

    def error(output: Tensor, where: Tensor) -> float:
        return 255 * (output - clean[inner])[..., where].square().mean().sqrt().item()

    errors = {
        name: [error(output, distance == ring) for ring in range(RINGS)]
        for name, output in outputs.items()
    }
    reached = [error(output, distance < layers) for output in outputs.values()]
    everywhere = {
        f"{name}_everywhere": error(output, distance >= 0) for name, output in outputs.items()
    }
    return errors | {"cost": reached[0] - reached[1]} | everywhere


def make_filter(kind: str, size: int) -> Tensor:
    """A fixed filter (size, size): "average", "blur" (binomial) or "edges" (slope to the right).

    size: odd, in pixels.
    """
    if kind == "average":
        return torch.full((size, size), 1 / size**2)
    blur = np.array([1.0])
    for _ in range(size - 1):
        blur = np.convolve(blur, [0.5, 0.5])
    slope = blur * (np.arange(size) - size // 2)
    across = {"blur": blur, "edges": slope}[kind]
    return torch.from_numpy(np.outer(blur, across)).float()


def filter_errors(weight: Tensor, scheme: str, squares: Tensor) -> list[float]:
    """How far a filter's answers at the border are from those among real neighbors.

    Args:
        weight: (k, k), with k at most 2 * AROUND + 1.
        squares: (N, 1, SIZE + 2 * AROUND, SIZE + 2 * AROUND), without damage.

    Returns:
        for each distance to the border, the RMS difference relative to the RMS answer.
    """
    size = len(weight)
    conv = make_conv(scheme, 1, 1, size, padding=size // 2, bias=False).requires_grad_(False)
    conv.weight.copy_(weight)
    inner = (..., slice(AROUND, -AROUND), slice(AROUND, -AROUND))
    real = conv(squares)[inner]
    difference = conv(squares[inner]) - real
    distance = distance_to_border()
    strength = real.square().mean().sqrt()
    return [
        (difference[..., distance == ring].square().mean().sqrt() / strength).item()
        for ring in range(RINGS)
    ]


def recorded(record: dict, quantity: str) -> dict[str, np.ndarray]:
    """{padding: (seeds, lengths of training)} of a record, averaged over its photos.

    quantity: a name of what `measure_border` returns. For one with a value per distance the arrays
    are (seeds, lengths, RINGS).
    """
    return mean_over_photos(record, quantity, lambda row: row["padding"])
