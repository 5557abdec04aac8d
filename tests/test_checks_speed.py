"""The checks of notebook 09 tell a stub, a right answer and each usual mistake apart."""

import numpy as np
import pytest
import torch
from course import checks


@pytest.mark.parametrize("check", [checks.relative_speed, checks.whole_gain])
@pytest.mark.parametrize("stub", [lambda *a: ..., lambda *a: None])
def test_notebook_09_stubs(check_output, check, stub):
    assert check_output(check, stub).endswith(": not attempted yet")


def ratio(f, a, m, n):
    return np.median((n / a) / (m / f))


def test_relative_speed_may_write_into_its_arguments(check_output):
    def answer(f, a, m, n):
        f /= m
        a /= n
        return torch.tensor(np.median(f / a))

    assert "Exercise 1: right." in check_output(checks.relative_speed, answer)


@pytest.mark.parametrize("right", [ratio, lambda f, a, m, n: float(sorted(n * f / (m * a))[4])])
def test_relative_speed_right(check_output, right):
    assert "Exercise 1: right." in check_output(checks.relative_speed, right)


@pytest.mark.parametrize(
    "answer, hint",
    [
        (lambda f, a, m, n: 1 / ratio(f, a, m, n), "upside down"),
        (lambda f, a, m, n: np.median(f / a), "samples per second"),
        (lambda f, a, m, n: np.median(a / f) * n / m, "fewer seconds are faster"),
        (lambda f, a, m, n: (n / m * f / a).mean(), "A mean of the turns"),
        (lambda f, a, m, n: n / m * f.mean() / a.mean(), "A ratio of sums"),
        (lambda f, a, m, n: n / m * np.median(f) / np.median(a), "two medians"),
        (lambda f, a, m, n: n / m * f.min() / a.min(), "The best of each"),
        (lambda f, a, m, n: n * f / (m * a), "Return a number"),
        (lambda f, a, m, n: 2.0, "You say 2.000, expected 1.778"),
        (lambda f, a, m, n: 16 / 9, "You say 1.778, expected 1.250"),
        (lambda f, a, m, n: torch.tensor(n / m * f / a), "Return a number, not Tensor"),
        (lambda f, a, m, n: True, "Return a number, not bool"),
        (lambda f, a, m, n: float("nan"), "You say nan"),
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
        (lambda s, g: "1.5", "Return a number, not str"),
        (lambda s, g: [1 / after(s, g)], "Return a number, not list"),
        (lambda s, g: max(g), "You say 4.000"),
    ],
)
def test_whole_gain_wrong(check_output, answer, hint):
    text = check_output(checks.whole_gain, answer)
    assert text.startswith("Exercise 2: not right yet.") and hint in text
