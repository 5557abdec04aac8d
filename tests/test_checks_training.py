"""The checks of notebook 08 tell a stub, a right answer and each usual mistake apart."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from course import checks
from scipy import stats


@pytest.mark.parametrize(
    "check", [checks.skipped_steps, checks.paired_interval, checks.seeds_needed]
)
@pytest.mark.parametrize("stub", [lambda *a: ..., lambda *a: None, lambda *a: (..., ...)])
def test_notebook_08_stubs(check_output, check, stub):
    assert check_output(check, stub).endswith(": not attempted yet")


def skipped(scales):
    return sum(after < before for before, after in pairwise(scales))


def skipped_by_logarithm(scales):
    return int((np.diff(np.log2(scales)) == -1).sum())


@pytest.mark.parametrize(
    "right",
    [
        skipped,
        skipped_by_logarithm,
        lambda s: (np.diff(s) < 0).sum(),
        lambda s: (torch.tensor(s).diff() < 0).sum(),
        lambda s: float(skipped(s)),
    ],
)
def test_skipped_steps_right(check_output, right):
    assert "Exercise 1: right." in check_output(checks.skipped_steps, right)


@pytest.mark.parametrize(
    "answer, hint",
    [
        (lambda s: sum(a != b for a, b in pairwise(s)), "also changes when it doubles"),
        (lambda s: sum(a < b for a, b in pairwise(s)), "these are the doublings"),
        (lambda s: skipped(s[1:]), "The first step is missing"),
        (lambda s: math.log2(s[0] / s[-1]), "First against last"),
        (lambda s: sum(scale < s[0] for scale in s), "only the step that lowers it"),
        (lambda s: skipped(s[:-1]), "The last step is missing"),
        (lambda s: math.log2(max(s) / min(s)), "Highest against lowest"),
        (lambda s: sum(a <= b for a, b in pairwise(s)), "These are the good steps"),
        (lambda s: len(s) - 1, "the number of steps, good and skipped"),
        (lambda s: len(set(s)) - 1, "Highest against lowest"),
        (lambda s: 7, "6 of 24 steps were skipped, you say 7"),
        # of another type
        (lambda s: np.diff(s) < 0, "Return one number"),
        (lambda s: np.where(np.diff(s) < 0)[0], "Return one number"),
        (lambda s: [b < a for a, b in pairwise(s)], "Return one number"),
        (lambda s: [n for n, (a, b) in enumerate(pairwise(s)) if b < a], "Return one number"),
        (lambda s: torch.tensor(s).diff() < 0, "Return one number"),
        (lambda s: str(skipped(s)), "Return one number"),
        (lambda s: skipped(s) > 0, "Return one number"),
        (lambda s: {"skipped": skipped(s)}, "Return one number"),
        (lambda s: [], "Return one number"),
        (lambda s: math.nan, "you say nan"),
    ],
)
def test_skipped_steps_wrong(check_output, answer, hint):
    text = check_output(checks.skipped_steps, answer)
    assert text.startswith("Exercise 1: not right yet.") and hint in text


def by_seed(rows, precision, quantity):
    """A number a seed, in order."""
    seeds = sorted({row["seed"] for row in rows})
    mine = [
        [row[quantity] for row in rows if (row["seed"], row["precision"]) == (seed, precision)]
        for seed in seeds
    ]
    return np.array(mine).mean(1)


def interval(rows, precision, quantity, ddof=1, root=True, freedom=1, sign=1, t=None):
    d = sign * (by_seed(rows, precision, quantity) - by_seed(rows, "fp32", quantity))
    t = t or stats.t.ppf(0.975, len(d) - freedom)
    return d.mean(), t * d.std(ddof=ddof) / (len(d) ** 0.5 if root else 1)


def by_scipy(rows, precision, quantity):
    test = stats.ttest_rel(by_seed(rows, precision, quantity), by_seed(rows, "fp32", quantity))
    low, high = test.confidence_interval(0.95)
    return (low + high) / 2, (high - low) / 2


def unpaired(rows, precision, quantity):
    a, b = by_seed(rows, precision, quantity), by_seed(rows, "fp32", quantity)
    se = math.sqrt((a.var(ddof=1) + b.var(ddof=1)) / len(a))
    return a.mean() - b.mean(), stats.t.ppf(0.975, len(a) - 1) * se


def every_bucket(rows, precision, quantity):
    """As if each bucket were a training of its own."""
    tables = [
        {(r["seed"], r["low"], r["holes"]): r[quantity] for r in rows if r["precision"] == p}
        for p in ("fp32", precision)
    ]
    d = np.array([tables[1][key] - tables[0][key] for key in tables[0]])
    return d.mean(), stats.t.ppf(0.975, len(d) - 1) * d.std(ddof=1) / len(d) ** 0.5


def one_by_one(rows, precision, quantity, order=sorted):
    """The differences by a dictionary; `order` brings the seeds into an order."""
    means = {}
    for name in (precision, "fp32"):
        seeds = order(dict.fromkeys(row["seed"] for row in rows if row["precision"] == name))
        means[name] = [
            np.mean([r[quantity] for r in rows if (r["seed"], r["precision"]) == (seed, name)])
            for seed in seeds
        ]
    d = np.subtract(means[precision], means["fp32"])
    return d.mean(), stats.t.ppf(0.975, len(d) - 1) * stats.sem(d)


def pooled(rows, precision, quantity):
    """SciPy's test of two independent samples."""
    a, b = by_seed(rows, precision, quantity), by_seed(rows, "fp32", quantity)
    low, high = stats.ttest_ind(a, b).confidence_interval(0.95)
    return (low + high) / 2, (high - low) / 2


def no_such_seeds(rows, precision, quantity):
    """As if the seeds were 0, 1, 2, ...: there are none of some."""
    d = np.full(5, np.nan)
    return d.mean(), d.std(ddof=1)


def interior_only(rows, precision, quantity):
    return interval([row for row in rows if row["holes"] == "interior"], precision, quantity)


def one_bucket(rows, precision, quantity):
    rows = [row for row in rows if (row["low"], row["holes"]) == (0.01, "interior")]
    return interval(rows, precision, quantity)


def differences(rows, precision, quantity):
    return by_seed(rows, precision, quantity) - by_seed(rows, "fp32", quantity)


@pytest.mark.parametrize(
    "right",
    [
        interval,
        by_scipy,
        one_by_one,
        lambda *a: np.array(interval(*a)),
        lambda *a: list(interval(*a)),
        lambda *a: tuple(torch.tensor(part) for part in interval(*a)),
    ],
)
def test_paired_interval_right(check_output, right):
    assert "Exercise 2: right." in check_output(checks.paired_interval, right)


@pytest.mark.parametrize(
    "answer, hint",
    [
        (unpaired, "Not paired"),
        (lambda *a: interval(*a, ddof=0), "std(ddof=1)"),
        (lambda *a: interval(*a, root=False), "square root of n is missing"),
        (lambda *a: interval(*a, t=1), "the interval reaches t times as far"),
        (lambda *a: interval(*a, t=1.96), "1.96 is for many seeds"),
        (every_bucket, "average them first"),
        (lambda *a: (interval(*a)[0], 2 * interval(*a)[1]), "the whole width"),
        (lambda *a: (interval(*a)[0] - interval(*a)[1], sum(interval(*a))), "the two ends"),
        (lambda *a: interval(*a, t=stats.t.ppf(0.95, 4)), "2.5 % on each side"),
        (lambda *a: interval(*a, sign=-1), "The sign"),
        (lambda rows, p, q: interval(rows, "tf32", q), "another precision"),
        (lambda *a: interval(*a, freedom=2), "n - 1, not n - 2"),
        (lambda *a: interval(*a, freedom=0), "n - 1, not n."),
        (lambda *a: interval(*a, t=2.5), "The mean is right; its half width is"),
        (pooled, "Not paired"),
        (lambda *a: one_by_one(*a, order=list), "in another order"),
        (no_such_seeds, "take them from the rows"),
        (interior_only, "Only the interior holes"),
        (one_bucket, "all twelve buckets count"),
        (lambda *a: interval(*a, t=-stats.t.ppf(0.975, 4)), "A width is positive"),
        (lambda *a: (np.median(differences(*a)), interval(*a)[1]), "the median"),
        (lambda *a: (by_seed(*a).mean(), interval(*a)[1]), "subtract that of fp32"),
        (lambda *a: (100 * interval(*a)[0], 100 * interval(*a)[1]), "in percent"),
        (lambda *a: (interval(*a)[0] + 1, 1), "The mean difference of the example is"),
        (lambda *a: (interval(*a)[0], differences(*a).std(ddof=1)), "the standard deviation;"),
        (lambda rows, p, q: interval(rows, "bf16", "ssim"), "use the arguments"),
        # of another type
        (lambda *a: interval(*a)[0], "Return two numbers"),
        (differences, "Return two numbers"),
        (lambda *a: (differences(*a), interval(*a)[1]), "Return two numbers"),
        (lambda *a: differences(*a) > 0, "Return two numbers"),
        (lambda *a: [x > 0 for x in interval(*a)], "Return two numbers"),
        (lambda *a: "0.004 ± 0.002", "Return two numbers"),
        (lambda *a: ("0.004", "0.002"), "Return two numbers"),
        (lambda *a: dict(zip(("mean", "half"), interval(*a))), "Return two numbers"),
    ],
)
def test_paired_interval_wrong(check_output, answer, hint):
    text = check_output(checks.paired_interval, answer)
    assert text.startswith("Exercise 2: not right yet.") and hint in text


def needed(difference, sd, freedom=1, power=0.5, t=None, quantile=0.975):
    n = 2
    while (t or stats.t.ppf(quantile, n - freedom)) * sd / n**power >= difference:
        n += 1
    return n


@pytest.mark.parametrize(
    "right",
    [
        needed,
        lambda d, sd: float(needed(d, sd)),
        lambda d, sd: np.int64(needed(d, sd)),
        lambda d, sd: torch.tensor(needed(d, sd)),
        lambda d, sd: 2 + next(i for i in range(999) if needed(d, sd) == i + 2),
    ],
)
def test_seeds_needed_right(check_output, right):
    assert "Exercise 3: right." in check_output(checks.seeds_needed, right)


@pytest.mark.parametrize(
    "answer, hint",
    [
        (lambda d, sd: needed(d, sd, t=1.96), "1.96 is t for many seeds"),
        (lambda d, sd: max(2, math.ceil((1.96 * sd / d) ** 2)), "1.96 is t for many seeds"),
        (lambda d, sd: needed(d, sd, freedom=0), "n - 1, not n"),
        (lambda d, sd: needed(d, sd, power=1), "the root of n"),
        (lambda d, sd: needed(d, sd) - 1, "One too few"),
        (lambda d, sd: needed(d, sd) if d > sd else 2, "7 seeds, not 2"),
        (lambda d, sd: math.ceil((1.96 * sd / d) ** 2), "1.96 is t for many seeds"),
        (lambda d, sd: needed(d, sd, t=2), "2 is t for many seeds"),
        (lambda d, sd: needed(d, sd, t=1), "t standard errors to each side"),
        (lambda d, sd: needed(d, sd, quantile=0.95), "2.5 % on each side"),
        (lambda d, sd: needed(d, sd) + 1, "One too many"),
        (lambda d, sd: max(3, needed(d, sd)), "Two seeds can be enough"),
        (lambda d, sd: (1.96 * sd / d) ** 2, "A whole number"),
        (lambda d, sd: math.inf, "A whole number"),
        (lambda d, sd: math.nan, "A whole number"),
        # of another type
        (lambda d, sd: np.arange(2, 500) > needed(d, sd), "Return one number"),
        (lambda d, sd: np.arange(2, 500), "Return one number"),
        (lambda d, sd: True, "Return one number"),
        (lambda d, sd: "seven", "Return one number"),
        (lambda d, sd: {needed(d, sd)}, "Return one number"),
    ],
)
def test_seeds_needed_wrong(check_output, answer, hint):
    text = check_output(checks.seeds_needed, answer)
    assert text.startswith("Exercise 3: not right yet.") and hint in text
