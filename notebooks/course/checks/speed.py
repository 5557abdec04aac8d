"""Checks of notebook 09: a ratio of speeds, the gain of the whole, the largest batch that fits.

All times here are made up: no check depends on how fast this machine is.
"""

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

import pconv
from course.checks.exercise import WrongError, exercise, require_answer
from course.speed import Case, measure_speed

_ON_PIXELS = pconv.InpaintingLoss(
    torch.nn.Identity(), pconv.LossWeights(perceptual=0, style_out=0, style_comp=0)
)


def _number(actual, expected: float, mistakes: Sequence[tuple[float, str]]) -> None:
    """Raises the hint of the mistake that gives just this number, or says what it should be."""
    try:
        actual = float(require_answer(actual))
    except (TypeError, ValueError):
        raise WrongError(f"Return a number, not {type(actual).__name__}.") from None
    for wrong, hint in mistakes:
        if math.isclose(actual, wrong, rel_tol=1e-4):
            raise WrongError(hint)
    if not math.isclose(actual, expected, rel_tol=1e-4):
        raise WrongError(f"You say {actual:.3f}, expected {expected:.3f}.")


@exercise("Exercise 1")
def relative_speed(answer: Callable[[np.ndarray, np.ndarray, int, int], float]) -> str:
    """answer(fp32, amp, fp32_batch, amp_batch): samples/s with AMP over samples/s in FP32."""
    machine = np.array([1, 1.05, 1.3, 1.5, 1.6, 1.8, 2, 2.05, 2.1])  # becomes slower
    fp32, amp = 0.8 * machine, 0.9 * machine
    amp[0] *= 3  # something else ran
    amp[1] *= 2
    fp32[8] *= 1.8
    expected, median = 8 / 4 * 0.8 / 0.9, np.median(fp32) / np.median(amp)
    mistakes = (
        (1 / expected, "This is FP32 relative to AMP: upside down."),
        (
            0.8 / 0.9,
            "This compares steps, and a step of AMP trains a larger batch: samples a second.",
        ),
        (
            0.9 / 0.8 * 2,
            "The batches are right, the seconds upside down: fewer seconds are faster.",
        ),
        (
            2 * (fp32 / amp).mean(),
            "A mean of the turns: three of nine were disturbed, and it follows them.",
        ),
        (
            2 * (fp32 / amp)[1:].mean(),
            "Without the first turn, but still a mean: two more were disturbed.",
        ),
        (
            2 * fp32.sum() / amp.sum(),
            "A ratio of sums, or of means: the disturbed turns count in full.",
        ),
        (
            2 * median,
            "A ratio of two medians: they are of different turns, when the machine was not "
            "equally fast.",
        ),
        (
            2 * fp32.min() / amp.min(),
            "The best of each: these are different turns, and the machine had changed.",
        ),
    )
    _number(answer(fp32, amp, 4, 8), expected, mistakes)
    return (
        "The median of the ratios, turn by turn: neither the slow end nor the outliers have moved "
        "it."
    )


@exercise("Exercise 2")
def whole_gain(answer: Callable[[Sequence[float], Sequence[float]], float]) -> str:
    """answer(shares, gains): how many times as fast the whole becomes (Amdahl)."""
    for shares, gains in (
        ((0.6, 0.25), (4.0, 1.6)),
        ((0.5,), (0.4,)),
        ((0.7, 0.2, 0.1), (8.0, 2.0, 1.0)),
    ):
        s, g = np.array(shares), np.array(gains)
        rest, after = 1 - s.sum(), (s / g).sum()
        mistakes = [
            (
                after + rest,
                "This is the time afterwards, as a share of the time before: the speed is its "
                "inverse.",
            ),
            (
                (s * g).sum() + rest,
                "A mean of the gains, weighted by time before: add up times, not speeds.",
            ),
            ((s * g).sum(), "A mean of the gains: add up times, not speeds."),
            (1 / (rest + (s / g)[0] + s[1:].sum()), "Only the first part has gained something."),
        ]
        if rest > 1e-6:
            mistakes.append(
                (1 / after, "What is not listed takes its time, too: as much as before.")
            )
        expected = 1 / (rest + after)
        _number(
            answer(list(shares), list(gains)),
            expected,
            [m for m in mistakes if not math.isclose(m[0], expected, rel_tol=1e-3)],
        )
    return "Times add up, speeds do not."


@exercise("Exercise 3")
def largest_batch_that_fits(answer: Callable[[Callable[[int], int], float], int]) -> str:
    """answer(memory_of, limit): the largest batch whose training step fits into `limit` bytes."""
    expected, calls = 13, []
    limit = (_memory_of(expected) + _memory_of(expected + 1)) / 2

    def memory_of(batch: int) -> int:
        calls.append(batch)
        if batch > 2 * expected:
            raise WrongError(
                f"You tried a batch of {batch}, more than twice what fits: on a GPU a crash."
            )
        return _memory_of(int(batch))

    actual = require_answer(answer(memory_of, limit))
    if isinstance(actual, bool) or not isinstance(actual, int | np.integer):
        raise WrongError(f"Return a whole number, not {type(actual).__name__} {actual}.")
    if len(calls) > 5:
        raise WrongError(f"Right or not, you called memory_of {len(calls)} times; five are enough.")
    slope, first = _memory_of(4) - _memory_of(3), _memory_of(2) - _memory_of(1)
    for wrong, hint in (
        (
            limit // _memory_of(1),
            "You divide by the memory of a batch of 1: weights, gradients and Adam are in it.",
        ),
        (
            limit // slope,
            "You divide the limit by the bytes of a sample: weights and Adam need room, too.",
        ),
        (
            (limit - _memory_of(1)) // first + 1,
            "A line through batches 1 and 2: 1 lies off it. Take larger ones.",
        ),
        (expected + 1, "One too many: round down."),
        (8, "A power of two fits, but need it be one?"),
    ):
        if actual == wrong != expected:
            raise WrongError(f"{actual}: {hint}")
    if actual != expected:
        raise WrongError(
            f"{actual} "
            f"{'does not fit' if actual > expected else f'fits, and so does {actual + 1}'}."
        )
    return f"{expected} fit, {expected + 1} do not; {len(calls)} calls."


@functools.cache
def _memory_of(batch: int) -> int:
    """The peak of a real training step on a CPU, in bytes."""
    with torch.random.fork_rng(devices=[]):
        (row,) = measure_speed(
            [Case("fp32", batch)], _ON_PIXELS, size=32, widths=(16, 32, 64), repeats=1
        )
    return row["peak_bytes"]
