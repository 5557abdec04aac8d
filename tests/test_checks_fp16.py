"""The checks of notebook 06 tell a stub, a right answer and each usual mistake apart."""

import math

import numpy as np
import pytest
import torch
from course import checks
from torch.nn import functional as F

import pconv


def divisor(features):
    return features[0].numel()


def zero_at(dtype, factor=2, plus=0):
    info = torch.finfo(dtype)
    return round(factor / (info.smallest_normal * info.eps)) + plus


@pytest.mark.parametrize("stub", [lambda *a: ..., lambda *a: None, ..., None])
def test_notebook_06_stubs(check_output, stub):
    for check in (checks.zero_from, checks.gram_for_half):
        assert check_output(check, stub).endswith(": not attempted yet")
    for nothing in (..., None, [], ()):
        assert check_output(checks.break_rms_norm, nothing) == "Exercise 3: not attempted yet"


# 1 · Where is 1/n zero?


def by_trying(dtype):
    return 2 ** next(k for k in range(200) if torch.tensor(2.0**-k).to(dtype).float() == 0)


@pytest.mark.parametrize(
    "right",
    [
        zero_at,
        lambda dtype: float(zero_at(dtype)),
        lambda dtype: torch.tensor(float(zero_at(dtype)), dtype=torch.float64),
        lambda dtype: np.float64(zero_at(dtype)),
        lambda dtype: np.array([zero_at(dtype)], object)[0],
        by_trying,
    ],
)
def test_zero_from_right(check_output, right):
    assert "Exercise 1: right." in check_output(checks.zero_from, right)


@pytest.mark.parametrize(
    "answer, hint",
    [
        (
            lambda dtype: zero_at(dtype, factor=1),
            "which is 2^24. There 1/n is the smallest number that is not 0",
        ),
        (lambda dtype: zero_at(dtype, plus=1), "One less is enough"),
        (lambda dtype: 1 / torch.finfo(dtype).smallest_normal, "the subnormal numbers begin"),
        (
            lambda dtype: 2**25,
            "bfloat16: you say 33554432, which is 2^25. That is right for float16 only",
        ),
        (lambda dtype: 65504, "about 2^16. What is the smallest number above 0?"),
        (lambda dtype: 2 / torch.finfo(dtype).eps, "What is the smallest number above 0?"),
        (lambda dtype: 10**400, "you say a number, about 2^1329. What is the smallest"),
        (lambda dtype: 0, "you say a number below 1, expected a whole number from 1 on"),
        (lambda dtype: -(10**5000), "you say a number below 1"),
        (lambda dtype: 1 / zero_at(dtype), "you say 2.98e-08, expected a whole number"),
        (lambda dtype: math.inf, "you say inf, expected a whole number"),
        (lambda dtype: math.nan, "you say nan, expected a whole number"),
        (lambda dtype: "2^25", "of type str, expected one number"),
        (lambda dtype: [2**25], "of type list, expected one number"),
        (lambda dtype: torch.ones(3), "of type Tensor, expected one number"),
        (lambda dtype: True, "of type bool"),
        (lambda dtype: 1j, "of type complex"),
        (2**25, "Give the check the function itself, not a value of type int"),
    ],
)
def test_zero_from_wrong(check_output, answer, hint):
    text = check_output(checks.zero_from, answer)
    assert text.startswith("Exercise 1: not right yet.") and hint in text


# 2 · A Gram matrix for FP16


def one_line(features, alpha=None):
    flat = features.flatten(2)
    scale = 1 / divisor(features) if alpha is None else alpha
    return torch.baddbmm(flat[:, :1, :1], flat, flat.mT, beta=0, alpha=scale)


def by_the_root(features):
    scaled = features.flatten(2) / divisor(features) ** 0.5
    return torch.bmm(scaled, scaled.mT)


def by_the_largest(features):
    flat = features.flatten(2)
    scale = flat.abs().amax().item() * flat.shape[2] ** 0.5
    scaled = flat / scale
    return torch.bmm(scaled, scaled.mT) * (scale**2 / divisor(features))


def in_parts(features):
    gram = 0
    for part in features.flatten(2).split(65536, dim=2):
        gram = gram + part.float() @ part.float().mT
    return (gram / divisor(features)).half()


@pytest.mark.parametrize(
    "right",
    [one_line, by_the_root, by_the_largest, in_parts, lambda features: one_line(features.clone())],
)
def test_gram_for_half_right(check_output, right):
    assert "Exercise 2: right." in check_output(checks.gram_for_half, right)


def copied(features, dtype=torch.float32):
    flat = features.flatten(2).to(dtype)
    return (flat @ flat.mT / divisor(features)).half()


def copied_by_numpy(features):
    flat = features.flatten(2).numpy().astype(np.float32)
    return torch.from_numpy(flat @ flat.transpose(0, 2, 1) / divisor(features)).half()


def divided_first(features, by):
    flat = features.flatten(2)
    return flat / by(features) @ flat.mT / (divisor(features) / by(features))


def with_a_constant(features, constant):
    scaled = features.flatten(2) / constant
    return scaled @ scaled.mT * (constant**2 / divisor(features))


def constant_first(features, constant):
    flat = features.flatten(2)
    return flat / constant @ flat.mT * (constant / divisor(features))


COPY = "a copy of the features in another format is made, with 16,777,216"
OVERFLOW = "not finite. A sum over 65504 was stored"
UNDERFLOW = "Did features underflow"


@pytest.mark.parametrize(
    "answer, hint",
    [
        (
            lambda f: divided_first(f, lambda f: 1),
            f"4 x 256 x 256, values from 0.1 to 2.1: {OVERFLOW}",
        ),
        (lambda f: divided_first(f, lambda f: f.shape[1]), OVERFLOW),
        (lambda f: divided_first(f, lambda f: f.shape[1] * f.shape[2]), OVERFLOW),
        (lambda f: divided_first(f, divisor), UNDERFLOW),
        *[(lambda f, k=k: with_a_constant(f, k), OVERFLOW) for k in (2, 16, 64, 100)],
        *[(lambda f, k=k: with_a_constant(f, k), UNDERFLOW) for k in (256, 1024, 4096)],
        (lambda f: with_a_constant(f, 16384), "times the right values"),
        *[(lambda f, k=k: constant_first(f, k), UNDERFLOW) for k in (1e4, 65504)],
        (lambda f: one_line(f, alpha=1 / 4096) * (4096 / divisor(f)), OVERFLOW),
        (
            lambda f: one_line(f, alpha=torch.tensor(1 / divisor(f)).half().item()),
            "0.77 times the right values: 1/(C·H·W) was rounded to FP16",
        ),
        (copied, COPY),
        (lambda f: copied(f, torch.float64), COPY),
        (lambda f: copied(f, torch.bfloat16), COPY),
        (copied_by_numpy, "a copy of the features in another format"),
        (lambda f: f.flatten(2) @ f.flatten(2).mT, "405 times the right values"),
        (lambda f: one_line(f, alpha=1 / f.numel()), "0.5 times the right values"),
        (lambda f: f[:, :, :1, 0] * f[:, :, :1, 0].mT / f.shape[1], "times the right values"),
        (lambda f: one_line(f).float(), "torch.float32, (2, 5, 5); expected torch.float16"),
        (lambda f: one_line(f)[0], "expected torch.float16, (2, 5, 5)"),
        (lambda f: one_line(f).tolist(), "list; expected a tensor"),
        (lambda f: "a matrix", "str; expected a tensor"),
        (torch.ones(2, 5, 5).half(), "the function itself, not a value of type Tensor"),
        (pconv.gram_matrix, "That is the package's function"),
    ],
)
def test_gram_for_half_wrong(check_output, answer, hint):
    text = check_output(checks.gram_for_half, answer)
    assert text.startswith("Exercise 2: not right yet.") and hint in text


# 3 · Break it

FAILING = {"0": [300, 300.0], "infinite": [1e-4, 1e-4], "NaN": [0.0, 0.0], "finite": [2e-4, 2e-4]}


@pytest.mark.parametrize("kind", [list, tuple, torch.tensor, np.array])
def test_break_rms_norm_right(check_output, kind):
    inputs = [kind(values) for values in FAILING.values()]
    assert "Exercise 3: right." in check_output(checks.break_rms_norm, inputs)
    assert "Exercise 3: right." in check_output(checks.break_rms_norm, tuple(inputs))


def test_break_rms_norm_takes_a_table_and_an_input_that_fails_in_two_ways(check_output):
    table = torch.tensor(list(FAILING.values()))
    assert "Exercise 3: right." in check_output(checks.break_rms_norm, table)
    inputs = [[300.0], [1e-4, 0.0], [2e-4]]
    assert "Exercise 3: right." in check_output(checks.break_rms_norm, inputs)


@pytest.mark.parametrize(
    "names, hint",
    [
        (["0", "infinite", "finite"], "3 of 4 ways. Nothing is NaN yet: 0/0"),
        (["0", "finite"], "2 of 4 ways. Nothing is NaN yet"),
        (["0", "NaN", "finite"], "3 of 4 ways. Nothing is infinite yet"),
        (["infinite", "NaN", "finite"], "Nothing is 0 yet: x / inf is 0"),
        (["0", "infinite", "NaN"], "more than 10 % off yet: subnormal squares"),
    ],
)
def test_break_rms_norm_names_the_way_that_is_missing(check_output, names, hint):
    assert hint in check_output(checks.break_rms_norm, [FAILING[name] for name in names])


@pytest.mark.parametrize(
    "values, hint",
    [
        ([1.0, 2, 3], "comes out right, as [0.463, 0.926, 1.389]"),
        ([70000.0, 1], "numbers that FP16 can hold"),
        ([math.nan, 1], "numbers that FP16 can hold"),
        ([10**400], "no list of numbers that FP16 can hold"),
        ([[300.0, 300.0]], "give lists of 1 to 16 numbers"),
        ([], "give lists of 1 to 16 numbers"),
        ([300.0] * 17, "give lists of 1 to 16 numbers"),
        (300.0, "give a list of lists"),
        ("abc", "'abc' is no list of numbers"),
        ([1.0, "a"], "no list of numbers"),
        ([[1.0], [2.0, 3.0]], "no list of numbers"),
        (None, "None is no list of numbers"),
        ({"x": 1.0}, "no list of numbers"),
        ([1 + 2j], "no list of numbers"),
    ],
)
def test_break_rms_norm_refuses_inputs(check_output, values, hint):
    text = check_output(checks.break_rms_norm, [values])
    assert text.startswith("Exercise 3: not right yet.") and hint in text


@pytest.mark.parametrize("answer", ["abc", 5, {"a": [1.0]}, lambda x: x, [[300.0]] * 17])
def test_break_rms_norm_refuses_what_is_no_list_of_lists(check_output, answer):
    assert "Give a list of at most 16 lists" in check_output(checks.break_rms_norm, answer)


@pytest.mark.parametrize(
    "answer", [[[1.0] * 100_000], [[1.0] * 16] * 100_000, [["x" * 100_000]], torch.ones(1, 100_000)]
)
def test_break_rms_norm_never_prints_much(check_output, answer):
    assert len(check_output(checks.break_rms_norm, answer)) < 400


def test_the_function_to_break_is_an_ordinary_normalization():
    from course.checks.fp16 import rms_norm

    x = torch.randn(64)
    torch.testing.assert_close(rms_norm(x), F.rms_norm(x, (64,), eps=0.0))
