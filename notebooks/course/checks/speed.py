"""Checks of notebook 09: a ratio of speeds, and the gain of the whole.

All times here are made up: no check depends on how fast this machine is.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from course.checks.exercise import WrongError, exercise, require_answer


def _number(actual, expected: float, mistakes: Sequence[tuple[float, str]]) -> None:
    """Raises the hint of the mistake that gives just this number, or says what it should be."""
    actual = require_answer(actual)
    try:
        if isinstance(actual, bool | str | bytes) or np.ndim(actual):
            raise TypeError
        actual = float(actual)
    except (TypeError, ValueError, RuntimeError):
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
    for fp32_seconds, amp_seconds, fp32_batch, amp_batch in ((0.8, 0.9, 4, 8), (0.5, 0.6, 6, 9)):
        fp32, amp = fp32_seconds * machine, amp_seconds * machine
        amp[0] *= 3  # something else ran
        amp[1] *= 2
        fp32[8] *= 1.8
        more = amp_batch / fp32_batch
        expected = more * fp32_seconds / amp_seconds
        mistakes = _speed_mistakes(fp32, amp, more)
        _number(answer(fp32.copy(), amp.copy(), fp32_batch, amp_batch), expected, mistakes)
    return (
        "The median of the ratios, turn by turn: neither the slow end nor the outliers have moved "
        "it."
    )


def _speed_mistakes(fp32: np.ndarray, amp: np.ndarray, more: float) -> list[tuple[float, str]]:
    """(wrong answer, hint) pairs. more: how many times as many samples a step of AMP trains."""
    ratio = float(np.median(fp32 / amp))
    return [
        (1 / (more * ratio), "This is FP32 relative to AMP: upside down."),
        (
            ratio,
            "This compares steps, and a step of AMP trains a larger batch: samples per second.",
        ),
        (more / ratio, "The batches are right, the seconds upside down: fewer seconds are faster."),
        (
            more * (fp32 / amp).mean(),
            "A mean of the turns: three of nine were disturbed, and it follows them.",
        ),
        (
            more * (fp32 / amp)[1:].mean(),
            "Without the first turn, but still a mean: two more were disturbed.",
        ),
        (
            more * fp32.sum() / amp.sum(),
            "A ratio of sums, or of means: the disturbed turns count in full.",
        ),
        (
            more * np.median(fp32) / np.median(amp),
            "A ratio of two medians: they are of different turns, when the machine was not "
            "equally fast.",
        ),
        (
            more * fp32.min() / amp.min(),
            "The best of each: these are different turns, and the machine had changed.",
        ),
    ]


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
