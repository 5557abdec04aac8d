"""Checks of notebook 03.

The ratio at the border, padding by partial convolution, tiles without seams.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

import pconv
from course.checks.exercise import WrongError, call_answer, compare_result, exercise, require_answer
from course.checks.partial_convolution import example


@exercise("Exercise 1")
def padding_ratio(answer: Callable[[int, int, int], tuple[float, float]]) -> str:
    """answer(kernel, padding, dilation): the ratio at an edge and in a corner.

    It is that of the outermost pixel.
    """
    for kernel, padding, dilation in (
        (5, 2, 1),
        (3, 1, 1),
        (7, 1, 1),
        (3, 2, 2),
        (5, 3, 2),
        (3, 1, 3),
        (7, 5, 3),
    ):
        actual = require_answer(answer(kernel, padding, dilation))
        try:
            actual = tuple(n.item() if isinstance(n, Tensor) else float(n) for n in actual)
        except (TypeError, ValueError):
            raise WrongError("Return two numbers: the ratio at an edge, and in a corner.") from None
        conv = pconv.PartialConv2d(1, 1, kernel, padding=padding, dilation=dilation)
        ratio = conv.window_ratio([torch.ones(1, 1, 40, 40)], [1])[0][0, 0]
        edge, corner = ratio[0, 20].item(), ratio[0, 0].item()
        outside = round(kernel - kernel / edge)  # pixels along one side of the window
        places = ", ".join(str(dilation * i - padding) for i in range(kernel))
        sides = (
            (
                kernel - padding,
                "Pixels of the window lie a dilation apart: fewer of them hang over.",
            ),
            (
                kernel - padding // dilation,
                f"Round up: of the positions {places} outside are {outside}.",
            ),
            (
                kernel - kernel // 2,
                "The window hangs over by its padding, which need not be half its width.",
            ),
        )
        results = (
            (edge, corner, ""),
            (
                1 / edge,
                1 / corner,
                "The ratio is upside down: the fewer pixels are seen, the larger it is.",
            ),
            (edge, edge, "In a corner the window hangs over two sides."),
            (
                edge,
                kernel / (kernel - 2 * outside),
                "In a corner pixels outside both sides are counted twice.",
            ),
            *((kernel / seen, (kernel / seen) ** 2, hint) for seen, hint in sides),
        )
        measured = f"{edge:g} and {corner:g} when measured, your answer is {actual}."
        close = (
            hint
            for *result, hint in results
            if len(actual) == 2 and np.allclose(actual, result, rtol=1e-5)
        )
        if hint := next(close, measured):
            raise WrongError(f"Kernel {kernel}, padding {padding}, dilation {dilation}: {hint}")
    return "The ratio in a corner is the square of that at an edge."


@exercise("Exercise 2")
def partial_padding(answer: Callable[[Tensor, Tensor, Tensor], Tensor]) -> str:
    """answer(x, weight, bias) -> y: a 3x3 convolution with a partial padding of 1.

    Images may have any size.
    """
    whole, _, weights, bias = example()
    b, expected = bias.view(1, -1, 1, 1), None
    for x, weight in (
        (whole, weights),
        (whole[..., :4, 1:8], weights),
        (whole[:, 1:2, 4:5, 2:9], weights[:, :1]),
    ):
        total = F.conv2d(torch.ones_like(x[:1, :1]), torch.ones(1, 1, 3, 3), padding=1)
        features = F.conv2d(x, weight, padding=1)
        seen = F.conv2d((x != 0).any(1, keepdim=True).float(), torch.ones(1, 1, 3, 3), padding=1)
        mistakes = (
            (features + b, "The ratio is missing: this is zero padding."),
            ((features + b) * 9 / total, "The bias is scaled too: add it after the ratio."),
            (features * 9 / total, "The bias is missing."),
            (features, "The ratio is missing, and the bias: this is zero padding."),
            (
                features * total / 9 + b,
                "The ratio is upside down: it grows as fewer pixels are seen.",
            ),
            (features / total + b, "The ratio is 1/sum(M): it is 9/sum(M), and 1 inside."),
            (
                features * 3 / total + b,
                "The ratio is three times too small: sum(1) is 9 for one channel, 27 for three.",
            ),
            (
                features * 27 / total + b,
                "sum(1) is 9 for each channel of ones: one channel, or as many as x has.",
            ),
            (
                features * 9 / seen + b,
                "A black pixel is known: only what lies outside the image is a hole.",
            ),
            (
                features * 9 / seen.clamp(min=1) + b,
                "A black pixel is known: only what lies outside the image is a hole.",
            ),
            (
                F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), weight) + b,
                "This is replicate padding.",
            ),
            (
                (features + b) * 9 / total + b,
                "The bias is there twice, once scaled: convolve without it.",
            ),
        )
        try:
            actual = call_answer(answer, x, weight, bias)
        except (RuntimeError, ValueError, IndexError) as error:
            if expected is None:
                raise
            raise WrongError(
                f"It fails for {tuple(x.shape)}: is a ratio kept, or a size typed in? {error}"
            ) from None
        expected = features * 9 / total + b
        compare_result(actual, expected, mistakes)
    return "It needs no mask, and takes images of any size."


@exercise("Exercise 3")
def run_in_tiles(answer: Callable[[Callable, Tensor, int, int], Tensor]) -> str:
    """answer(net, image, size, reach) -> the net's output on the image, from tiles of that size."""
    generator = torch.Generator().manual_seed(0)
    for (height, width), size, layers in (
        ((45, 67), 20, 4),
        ((33, 21), 16, 2),
        ((24, 40), 64, 3),  # larger than the image
        ((40, 40), 20, 1),
    ):
        weights = [
            torch.randn(3, 3, 3, 3, generator=generator) / 4 for _ in range(layers)
        ]  # the reach is a pixel per layer
        image = torch.randn(1, 3, height, width, generator=generator)
        net = _TiledNet(weights, size)
        actual = require_answer(answer(net, image.clone(), size, layers))
        expected = net.run(image)
        case = f"Image {height} x {width}, tiles of {size}, reach {layers}"
        if net.too_large:
            raise WrongError(
                f"{case}: a tile is {net.too_large}, at most {size} in each direction."
            )
        if not isinstance(actual, Tensor) or actual.shape != expected.shape:
            what = tuple(actual.shape) if isinstance(actual, Tensor) else type(actual).__name__
            raise WrongError(f"{case}: the result is {what}, expected {tuple(expected.shape)}.")
        if not net.pixels:
            raise WrongError(f"{case}: the net has not been called.")
        off = ((actual - expected).abs() > 1e-4).any(1)[0]  # (H, W)
        if off.any():
            raise WrongError(f"{case}: {_describe_seams(off, actual, net, image, size)}")
        waste = net.pixels / (height * width)
        if waste > 8:
            raise WrongError(
                f"{case}: right, but the net has computed {waste:.0f} pixels per pixel of the "
                "image: keep more of each tile."
            )
        if layers == 4:
            printed = waste
    return f"No seams, and {printed:.2f} pixels computed per pixel of the image. Fewer?"


class _TiledNet:
    """3x3 convolutions with zero padding, which count the pixels that they are given."""

    def __init__(self, weights: list[Tensor], size: int):
        self.weights = weights
        self.size = size
        self.pixels = 0
        self.too_large = ""

    def __call__(self, tile: Tensor) -> Tensor:
        height, width = tile.shape[-2:]
        self.pixels += height * width
        if max(height, width) > self.size:
            self.too_large = f"{height} x {width}"
        return self.run(tile)

    def run(self, x: Tensor) -> Tensor:
        for weight in self.weights:
            x = F.conv2d(x, weight, padding=1).tanh()
        return x


def _describe_seams(off: Tensor, actual: Tensor, net: _TiledNet, image: Tensor, size: int) -> str:
    """What is wrong, where `off` (H, W) is true."""
    rows = [[net.run(tile) for tile in row.split(size, 3)] for row in image.split(size, 2)]
    if torch.allclose(actual, torch.cat([torch.cat(row, 3) for row in rows], 2), atol=1e-4):
        return "these tiles do not overlap, so each has a border of its own: there are seams."
    row, column = (int(i) for i in off.nonzero()[0])
    count = int(off.sum())
    reach = len(net.weights)
    inside = off[reach:-reach, reach:-reach]
    if not inside.any():
        return (
            f"{count} pixels differ, all at the border of the image: there a tile's border is the "
            "image's own, so its outermost pixels are right. Do not pad the image yourself."
        )
    return (
        f"{count} pixels differ, the first in row {row}, column {column}. A pixel is right if "
        f"it is at least {reach} away from each border of its tile that is not the image's."
    )
