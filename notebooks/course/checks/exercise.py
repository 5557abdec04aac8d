"""What the check of an exercise is made of.

A check prints one line: right, not right yet with a hint, or not attempted yet.
"""

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class NotAttemptedError(Exception):
    pass


class WrongError(Exception):
    """Its message is the hint."""


def exercise(name: str) -> Callable:
    """Turns a function into a check that prints one line.

    The function raises WrongError, or returns what to print about a right answer.
    """

    def decorate(examine: Callable[..., str]) -> Callable[..., None]:
        @functools.wraps(examine)
        def check(answer) -> None:
            try:
                print(f"{name}: right. {examine(answer)}")
            except NotAttemptedError:
                print(f"{name}: not attempted yet")
            except WrongError as hint:
                print(f"{name}: not right yet. {hint}")

        return check

    return decorate


def require_answer(result):
    """Returns the result of a learner's function, or raises: a stub returns `...`, or nothing."""
    if (
        result is None
        or result is ...
        or (isinstance(result, tuple) and all(part is ... for part in result))
    ):
        raise NotAttemptedError
    return result


def call_answer(answer: Callable, *inputs: Tensor):
    """Calls the learner's function on copies; it must not write into its arguments."""
    copies = [tensor.clone() for tensor in inputs]
    result = require_answer(answer(*copies))
    for number, (copy, tensor) in enumerate(zip(copies, inputs), 1):
        if not torch.allclose(copy, tensor, rtol=0, atol=0, equal_nan=True):
            raise WrongError(f"It writes into what it is given: argument {number} has changed.")
    return result


EMPTY = (
    "The result is not finite: 0 / 0 in an empty window, or 0 · NaN in a hole: "
    "select with torch.where."
)


def compare_result(
    actual, expected: Tensor, mistakes: Sequence[tuple[Tensor, str]] = (), not_finite: str = EMPTY
) -> None:
    """Raises WrongError unless the result is as expected.

    mistakes: (result, hint) pairs; the hint of the mistake that gives this very result is raised.
    Otherwise the message says where the result differs.
    """
    if not isinstance(actual, Tensor) or actual.shape != expected.shape:
        what = (
            f"shape {tuple(actual.shape)}"
            if isinstance(actual, Tensor)
            else f"type {type(actual).__name__}"
        )
        raise WrongError(
            f"The result has {what}, expected a tensor of shape {tuple(expected.shape)}."
        )
    for other, hint in mistakes:
        if torch.allclose(actual.float(), other, rtol=1e-4, atol=1e-6, equal_nan=True):
            raise WrongError(hint)
    if not actual.isfinite().all():
        raise WrongError(not_finite)
    if not torch.allclose(actual.float(), expected, rtol=1e-4, atol=1e-6):
        place = tuple(
            int(i) for i in torch.unravel_index((actual - expected).abs().argmax(), expected.shape)
        )
        where = f" at {place}" if place else ""
        raise WrongError(
            f"The value{where} is {actual[place]:.5f}, expected {expected[place]:.5f}."
        )
