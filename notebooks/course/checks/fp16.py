"""Checks of notebook 06.

Where 1/n is 0, a Gram matrix for FP16, inputs that break a normalization.
"""

import math
import reprlib
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import pconv
from course.checks.exercise import NotAttemptedError, WrongError, exercise, require_answer

FORMATS = (torch.float16, torch.bfloat16, torch.float8_e5m2, torch.float8_e4m3fn)


def _require_function(answer) -> Callable:
    """The learner's function, not what it returned."""
    if callable(answer):
        return answer
    require_answer(answer)
    raise WrongError(
        f"Give the check the function itself, not a value of type {type(answer).__name__}."
    )


@exercise("Exercise 1")
def zero_from(answer: Callable[[torch.dtype], int]) -> str:
    """answer(dtype): the smallest whole number n for which 1/n, stored in dtype, is 0."""
    answer = _require_function(answer)
    for dtype in FORMATS:
        name = str(dtype).removeprefix("torch.")
        actual = _whole_number(require_answer(answer(dtype)), name)
        exponent = next(k for k in range(200) if torch.tensor(2.0**-k).to(dtype).float() == 0)
        if actual != 2**exponent:
            raise WrongError(_explain_wrong_n(actual, 2**exponent, dtype, name))
    return (
        "From FP8 with n = 2^10 to BF16 with n = 2^134: two numbers of a format decide, "
        "smallest_normal and eps."
    )


def _whole_number(actual, name: str) -> int:
    if isinstance(actual, Tensor) and actual.numel() == 1:
        actual = actual.item()
    if isinstance(actual, bool) or not isinstance(actual, Real):
        kind = type(actual).__name__
        raise WrongError(f"{name}: the result is of type {kind}, expected one number.")
    if not isinstance(actual, Integral):
        actual = int(actual) if float(actual).is_integer() else float(actual)
    if isinstance(actual, float):
        raise WrongError(f"{name}: you say {actual:.4g}, expected a whole number.")
    if actual < 1:
        raise WrongError(f"{name}: you say a number below 1, expected a whole number from 1 on.")
    return int(actual)


def _explain_wrong_n(actual: int, expected: int, dtype: torch.dtype, name: str) -> str:
    power = math.log2(actual)
    about = f"which is 2^{power:g}" if actual & (actual - 1) == 0 else f"about 2^{power:.4g}"
    shown = actual if actual < 2**40 else "a number"
    case = f"{name}: you say {shown}, {about}."
    if actual == 1 / torch.finfo(dtype).smallest_normal:
        return f"{case} There the subnormal numbers begin, which are not 0."
    if actual == expected // 2:
        return f"{case} There 1/n is the smallest number that is not 0; half of it rounds to 0."
    if actual == expected + 1:
        return (
            f"{case} One less is enough: exactly half of the smallest number rounds to 0 (to even)."
        )
    if actual == 2**25:
        return f"{case} That is right for float16 only: ask torch.finfo(dtype) for the others."
    return f"{case} What is the smallest number above 0? torch.finfo has smallest_normal and eps."


@dataclass(frozen=True)
class Case:
    """Features to try: their shape, and what their values lie between."""

    images: int
    channels: int
    height: int
    width: int
    low: float
    high: float

    def features(self, seed: int) -> Tensor:
        """(N, C, H, W), FP16: one value per channel, but all different where they are few.

        Equal values are rounded in the same way, so that errors do not cancel.
        """
        generator = torch.Generator().manual_seed(seed)
        few = self.height * self.width < 1000
        size = (self.height, self.width) if few else (1, 1)
        shape = (self.images, self.channels, *size)
        values = self.low + (self.high - self.low) * torch.rand(shape, generator=generator)
        return values.half().expand(-1, -1, self.height, self.width).contiguous()

    def __str__(self) -> str:
        size = f"{self.channels} x {self.height} x {self.width}"
        return f"{size}, values from {self.low:g} to {self.high:g}"


CASES = {
    "small": Case(2, 5, 9, 9, 0.1, 1.1),
    "faint": Case(1, 4, 40, 40, 0.006, 0.012),
    "sum": Case(1, 4, 256, 256, 0.1, 2.1),
    "strong": Case(1, 16, 1024, 1024, 600, 1000),
    "divisor": Case(1, 4, 1792, 1792, 0.1, 2.1),
    "tall": Case(1, 8, 4096, 512, 0.04, 0.06),
}


class _Copies(TorchDispatchMode):
    """Notes how large the largest tensor is that is made in another floating-point format."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for made in tree_leaves(result):
            wide = isinstance(made, Tensor) and made.is_floating_point()
            if wide and made.dtype != torch.float16:
                self.elements = max(self.elements, made.numel())
        return result


def _call_and_count(answer: Callable, features: Tensor) -> tuple[object, int]:
    """The result, and the elements of the largest copy in another format; NumPy's, too."""
    tracemalloc.start()
    try:
        with _Copies() as copies:
            result = answer(features)
        by_numpy = tracemalloc.get_traced_memory()[1] // 4
    finally:
        tracemalloc.stop()
    return require_answer(result), max(copies.elements, by_numpy)


@exercise("Exercise 2")
def gram_for_half(answer: Callable[[Tensor], Tensor]) -> str:
    """answer(features): the Gram matrix of FP16 features, in FP16, whatever their size."""
    answer = _require_function(answer)
    if answer is pconv.gram_matrix:
        raise WrongError("That is the package's function. What does the line inside it do?")
    for seed, (kind, case) in enumerate(CASES.items()):
        features = case.features(seed)
        n = case.channels * case.height * case.width
        actual, copied = _call_and_count(answer, features.clone())
        _require_gram_shape(actual, case)
        large = case.height * case.width >= 2**20  # a part of a small one may be all of it
        if large and copied > features.numel() // 2:
            raise WrongError(
                f"{case}: a copy of the features in another format is made, with {copied:,} of "
                f"{features.numel():,} values. Who adds up in FP32 without a copy?"
            )
        flat = features.flatten(2).double()
        expected = flat @ flat.mT / n
        relative = (actual.double() / expected).median().item()
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
        rounded = torch.tensor(1 / n).half().item() * n
        if kind == "divisor" and abs(relative / rounded - 1) < 5e-3:
            raise WrongError(
                f"{case}: {relative:.2f} times the right values: 1/(C·H·W) was rounded to FP16."
            )
        if (worst := (actual.double() / expected - 1).abs().max()) > 1e-2:
            raise WrongError(
                f"{case}: an entry is {worst:.1%} off. Did features underflow, divided too early, "
                "or by a number that does not suit them?"
            )
    return (
        "Sums far over 65504, a divisor that FP16 does not have, strong features and faint ones: "
        "every entry is right to one percent, and no copy was made."
    )


def _require_gram_shape(actual, case: Case) -> None:
    shape = (case.images, case.channels, case.channels)
    if not isinstance(actual, Tensor):
        raise WrongError(f"{case}: {type(actual).__name__}; expected a tensor.")
    if actual.dtype != torch.float16 or actual.shape != shape:
        raise WrongError(
            f"{case}: {actual.dtype}, {tuple(actual.shape)}; expected torch.float16, {shape}."
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
LONGEST = 16  # of an input, and the most inputs


@exercise("Exercise 3")
def break_rms_norm(answer: Sequence[Sequence[float]]) -> str:
    """answer: inputs for which rms_norm goes wrong in FP16, in four different ways.

    Each input is a list of numbers.
    """
    if answer is None or answer is ... or (isinstance(answer, list | tuple) and not answer):
        raise NotAttemptedError
    if not isinstance(answer, list | tuple | Tensor) or len(answer) > LONGEST:
        raise WrongError(f"Give a list of at most {LONGEST} lists, such as [[1.0, 2.0], [3.0]].")
    found = set()
    for values in answer:
        x, shown = _as_half(values), reprlib.repr(values)
        expected, y = rms_norm(x.double()), rms_norm(x).double()
        off = ~torch.isclose(y, expected, rtol=0.1)
        if not off.any():
            right = [round(value, 3) for value in y.tolist()]
            raise WrongError(f"{shown} comes out right, as {right}.")
        where = (y.isnan(), y.isinf(), off & (y == 0), off & y.isfinite() & (y != 0))
        found |= {way for way, elements in zip(WAYS, where) if elements.any()}
    missing = [way for way in WAYS if way not in found]
    if missing:
        raise WrongError(
            f"{4 - len(missing)} of 4 ways. Nothing is {missing[0]} yet: {WAYS[missing[0]]}"
        )
    return "Four ways to fail, and every input is made of ordinary FP16 numbers."


def _as_half(values) -> Tensor:
    """One input as an FP16 tensor, or the hint that says why it is none."""
    shown = reprlib.repr(values)
    try:
        x = torch.as_tensor(values, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise WrongError(f"{shown} is no list of numbers that FP16 can hold.") from None
    if x.ndim == 0:
        raise WrongError(f"{shown} is no list: give a list of lists, each an input.")
    if x.ndim != 1 or not 1 <= len(x) <= LONGEST:
        raise WrongError(f"{shown}: give lists of 1 to {LONGEST} numbers.")
    if not x.half().isfinite().all():
        raise WrongError(f"{shown}: give numbers that FP16 can hold, up to 65504.")
    return x.half()
