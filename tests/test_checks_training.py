"""The checks of notebook 08 tell a stub, a right answer and each usual mistake apart."""

import math
from itertools import pairwise

import numpy as np
import pytest
from course import checks
from scipy import stats


@pytest.mark.parametrize(
    "check", [checks.skipped_steps, checks.paired_interval, checks.seeds_needed]
)
@pytest.mark.parametrize("stub", [lambda *a: ..., lambda *a: None])
def test_notebook_08_stubs(check_output, check, stub):
    assert check_output(check, stub).endswith(": not attempted yet")


def skipped(scales):
    return sum(after < before for before, after in pairwise(scales))


def skipped_by_logarithm(scales):
    return int((np.diff(np.log2(scales)) == -1).sum())


@pytest.mark.parametrize("right", [skipped, skipped_by_logarithm])
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
        (lambda s: 7, "5 of 24 steps were skipped, you say 7"),
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


@pytest.mark.parametrize("right", [interval, by_scipy, lambda *a: np.array(interval(*a))])
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
        (lambda rows, p, q: interval(rows, "tf32", q), "The mean difference is"),
        (lambda *a: interval(*a, freedom=2), "The mean is right"),
        (lambda *a: interval(*a)[0], "Return two numbers"),
    ],
)
def test_paired_interval_wrong(check_output, answer, hint):
    text = check_output(checks.paired_interval, answer)
    assert text.startswith("Exercise 2: not right yet.") and hint in text


def needed(difference, sd, freedom=1, power=0.5, t=None):
    n = 2
    while (t or stats.t.ppf(0.975, n - freedom)) * sd / n**power >= difference:
        n += 1
    return n


def test_seeds_needed_right(check_output):
    assert "Exercise 3: right." in check_output(checks.seeds_needed, needed)


@pytest.mark.parametrize(
    "answer, hint",
    [
        (lambda d, sd: needed(d, sd, t=1.96), "1.96 is t for many seeds"),
        (lambda d, sd: max(2, math.ceil((1.96 * sd / d) ** 2)), "1.96 is t for many seeds"),
        (lambda d, sd: needed(d, sd, freedom=0), "n - 1, not n"),
        (lambda d, sd: needed(d, sd, power=1), "the root of n"),
        (lambda d, sd: needed(d, sd) - 1, "One too few"),
        (lambda d, sd: needed(d, sd) if d > sd else 2, "7 seeds, not 2"),
    ],
)
def test_seeds_needed_wrong(check_output, answer, hint):
    text = check_output(checks.seeds_needed, answer)
    assert text.startswith("Exercise 3: not right yet.") and hint in text
