"""Checks of notebook 08.

Skipped steps in a trace of the loss scale, a paired interval, the number of seeds.
"""

import math
from collections.abc import Callable, Sequence
from itertools import count, pairwise

import numpy as np
import torch
from scipy.stats import t as student

from course.checks.exercise import WrongError, exercise, require_answer
from pconv.holes import BUCKETS


def _trace(overflows: Sequence[int], steps: int, growth: int) -> list[float]:
    """The loss scale of a real GradScaler, before the first step and after each one.

    overflows: the steps whose gradients overflow.
    """
    weight = torch.nn.Parameter(torch.ones(()))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    scaler = torch.amp.GradScaler("cpu", growth_interval=growth)
    scales = [scaler.get_scale()]
    for step in range(steps):
        optimizer.zero_grad()
        scaler.scale(weight * (math.inf if step in overflows else 1.0)).backward()
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
    return scales


@exercise("Exercise 1")
def skipped_steps(answer: Callable[[list[float]], int]) -> str:
    """answer(scales): how many steps were skipped.

    scales[0] is before the first step, scales[n] after step n.
    """
    for overflows, growth in (((0, 1, 5, 9, 10), 4), ((), 5), ((0, 3, 6, 20), 6)):
        scales = _trace(overflows, 24, growth)
        actual, pairs = require_answer(answer(list(scales))), list(pairwise(scales))
        for wrong, hint in (
            (len(overflows), None),
            (
                sum(a != b for a, b in pairs),
                "The scale also changes when it doubles; that step was a good one.",
            ),
            (
                sum(a < b for a, b in pairs),
                "A step is skipped where the scale is halved; these are the doublings.",
            ),
            (
                sum(a > b for a, b in pairs[1:]),
                "The first step is missing: scales[0] is the scale before it.",
            ),
            (
                math.log2(scales[0] / scales[-1]),
                "First against last: what is halved may be doubled again later.",
            ),
            (
                sum(s < scales[0] for s in scales),
                "A low scale is no skipped step, only the step that lowers it is.",
            ),
            (actual, f"{len(overflows)} of 24 steps were skipped, you say {actual}."),
        ):
            if actual == wrong:
                if hint:
                    raise WrongError(hint)
                break
    return "A halving is a skipped step, wherever it stands."


@exercise("Exercise 2")
def paired_interval(answer: Callable[[list[dict], str, str], tuple[float, float]]) -> str:
    """answer(rows, precision, quantity): the mean difference to fp32, paired by seed.

    And the half width of its 95 % t interval.
    """
    rng, n = np.random.default_rng(0), 5
    fp32 = rng.normal(0.8, 0.02, (n, 1)) - np.linspace(0, 0.4, 12)  # (seeds, buckets)
    bf16 = fp32 + rng.normal(0.004, 0.003, (n, 1)) + rng.normal(0, 0.004, fp32.shape)
    tables = {"fp32": fp32, "bf16": bf16, "tf32": bf16 + 1}
    buckets = [
        {"low": low, "high": high, "holes": holes}
        for low, high in BUCKETS
        for holes in ("interior", "border")
    ]
    rows = [
        {"seed": seed, "precision": name, **buckets[bucket], "ssim": float(value)}
        for name, table in tables.items()
        for (seed, bucket), value in np.ndenumerate(table)
    ]
    actual = require_answer(answer([rows[i] for i in rng.permutation(len(rows))], "bf16", "ssim"))
    if not (isinstance(actual, tuple | list | np.ndarray) and len(actual) == 2):
        raise WrongError(
            "Return two numbers: the mean difference, and the half width of its interval."
        )
    (mean, half), all_of_them, d = map(float, actual), (bf16 - fp32).ravel(), (bf16 - fp32).mean(1)
    if math.isclose(mean, -d.mean(), rel_tol=1e-6):
        raise WrongError("The sign: the difference is that precision minus fp32.")
    t, sd = student.ppf(0.975, n - 1), d.std(ddof=1)
    if math.isclose(mean, d.mean() - t * sd / n**0.5, rel_tol=1e-6):
        raise WrongError(
            "These are the two ends of the interval. Return its middle and its half width."
        )
    if not math.isclose(mean, d.mean(), rel_tol=1e-6):
        raise WrongError(
            f"The mean difference is {d.mean():.5f}, not {mean:.5f}. Only two of the precisions "
            "count."
        )
    unpaired = math.hypot(bf16.mean(1).std(ddof=1), fp32.mean(1).std(ddof=1))
    for wrong, hint in (
        (t * sd / n**0.5, None),
        (
            t * unpaired / n**0.5,
            "Not paired: the difference of each seed first, then their deviation.",
        ),
        (
            t * d.std() / n**0.5,
            "NumPy's std divides by n, which is too small for few seeds: std(ddof=1).",
        ),
        (
            t * sd,
            "The division by the square root of n is missing: the error is that of a mean, not of "
            "one seed.",
        ),
        (
            2 * t * sd / n**0.5,
            "This is the whole width of the interval, from end to end; return half of it.",
        ),
        (
            student.ppf(0.95, n - 1) * sd / n**0.5,
            "95 % in the middle leave 2.5 % on each side: ppf(0.975, ...).",
        ),
        (sd / n**0.5, "This is the standard error; the interval reaches t times as far."),
        (
            1.96 * sd / n**0.5,
            "1.96 is for many seeds; for few it is t, with n - 1 degrees of freedom.",
        ),
        (
            student.ppf(0.975, all_of_them.size - 1)
            * all_of_them.std(ddof=1)
            / all_of_them.size**0.5,
            "The buckets of one network are no separate trainings: average them first. n is the "
            "number of seeds.",
        ),
        (
            half,
            f"The mean is right; its half width is {t * sd / n**0.5:.5f}, not {half:.5f}. Are the "
            "seeds in the same order in both?",
        ),
    ):
        if math.isclose(half, wrong, rel_tol=1e-3):
            if hint:
                raise WrongError(hint)
            break
    return "Paired by seed, and as wide as so few seeds demand."


@exercise("Exercise 3")
def seeds_needed(answer: Callable[[float, float], int]) -> str:
    """answer(difference, sd): the fewest seeds that settle so large a mean difference.

    That is: whose 95 % interval leaves out 0.
    """
    cases = [(0.004, 0.002), (0.004, 0.004), (0.001, 0.003), (0.01, 0.001), (0.002, 0.02)]

    def fewest(half: Callable[[int], float]) -> list[int]:
        return [next(n for n in count(2) if half(n) * sd < difference) for difference, sd in cases]

    actual = [require_answer(answer(*case)) for case in cases]
    expected = fewest(lambda n: student.ppf(0.975, n - 1) / n**0.5)
    for wrong, hint in (
        (
            fewest(lambda n: 1.96 / n**0.5),
            "1.96 is t for many seeds; t depends on n: try n = 2, 3, 4, ...",
        ),
        (fewest(lambda n: student.ppf(0.975, n) / n**0.5), "Degrees of freedom: n - 1, not n."),
        (
            fewest(lambda n: student.ppf(0.975, n - 1) / n),
            "The interval shrinks with the root of n, not with n.",
        ),
        (
            [n - 1 for n in expected],
            "One too few: 0 is still inside. The first n that works, not the last that fails.",
        ),
    ):
        if actual == wrong:
            raise WrongError(hint)
    for (difference, sd), mine, n in zip(cases, actual, expected):
        if mine != n:
            raise WrongError(
                f"A difference of {difference:g}, a standard deviation of {sd:g}: {n} seeds, not "
                f"{mine}."
            )
    return (
        f"From {expected[3]} seeds to {expected[4]}, for differences of 10 standard deviations to "
        "a tenth of one."
    )
