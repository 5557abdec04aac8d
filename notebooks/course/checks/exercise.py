"""What a check of an exercise is made of: it says right, not right yet with a hint, or not attempted yet."""

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class NotAttemptedError(Exception):
    pass


class WrongError(Exception):
    """Its message is the hint."""


def exercise(name: str) -> Callable:
    """A check that prints a line, of a function that raises WrongError or returns what to say of a right answer."""

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


def answered(result):
    """The result of a learner's function; a stub returns `...`, or nothing."""
    if result is None or result is ... or (isinstance(result, tuple) and all(part is ... for part in result)):
        raise NotAttemptedError
    return result


def asked(answer: Callable, *inputs: Tensor):
    """What the learner's function answers; it may not write into what it is given."""
    copies = [tensor.clone() for tensor in inputs]
    result = answered(answer(*copies))
    for number, (copy, tensor) in enumerate(zip(copies, inputs), 1):
        if not torch.allclose(copy, tensor, rtol=0, atol=0, equal_nan=True):
            raise WrongError(f"It writes into what it is given: argument {number} has changed.")
    return result


EMPTY = "The result is not finite: 0 / 0 in an empty window, or 0 · NaN in a hole: select with torch.where."


def tell_apart(given, right: Tensor, mistakes: Sequence[tuple[Tensor, str]] = (), not_finite: str = EMPTY) -> None:
    """Raises the hint of the mistake that gives just this result, or says where it differs; silent if it is right."""
    if not isinstance(given, Tensor) or given.shape != right.shape:
        what = f"shape {tuple(given.shape)}" if isinstance(given, Tensor) else f"type {type(given).__name__}"
        raise WrongError(f"The result has {what}, expected a tensor of shape {tuple(right.shape)}.")
    for other, hint in mistakes:
        if torch.allclose(given.float(), other, rtol=1e-4, atol=1e-6, equal_nan=True):
            raise WrongError(hint)
    if not given.isfinite().all():
        raise WrongError(not_finite)
    if not torch.allclose(given.float(), right, rtol=1e-4, atol=1e-6):
        place = tuple(int(i) for i in torch.unravel_index((given - right).abs().argmax(), right.shape))
        where = f" at {place}" if place else ""
        raise WrongError(f"The value{where} is {given[place]:.5f}, expected {right[place]:.5f}.")
