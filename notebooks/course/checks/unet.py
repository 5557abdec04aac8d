"""Checks of notebook 02.

Levels at the border, the window sum of parts, a network for large photos.
"""

import itertools
import math
import operator
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import pconv
from course.checks.exercise import NotAttemptedError, WrongError, exercise, require_answer
from pconv.benchmark import saved_bytes

SIDE = 1024  # of the large photo, in pixels
HOLE = 200  # of its widest hole
MOST_WEIGHTS = 2.5e6
MOST_MEMORY = 350  # MiB
FEWEST_FEATURES = 700


@exercise("Exercise 1")
def levels_at_the_border(answer: Callable[[int, Sequence[int]], int]) -> str:
    """answer(width, kernels): levels until a hole along one border of the image is gone.

    Each level has stride 2.
    """
    _require_function(answer)
    widths = torch.tensor([1, 3, 4, 7, 8, 15, 16, 23, 24, 39, 40, 71, 72])
    # As many kernels as there would have to be with stride 1.
    for kernels in ([7, 5, 5, *[3] * 70], [3] * 72):
        actual = [_whole(answer(width, tuple(kernels))) for width in widths.tolist()]
        if all(level is None for level in actual):
            raise NotAttemptedError
        mask = (torch.arange(128) >= widths[:, None]).float()[:, None]  # (widths, 1, 128)
        expected = torch.ones_like(widths)
        for kernel in kernels:
            mask = pconv.PartialConv1d(1, 1, kernel, 2, kernel // 2).window_ratio([mask], [1])[1]
            expected += (mask == 0).flatten(1).any(1)
        sides = [(kernel - 1) // 2 for kernel in kernels]
        for wrong, hint in _mistakes_at_the_border(sides, widths, expected):
            if actual == wrong:
                raise WrongError(hint)
        for width, mine, level in zip(widths.tolist(), actual, expected.tolist()):
            if mine != level:
                names = ", ".join(map(str, kernels[:4]))
                mine = "return nothing" if mine is None else f"say {mine}"
                raise WrongError(
                    f"Kernels {names}, ...: {width} pixels are gone at level {level}, you {mine}."
                )
    return (
        f"{expected[-1]} levels of windows of 3 for 72 pixels; with stride 1 it would take "
        f"{math.ceil(72 / sides[0])} layers."
    )


def _mistakes_at_the_border(
    sides: list[int], widths: Tensor, expected: Tensor
) -> list[tuple[list[int], str]]:
    """(answers, hint) pairs. sides: how far a window reaches to one side, per layer."""

    def first(reaches: list[int], distances: Tensor = widths) -> list[int]:
        """For each width the first level whose layers, together, reach as far."""
        return (1 + (torch.tensor(reaches).cumsum(0) < distances[:, None]).sum(1)).tolist()

    strided = [side * 2 ** min(layer, 40) for layer, side in enumerate(sides)]
    return [
        (
            first([2 * reach for reach in strided]),
            "Twice too far. Is it both sides of the window? Only one holds valid pixels. Or does "
            "the stride of a layer move its own window? It moves those of later layers only.",
        ),
        (
            first(sides),
            "Where are the strides? After n layers of stride 2 a step is 2^n pixels of the photo.",
        ),
        (
            first(strided, widths + 1),
            "A reach just as long as the hole is enough: it ends on the first valid pixel.",
        ),
        ((expected - 1).tolist(), "Levels count from 1: the first layer leads to level 1."),
    ]


def _whole(answer) -> int | None:
    """A level as a number; None where the learner's function returns nothing."""
    if answer is None or answer is ...:
        return None
    try:
        level = float(answer)
    except (TypeError, ValueError, RuntimeError):
        raise WrongError(
            f"A level is a whole number; your function returns {type(answer).__name__}."
        ) from None
    if not level.is_integer():
        raise WrongError(f"A level is a whole number; your function returns {level:g}.")
    return int(level)


@exercise("Exercise 2")
def window_sum(answer: Callable[[list[Tensor], list[int], int], Tensor]) -> str:
    """answer(masks, channels, kernel) -> (N, 1, H, W): valid features in each window.

    A mask has 1 or C_i channels.
    """
    _require_function(answer)
    generator = torch.Generator().manual_seed(0)
    for kernel, channels, own in ((5, [8, 5, 3], [False, True, False]), (3, [4, 6], [True, False])):
        parts = [c if o else 1 for c, o in zip(channels, own)]
        masks = [(torch.rand(2, c, 11, 14, generator=generator) > 0.6).float() for c in parts]
        box = torch.ones(1, 1, kernel, kernel)
        sums = [F.conv2d(mask.sum(1, keepdim=True), box, padding=kernel // 2) for mask in masks]
        expected = sum(each if o else c * each for each, c, o in zip(sums, channels, own))
        of_all = sum(channels) * F.conv2d(torch.ones(1, 1, 11, 14), box, padding=kernel // 2)
        with FlopCounterMode(display=False) as counter:
            actual = require_answer(
                answer([mask.clone() for mask in masks], list(channels), kernel)
            )
        actual = _require_sums(actual, expected)
        for wrong, hint in (
            (sum(sums), "A mask of one channel stands for C_i features: it counts C_i times."),
            (
                sum(c * each for each, c in zip(sums, channels)),
                "A mask of C_i channels has every feature in it: add them up, and that is all.",
            ),
            (expected / kernel**2, "This is the mean over the window, not the sum."),
            (expected.clamp(max=1), "This is the new mask. How many features are valid?"),
            (of_all - expected, "You count the holes: the mask is 1 = valid."),
            (expected / sum(channels), "This counts pixels, not features."),
        ):
            if torch.allclose(actual, wrong):
                raise WrongError(hint)
        if not torch.allclose(actual, expected):
            n, _, y, x = torch.unravel_index((actual - expected).abs().argmax(), expected.shape)
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


def _require_sums(actual, expected: Tensor) -> Tensor:
    """The learner's result in float32, if it is a tensor of the right shape."""
    if not isinstance(actual, Tensor):
        raise WrongError(f"The result is a {type(actual).__name__}, expected a tensor.")
    if actual.shape == expected.shape:
        return actual.detach().cpu().float()
    shape, wanted = tuple(actual.shape), tuple(expected.shape)
    hint = "one sum per window, padding kernel // 2"
    if actual.ndim == 4 and actual.shape[2:] == expected.shape[2:]:
        hint = "the parts are added up, too: all features of a window make one number"
    raise WrongError(f"The result has shape {shape}, expected {wanted}: {hint}.")


@exercise("Exercise 3")
def network_for_large_photos(answer: Sequence[int]) -> str:
    """answer: widths of a PConvUNet for photos of 1024 x 1024 pixels and holes of up to 200."""
    if answer is None or answer is ...:
        raise NotAttemptedError
    widths = _require_widths(answer)
    with torch.device("meta"):
        model = pconv.PConvUNet(widths=widths)
    weights = sum(parameter.numel() for parameter in model.parameters())
    _require_no_hole(len(widths))
    if weights > MOST_WEIGHTS:
        raise WrongError(
            f"{weights / 1e6:.2f} million weights, at most {MOST_WEIGHTS / 1e6}: most lie where "
            "two levels are wide."
        )
    kept = kept_memory(widths)
    if kept > MOST_MEMORY:
        raise WrongError(
            f"{kept:.0f} MiB are kept, at most {MOST_MEMORY}: the first levels have the most "
            "pixels, so features are cheaper further down."
        )
    if sum(widths) < FEWEST_FEATURES:
        raise WrongError(
            f"All holes are gone, but with {sum(widths)} features in all; expected at least "
            f"{FEWEST_FEATURES}. At which levels are more of them cheap?"
        )
    return (
        f"{len(widths)} levels, {weights / 1e6:.2f} million weights, {kept:.0f} MiB, "
        f"{sum(widths)} features. More?"
    )


def _require_widths(answer: Iterable[int]) -> list[int]:
    """The features of each level, if they are whole numbers that grow as the exercise allows."""
    try:
        widths = [operator.index(width) for width in answer]
    except TypeError:
        widths = []
    if not widths:
        raise WrongError("Give a list of whole numbers: the features of each level.")
    if widths[0] < 16:
        raise WrongError(f"Level 1 has {widths[0]} features, expected at least 16.")
    for level, (above, below) in enumerate(itertools.pairwise(widths), 2):
        if not above <= below <= 2 * above:
            raise WrongError(
                f"Level {level} has {below} features after {above}: expected as many or more, and "
                "at most twice as many."
            )
    if len(widths) > 10:
        raise WrongError(
            f"{len(widths)} levels: a photo of {SIDE} pixels is a single pixel at level 10, and "
            "nothing is left to halve."
        )
    return widths


def _require_no_hole(levels: int) -> None:
    """Raises WrongError if a hole is left at the lowest level, away from the border or at it."""
    model = pconv.PConvUNet(widths=(1,) * levels)

    def left(masks: Tensor) -> Tensor:
        """masks: (N, 1, H, W). Returns a bool per mask: whether the lowest level has a hole."""
        return (model.mask_trace(masks)[levels - 1][1] == 0).flatten(1).any(1)

    columns = torch.arange(SIDE)  # a row of a photo
    start = torch.arange(300, 300 + 2**levels)[:, None]  # a hole wherever its windows may lie
    start = start[start[:, 0] < SIDE - HOLE]
    inside = left(((columns < start) | (columns >= start + HOLE)).float()[:, None, None])
    if inside.any():
        raise WrongError(
            f"{levels} levels: a hole away from the border is not gone in {int(inside.sum())} of "
            f"the {len(start)} places that were tried."
        )
    masks = torch.ones(4, 1, SIDE, SIDE)
    masks[0, ..., :HOLE] = 0  # a strip along the left border
    masks[1, :, -HOLE:] = 0  # and along the lower one
    masks[2, :, :HOLE, :HOLE] = 0  # in a corner
    masks[3, :, -HOLE:, -HOLE:] = 0
    names = ("a strip at the left border", "a strip at the lower border")
    names += ("a square in the upper left corner", "a square in the lower right corner")
    stuck = [name for name, hole in zip(names, left(masks)) if hole]
    if stuck:
        raise WrongError(
            f"{levels} levels fill every hole away from the border, but not {' or '.join(stuck)}: "
            f"a pixel at the border sees only one half of its field, here {_reach(levels)} pixels "
            f"of the {HOLE}."
        )


def _reach(levels: int) -> int:
    """The widest strip along the left border that is gone at the lowest of so many levels."""
    model, widths = pconv.PConvUNet(widths=(1,) * levels), torch.arange(1, SIDE)
    masks = (torch.arange(SIDE) >= widths[:, None]).float()[:, None, None]  # (widths, 1, 1, SIDE)
    return int(widths[model.mask_trace(masks)[levels - 1][1].flatten(1).all(1)].max())


def kept_memory(widths: Sequence[int], side: int = 256) -> float:
    """MiB that a forward pass of one large photo keeps for the backward pass, without the weights.

    A photo of `side` pixels is measured; the large one keeps as many times more as it has pixels.
    """
    model, photo = pconv.PConvUNet(widths=widths).eval(), torch.rand(1, 3, side, side)
    kernels = sum(block.conv.weight.nbytes for block in (*model.encoder, *model.decoder))
    saved = saved_bytes(lambda: model(photo, photo[:, :1] > 0.3))
    return (SIDE / side) ** 2 * (saved - kernels) / 2**20


def _require_function(answer) -> None:
    if answer is None or answer is ...:
        raise NotAttemptedError
    if not callable(answer):
        raise WrongError(f"Give the function itself, not what it returns: {answer!r}.")
