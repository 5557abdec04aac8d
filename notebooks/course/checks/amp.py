"""Checks of notebook 07: a repaired training loop, accumulation, and a layer that overflows."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course.checks.exercise import NotAttemptedError, WrongError, exercise, require_answer

SCALE = 2.0**10  # what the scalers of these checks begin with


_MEANINGS = {  # of what GradScaler complains of
    "_scale is None": "Nothing has gone through `scaler.scale` yet.",
    "No inf checks": "The scaler has not seen the gradients: that is what `scaler.step` is for.",
}


class _SeenSGD(torch.optim.SGD):
    """Keeps the gradients that its steps were given."""

    def __init__(self, model: nn.Module):
        super().__init__(model.parameters(), lr=0.1)
        self.seen: list[Tensor] = []

    def step(self, closure=None):
        grads = [p.grad for group in self.param_groups for p in group["params"]]
        self.seen.append(torch.cat([grad.flatten() for grad in grads]))
        return super().step(closure)


class _Run:
    """A small model with its optimizer and its scaler, to be given to an answer."""

    def __init__(self, scale: float = SCALE):
        self.model = nn.Linear(6, 4)
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.copy_(torch.linspace(-0.1, 0.1, parameter.numel()).view_as(parameter))
        self.optimizer = _SeenSGD(self.model)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=2)

    def call(self, answer: Callable, *inputs):
        """What the answer returns. Where PyTorch refuses to go on, its words become a hint."""
        if not callable(answer):
            raise WrongError("Give the function itself, without calling it.")
        try:
            return answer(self.model, _squared_error, self.optimizer, self.scaler, *inputs)
        except (RuntimeError, AssertionError) as error:
            words = str(error).splitlines()[0]
            meaning = next((text for part, text in _MEANINGS.items() if part in words), "")
            raise WrongError(f"PyTorch stops here: {words} {meaning}".rstrip()) from None

    def value(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The loss of a batch with the weights of now."""
        with torch.autocast("cpu", dtype=torch.float16):
            return _squared_error(self.model(batch[0]), batch[1])

    def gradient(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The right gradient of a batch, of all parameters in one row."""
        grads = torch.autograd.grad(SCALE * self.value(batch), list(self.model.parameters()))
        return torch.cat([grad.flatten() for grad in grads]) / SCALE

    def weights(self) -> Tensor:
        return nn.utils.parameters_to_vector(self.model.parameters()).detach().clone()


def _squared_error(output: Tensor, target: Tensor) -> Tensor:
    return F.mse_loss(output.float(), target)


def _batch(size: int, height: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """x (size, 6) and target (size, 4); the higher the target, the larger the gradient."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(size, 6, generator=generator)
    return x, 0.3 * torch.rand(size, 4, generator=generator) + height


def _near(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=0.02, atol=1e-2 * float(b.abs().max()))


SMALL, LARGE = _batch(8, 0.0), _batch(8, 9.0)  # gradients shorter and longer than 1
OVERFLOWS = torch.full((8, 6), 1e5), SMALL[1]


@exercise("Exercise 1")
def training_loop(answer: Callable) -> str:
    """answer(model, loss, optimizer, scaler, batches, checkpoint=None) -> checkpoint.

    A training loop in FP16 which clips gradients to a norm of 1 and can go on from a checkpoint.
    """
    faults = [_fault_of_backward(answer), _fault_of_clipping(answer)]
    faults += [_fault_of_update(answer), _fault_of_checkpoint(answer)]
    left = [fault for fault in faults if fault]
    if len(left) == 4:
        raise NotAttemptedError
    if left:
        number = "One fault is" if len(left) == 1 else f"{len(left)} faults are"
        raise WrongError(f"{number} left. {left[0]}")
    run = _Run()
    before = run.weights()
    run.call(answer, [OVERFLOWS, SMALL])
    if not run.weights().isfinite().all() or torch.equal(run.weights(), before):
        raise WrongError("A batch whose gradient is inf must be skipped, and the next one not.")
    if run.scaler.get_scale() != SCALE / 2:
        raise WrongError("After a gradient that is inf the scale must be halved, once.")
    return "Scaled, unscaled, clipped, stepped, updated; and a checkpoint knows the scale."


def _step_on(answer: Callable, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The gradient that the optimizer got in one step, and the right one before clipping."""
    run = _Run()
    right = run.gradient(batch)
    result = run.call(answer, [batch])
    _require_one_step(run, result, "The optimizer took {} steps for one batch.")
    return run.optimizer.seen[0], right


def _require_one_step(run: "_Run", result, several: str) -> None:
    """several: what to say of more than one step; it contains {}."""
    steps = len(run.optimizer.seen)
    if steps == 0:
        require_answer(result)
        raise WrongError("The optimizer took no step.")
    if steps > 1:
        raise WrongError(several.format(steps))


def _fault_of_backward(answer: Callable) -> str | None:
    seen, right = _step_on(answer, SMALL)
    factor = float(seen.norm() / right.norm())
    if _near(seen * SCALE, right):
        return (
            f"The optimizer gets gradients that are {SCALE:.0f} times too small: they are divided "
            "by the scale but were not multiplied with it. `scaler.scale(value)` returns the "
            "scaled loss and leaves `value` as it is. Which of the two goes backward?"
        )
    if _near(seen / SCALE, right):
        return "The optimizer gets gradients that are still scaled: who divides by the scale?"
    if not _near(seen, right) and not _is_clipped_early(seen):
        return (
            f"A short gradient must reach the optimizer as it is; yours is {factor:.3g} times it."
        )
    return None


def _is_clipped_early(seen: Tensor) -> bool:
    return abs(float(seen.norm()) * SCALE - 1) < 0.02


def _fault_of_clipping(answer: Callable) -> str | None:
    seen, right = _step_on(answer, LARGE)
    norm = float(seen.norm())
    if _is_clipped_early(seen):
        return (
            f"A gradient of norm {float(right.norm()):.1f} reaches the optimizer with norm "
            f"{norm:.4f}, not 1: it was clipped while it was scaled, and then divided by the "
            "scale. Which call divides first?"
        )
    if norm > 1.05:
        return f"A gradient of norm {float(right.norm()):.1f} reaches the optimizer unclipped."
    return None


def _fault_of_update(answer: Callable) -> str | None:
    run = _Run()
    missing = (
        "After a step the scaler must be told that it is over: else it refuses the next one and "
        "the scale never changes."
    )
    try:
        run.call(answer, [SMALL, SMALL])
    except WrongError as hint:
        return f"{hint} {missing}" if "step()" in str(hint) else str(hint)
    if run.scaler.get_scale() != 2 * SCALE:
        return f"Two good steps should double this scale, and it did not change. {missing}"
    return None


def _fault_of_checkpoint(answer: Callable) -> str | None:
    run, later = _Run(), _Run(scale=2.0**16)
    later.model.weight.data.zero_()
    checkpoint = run.call(answer, [SMALL])
    if not isinstance(checkpoint, dict):
        return f"Return the checkpoint, a dict; this is of type {type(checkpoint).__name__}."
    state = run.scaler.state_dict()
    saved = state in checkpoint.values()
    try:
        later.call(answer, [], checkpoint)
    except KeyError as key:
        return f"The checkpoint is asked for {key}, which it does not hold."
    if later.scaler.state_dict() == state:
        if not torch.equal(later.weights(), run.weights()):
            return "The scale is restored, the weights of the model are not."
        return None
    if later.scaler.get_scale() == SCALE:
        return "The scale is restored, but not the count of good steps: state_dict() holds both."
    if saved:
        return "The scaler is in the checkpoint, but a new one does not load it from there."
    return (
        f"A new scaler that goes on from the checkpoint has the scale {2**16}, not {SCALE:.0f}: "
        "model and optimizer are saved and restored. What else has a state_dict()?"
    )


@exercise("Exercise 2")
def accumulation(answer: Callable) -> str:
    """answer(model, loss, optimizer, scaler, parts) -> the mean loss of the whole batch.

    One step for a batch that comes in parts [(x, target), ...] of unequal size.
    """
    for sizes in ((4, 4, 2), (3,), (1, 5)):
        parts = [_batch(size, 2.0 * place, place) for place, size in enumerate(sizes)]
        _check_accumulated(answer, parts)
    run = _Run()
    before = run.weights()
    run.call(answer, [SMALL, OVERFLOWS, SMALL])
    if not torch.equal(run.weights(), before) or run.scaler.get_scale() != SCALE / 2:
        raise WrongError("If one part overflows, the whole step must be skipped, the scale halved.")
    return "The same step as with the whole batch at once, whatever the sizes of the parts."


def _check_accumulated(answer: Callable, parts: list[tuple[Tensor, Tensor]]) -> None:
    run = _Run()
    whole = tuple(torch.cat(tensors) for tensors in zip(*parts))
    right, value = run.gradient(whole), run.value(whole).item()
    each, values = (
        [run.gradient(part) for part in parts],
        [run.value(part).item() for part in parts],
    )
    stale = 7 * SCALE
    for parameter in run.model.parameters():
        parameter.grad = torch.full_like(parameter, stale)
    result = run.call(answer, list(parts))
    _require_one_step(run, result, "{} steps for one batch: the parts belong to one step.")
    fractions = [len(part[0]) / len(whole[0]) for part in parts]
    mistakes = [
        (right + stale / SCALE, "The gradients of the step before are still there."),
        (right * SCALE, "The optimizer gets gradients that are still scaled."),
        (right / SCALE, "The parts' losses go backward unscaled, and are divided by the scale."),
        (sum(each), "Each part's mean counts as if it were the whole batch: too long a step."),
        (sum(each) / len(each), "A part of 2 counts as much as a part of 4: weigh by its size."),
        (each[-1] * fractions[-1], "Only the last part is left: its zero_grad erased the others."),
        (each[-1], "Only the last part is left: its zero_grad erased the others."),
        (right / len(parts), "It is divided by the number of parts, beside the sizes."),
    ]
    _compare(run.optimizer.seen[0], right, mistakes, "gradient")
    if run.scaler.state_dict()["_growth_tracker"] != 1:
        raise WrongError("The gradient is right. The scaler must be updated, once per step.")
    if result is None or result is ...:
        raise WrongError("The step is right. Return the mean loss of the whole batch, too.")
    try:
        value_of = result.detach() if isinstance(result, Tensor) else result
        returned = torch.tensor(float(value_of))
    except (TypeError, ValueError, RuntimeError):
        raise WrongError("The step is right. The loss that you return is not one number.") from None
    mistakes = [
        (sum(values), "The step is right; the loss returned is the sum over the parts."),
        (sum(values) / len(values), "The step is right; the loss returned is not weighed by size."),
        (values[-1], "The step is right; the loss returned is that of the last part."),
        (value * SCALE, "The step is right; the loss returned is still scaled."),
    ]
    mistakes = [(torch.tensor(wrong), hint) for wrong, hint in mistakes]
    _compare(returned, torch.tensor(value), mistakes, "loss returned")


def _compare(actual: Tensor, right: Tensor, mistakes: Sequence, what: str) -> None:
    """Raises the hint of the mistake that gives this result, if it is not the right one."""
    if _near(actual, right):
        return
    for wrong, hint in mistakes:
        if _near(actual, wrong):
            raise WrongError(hint)
    factor = float(actual.norm() / right.norm())
    raise WrongError(f"The {what} is not that of the whole batch: {factor:.3g} times as large.")


@exercise("Exercise 3")
def layer_found(answer: tuple[str, Callable]) -> str:
    """answer: the name of the layer, and repaired(output, photo, mask) in its place."""
    if not isinstance(answer, tuple) or len(answer) != 2 or not callable(answer[1]):
        raise WrongError("Give two things: the name of the layer, and the function.")
    culprit, repaired = answer
    output = torch.rand(1, 3, 1024, 1024, generator=torch.Generator().manual_seed(0)).half()
    photo, mask = torch.zeros(1, 3, 1024, 1024), torch.zeros(1, 1, 1024, 1024)
    mask[..., :128] = 1
    output[..., :128] *= 0.3
    result = repaired(output.requires_grad_(), photo, mask)
    attempted = result is not None and result is not ...
    if culprit is ... or culprit is None:
        if attempted:
            raise WrongError("Which layer is it? Record a step and ask for first_not_finite().")
        raise NotAttemptedError
    name = culprit[-1] if isinstance(culprit, tuple) and culprit else culprit
    if name != "hole":
        raise WrongError(
            f"{name!r} is not the layer that is not finite first: record a step at 320 x 320 "
            "pixels. What comes after it is infected, what comes before is innocent."
        )
    if not attempted:
        raise WrongError("The layer is right. Now write what it computes.")
    difference = (output.detach().float() - photo).abs()
    right, valid = (difference * (1 - mask)).mean(), (difference * mask).mean()
    for context in (torch.autocast("cpu", torch.float16), nullcontext()):
        with context:
            _check_hole_loss(repaired(output, photo, mask), right, valid, mask, output)
    return "Half precision where it is fast, FP32 where it adds up."


def _check_hole_loss(
    actual: Tensor, right: Tensor, valid: Tensor, mask: Tensor, output: Tensor
) -> None:
    if not isinstance(actual, Tensor) or actual.numel() != 1:
        raise WrongError("Return the loss, a tensor with one value.")
    if not actual.isfinite():
        raise WrongError(
            f"The loss is {actual.item()}: float16 ends at 65504, the sum over the pixels does "
            "not. What is cast after the sum is cast too late."
        )
    for wrong, hint in (
        (valid, "This is the loss of the valid pixels."),
        (right + valid, "This is the loss of all pixels."),
        (right / (1 - mask).mean(), "You divide by the holes' pixels; the paper divides by all."),
    ):
        if torch.allclose(actual.float(), wrong, rtol=2e-3):
            raise WrongError(hint)
    if actual.dtype != torch.float32:
        raise WrongError(
            f"The loss is {actual.dtype}: on a CPU autocast leaves sums and means in half. Cast "
            "before them."
        )
    if not torch.allclose(actual, right, rtol=1e-3):
        raise WrongError(
            f"The loss is {actual.item():.5f}, expected {right.item():.5f}: is a part of it still "
            "computed in float16?"
        )
    if not actual.requires_grad:
        raise WrongError("The value is right, but no gradient leads back to the network.")
    (gradient,) = torch.autograd.grad(actual, output)
    if not gradient.isfinite().all():
        raise WrongError("The value is right, its gradient is not finite.")
