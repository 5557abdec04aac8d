"""The checks of notebook 06 tell a stub, a right answer and each usual mistake apart."""

import math

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


@pytest.mark.parametrize("stub", [lambda *a: ..., lambda *a: None])
def test_notebook_06_stubs(check_output, stub):
    for check in (checks.zero_from, checks.gram_for_half):
        assert check_output(check, stub).endswith(": not attempted yet")
    for nothing in (..., None, []):
        assert check_output(checks.break_rms_norm, nothing) == "Exercise 3: not attempted yet"


@pytest.mark.parametrize("right", [zero_at, lambda dtype: float(zero_at(dtype))])
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
        (lambda dtype: 65504, "What is the smallest number above 0?"),
        (lambda dtype: 0, "What is the smallest number above 0?"),
    ],
)
def test_zero_from_wrong(check_output, answer, hint):
    text = check_output(checks.zero_from, answer)
    assert text.startswith("Exercise 1: not right yet.") and hint in text


def in_float32(features):
    flat = features.flatten(2).float()
    return (flat @ flat.mT / divisor(features)).half()


def divided_twice(features, first=lambda f: f.shape[1] * f.shape[2]):
    flat = features.flatten(2)
    return flat / first(features) @ flat.mT / (divisor(features) / first(features))


def rounded_alpha(features):
    flat, alpha = features.flatten(2).float(), torch.tensor(1 / divisor(features)).half().item()
    return (flat @ flat.mT * alpha).half()


@pytest.mark.parametrize("right", [pconv.gram_matrix, in_float32, divided_twice])
def test_gram_for_half_right(check_output, right):
    assert "Exercise 2: right." in check_output(checks.gram_for_half, right)


@pytest.mark.parametrize(
    "answer, hint",
    [
        (lambda f: divided_twice(f, lambda f: 1), "4 channels of 256 x 256: not finite"),
        (lambda f: divided_twice(f, lambda f: f.shape[1]), "4 channels of 1792 x 1792: not finite"),
        (lambda f: divided_twice(f, divisor), "Did features underflow"),
        (rounded_alpha, "0.77 times the right values: 1/(C·H·W) was rounded to FP16"),
        (lambda f: f.flatten(2) @ f.flatten(2).mT, "405 times the right values"),
        (lambda f: in_float32(f).float(), "expected torch.float16"),
        (lambda f: in_float32(f)[0], "expected torch.float16, (2, 5, 5)"),
        (lambda f: in_float32(f).tolist(), "list; expected torch.float16"),
    ],
)
def test_gram_for_half_wrong(check_output, answer, hint):
    text = check_output(checks.gram_for_half, answer)
    assert text.startswith("Exercise 2: not right yet.") and hint in text


FAILING = {"0": [300, 300.0], "infinite": [1e-4, 1e-4], "NaN": [0.0, 0.0], "finite": [2e-4, 2e-4]}


def test_break_rms_norm_right(check_output):
    assert "Exercise 3: right." in check_output(checks.break_rms_norm, list(FAILING.values()))
    tensors = tuple(torch.tensor(values) for values in FAILING.values())
    assert "Exercise 3: right." in check_output(checks.break_rms_norm, tensors)


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
        ([[300.0, 300.0]], "give lists of numbers"),
        (300.0, "give a list of lists"),
    ],
)
def test_break_rms_norm_refuses_inputs(check_output, values, hint):
    text = check_output(checks.break_rms_norm, [values])
    assert text.startswith("Exercise 3: not right yet.") and hint in text


def test_the_function_to_break_is_an_ordinary_normalization():
    from course.checks.fp16 import rms_norm

    x = torch.randn(64)
    torch.testing.assert_close(rms_norm(x), F.rms_norm(x, (64,), eps=0.0))
