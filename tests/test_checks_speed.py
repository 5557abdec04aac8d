"""The checks of notebook 09 tell a stub, a right answer and each usual mistake apart."""

import numpy as np
import pytest
from course import checks


@pytest.mark.parametrize(
    "check", [checks.relative_speed, checks.whole_gain, checks.largest_batch_that_fits]
)
@pytest.mark.parametrize("stub", [lambda *a: ..., lambda *a: None])
def test_notebook_09_stubs(check_output, check, stub):
    assert check_output(check, stub).endswith(": not attempted yet")


def ratio(f, a, m, n):
    return np.median((n / a) / (m / f))


@pytest.mark.parametrize("right", [ratio, lambda f, a, m, n: float(sorted(n * f / (m * a))[4])])
def test_relative_speed_right(check_output, right):
    assert "Exercise 1: right." in check_output(checks.relative_speed, right)


@pytest.mark.parametrize(
    "answer, hint",
    [
        (lambda f, a, m, n: 1 / ratio(f, a, m, n), "upside down"),
        (lambda f, a, m, n: np.median(f / a), "samples a second"),
        (lambda f, a, m, n: np.median(a / f) * n / m, "fewer seconds are faster"),
        (lambda f, a, m, n: (n / m * f / a).mean(), "A mean of the turns"),
        (lambda f, a, m, n: n / m * f.mean() / a.mean(), "A ratio of sums"),
        (lambda f, a, m, n: n / m * np.median(f) / np.median(a), "two medians"),
        (lambda f, a, m, n: n / m * f.min() / a.min(), "The best of each"),
        (lambda f, a, m, n: n * f / (m * a), "Return a number"),
        (lambda f, a, m, n: 2.0, "You say 2.000, expected 1.778"),
    ],
)
def test_relative_speed_wrong(check_output, answer, hint):
    text = check_output(checks.relative_speed, answer)
    assert text.startswith("Exercise 1: not right yet.") and hint in text


@pytest.mark.parametrize("turns", [slice(1, None), slice(None)])
def test_a_mean_of_the_turns_is_no_answer(check_output, turns):
    text = check_output(checks.relative_speed, lambda f, a, m, n: n / m * np.mean((f / a)[turns]))
    assert text.startswith("Exercise 1: not right yet.") and "disturbed" in text


def after(shares, gains):
    return 1 - sum(shares) + sum(s / g for s, g in zip(shares, gains))


def test_whole_gain_right(check_output):
    assert "Exercise 2: right." in check_output(checks.whole_gain, lambda s, g: 1 / after(s, g))


@pytest.mark.parametrize(
    "answer, hint",
    [
        (after, "the speed is its inverse"),
        (lambda s, g: 1 - sum(s) + np.dot(s, g), "weighted by time before"),
        (np.dot, "A mean of the gains"),
        (lambda s, g: 1 / sum(np.divide(s, g)), "What is not listed"),
        (lambda s, g: 1 / after(s[:1], g[:1]), "Only the first part"),
        (lambda s, g: 1.5, "You say 1.500"),
        (lambda s, g: "fast", "Return a number"),
    ],
)
def test_whole_gain_wrong(check_output, answer, hint):
    text = check_output(checks.whole_gain, answer)
    assert text.startswith("Exercise 2: not right yet.") and hint in text


def fitting(memory_of, limit, rounded=int):
    two, four = memory_of(2), memory_of(4)
    return rounded(2 + (limit - two) / (four - two) * 2)


def one_after_the_other(memory_of, limit):
    batch = 1
    while memory_of(batch + 1) <= limit:
        batch += 1
    return batch


@pytest.mark.parametrize("right", [fitting, lambda m, limit: np.int64(fitting(m, limit))])
def test_largest_batch_right(check_output, right):
    assert "Exercise 3: right. 13 fit, 14 do not; 2 calls." in check_output(
        checks.largest_batch_that_fits, right
    )


@pytest.mark.parametrize(
    "answer, hint",
    [
        (lambda m, limit: int(limit // m(1)), "the memory of a batch of 1"),
        (lambda m, limit: int(limit // ((m(4) - m(2)) / 2)), "by the bytes of a sample"),
        (lambda m, limit: fitting(m, limit, lambda n: int(np.ceil(n))), "round down"),
        (lambda m, limit: 8, "A power of two"),
        (lambda m, limit: 12, "12 fits, and so does 13"),
        (lambda m, limit: 20, "20 does not fit"),
        (one_after_the_other, "you called memory_of 13 times"),
        (lambda m, limit: m(64), "You tried a batch of 64"),
        (lambda m, limit: fitting(m, limit, float), "Return a whole number, not float"),
    ],
)
def test_largest_batch_wrong(check_output, answer, hint):
    text = check_output(checks.largest_batch_that_fits, answer)
    assert text.startswith("Exercise 3: not right yet.") and hint in text
