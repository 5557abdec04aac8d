"""The speed and the memory of a training step, and what can be counted, for notebook 09.

Every precision, batch and memory format is one case.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.profiler import profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from pconv import InpaintingLoss, LossWeights, PConvUNet, get_precision
from pconv.benchmark import l1_loss, make_step, peak_memory, synthetic_batch, time_interleaved
from pconv.layers import binarize, to_float
from pconv.precision import Precision
from pconv.unet import Block, upsample


class Case(NamedTuple):
    """One way to take a training step."""

    precision: str = "fp32"
    batch: int = 4
    channels_last: bool = False
    compiled: bool = False


def measure_speed(
    cases: Sequence[Case],
    loss: InpaintingLoss,
    size: int = 128,
    widths: Sequence[int] = (64, 128, 256, 512, 512),
    device: str | torch.device = "cpu",
    repeats: int = 5,
    seed: int = 0,
) -> Iterator[dict]:
    """Measures the training step of PConvUNet with `loss` and Adam, and yields one row per case.

    Each case takes turns with the first one, so that a machine that slows down slows both.

    size: pixels per side
    repeats: turns

    A row holds the case and
        seconds, samples_per_second: medians over the turns
        relative_speed: median over the turns of its samples/s over the first case's
        peak_bytes: without the loss's own weights
        flops
    or the case and `failed`, why this device cannot do it. The first case must not fail.
    """
    device, base = torch.device(device), None
    loss = loss.to(device)
    for case in cases:
        row = case._asdict()
        try:
            step, row["peak_bytes"] = _prepared(case, loss, size, widths, device, seed)
            if base is None:
                base = step
                with FlopCounterMode(display=False) as counter:
                    base()
            turns = time_interleaved({cases[0]: base, case: step}, device, repeats)
        except (RuntimeError, ValueError) as error:
            if base is None:
                raise
            full = isinstance(error, torch.OutOfMemoryError) or "allocate" in str(error)
            row = {
                **case._asdict(),
                "failed": "out of memory" if full else str(error).partition("\n")[0],
            }
        else:
            rate, reference = (one.batch / np.array(turns[one]) for one in (case, cases[0]))
            row["seconds"] = float(np.median(turns[case]))
            row["samples_per_second"] = float(np.median(rate))
            row["relative_speed"] = float(np.median(rate / reference))
            row["flops"] = counter.get_total_flops() * case.batch // cases[0].batch
        yield row


def _prepared(case: Case, loss, size, widths, device, seed) -> tuple[Callable[[], None], int]:
    """A step of that case, warmed up, and its peak memory."""
    precision = get_precision(case.precision, device)
    memory_format = torch.channels_last if case.channels_last else torch.contiguous_format
    torch.manual_seed(seed)
    model = PConvUNet(widths=widths).to(device, precision.parameters, memory_format=memory_format)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    image, mask = synthetic_batch(size, case.batch, memory_format, device, seed)
    if case.compiled:
        torch.compiler.reset()  # past a few versions of one function it would no longer compile
    run = torch.compile(model, dynamic=False) if case.compiled else model
    one = make_step(run, loss, optimizer, precision, image, mask)

    def step() -> None:
        with precision.backend_flags():
            one()
        optimizer.zero_grad()  # the case that takes turns with this one needs the memory

    step()
    step()
    live = (*model.state_dict().values(), image, mask)
    return step, peak_memory(step, device, optimizer, live)


def pixel_loss() -> InpaintingLoss:
    """The loss on pixels alone, without VGG: what is left of a step is the network's."""
    weights = LossWeights(perceptual=0, style_out=0, style_comp=0)
    return InpaintingLoss(torch.nn.Identity(), weights)


class MasksInLayers(PConvUNet):
    """PConvUNet whose layers compute their masks themselves, one after the other."""

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """image: (N, 3, H, W). mask: (N, 1, H, W). Returns what PConvUNet does."""
        x, mask, skips = image, to_float(binarize(mask)), []
        for block in self.encoder:
            skips.append((x, mask))
            x, mask = self._run_block(block, x, mask)
        for block in self.decoder:
            skip, skip_mask = skips.pop()
            size = skip.shape[2:]
            masks = upsample(mask, size), skip_mask
            x, mask = self._run_block(block, (upsample(x, size), skip), masks)
        return x

    @staticmethod
    def _run_block(block: Block, x, mask) -> tuple[Tensor, Tensor]:
        y, new_mask = block.conv(x, mask)
        y = y if block.norm is None else block.norm(y)
        return (y if block.activation is None else block.activation(y)), new_mask


def count_operators(
    kind: type[PConvUNet],
    precision: str,
    size: int = 512,
    widths: Sequence[int] = (64, 128, 256, 512, 512, 512, 512, 512),
    batch: int = 6,
) -> int:
    """How many operators a forward and backward pass with an L1 loss runs; nothing is computed.

    Each is a call that works on data: changes of a shape alone, and new empty tensors, do not
    count. It is the same number on every machine.

    kind: of U-Net. precision: "fp32" or "bf16". size: pixels per side. batch: photos.
    """
    how, counter = get_precision(precision, "cpu"), _OperatorCounter()
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = kind(widths=widths)
        images = torch.rand(batch, 3, size, size)
        masks = torch.ones(batch, 1, size, size, dtype=torch.bool)
        with counter:
            with how.context("cpu"):
                terms = l1_loss(model(images, masks), images, masks)
            terms.total.backward()
    return counter.count


class _OperatorCounter(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        works = func.namespace == "aten" and not func.is_view and "empty" not in func.name()
        self.count += works
        return func(*args, **(kwargs or {}))


def convolution_speed(precision: Precision, device: str | torch.device, repeats: int = 5) -> float:
    """FLOP/s of a 3x3 convolution, channels last: the best of the turns and of three shapes.

    It multiplies in the dtype in which the precision does.
    """
    device = torch.device(device)
    batch, side = (16, 128) if device.type == "cuda" else (2, 48)
    dtype, layout = precision.autocast or precision.parameters, torch.channels_last
    steps, flops = {}, {}
    for channels in (64, 128, 256):
        x = torch.randn(batch, channels, side, side).to(device, dtype, memory_format=layout)
        weight = torch.randn(channels, channels, 3, 3).to(device, dtype, memory_format=layout)
        steps[channels] = lambda x=x, weight=weight: F.conv2d(x, weight, padding=1)
        flops[channels] = 2 * 9 * channels**2 * batch * side**2
    with precision.backend_flags(), torch.no_grad():
        seconds = time_interleaved(steps, device, repeats + 1)
    return max(flops[channels] / min(times[1:]) for channels, times in seconds.items())


def matmul_speed(
    precision: Precision, device: str | torch.device, side: int | None = None, repeats: int = 5
) -> float:
    """FLOP/s of the product of two large square matrices: the best of the turns.

    Their dtype is the one in which the precision multiplies.
    """
    device = torch.device(device)
    side = side or (8192 if device.type == "cuda" else 1024)
    a = torch.randn(side, side, device=device).to(precision.autocast or precision.parameters)
    with precision.backend_flags():
        seconds = time_interleaved({"product": lambda: a @ a}, device, repeats + 1)["product"]
    return 2 * side**3 / min(seconds)


def count_calls(step: Callable[[], object], operator: str | None = None) -> int:
    """How many operators of PyTorch a step calls.

    operator: its name, such as "add", to count the calls of that one only.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # or the profiler complains on stderr
    with profile() as recorded:
        step()
    calls = {event.key: event.count for event in recorded.key_averages()}
    calls = {name: count for name, count in calls.items() if name.startswith("aten::")}
    return sum(calls.values()) if operator is None else calls.get(f"aten::{operator}", 0)


def time_loaders(
    step: Callable[[], object],
    slowly: Callable[[float], Iterator],
    loaders: Mapping[str, Callable[[Iterator, list[str]], Iterator]],
    device: torch.device,
    count: int = 5,
) -> tuple[dict[str, float], dict[str, list[str]]]:
    """Times `count` training steps, each of which waits for its batch.

    step: a training step, warmed up. slowly: makes batches, each after that many seconds.
    loaders: by name; each gets the slow batches and a list, and notes there "request" whenever it
    asks for a batch.

    Returns {name: seconds per step}, without a loader first and the disk alone last, and
    {name: the events in order}, "request" and "step".
    """
    alone = float(np.median(time_interleaved({"step": step}, device, count)["step"]))
    wait = min(max(1.5 * alone, 0.05), 0.5)
    seconds, events = {"no loader": alone}, {}
    for name, load in loaders.items():
        events[name] = []
        batches = load(slowly(wait), events[name])
        start = time.perf_counter()
        for _ in range(count):
            next(batches)
            step()
            events[name].append("step")
        seconds[name] = (time.perf_counter() - start) / count
        batches.close()
    return seconds | {"the disk alone": wait}, events
