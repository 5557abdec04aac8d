"""Checks of notebook 05.

The Gram matrix of valid pixels, the gradient of a Gram matrix, equal shares of the loss.
"""

import math
import traceback
import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

import pconv
from course.checks.exercise import (
    NotAttemptedError,
    WrongError,
    call_answer,
    compare_result,
    exercise,
    require_answer,
)

NAN_IN_A_HOLE = (
    "The result is not finite where a hole holds NaN: 0 · NaN is NaN, so multiplying by the mask "
    "keeps it. Select with torch.where."
)
ALL_AXES = (
    "`.T` reverses all the axes of a batch, so that (N, C, C) becomes (C, C, N). `.mT` transposes "
    "each matrix."
)
NO_WAY_THROUGH = (
    "torch.func does not go through pconv.gram_matrix, which brings its own backward. Write the "
    "product that this backward computes."
)


class _Calls(TorchFunctionMode):
    """Notes whether `.T` was asked of anything but a matrix."""

    all_axes = False

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if getattr(function, "__self__", None) is torch.Tensor.T and args[0].ndim != 2:
            self.all_axes = True
        return function(*args, **(kwargs or {}))


def _attempt(answer: Callable, call: Callable[[], object]):
    """call(), which runs the learner's `answer`; what it raises becomes a hint."""
    if not callable(answer):
        raise WrongError(f"Give the check the function itself, not {type(answer).__name__}.")
    calls = _Calls()
    try:
        with calls, warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"The use of `x\.T`")  # the hint says it
            return call()
    except (NotAttemptedError, WrongError):
        raise
    except Exception as error:
        if calls.all_axes:
            raise WrongError(ALL_AXES) from None
        if "setup_context" in str(error):
            raise WrongError(NO_WAY_THROUGH) from None
        message = str(error).partition("\n")[0]
        where = f"It stops{_line_of(answer, error)}"
        raise WrongError(f"{where}: {type(error).__name__}: {message}") from None


def _line_of(answer: Callable, error: Exception) -> str:
    """ "at `line`: the last line of the learner's own that ran, where it can be told."""
    own_file = getattr(getattr(answer, "__code__", None), "co_filename", None)
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame.line for frame in frames if frame.filename == own_file and frame.line]
    return f" at `{own[-1]}`" if own else ""


def _call(answer: Callable, *inputs: Tensor):
    """The learner's result for copies of the inputs; a tensor is of real floating numbers."""
    result = _attempt(answer, lambda: call_answer(answer, *inputs))
    if isinstance(result, Tensor) and not result.is_floating_point():
        raise WrongError(f"The result has dtype {result.dtype}, expected {inputs[0].dtype}.")
    return result


@exercise("Exercise 1")
def gram_of_valid(answer: Callable[[Tensor, Tensor], Tensor]) -> str:
    """answer(features, mask): the Gram matrix of the valid positions."""
    generator = torch.Generator().manual_seed(0)
    several, few = torch.ones(2, 1, 6, 7), torch.zeros(2, 1, 5, 4)
    several[0, :, :, 4:], several[1, :, :2] = 0, 0  # 24 and 28 of 42 positions are valid
    few[0, 0, 1, 1:3], few[1, 0, 1:4, 2] = 1, 1  # 2 and 3 of 20
    for mask, channels in ((several, 3), (few, 5)):
        features = torch.rand(len(mask), channels, *mask.shape[2:], generator=generator)
        count, positions = mask.sum((1, 2, 3)).view(-1, 1, 1), mask[0].numel()
        whole = features.flatten(2)
        product, unmasked = (whole * mask.flatten(2)) @ whole.mT, whole @ whole.mT
        expected = product / (channels * count)
        mistakes = (
            (
                product / (channels * positions),
                "You divide by C·H·W; only the valid positions count.",
            ),
            (product / count, "The division by C is missing."),
            (expected / channels, "You divide by C twice."),
            (product, "The division is missing: by C times the number of valid positions."),
            (
                product / (channels * count.sum()),
                "You count the whole batch's valid positions; every image has its own.",
            ),
            (
                product / (channels * count[:1]),
                "You take the first image's count for all; every image has its own.",
            ),
            (
                unmasked / (channels * positions),
                "The mask is not used: this is the Gram matrix of all positions.",
            ),
            (
                unmasked / (channels * count),
                "You divide by the right count, but the product still sums over the holes.",
            ),
            *(
                (
                    (unmasked - product) / (channels * n),
                    "This is the Gram matrix of the holes: 1 is valid in a mask.",
                )
                for n in (count, positions - count, positions)
            ),
        )
        compare_result(_call(answer, features, mask), expected, mistakes, NAN_IN_A_HOLE)
        unknown = features.where(mask > 0, torch.nan)
        compare_result(_call(answer, unknown, mask), expected, not_finite=NAN_IN_A_HOLE)
    return "Holes add nothing, not even NaN, and each image is divided by its own count."


@exercise("Exercise 2")
def gram_gradient(answer: Callable[[Tensor, Tensor], Tensor]) -> str:
    """answer(features, A): the gradient of the features, where A is that of their Gram matrix."""
    generator = torch.Generator().manual_seed(0)
    for shape in ((2, 3, 4, 5), (3, 4, 2, 6)):
        features = torch.randn(shape, generator=generator)
        a = torch.randn(shape[0], *shape[1:2] * 2, generator=generator)  # (N, C, C)
        chw, hw = features[0].numel(), features[0, 0].numel()
        _, backward = torch.func.vjp(
            lambda f, chw=chw: f.flatten(2) @ f.flatten(2).mT / chw, features
        )
        (expected,) = backward(a)
        af = (a @ features.flatten(2)).view_as(features)
        atf = (a.mT @ features.flatten(2)).view_as(features)
        mistakes = (
            (af + atf, "The division by C·H·W is missing."),
            ((af + atf) / hw, "The division by C is missing: by C·H·W."),
            (
                (af + atf) / features.numel(),
                "Too small by N, or by 2: C·H·W is of one image, and both sums count in full.",
            ),
            (expected / shape[1], "You divide by C twice."),
            (atf, "This is Aᵀ F: F is the left factor too, which gives A F. Then divide by C·H·W."),
            (af, "This is A F: F is the right factor too, which gives Aᵀ F. Then divide by C·H·W."),
            (
                af / chw,
                "This is A F / (C·H·W), one half of it: F is the right factor too, which gives Aᵀ "
                "F.",
            ),
            (
                atf / chw,
                "This is Aᵀ F / (C·H·W), one half of it: F is the left factor too, which gives A "
                "F.",
            ),
            (2 * af / chw, "2 A F is right only where A is symmetric: A + Aᵀ."),
            (2 * atf / chw, "2 Aᵀ F is right only where A is symmetric: A + Aᵀ."),
        )
        with FlopCounterMode(display=False) as counter:
            actual = _call(answer, features, a)
        compare_result(
            actual,
            expected,
            mistakes,
            "The result is not finite: does baddbmm read its first matrix? beta=0.",
        )
        products = counter.get_total_flops() / (2 * a.numel() * hw)
        if products > 1:
            raise WrongError(
                f"The gradient is right, but it takes {products:g} matrix products: add A and Aᵀ "
                "first."
            )
        if products < 1:
            raise WrongError(
                "The gradient is right, but PyTorch ran no matrix product. Multiplying number by "
                "number and adding up writes a tensor C times as large as the features: use @, "
                "torch.bmm or torch.baddbmm."
            )
    return "It is autograd's gradient: with (A + Aᵀ) F one product does what takes autograd two."


@exercise("Exercise 3")
def equal_shares(answer: Callable[[pconv.LossTerms], pconv.LossWeights]) -> str:
    """answer(terms): weights that give six terms the same share, and keep the total."""
    for values in ((0.02, 0.03, 1.2, 0.01, 0.004, 0.01), (0.05, 0.01, 0.7, 0.0003, 0.0004, 0.02)):
        total = sum(weight * value for weight, value in zip(pconv.LossWeights(), values))
        terms = pconv.LossTerms(*torch.tensor((*values, total)))
        weights = _attempt(answer, lambda terms=terms: require_answer(answer(terms)))
        if not isinstance(weights, pconv.LossWeights):
            raise WrongError("Return a pconv.LossWeights.")
        try:
            numbers = [float(weight) for weight in weights]
        except (TypeError, ValueError, RuntimeError):
            raise WrongError(f"Each weight is a number: {tuple(weights)}.") from None
        if numbers[6] != 0:
            raise WrongError(
                f"The weight of ssim is {numbers[6]:g}. That term is 0: give it no weight."
            )
        if not all(map(math.isfinite, numbers)):
            raise WrongError(f"Not all weights are finite: {numbers[:6]}.")
        shares = {
            name: weight * value for name, weight, value in zip(weights._fields, numbers, values)
        }
        low, high = (choose(shares, key=shares.get) for choose in (min, max))
        if not math.isclose(shares[low], shares[high], rel_tol=1e-3):
            falling = [weight for _, weight in sorted(zip(values, numbers))]
            if falling != sorted(falling, reverse=True) or len(set(falling)) == 1:
                raise WrongError(
                    f"{high} has a larger share than {low}. The smaller a term, the larger its "
                    "weight."
                )
            raise WrongError(
                f"{low} has the share {shares[low]:.3g} and {high} {shares[high]:.3g}; each "
                f"should be {total / 6:.3g}."
            )
        actual = sum(shares.values())
        if not math.isclose(actual, total, rel_tol=1e-3):
            raise WrongError(
                f"The shares are equal, but they add up to {actual:.3g}; the total was {total:.3g}."
            )
    return "Six equal shares, and the same total."
