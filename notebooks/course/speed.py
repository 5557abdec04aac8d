"""The speed and the memory of a training step with the full loss, for notebook 09.

Every precision, batch and memory format is one case.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.profiler import profile
from torch.utils.flop_counter import FlopCounterMode

from pconv import InpaintingLoss, PConvUNet, get_precision
from pconv.benchmark import make_step, peak_memory, synthetic_batch, time_interleaved
from pconv.precision import Precision


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
    others = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
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
    return step, peak_memory(step, device, optimizer, live) - others


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
