"""The checks of notebook 10 tell a stub, a right answer and each usual mistake apart."""

import math

import numpy as np
import pytest
import torch
from course import checks


@pytest.mark.parametrize(
    "check", [checks.part_weights, checks.fewest_parts, checks.largest_batch_that_fits]
)
@pytest.mark.parametrize("stub", [lambda *a: ..., lambda *a: None])
def test_notebook_10_stubs(check_output, check, stub):
    assert check_output(check, stub).endswith(": not attempted yet")


@pytest.mark.parametrize(
    "right",
    [
        lambda sizes: [size / sum(sizes) for size in sizes],
        lambda sizes: np.array(sizes) / np.sum(sizes),
        lambda sizes: torch.tensor(sizes, dtype=torch.float64) / sum(sizes),
        lambda sizes: (size / sum(sizes) for size in sizes),
    ],
)
def test_part_weights_right(check_output, right):
    assert "Exercise 1: right." in check_output(checks.part_weights, right)


def shrink(sizes):
    return [sizes.pop() for _ in range(len(sizes))]


@pytest.mark.parametrize(
    "answer, hint",
    [
        (lambda s: [1 / len(s)] * len(s), "right for equal parts"),
        (lambda s: [1] * len(s), "The sum of the parts' means"),
        (lambda s: s, "The sum over all photos"),
        (lambda s: [1 / sum(s)] * len(s), "not for one"),
        (lambda s: np.divide(1, s) / np.divide(1, s).sum(), "Upside down"),
        (lambda s: np.divide(s, max(s)), "the whole batch"),
        (lambda s: [2 * n / sum(s) for n in s], "add up to 2.000"),
        (lambda s: sorted(n / sum(s) for n in s), "does not count the same"),
        (lambda s: [n / sum(s) for n in s[:1]], "1 weights for 3 parts"),
        (lambda s: 0.5, "Return a list of numbers"),
        (lambda s: ["a"] * len(s), "Return a list of numbers"),
        (lambda s: torch.ones(3, 2), "Return a list of numbers"),
        (shrink, "changes the list"),
    ],
)
def test_part_weights_wrong(check_output, answer, hint):
    text = check_output(checks.part_weights, answer)
    assert text.startswith("Exercise 1: not right yet.") and hint in text


def in_parts(fixed, per_photo, batch, limit):
    return math.ceil(batch / ((limit - fixed) // per_photo))


def tried(fixed, per_photo, batch, limit):
    parts = 1
    while fixed + per_photo * math.ceil(batch / parts) > limit:
        parts += 1
    return parts


@pytest.mark.parametrize(
    "right", [in_parts, tried, lambda *a: np.int64(in_parts(*a)), lambda *a: float(tried(*a))]
)
def test_fewest_parts_right(check_output, right):
    assert "Exercise 2: right." in check_output(checks.fewest_parts, right)


@pytest.mark.parametrize(
    "answer, hint",
    [
        (lambda f, p, n, m: math.ceil((f + n * p) / m), "the fixed bytes are there in each part"),
        (lambda f, p, n, m: (m - f) // p, "how many photos fit at the same time"),
        (lambda f, p, n, m: n // ((m - f) // p), "Rounded down"),
        (lambda f, p, n, m: n // ((m - f) // p) + 1, "the last part would be empty"),
        (lambda f, p, n, m: n, "fewer parts are asked for"),
        (lambda f, p, n, m: math.ceil(n * p / m), "The fixed bytes need room"),
        (lambda f, p, n, m: 8, "It fits in fewer"),
        (lambda f, p, n, m: 4, "A part has 9 photos, and 5 fit"),
        (lambda f, p, n, m: 0, "0 parts, expected 7"),
        (lambda f, p, n, m: n / ((m - f) // p), "Return a whole number, not float"),
        (lambda f, p, n, m: "4", "Return a whole number, not str"),
        (lambda f, p, n, m: [4], "Return a whole number, not list"),
        (lambda f, p, n, m: float("inf"), "Return a whole number, not float"),
        (lambda f, p, n, m: torch.ones(2), "Return a whole number, not Tensor"),
    ],
)
def test_fewest_parts_wrong(check_output, answer, hint):
    text = check_output(checks.fewest_parts, answer)
    assert text.startswith("Exercise 2: not right yet.") and hint in text


def fitting(memory_of, limit, rounded=int):
    two, four = memory_of(2), memory_of(4)
    return rounded(2 + (limit - two) / (four - two) * 2)


def one_after_the_other(memory_of, limit):
    batch = 1
    while memory_of(batch + 1) <= limit:
        batch += 1
    return batch


def make_sure(memory_of, limit):
    batch = fitting(memory_of, limit)
    while memory_of(batch) > limit:
        batch -= 1
    return batch


@pytest.mark.parametrize(
    "right, calls",
    [
        (fitting, 2),
        (lambda m, limit: np.int64(fitting(m, limit)), 2),
        (lambda m, limit: fitting(lambda n: m(np.int64(n)), limit), 2),
        (lambda m, limit: fitting(lambda n: m(float(n)), limit), 2),
        (make_sure, 3),
    ],
)
def test_largest_batch_right(check_output, right, calls):
    text = check_output(checks.largest_batch_that_fits, right)
    assert f"Exercise 3: right. 13 fit, 14 do not; {calls} calls." in text


@pytest.mark.parametrize(
    "answer, hint",
    [
        (lambda m, limit: int(limit // m(1)), "the memory of a batch of 1"),
        (lambda m, limit: int(limit // ((m(4) - m(2)) / 2)), "by the bytes of a sample"),
        (lambda m, limit: fitting(m, limit, lambda n: int(np.ceil(n))), "round down"),
        (lambda m, limit: 8, "A power of two"),
        (lambda m, limit: 12, "12 fits, and so does 13"),
        (lambda m, limit: 20, "20 does not fit"),
        (lambda m, limit: 13, "You have not called memory_of"),
        (lambda m, limit: m(2) and 13, "13 does not fit"),
        (lambda m, limit: m(0), "there is no step without a photo"),
        (lambda m, limit: m(-3), "there is no step without a photo"),
        (lambda m, limit: m(2.5), "it has to be a whole number"),
        (lambda m, limit: m("2"), "wants a whole number, not str"),
        (lambda m, limit: m(float("nan")), "it has to be a whole number"),
        (one_after_the_other, "you called memory_of 13 times"),
        (lambda m, limit: m(64), "You tried a batch of 64"),
        (lambda m, limit: fitting(m, limit, float), "Return a whole number, not float"),
        (lambda m, limit: True, "Return a whole number, not bool"),
    ],
)
def test_largest_batch_wrong(check_output, answer, hint):
    text = check_output(checks.largest_batch_that_fits, answer)
    assert text.startswith("Exercise 3: not right yet.") and hint in text
