"""Checks of notebook 04.

What stays unknown in a gap, the average of the known samples, a disparity map to fill.
"""

from collections.abc import Callable

import numpy as np
import torch
from skimage import data
from torch import Tensor
from torch.nn import functional as F

import pconv
from course.checks.exercise import WrongError, call_answer, exercise, require_answer
from course.missing_data import disparity_map, mean_and_interval, nearest, one_thread
from pconv.photos import to_tensor

SWAPPED = (
    "You have the two cases the wrong way round: at the end of the signal only one side helps."
)
REACH = (
    "The sample in the middle of the window is the one that is computed. How many does the window "
    "reach besides it?"
)
# (rule, hint): how many samples of the gap g are unknown, for a window w and n layers.
UNKNOWN_MISTAKES = (
    (
        lambda g, w, n, end: g - n * (w - 1),
        "That is a gap with known samples on both sides. At the end of a signal they come from one "
        "side only.",
    ),
    (
        lambda g, w, n, end: g - n * (w - 1) // 2,
        "In the middle of a signal a gap is filled from both sides.",
    ),
    (lambda g, w, n, end: g - n * (w - 1) // (1 + (not end)), SWAPPED),
    (
        lambda g, w, n, end: g - (w - 1) // (1 + end),
        "That is after one layer. Each further one fills as many again.",
    ),
    (lambda g, w, n, end: g - n * w // (1 + end), REACH),
    (lambda g, w, n, end: g - n * w, REACH),
    (
        lambda g, w, n, end: min(g, n * (w - 1) // (1 + end)),
        "That is how many are filled: how many are left?",
    ),
    (
        lambda g, w, n, end: g,
        "That is the gap before the first layer. How far does a window reach into it?",
    ),
)
UNKNOWN_CASES = (
    (20, 15, 1, False),
    (20, 15, 1, True),
    (9, 3, 2, False),
    (9, 3, 2, True),
    (30, 5, 4, False),
    (30, 5, 4, True),
    (4, 7, 3, False),
    (14, 15, 1, False),
)


@exercise("Exercise 1")
def still_unknown(answer: Callable[[int, int, int, bool], int]) -> str:
    """answer(gap, window, layers, at_end): how many samples of the gap are still unknown.

    The gap is in the middle of a long signal, or at its end; the window is odd.
    """
    expected = [_left(*case) for case in UNKNOWN_CASES]
    actual = [_number(require_answer(answer(*case))) for case in UNKNOWN_CASES]
    if actual == expected:
        return "Each layer fills half a window from every side that is known."
    if [max(count, 0) for count in actual] == expected:
        raise WrongError("Fewer than 0 samples cannot be unknown.")
    for rule, hint in UNKNOWN_MISTAKES:
        mistake = [rule(*case) for case in UNKNOWN_CASES]
        if actual in (mistake, [max(count, 0) for count in mistake]):
            raise WrongError(hint)
    wrong = next(i for i, count in enumerate(actual) if count != expected[i])
    gap, window, layers, at_end = UNKNOWN_CASES[wrong]
    raise WrongError(
        f"A gap of {gap} {'at the end' if at_end else 'in the middle'}, window {window}, "
        f"layers: {layers}: unknown are {expected[wrong]} samples, your answer is "
        f"{actual[wrong]}. Draw the window around the first samples of the gap."
    )


def _left(gap: int, window: int, layers: int, at_end: bool) -> int:
    """Counted with the layer itself."""
    mask = torch.ones(1, 1, 3 * gap + 2 * window, dtype=torch.bool)
    start = mask.shape[2] - gap if at_end else gap + window
    mask[..., start : start + gap] = False
    conv = pconv.PartialConv1d(1, 1, window, padding=window // 2)
    for _ in range(layers):
        mask = conv(torch.zeros(mask.shape), mask)[1] > 0
    return int((~mask).sum())


def _number(result) -> int:
    try:
        number = float(result)
    except (TypeError, ValueError, RuntimeError):
        raise WrongError(
            f"Return one whole number: how many samples are unknown. Yours is {result!r:.60}."
        ) from None
    if isinstance(result, bool) or not number.is_integer():
        raise WrongError(f"Return a whole number: how many samples. Yours is {result!r:.60}.")
    return int(number)


AVERAGE_HINTS = {
    "plain": "This is the plain average: every window that touches a NaN is NaN. Select with "
    "torch.where first.",
    "product": "0 · NaN is NaN: select the known samples with torch.where, do not multiply.",
    "by window": "You divide by the window, so an unknown sample counts as 0. Divide by how many "
    "samples are known.",
    "by inside": "You divide by the samples of the window inside the signal, known or not. Divide "
    "by how many are known.",
    "ends": "At the ends the window reaches out of the signal. What lies there is unknown as well: "
    "pad `known` with zeros.",
    "zero": "Where a window holds no known sample there is no average: return NaN, not 0.",
    "gaps only": "Smooth all of the signal: a known sample becomes the average of its window, too.",
    "upside down": "The ratio is upside down: the fewer samples are known, the larger it is.",
    "sum": "That is the sum of the known samples. Divide by how many they are.",
    "finite": "`known` says what is known, not the values: a finite value may be unknown too (here "
    "one is -999).",
    "nonzero": "A known sample may be 0: ask `known`, not the values.",
    "inverted": "You average the unknown samples: `known` is True where a sample is known.",
}


@exercise("Exercise 2")
def average_of_known(answer: Callable[[Tensor, Tensor, int], Tensor]) -> str:
    """answer(x, known, window): the mean of the known samples in each window, else NaN.

    x: (1, 1, L), anything where it is unknown. known: bool (1, 1, L). The window is odd.
    """
    generator = torch.Generator().manual_seed(4)
    known = torch.ones(1, 1, 60, dtype=torch.bool)
    known[..., :2] = known[..., 9:12] = known[..., 20:32] = known[..., 40] = False
    x = 10 + torch.randn(1, 1, 60, generator=generator)
    x[..., 5] = 0  # is known
    x[~known] = torch.nan
    x[..., 40] = -999  # a finite value, and unknown all the same
    for window in (7, 3, 15):
        result = call_answer(lambda x, known, window=window: answer(x, known, window), x, known)
        actual = _tensor(result, x.shape)
        expected, total, count = _windows(x, known, window)
        if torch.allclose(actual, expected, rtol=1e-4, atol=1e-4, equal_nan=True):
            continue
        for name, mistake in _average_mistakes(x, known, window, total, count).items():
            if torch.allclose(actual, mistake, rtol=1e-4, atol=1e-4, equal_nan=True):
                raise WrongError(AVERAGE_HINTS[name])
        raise WrongError(_difference(actual, expected, count, window))
    return "Two convolutions and a division: this is PartialConv1d with averaging weights."


def _windows(x: Tensor, known: Tensor, window: int) -> tuple[Tensor, Tensor, Tensor]:
    """The mean of the known samples of each window, their sum, and how many they are."""
    ones = torch.ones(1, 1, window)
    total = F.conv1d(torch.where(known, x, 0), ones, padding=window // 2)
    count = F.conv1d(known.float(), ones, padding=window // 2)
    return total / count, total, count


def _average_mistakes(
    x: Tensor, known: Tensor, window: int, total: Tensor, count: Tensor
) -> dict[str, Tensor]:
    """What each mistake of AVERAGE_HINTS gives."""
    ones = torch.ones(1, 1, window)
    inside = F.conv1d(torch.ones_like(x), ones, padding=window // 2)
    return {
        "plain": F.conv1d(x, ones / window, padding=window // 2),
        "product": F.conv1d(x * known, ones, padding=window // 2) / count,
        "by window": total / window,
        "by inside": total / inside,
        "ends": total / (count + window - inside),
        "zero": (total / count).nan_to_num(0),
        "gaps only": torch.where(known, x, total / count),
        "upside down": total / window * (count / window),
        "sum": total,
        "finite": _windows(x, x.isfinite(), window)[0],
        "nonzero": _windows(x, known & (x != 0), window)[0],
        "inverted": _windows(x, ~known, window)[0],
    }


def _difference(actual: Tensor, expected: Tensor, count: Tensor, window: int) -> str:
    if lost := int((~actual.isfinite() & (count > 0)).sum()):
        return f"Window {window}: {lost} windows hold a known sample; their result is not finite."
    if (actual.isfinite() & (count == 0)).any():
        return f"Window {window}: where a window holds no known sample, return NaN."
    place = int((actual - expected).abs().nan_to_num(0).argmax())
    return (
        f"Window {window}: sample {place} is {actual[0, 0, place]:.3f}, expected "
        f"{expected[0, 0, place]:.3f}, the mean of {int(count[0, 0, place])} known samples."
    )


MASKS = 16
MEASURES = ("mean error", "median error", "share off by more than 20 pixels")


@exercise("Exercise 3")
@one_thread()
def fill_unknown(answer: Callable[[Tensor, Tensor], Tensor]) -> str:
    """answer(values, photo) -> filled: a disparity map (H, W) in pixels, NaN where it is unknown.

    photo: (3, H, W), the left photo of the same pixels.
    """
    truth = disparity_map(4)
    photo = to_tensor(data.stereo_motorcycle()[0])[0, :, ::4, ::4]
    scores, best = [], []
    for seed in range(MASKS):
        holes = pconv.random_holes(*truth.shape, ratio=(0.2, 0.25), rng=np.random.default_rng(seed))
        hidden = truth.isfinite() & torch.from_numpy(holes)
        values = truth.where(~hidden, torch.nan)
        actual = _tensor(call_answer(answer, values, photo), truth.shape)
        known = values.isfinite()
        if left := int((~actual.isfinite()).sum()):
            raise WrongError(f"{left} pixels are not filled: they are NaN or infinite.")
        if not torch.allclose(actual[known], values[known], rtol=1e-4):
            raise WrongError(
                "Known pixels have changed: torch.where(values.isfinite(), values, filled)."
            )
        if torch.equal(actual[hidden], truth[hidden]):
            raise WrongError(
                "Nothing is off: what was hidden has been looked up. Fill it from what is known."
            )
        scores.append(_score((actual - truth)[hidden]))
        best.append(_score((nearest(values) - truth)[hidden]))
    return _judge(np.array(scores), np.array(best), float(truth.nanmean()))


def _score(difference: Tensor) -> tuple[float, float, float]:
    """MEASURES, the last in percent."""
    error = difference.abs()
    far = 100 * (error > 20).float().mean()
    return error.mean().item(), error.median().item(), far.item()


def _judge(scores: np.ndarray, best: np.ndarray, level: float) -> str:
    """The verdict; scores and those of the nearest known pixel: (masks, measures)."""
    differences = [mean_and_interval(column) for column in (scores - best).T]
    better = [name for name, (d, half) in zip(MEASURES, differences) if d + half < 0]
    worse = [name for name, (d, half) in zip(MEASURES, differences) if d - half > 0]
    table = "; ".join(
        f"{name} {mine:.2f}{unit}, nearest {other:.2f}{unit}, difference {d:+.2f} ± {half:.2f}"
        for name, unit, mine, other, (d, half) in zip(
            MEASURES, ("", "", " %"), scores.mean(0), best.mean(0), differences
        )
    )
    table = f"Over {MASKS} masks (± is a 95 % interval): {table}."
    if np.array_equal(scores, best):
        raise WrongError(f"{table} This is the nearest known pixel: take more into account.")
    if scores[:, 0].mean() > 0.8 * level:
        raise WrongError(f"{table} Does an unknown pixel count as 0 somewhere?")
    if MEASURES[0] in better or (better and not worse):
        return f"{table} Better: {', '.join(better)}."
    if better and MEASURES[0] not in worse:
        raise WrongError(
            f"{table} Better: {', '.join(better)}; worse: {', '.join(worse)}. An average is "
            "seldom far off, and blurs every edge. Which known pixels lie on the same surface?"
        )
    if MEASURES[0] in worse:
        raise WrongError(
            f"{table} The mean error is higher. The nearest pixels know most: start from them."
        )
    raise WrongError(
        f"{table} Undecided: no difference is larger than its interval. What does the photo know?"
    )


def _tensor(result, shape: torch.Size) -> Tensor:
    """A result, a tensor or an array, as a float tensor of that shape."""
    if not isinstance(result, Tensor | np.ndarray):
        raise WrongError(
            f"Return a tensor of shape {tuple(shape)}; yours is a {type(result).__name__}."
        )
    try:
        result = torch.as_tensor(result).detach().to("cpu", torch.float32)
    except TypeError:
        raise WrongError(f"Return numbers; yours are of dtype {result.dtype}.") from None
    if result.shape != shape:
        raise WrongError(
            f"Return a tensor of shape {tuple(shape)}; yours is {tuple(result.shape)}."
        )
    return result
