"""Which layer, loss term or gradient was the first that was not finite."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pconv.losses import InpaintingLoss
from pconv.precision import Precision


def find_non_finite(
    model: nn.Module, loss: InpaintingLoss, precision: Precision, images: Tensor, masks: Tensor
) -> str:
    """Repeats a training step with hooks and says, in one line, what was not finite first.

    Args:
        model, loss, precision: as in `training_step`.
        images: float (N, 3, H, W); masks: bool or float (N, 1, H, W).
    """
    model.zero_grad()
    modules = {f"{name} of the model": module for name, module in model.named_modules() if name}
    modules |= {f"{name} of the loss": module for name, module in loss.named_modules() if name}
    with _record_non_finite_outputs(modules) as outputs, precision.context(images.device.type):
        terms = loss(model(images.to(precision.parameters), masks), images, masks)
    if outputs:
        layer = f"the first output that is not finite is that of {outputs[0]}"
    else:
        layer = "every layer's output is finite"
    bad = [name for name, value in terms._asdict().items() if not torch.isfinite(value)]
    if bad:
        return f"the loss is not finite in {', '.join(bad)}; {layer}"
    terms.total.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    bad = [name for name, grad in gradients.items() if not torch.isfinite(grad).all()]
    model.zero_grad()
    if bad:  # the backward pass begins at the last layer
        return f"the loss is finite, the gradient is not, first in {bad[-1]}"
    return f"not seen again; {layer}"


@contextmanager
def _record_non_finite_outputs(modules: dict[str, nn.Module]) -> Iterator[list[str]]:
    """A list of the names of leaf modules, in the order in which they return what is not finite."""
    names = []

    def make_hook(name: str):
        def hook(module, inputs, output):
            tensors = output if isinstance(output, tuple | list) else (output,)
            tensors = [tensor for tensor in tensors if isinstance(tensor, Tensor)]
            if not all(torch.isfinite(tensor).all() for tensor in tensors):
                names.append(name)

        return hook

    leaves = {name: module for name, module in modules.items() if not list(module.children())}
    handles = [module.register_forward_hook(make_hook(name)) for name, module in leaves.items()]
    try:
        yield names
    finally:
        for handle in handles:
            handle.remove()


def count_skipped_steps(optimizer: torch.optim.Optimizer, steps: int) -> int:
    """How many of `steps` steps did not change the weights: Adam does not count those."""
    counts = [state["step"] for state in optimizer.state.values() if "step" in state]
    return steps - (int(torch.stack(counts).max()) if counts else 0)


class SkipCounter:
    """Counts skipped steps in a row, from what is read from the device every few steps.

    Args:
        precision: a loss scale is given the time to fall.
        step, skips: how many steps there have been, and how many of them were skipped.
    """

    def __init__(self, precision: Precision, step: int = 0, skips: int = 0):
        self.guarded = precision.parameters == torch.float32  # otherwise no step is skipped
        self.allowed = 24 if precision.scales else 3
        self.step = step
        self.skips = skips
        self.in_a_row = 0

    def are_too_many(self, step: int, skips: int, loss: float) -> bool:
        """Whether training should stop at `step`, after `skips` skipped steps, with that loss."""
        steps = step - self.step
        skipped = skips - self.skips
        self.step = step
        self.skips = skips
        if skipped == steps:
            self.in_a_row += skipped
        else:
            self.in_a_row = 0 if math.isfinite(loss) else skipped
        broken = not self.guarded and not math.isfinite(loss)
        return broken or self.in_a_row >= self.allowed
