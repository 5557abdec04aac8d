"""Checks of notebook 10: weights of parts, the fewest parts, the largest batch that fits."""

import functools
import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from course.checks.exercise import WrongError, exercise, require_answer
from course.memory import measure_peak


def _whole_number(actual) -> int:
    """The answer, if it is a whole number, of whatever type."""
    actual = require_answer(actual)
    is_array = isinstance(actual, np.ndarray | list | tuple | set | dict | str | bytes)
    try:
        whole = not is_array and not isinstance(actual, bool) and int(actual) == actual
    except (TypeError, ValueError, OverflowError, RuntimeError):
        whole = False
    if not whole:
        raise WrongError(f"Return a whole number, not {type(actual).__name__} {actual!r:.40}.")
    return int(actual)


@exercise("Exercise 1")
def part_weights(answer: Callable[[Sequence[int]], Iterable[float]]) -> str:
    """answer(sizes): by which weight the mean loss of each part counts."""
    for sizes in ([3, 3, 1], [4, 2], [5]):
        given = list(sizes)
        actual = require_answer(answer(given))
        try:
            actual = [float(weight) for weight in actual]
        except (TypeError, ValueError, RuntimeError):
            raise WrongError(
                f"Return a list of numbers, one per part, not {type(actual).__name__}."
            ) from None
        if given != sizes:
            raise WrongError("It changes the list that it is given.")
        if len(actual) != len(sizes):
            raise WrongError(f"{len(actual)} weights for {len(sizes)} parts.")
        total, inverse = sum(sizes), [1 / size for size in sizes]
        for wrong, hint in (
            ([1 / len(sizes)] * len(sizes), "That is right for equal parts: a small one counts as "
             "much as a large one, so its photos count more."),
            ([1] * len(sizes), "The sum of the parts' means: with more parts the gradient grows."),
            (sizes, "The sum over all photos, not their mean: the batch size times too "
             "large."),
            ([1 / total] * len(sizes), "A part's loss is a mean over its photos: it stands for all "
             "of them, not for one."),
            ([value / sum(inverse) for value in inverse], "Upside down: a larger part counts "
             "more."),
            ([size / max(sizes) for size in sizes], "Relative to the largest part: divide by the "
             "size of the whole batch."),
        ):  # fmt: skip
            if _close(actual, wrong) and not _close(wrong, [size / total for size in sizes]):
                raise WrongError(hint)
        if not _close(actual, [size / total for size in sizes]):
            if not math.isclose(sum(actual), 1, rel_tol=1e-6):
                raise WrongError(
                    f"For sizes {sizes} the weights add up to {sum(actual):.3f}; they must add up "
                    "to 1, or the gradient is longer or shorter than the whole batch's."
                )
            raise WrongError(f"For sizes {sizes} a photo does not count the same in each part.")
    return "Every photo counts the same, in whatever part it is."


def _close(actual: Sequence[float], expected: Sequence[float]) -> bool:
    return bool(np.allclose(actual, expected, rtol=1e-6, atol=0))


@exercise("Exercise 2")
def fewest_parts(answer: Callable[[float, float, int, float], int]) -> str:
    """answer(fixed, per_photo, batch, limit): parts in which the batch fits into `limit` bytes."""
    for fixed, per_photo, batch, limit in (
        (1500, 100, 33, 2000),  # 5 at a time: 7 parts
        (500, 300, 15, 2000),  # 5 at a time: 3 parts, and none is left over
        (500, 300, 4, 2000),  # it fits as it is
        (1900, 100, 3, 2000),  # one at a time
        (1000, 1000, 7, 4999),
    ):
        at_once = (limit - fixed) // per_photo
        expected = math.ceil(batch / at_once)
        actual = _whole_number(answer(fixed, per_photo, batch, limit))
        if actual == expected:
            continue
        for wrong, hint in (
            (math.ceil((fixed + batch * per_photo) / limit), "You divide the whole step by the "
             "limit: the fixed bytes are there in each part."),
            (math.ceil(batch * per_photo / limit), "The fixed bytes need room, too."),
            (at_once, "That is how many photos fit at the same time."),
            (batch // at_once, "Rounded down: what is left over needs a part, too."),
            (batch // at_once + 1, "Nothing is left over here, so the last part would be empty."),
            (math.ceil(batch / math.ceil((limit - fixed) / per_photo)), "The photos at the same "
             "time are rounded up: the last one does not fit."),
            (batch, "One photo at a time always fits, if any does, but fewer parts are asked for."),
        ):  # fmt: skip
            if actual == wrong:
                raise WrongError(f"{actual} parts, expected {expected}. {hint}")
        largest = math.ceil(batch / max(1, actual))
        fits = actual > 0 and largest <= at_once
        raise WrongError(
            f"{actual} parts, expected {expected}: {fixed} + {per_photo} per photo, a batch of "
            f"{batch}, limit {limit}. "
            + ("It fits in fewer." if fits else f"A part has {largest} photos, and {at_once} fit.")
        )
    return "The fixed bytes once, as many photos at a time as fit, and a part for the rest."


@exercise("Exercise 3")
def largest_batch_that_fits(answer: Callable[[Callable[[int], int], float], int]) -> str:
    """answer(memory_of, limit): the largest batch whose training step fits into `limit` bytes."""
    calls = [_try_limit(answer, expected) for expected in (13, 6)]
    return f"13 fit, 14 do not; {calls[0]} calls. And with less memory 6, after {calls[1]} calls."


def _try_limit(answer: Callable, expected: int) -> int:
    """Asks for the batch where `expected` photos fit, and returns how often it was measured."""
    calls = []
    limit = (_memory_of(expected) + _memory_of(expected + 1)) / 2

    def memory_of(batch: int) -> int:
        if isinstance(batch, bool) or not isinstance(batch, int | float | np.number):
            raise WrongError(f"memory_of wants a whole number, not {type(batch).__name__}.")
        if batch != batch or batch != batch // 1:
            raise WrongError(f"You tried a batch of {batch}: it has to be a whole number.")
        if batch < 1:
            raise WrongError(
                f"You tried a batch of {int(batch)}: there is no step without a photo."
            )
        calls.append(batch)
        if batch > 2 * expected:
            raise WrongError(
                f"You tried a batch of {batch:.0f}, more than twice what fits: on a GPU a crash."
            )
        return _memory_of(int(batch))

    actual = _whole_number(answer(memory_of, limit))
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
        (2 ** int(math.log2(expected)), "A power of two fits, but need it be one?"),
    ):
        if actual == wrong != expected:
            raise WrongError(f"{actual}: {hint}")
    if actual != expected:
        raise WrongError(
            f"{actual} "
            f"{'does not fit' if actual > expected else f'fits, and so does {actual + 1}'}."
        )
    if not calls:
        raise WrongError("You have not called memory_of: how do you know?")
    return len(calls)


@functools.cache
def _memory_of(batch: int) -> int:
    """The peak of a real training step on a CPU, in bytes."""
    return measure_peak("fp32", batch, size=32, widths=(16, 32, 64))
