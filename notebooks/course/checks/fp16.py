"""Checks of notebook 06.

Where 1/n is 0, a Gram matrix for FP16, inputs that break a normalization.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from course.checks.exercise import NotAttemptedError, WrongError, exercise, require_answer

FORMATS = (torch.float16, torch.bfloat16, torch.float8_e5m2, torch.float8_e4m3fn)


@exercise("Exercise 1")
def zero_from(answer: Callable[[torch.dtype], int]) -> str:
    """answer(dtype): the smallest whole number n for which 1/n, stored in dtype, is 0."""
    for dtype in FORMATS:
        actual = require_answer(answer(dtype))
        actual = actual.item() if isinstance(actual, Tensor) else actual
        exponent = next(k for k in range(200) if torch.tensor(2.0**-k).to(dtype).float() == 0)
        expected, name = 2**exponent, str(dtype).removeprefix("torch.")
        if actual == expected:
            continue
        power = torch.tensor(actual, dtype=torch.float64).log2().item()
        about = "which is" if power.is_integer() and actual == 2.0**power else "about"
        case = (
            f"{name}: you say {actual if actual < 2**40 else f'{actual:g}'}, {about} 2^{power:.4g}."
        )
        if actual == 1 / torch.finfo(dtype).smallest_normal:
            raise WrongError(f"{case} There the subnormal numbers begin, which are not 0.")
        if actual == expected / 2:
            raise WrongError(
                f"{case} There 1/n is the smallest number that is not 0; half of it rounds to 0."
            )
        if actual == expected + 1:
            raise WrongError(
                f"{case} One less is enough: exactly half of the smallest number rounds to 0 (to "
                "even)."
            )
        if actual == 2**25:
            raise WrongError(
                f"{case} That is right for float16 only: ask torch.finfo(dtype) for the others."
            )
        raise WrongError(
            f"{case} What is the smallest number above 0? torch.finfo has smallest_normal and eps."
        )
    return (
        "From FP8 with n = 2^10 to BF16 with n = 2^134: two numbers of a format decide, "
        "smallest_normal and eps."
    )


@exercise("Exercise 2")
def gram_for_half(answer: Callable[[Tensor], Tensor]) -> str:
    """answer(features): the Gram matrix of FP16 features, in FP16, whatever their size."""
    generator = torch.Generator().manual_seed(0)
    for kind, (channels, size, scale) in {
        "small": (5, 9, 1),
        "sum": (4, 256, 2),
        "divisor": (4, 1792, 2),
    }.items():
        row = scale * torch.rand(channels, size, 1, generator=generator) + 0.1
        images = 2 if kind == "small" else 1
        features = row.expand(images, -1, -1, size).half().contiguous()
        flat, n = features[0, :, :, 0].double(), channels * size * size
        expected = flat @ flat.mT * size / n  # all columns are the same
        actual = require_answer(answer(features.clone()))
        case = f"{channels} channels of {size} x {size}"
        if (
            not isinstance(actual, Tensor)
            or actual.dtype != torch.float16
            or actual.shape != (images, channels, channels)
        ):
            what = (
                f"{actual.dtype}, {tuple(actual.shape)}"
                if isinstance(actual, Tensor)
                else type(actual).__name__
            )
            raise WrongError(
                f"{case}: {what}; expected torch.float16, {(images, channels, channels)}."
            )
        relative = (actual[0].double() / expected).median().item()
        rounded = torch.tensor(1 / n).half().item() * n
        if not actual.isfinite().all():
            raise WrongError(
                f"{case}: not finite. A sum over 65504 was stored in FP16 before it was fully "
                "divided."
            )
        if kind == "small" and not 0.99 < relative < 1.01:
            raise WrongError(
                f"{case}: {relative:.3g} times the right values. Divide by C·H·W of one image; "
                "add nothing: beta=0."
            )
        if kind == "divisor" and abs(relative / rounded - 1) < 5e-3:
            raise WrongError(
                f"{case}: {relative:.2f} times the right values: 1/(C·H·W) was rounded to FP16."
            )
        if (worst := (actual.double() / expected - 1).abs().max()) > 3e-3:
            raise WrongError(
                f"{case}: an entry is {worst:.0%} off. Did features underflow, divided too early?"
            )
    return (
        "Sums far over 65504, a divisor that FP16 does not know, and every entry is right to a "
        "thousandth or so."
    )


def rms_norm(x: Tensor) -> Tensor:
    """x divided by the root of its mean square."""
    return x / (x.square().mean().sqrt() + 1e-8)


WAYS = {
    "NaN": "0/0 is NaN: which input gives 0 above and below?",
    "infinite": "x / 0 is infinite: how small must x be for its square to round to 0?",
    "0": "x / inf is 0: how large must x be for its square to be infinite?",
    "finite, but more than 10 % off": "subnormal squares have few digits: between vanishing and "
    "being fine.",
}


@exercise("Exercise 3")
def break_rms_norm(answer: Sequence[Sequence[float]]) -> str:
    """answer: inputs for which rms_norm goes wrong in FP16, in four different ways.

    Each input is a list of numbers.
    """
    if answer is None or answer is ... or answer == []:
        raise NotAttemptedError
    found = set()
    for values in answer:
        x = torch.as_tensor(values).to(torch.float16)
        if x.ndim == 0:
            raise WrongError(f"{values} is no list: give a list of lists, each an input.")
        if x.ndim != 1 or not x.isfinite().all():
            raise WrongError(f"{values}: give lists of numbers that FP16 can hold, up to 65504.")
        expected, y = rms_norm(x.double()), rms_norm(x).double()
        off = ~torch.isclose(y, expected, rtol=0.1)
        if not off.any():
            raise WrongError(
                f"{values} comes out right, as {[round(value, 3) for value in y.tolist()]}."
            )
        where = (y.isnan(), y.isinf(), off & (y == 0), off & y.isfinite() & (y != 0))
        found |= {way for way, elements in zip(WAYS, where) if elements.any()}
    missing = [way for way in WAYS if way not in found]
    if missing:
        raise WrongError(
            f"{4 - len(missing)} of 4 ways. Nothing is {missing[0]} yet: {WAYS[missing[0]]}"
        )
    return "Four ways to fail, and every input is made of ordinary FP16 numbers."
