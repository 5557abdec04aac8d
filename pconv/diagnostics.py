"""Where a training leaves the range of its numbers: the first inf or NaN, and what comes near."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from pconv.losses import InpaintingLoss
from pconv.precision import Precision
from pconv.ranges import RangeReport


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


@contextmanager
def range_report(model: nn.Module, *, loss_scale: float = 1.0) -> Iterator[RangeReport]:
    """Records how large activations, weights and gradients are in every layer of any model.

        with range_report(model) as report:
            for images, labels in three_batches:
                loss(model(images), labels).backward()
        print(report)

    It says what FP16 and BF16 would make of these numbers (what rounds to 0, what overflows) and
    which loss scale would do. Record in FP32: what has become 0 in FP16 cannot be told from a 0.

    Nothing waits for the device: values are counted there, and the counts are read when the report
    is. A layer is a module without children, or one with parameters of its own; activations are
    the floating tensors that it returns, in tuples, lists and dicts, too. Modules that are called
    several times or shared, in-place activations, autocast and GradScaler are fine; of a model in
    `torch.compile`, record the one that was compiled.

    Args:
        model: any module, on any device; `nn.ModuleDict({"model": model, "loss": loss})` for the
            layers of a loss, too.
        loss_scale: what the loss is multiplied with in the meantime, such as `scaler.get_scale()`;
            gradients are recorded as they flow, and divided by it in the report. A power of two.

    Yields:
        The report. Weights are added at the end, also where an exception ends it.

    Raises:
        TypeError: for a model that is not a module.
        ValueError: for a loss scale that is not a power of two.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected an nn.Module, such as a network, got {type(model).__name__}")
    report = RangeReport(loss_scale)
    layers = _get_layers(model)
    handles = []
    try:
        for name, module in layers.items():
            handles.append(module.register_forward_hook(_make_range_hook(report, name, handles)))
            handles += [
                parameter.register_hook(partial(report.record, "weight_gradients", name))
                for parameter in _get_parameters(module)
                if parameter.requires_grad
            ]
        yield report
    finally:
        for handle in handles:
            handle.remove()
        for name, module in layers.items():
            for weight in _find_tensors(_get_parameters(module)):
                report.record("weights", name, weight)


def _get_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The modules without children, or with parameters of their own, by name.

    What `torch.nn.utils.parametrize` puts into a layer belongs to that layer.
    """
    layers = {}
    for name, module in model.named_modules():
        children = [child for child, _ in module.named_children() if child != "parametrizations"]
        is_layer = not children or _get_parameters(module)
        if is_layer and "parametrizations" not in name.split("."):
            layers[name or type(model).__name__] = module
    return layers


def _get_parameters(layer: nn.Module) -> list[nn.Parameter]:
    own = list(layer.parameters(recurse=False))
    return own + list(getattr(layer, "parametrizations", nn.Module()).parameters())


def _make_range_hook(report: RangeReport, name: str, handles: list):
    """A forward hook that records what a layer returns, and later the gradients of that.

    Hooks of the tensors, not of the module, whose backward hooks forbid in-place activations.
    """

    def hook(module, inputs, output):
        for tensor in _find_tensors(output):
            report.record("activations", name, tensor)
            if tensor.requires_grad:
                handles.append(tensor.register_hook(partial(report.record, "gradients", name)))

    return hook


def _find_tensors(value) -> Iterator[Tensor]:
    """The floating tensors in a tensor, or in tuples, lists and dicts of them."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, tuple | list | Mapping):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _find_tensors(part)


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
