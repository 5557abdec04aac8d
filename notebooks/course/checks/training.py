"""Checks of notebook 08.

Skipped steps in a trace of the loss scale, a paired interval, the number of seeds.
"""

import math
from collections.abc import Callable, Sequence
from itertools import count, pairwise

import numpy as np
import torch
from scipy.stats import t as student

from course.checks.exercise import NotAttemptedError, WrongError, exercise, require_answer
from pconv.holes import BUCKETS


def _numbers(result, size: int, hint: str) -> list[float]:
    """The `size` numbers that an answer consists of; the hint if it consists of something else."""
    result = require_answer(result)
    parts = list(result) if isinstance(result, tuple | list) else [result]
    if parts and all(part is None or part is ... for part in parts):
        raise NotAttemptedError
    try:
        parts = [part.detach().cpu() if isinstance(part, torch.Tensor) else part for part in parts]
        values = np.concatenate([np.ravel(np.asarray(part)) for part in parts])
    except (TypeError, ValueError):
        raise WrongError(hint) from None
    if values.dtype.kind not in "iuf" or values.size != size:
        raise WrongError(hint)
    return [float(value) for value in values]


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


# What else one may count in a trace, and what to say then.
MISCOUNTS = (
    (
        lambda s: sum(a != b for a, b in pairwise(s)),
        "The scale also changes when it doubles; that step was a good one.",
    ),
    (
        lambda s: sum(a < b for a, b in pairwise(s)),
        "A step is skipped where the scale is halved; these are the doublings.",
    ),
    (
        lambda s: sum(a > b for a, b in pairwise(s[1:])),
        "The first step is missing: scales[0] is the scale before it.",
    ),
    (
        lambda s: sum(a > b for a, b in pairwise(s[:-1])),
        "The last step is missing: compare up to the last scale.",
    ),
    (
        lambda s: math.log2(s[0] / s[-1]),
        "First against last: what is halved may be doubled again later.",
    ),
    (
        lambda s: math.log2(max(s) / min(s)),
        "Highest against lowest: a scale may rise and fall more than once.",
    ),
    (
        lambda s: sum(scale < s[0] for scale in s),
        "A low scale is no skipped step, only the step that lowers it is.",
    ),
    (
        lambda s: sum(a <= b for a, b in pairwise(s)),
        "These are the good steps: the scale stays or doubles. Count the others.",
    ),
    (lambda s: len(s), "This is the number of scales."),
    (lambda s: len(s) - 1, "This is the number of steps, good and skipped."),
)


@exercise("Exercise 1")
def skipped_steps(answer: Callable[[list[float]], int]) -> str:
    """answer(scales): how many steps were skipped.

    scales[0] is before the first step, scales[n] after step n.
    """
    cases = (((0, 1, 5, 9, 10, 23), 4), ((), 5), ((0, 3, 6, 20), 6))
    traces = [_trace(overflows, 24, growth) for overflows, growth in cases]
    hint = (
        "Return one number: how many steps were skipped. Of a list with True and False, that is "
        "the sum; of a list of steps, its length."
    )
    actual = [_numbers(answer(list(scales)), 1, hint)[0] for scales in traces]
    expected = [len(overflows) for overflows, _ in cases]
    if actual != expected:
        for miscount, hint in MISCOUNTS:
            if actual == [miscount(scales) for scales in traces]:
                raise WrongError(hint)
        mine, n = next(pair for pair in zip(actual, expected) if pair[0] != pair[1])
        raise WrongError(f"{n} of 24 steps were skipped, you say {mine:g}.")
    return "A halving is a skipped step, wherever it stands."


SEEDS = (2, 3, 5, 7, 11)


def _example_rows() -> tuple[list[dict], dict[tuple[str, str], np.ndarray]]:
    """Rows of a made-up record, in any order; and (seeds, buckets) by precision and quantity."""
    rng, n = np.random.default_rng(0), len(SEEDS)
    fp32 = rng.normal(0.8, 0.02, (n, 1)) - np.linspace(0, 0.4, 12)  # (seeds, buckets)
    bf16 = fp32 + rng.normal(0.004, 0.003, (n, 1)) + rng.normal(0, 0.004, fp32.shape)
    tf32 = fp32 + rng.normal(-0.02, 0.01, (n, 1))
    tables = {"fp32": fp32, "bf16": bf16, "tf32": tf32}
    tables = {
        (name, quantity): table * scale
        for name, table in tables.items()
        for quantity, scale in (("ssim", 1), ("psnr", 30))
    }
    buckets = [
        {"low": low, "high": high, "holes": holes}
        for low, high in BUCKETS
        for holes in ("interior", "border")
    ]
    rows = [
        {
            "seed": seed,
            "precision": name,
            **bucket,
            **{q: float(tables[name, q][i, j]) for q in ("ssim", "psnr")},
        }
        for name in ("fp32", "bf16", "tf32")
        for i, seed in enumerate(SEEDS)
        for j, bucket in enumerate(buckets)
    ]
    return [rows[i] for i in rng.permutation(len(rows))], tables


def _as_they_come(rows: list[dict], precision: str) -> np.ndarray:
    """The mean SSIM of each seed, in the order in which the seeds appear."""
    mine = [row for row in rows if row["precision"] == precision]
    seeds = dict.fromkeys(row["seed"] for row in mine)
    return np.array([np.mean([r["ssim"] for r in mine if r["seed"] == seed]) for seed in seeds])


def _check_mean(mean: float, tables: dict) -> None:
    """Raises WrongError unless it is the mean SSIM of BF16 minus that of FP32."""
    fp32, bf16, tf32 = (tables[name, "ssim"] for name in ("fp32", "bf16", "tf32"))
    d = (bf16 - fp32).mean(1)
    n = len(d)
    reach = student.ppf(0.975, n - 1) * d.std(ddof=1) / n**0.5
    mistakes = (
        (-d.mean(), "The sign: the difference is that precision minus fp32."),
        (
            d.mean() - reach,
            "These are the two ends of the interval. Return its middle and its half width.",
        ),
        (np.median(d), "This is the median of the differences; the interval is around their mean."),
        (bf16.mean(), "This is the mean of that precision; subtract that of fp32."),
        ((tf32 - fp32).mean(), "This is another precision: take the rows of the one asked for."),
        (
            ((bf16 + tf32) / 2 - fp32).mean(),
            "There may be more than two precisions in the rows: take the one asked for.",
        ),
        ((bf16 - fp32)[:, 0].mean(), "One row per seed: all twelve buckets count."),
        (
            (bf16 - fp32)[:, ::2].mean(),
            "Only the interior holes: those at the border count as well.",
        ),
        ((bf16 / fp32 - 1).mean(), "This is a ratio; return the difference as it is."),
        (100 * d.mean(), "This is in percent; return the difference as it is."),
    )
    for wrong, hint in mistakes:
        if math.isclose(mean, wrong, rel_tol=1e-6):
            raise WrongError(hint)
    if not math.isclose(mean, d.mean(), rel_tol=1e-6):
        raise WrongError(f"The mean difference of the example is {d.mean():.5f}, not {mean:.5f}.")


def _check_half(half: float, tables: dict, rows: list[dict]) -> None:
    """Raises WrongError unless it is the half width of that difference's interval."""
    table = tables["bf16", "ssim"] - tables["fp32", "ssim"]
    d, n = table.mean(1), len(table)
    sd, t = d.std(ddof=1), student.ppf(0.975, n - 1)
    unpaired = math.hypot(*(tables[p, "ssim"].mean(1).std(ddof=1) for p in ("bf16", "fp32")))
    mixed = (_as_they_come(rows, "bf16") - _as_they_come(rows, "fp32")).std(ddof=1)
    not_paired = "Not paired: the difference of each seed first, then their deviation."
    separate = "The buckets of one network are no separate trainings: average them first. n is "
    separate += "the number of seeds."
    mistakes = (
        (t * unpaired / n**0.5, not_paired),
        (student.ppf(0.975, 2 * n - 2) * unpaired / n**0.5, not_paired),
        (
            t * mixed / n**0.5,
            "The seeds come in another order in each precision: bring them into the same one.",
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
        (t * sd / n, "The standard error shrinks with the square root of n, not with n."),
        (
            2 * t * sd / n**0.5,
            "This is the whole width of the interval, from end to end; return half of it.",
        ),
        (
            student.ppf(0.95, n - 1) * sd / n**0.5,
            "95 % in the middle leave 2.5 % on each side: ppf(0.975, ...).",
        ),
        (-t * sd / n**0.5, "A width is positive: ppf(0.975, ...), not ppf(0.025, ...)."),
        (sd / n**0.5, "This is the standard error; the interval reaches t times as far."),
        (sd, "This is the standard deviation; the interval reaches t standard errors far."),
        (
            1.96 * sd / n**0.5,
            "1.96 is for many seeds; for few it is t, with n - 1 degrees of freedom.",
        ),
        (student.ppf(0.975, n) * sd / n**0.5, "Degrees of freedom: n - 1, not n."),
        (student.ppf(0.975, n - 2) * sd / n**0.5, "Degrees of freedom: n - 1, not n - 2."),
        (student.ppf(0.975, table.size - 1) * table.std(ddof=1) / table.size**0.5, separate),
        (1.96 * table.std(ddof=1) / table.size**0.5, separate),
    )
    for wrong, hint in mistakes:
        if math.isclose(half, wrong, rel_tol=1e-4):
            raise WrongError(hint)
    expected = t * sd / n**0.5
    if not math.isclose(half, expected, rel_tol=1e-4):
        raise WrongError(f"The mean is right; its half width is {expected:.5f}, not {half:.5f}.")


@exercise("Exercise 2")
def paired_interval(answer: Callable[[list[dict], str, str], tuple[float, float]]) -> str:
    """answer(rows, precision, quantity): the mean difference to fp32, paired by seed.

    And the half width of its 95 % t interval.
    """
    rows, tables = _example_rows()
    shape = "Return two numbers: the mean difference, and the half width of its interval."
    mean, half = _numbers(answer([dict(row) for row in rows], "bf16", "ssim"), 2, shape)
    if not (math.isfinite(mean) and math.isfinite(half)):
        raise WrongError(
            f"The result is {mean:g}, {half:g}. Seeds need not be 0, 1, 2, ...: take them from the "
            "rows."
        )
    _check_mean(mean, tables)
    _check_half(half, tables, rows)
    again = _numbers(answer([dict(row) for row in rows], "tf32", "psnr"), 2, shape)
    d = (tables["tf32", "psnr"] - tables["fp32", "psnr"]).mean(1)
    reach = student.ppf(0.975, len(d) - 1) * d.std(ddof=1) / len(d) ** 0.5
    if not np.allclose(again, (d.mean(), reach), rtol=1e-4):
        raise WrongError(
            "It is right for bf16 and ssim, and wrong for tf32 and psnr: use the arguments "
            "`precision` and `quantity`."
        )
    return "Paired by seed, and as wide as so few seeds demand."


@exercise("Exercise 3")
def seeds_needed(answer: Callable[[float, float], int]) -> str:
    """answer(difference, sd): the fewest seeds whose 95 % interval leaves out 0.

    difference: the mean of the differences; sd: their standard deviation.
    """
    cases = [(0.004, 0.002), (0.004, 0.004), (0.001, 0.003), (0.01, 0.001), (0.002, 0.02)]

    def fewest(half: Callable[[int], float]) -> list[int]:
        return [next(n for n in count(2) if half(n) * sd < difference) for difference, sd in cases]

    hint = "Return one number: how many seeds."
    actual = [_numbers(answer(*case), 1, hint)[0] for case in cases]
    expected = fewest(lambda n: student.ppf(0.975, n - 1) / n**0.5)
    if actual == expected:
        return (
            f"From {expected[3]} seeds to {expected[4]}, for differences of 10 standard deviations "
            "to a tenth of one."
        )
    if not all(mine.is_integer() for mine in actual):
        raise WrongError("A whole number of seeds: the first n that is enough.")
    many = "1.96 is t for many seeds; t depends on n: try n = 2, 3, 4, ..."
    mistakes = (
        (fewest(lambda n: 1.96 / n**0.5), many),
        ([math.ceil((1.96 * sd / difference) ** 2) for difference, sd in cases], many),
        (
            fewest(lambda n: 2 / n**0.5),
            "2 is t for many seeds; t depends on n: try n = 2, 3, 4, ...",
        ),
        (fewest(lambda n: student.ppf(0.975, n) / n**0.5), "Degrees of freedom: n - 1, not n."),
        (
            fewest(lambda n: student.ppf(0.95, n - 1) / n**0.5),
            "95 % in the middle leave 2.5 % on each side: ppf(0.975, ...).",
        ),
        (
            fewest(lambda n: student.ppf(0.975, n - 1) / n),
            "The interval shrinks with the root of n, not with n.",
        ),
        (
            fewest(lambda n: 1 / n**0.5),
            "The interval reaches t standard errors to each side, not one.",
        ),
        (
            [n - 1 for n in expected],
            "One too few: 0 is still inside. The first n that works, not the last that fails.",
        ),
        ([n + 1 for n in expected], "One too many: the first n that works is enough."),
        (
            [max(n, 3) for n in expected],
            "Two seeds can be enough, where sd is small: start at n = 2.",
        ),
    )
    for wrong, hint in mistakes:
        if actual == wrong:
            raise WrongError(hint)
    (difference, sd), mine, n = next(
        case for case in zip(cases, actual, expected) if case[1] != case[2]
    )
    raise WrongError(
        f"A difference of {difference:g}, a standard deviation of {sd:g}: {n} seeds, not {mine:g}."
    )
