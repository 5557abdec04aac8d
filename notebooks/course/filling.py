"""The experiment of notebook 05: the pixels of a hole, moved by gradient descent under a loss.

What is in the hole is not known. Several contents are possible, each cut out of the same photo, and
a fill is judged by the mean of its loss over all of them: by what a network is trained for, which
sees the same surroundings again and again, each time with another content. Whatever the hole really
held is none of them.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import pconv
from pconv.photos import to_tensor

SIZE = 96  # of the square that the loss sees, in pixels
HOLE = 64  # of the hole in its middle, in pixels
INSIDE = slice((SIZE - HOLE) // 2, (SIZE + HOLE) // 2)  # its rows, and its columns

# The paper's weights for what is compared here. The known pixels are the photo's own, so the output
# is the composite, `valid` is 0, and the two style terms are the same. `tv` is left out.
PIXELS = pconv.LossWeights(perceptual=0, style_out=0, style_comp=0, tv=0)
LOSSES = {
    "L1": PIXELS,
    "L1 + perceptual": PIXELS._replace(perceptual=0.05),
    "L1 + perceptual + style": PIXELS._replace(perceptual=0.05, style_out=120, style_comp=120),
}
# Is it the weight? Twenty times the paper's.
RECORDED = LOSSES | {"L1 + 20 perceptual": PIXELS._replace(perceptual=1)}


class Scene(NamedTuple):
    """photo (1, 3, SIZE, SIZE), mask (1, 1, SIZE, SIZE) bool, contents (K, 3, SIZE, SIZE)."""

    photo: Tensor
    mask: Tensor
    contents: Tensor


class Terms(NamedTuple):
    """Means over the contents: `hole` and `perceptual` as in LossTerms, `style` is style_comp."""

    hole: Tensor
    perceptual: Tensor
    style: Tensor


def make_scene(
    texture: str, contents: int = 16, seed: int = 0, device: str | torch.device = "cpu"
) -> Scene:
    """A square of a bundled photo with a hole, and what the hole could hold.

    Args:
        texture: name of a bundled photo: "gravel", "brick" or "grass".
        contents: how many. Each is a square of the photo that the hole does not touch.
        seed: of the places of the square and of the contents.
    """
    whole = to_tensor(pconv.bundled_photos()[texture]).to(device)  # (1, 3, H, W)
    height, width = whole.shape[2:]
    generator = torch.Generator().manual_seed(seed)

    def draw(size: int) -> tuple[int, int]:
        return tuple(
            int(torch.randint(length - size + 1, (), generator=generator))
            for length in (height, width)
        )

    top, left = draw(SIZE)
    photo = whole[..., top : top + SIZE, left : left + SIZE]
    mask = torch.ones(1, 1, SIZE, SIZE, dtype=torch.bool, device=device)
    mask[..., INSIDE, INSIDE] = False
    found = []
    while len(found) < contents:
        row, column = draw(HOLE)
        if max(abs(row - top - INSIDE.start), abs(column - left - INSIDE.start)) >= HOLE:
            content = photo.clone()
            content[..., INSIDE, INSIDE] = whole[..., row : row + HOLE, column : column + HOLE]
            found.append(content)
    return Scene(photo, mask, torch.cat(found))


class ExpectedLoss:
    """The mean of the loss of one fill over all contents of a scene.

    `pconv.InpaintingLoss` on a batch with the same output in every place gives the same, but sends
    that output through VGG once for every content.
    """

    def __init__(self, vgg: pconv.VGGFeatures, scene: Scene):
        self.vgg = vgg
        self.scene = scene
        with torch.no_grad():
            self.features = vgg(scene.contents)  # (K, C, H, W) for each layer
            self.grams = [pconv.gram_matrix(f) for f in self.features]  # (K, C, C)

    def terms(self, fill: Tensor, with_features: bool = True) -> Terms:
        """fill: (1, 3, SIZE, SIZE). Without features, perceptual and style are 0."""
        photo, mask, contents = self.scene
        composite = torch.where(mask, photo, fill)
        perceptual = style = composite.new_zeros(())
        if with_features:
            for f, others, grams in zip(self.vgg(composite), self.features, self.grams):
                # of the output and of the composite, which are the same image
                perceptual = perceptual + 2 * (f - others).abs().mean()
                style = style + (pconv.gram_matrix(f) - grams).abs().mean()
        return Terms((composite - contents).abs().mean(), perceptual, style)

    def __call__(self, fill: Tensor, weights: pconv.LossWeights) -> Tensor:
        with_features = any((weights.perceptual, weights.style_out, weights.style_comp))
        terms = self.terms(fill, with_features)
        style = (weights.style_out + weights.style_comp) * terms.style
        return weights.hole * terms.hole + weights.perceptual * terms.perceptual + style


def gray_start(scene: Scene, seed: int = 0) -> Tensor:
    """Where the descent begins: the mean of the known pixels, and a little noise. (1, 1, S, S)."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(1, 1, SIZE, SIZE, generator=generator).to(scene.photo.device)
    return scene.photo.mean(1, keepdim=True)[scene.mask].mean() + 0.05 * noise


def descend(
    loss: Callable[[Tensor], Tensor], start: Tensor, steps: int, lr: float = 0.05
) -> Tensor:
    """Moves the pixels of a gray image down the gradient of a loss, by Adam.

    Args:
        loss: of an image (1, 3, H, W).
        start: (1, 1, H, W) in [0, 1].
        lr: in gray values per step, at first; it falls to 0 as half a cosine.

    Returns:
        (1, 3, H, W) in [0, 1].
    """
    pixels = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([pixels], lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(pixels.expand(-1, 3, -1, -1)).backward()
        optimizer.step()
        schedule.step()
        pixels.data.clamp_(0, 1)
    return pixels.detach().expand(-1, 3, -1, -1)


def contrast(images: Tensor) -> float:
    """The standard deviation of the gray values in the hole, in gray levels of 255; mean over N."""
    return 255 * images[..., INSIDE, INSIDE].mean(1).flatten(1).std(1).mean().item()


def fill_holes(
    expected: ExpectedLoss, losses: dict[str, pconv.LossWeights], steps: int
) -> dict[str, Tensor]:
    """{name: the scene with its hole filled under that loss}, (1, 3, SIZE, SIZE) each."""
    photo, mask, _ = expected.scene
    start = gray_start(expected.scene)
    fills = {}
    for name, weights in losses.items():
        fill = descend(lambda pixels, weights=weights: expected(pixels, weights), start, steps)
        fills[name] = torch.where(mask, photo, fill)
    return fills


def measure(expected: ExpectedLoss, fill: Tensor) -> dict[str, float]:
    """The terms of a fill (1, 3, SIZE, SIZE), and its contrast beside that of the contents."""
    with torch.no_grad():
        terms = {name: term.item() for name, term in expected.terms(fill)._asdict().items()}
    possible = contrast(expected.scene.contents)
    return terms | {"contrast": contrast(fill), "contrast_of_contents": possible}


def recorded_fills(image: str | Path, record: dict) -> dict[tuple[str, int, int], dict]:
    """{(texture, seed, steps): {loss: fill}} of the picture that record_filling.py writes.

    image: gray; a row of squares per scene, a square per loss. record: its JSON.
    """
    pixels = torch.from_numpy(np.array(Image.open(image).convert("L"))) / 255
    rows = {}
    for scene, row in zip(record["settings"]["scenes"], pixels.split(SIZE)):
        squares = (square.expand(1, 3, -1, -1) for square in row.split(SIZE, dim=1))
        rows[tuple(scene)] = dict(zip(record["settings"]["losses"], squares))
    return rows


def print_measures(found: dict[str, dict[str, float]]) -> None:
    """A line per fill: what `measure` says of it."""
    print(f"{'':24} {'L1':>6} {'perceptual':>11} {'style':>8} {'contrast':>9}")
    for name, row in found.items():
        print(f"{name:24} {row['hole']:.4f}", end=" ")
        print(f"{row['perceptual']:11.3f} {row['style']:8.5f} {_contrast_share(row):>9}")


def record_groups(record: dict) -> list[dict[str, dict]]:
    """The rows of a record, scene by scene: {loss: row} each."""
    each = len(record["settings"]["losses"])
    groups = [record["rows"][i : i + each] for i in range(0, len(record["rows"]), each)]
    return [{row["loss"]: row for row in group} for group in groups]


def print_contrasts(record: dict) -> None:
    """A line per scene of a record: the contrast of its fills, one column per loss."""
    losses = record["settings"]["losses"]
    print(f"{'filters':8} {'texture':8} {'seed':>4} {'steps':>5}", *(f"{n:>24}" for n in losses))
    for group in record_groups(record):
        first = group[losses[0]]
        shares = (f"{_contrast_share(group[name]):>24}" for name in losses)
        filters = first["vgg"].partition("_")[0]
        print(f"{filters:8} {first['texture']:8} {first['seed']:4} {first['steps']:5}", *shares)


def _contrast_share(row: dict) -> str:
    return f"{row['contrast'] / row['contrast_of_contents']:.0%}"
