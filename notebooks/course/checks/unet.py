"""Checks of notebook 02.

Levels at the border, the window sum of parts, a network for large photos.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import pconv
from course.checks.exercise import NotAttemptedError, WrongError, exercise, require_answer
from pconv.benchmark import saved_bytes


@exercise("Exercise 1")
def levels_at_the_border(answer: Callable[[int, Sequence[int]], int]) -> str:
    """answer(width, kernels): levels until a hole along one border of the image is gone.

    Each level has stride 2.
    """
    widths = torch.tensor([1, 3, 4, 7, 8, 15, 16, 23, 24, 39, 40, 71, 72])
    # As many kernels as there would have to be with stride 1.
    for kernels in ([7, 5, 5, *[3] * 70], [3] * 72):
        actual = [require_answer(answer(width, tuple(kernels))) for width in widths.tolist()]
        mask = (torch.arange(128) >= widths[:, None]).float()[:, None]  # (widths, 1, 128)
        expected = torch.ones_like(widths)
        for kernel in kernels:
            mask = pconv.PartialConv1d(1, 1, kernel, 2, kernel // 2).window_ratio([mask], [1])[1]
            expected += (mask == 0).flatten(1).any(1)

        def first(reaches: list[int], distances: Tensor = widths) -> list[int]:
            """For each width the first level whose layers, together, reach as far."""
            return (1 + (torch.tensor(reaches).cumsum(0) < distances[:, None]).sum(1)).tolist()

        sides = [(kernel - 1) // 2 for kernel in kernels]
        strided = [side * 2 ** min(layer, 40) for layer, side in enumerate(sides)]
        for wrong, hint in (
            (
                first([2 * s for s in strided]),
                "Twice too far: one side only, and a stride moves later windows only.",
            ),
            (
                first(sides),
                "Where are the strides? After n layers of stride 2 a step is 2^n pixels of the "
                "photo.",
            ),
            (
                first(strided, widths + 1),
                "A reach just as long as the hole is enough: it ends on the first valid pixel.",
            ),
            ((expected - 1).tolist(), "Levels count from 1: the first layer leads to level 1."),
        ):
            if actual == wrong:
                raise WrongError(hint)
        for width, mine, level in zip(widths.tolist(), actual, expected.tolist()):
            if mine != level:
                names = ", ".join(map(str, kernels[:4]))
                raise WrongError(
                    f"Kernels {names}, ...: {width} pixels are gone at level {level}, you say "
                    f"{mine}."
                )
    return (
        f"{expected[-1]} levels of windows of 3 for 72 pixels; with stride 1 it would take "
        f"{first(sides)[-1]} layers."
    )


@exercise("Exercise 2")
def window_sum(answer: Callable[[list[Tensor], list[int], int], Tensor]) -> str:
    """answer(masks, channels, kernel) -> (N, 1, H, W): valid features in each window.

    A mask has 1 or C_i channels.
    """
    generator = torch.Generator().manual_seed(0)
    for kernel, channels, own in ((5, [8, 5, 3], [False, True, False]), (3, [4, 6], [True, False])):
        box = torch.ones(1, 1, kernel, kernel)
        parts = [c if o else 1 for c, o in zip(channels, own)]
        masks = [(torch.rand(2, c, 11, 14, generator=generator) > 0.6).float() for c in parts]
        sums = [F.conv2d(mask.sum(1, keepdim=True), box, padding=kernel // 2) for mask in masks]
        expected = sum(each if o else c * each for each, c, o in zip(sums, channels, own))
        with FlopCounterMode(display=False) as counter:
            actual = require_answer(
                answer([mask.clone() for mask in masks], list(channels), kernel)
            )
        shape = tuple(actual.shape) if isinstance(actual, Tensor) else type(actual).__name__
        if shape != tuple(expected.shape):
            raise WrongError(
                f"Shape {shape}, expected {tuple(expected.shape)}: one sum a window, padding "
                "kernel // 2."
            )
        for wrong, hint in (
            (sum(sums), "A mask of one channel stands for C_i features: it counts C_i times."),
            (
                sum(c * each for each, c in zip(sums, channels)),
                "A mask of C_i channels has every feature in it: add them up, and that is all.",
            ),
            (expected / kernel**2, "This is the mean over the window, not the sum."),
        ):
            if torch.allclose(actual.float(), wrong):
                raise WrongError(hint)
        if not torch.allclose(actual.float(), expected):
            n, _, y, x = torch.unravel_index(
                (actual.float() - expected).abs().argmax(), expected.shape
            )
            what = f"Kernel {kernel}, channels {channels}: in window ({n}, {y}, {x})"
            raise WrongError(
                f"{what} {expected[n, 0, y, x]:g} features are valid, not {actual[n, 0, y, x]:g}."
            )
        times = counter.get_total_flops() / 2 / expected.numel() / kernel**2
        if times > 1:
            raise WrongError(
                f"Right sums, but {times:g} times the multiplications needed: add up, then "
                "convolve once."
            )
    return (
        "No more multiplications in convolutions than one channel needs, however many features "
        "there are."
    )


@exercise("Exercise 3")
def network_for_large_photos(answer: Sequence[int]) -> str:
    """answer: widths of a PConvUNet for photos of 1024 x 1024 pixels and holes of up to 200."""
    if answer is None or answer is ...:
        raise NotAttemptedError
    if not (
        isinstance(answer, list | tuple)
        and answer
        and all(isinstance(n, int) and n >= 16 for n in answer)
    ):
        raise WrongError("Give a list of whole numbers: the features of each level, at least 16.")
    with torch.device("meta"):
        model = pconv.PConvUNet(widths=answer)
    weights = sum(parameter.numel() for parameter in model.parameters())
    columns = torch.arange(1024)  # a row of a photo
    start = torch.arange(300, 428)[:, None]  # a hole in 128 places
    mask = ((columns < start) | (columns >= start + 200)).float()[:, None, None]
    left = int((model.mask_trace(mask)[len(answer) - 1][1] == 0).flatten(1).any(1).sum())
    if left:
        raise WrongError(
            f"{len(answer)} levels: the hole is not gone in {left} of the 128 places that were "
            "tried."
        )
    if weights > 2e6:
        raise WrongError(
            f"{weights / 1e6:.1f} million weights, at most 2: most lie where two levels are wide."
        )
    model, photo = pconv.PConvUNet(widths=answer).eval(), torch.rand(1, 3, 128, 128)
    kernels = sum(block.conv.weight.nbytes for block in (*model.encoder, *model.decoder))
    saved = saved_bytes(lambda: model(photo, photo[:, :1] > 0.3))
    kept = 64 * (saved - kernels) / 2**20  # 64 photos of this size are as large as one
    if kept > 400:
        raise WrongError(
            f"{kept:.0f} MiB are kept, at most 400: the first levels have the most pixels."
        )
    return (
        f"{len(answer)} levels, {weights / 1e6:.2f} million weights, {kept:.0f} MiB, "
        f"{sum(answer)} features. More?"
    )
