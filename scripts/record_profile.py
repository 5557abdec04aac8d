"""Records where the time of a training step goes, with plain and with partial convolutions.

python scripts/record_profile.py --size 128 --batch 4 --widths 64,128,256,512,512 \
    --json data/results/profile_cpu_128.json

It is the step of `pconv bench`: an L1 loss and Adam, channels last. A row has, for a precision, a
layer and a kind of work, the calls per step and the seconds per step that the device (on a CPU: the
operators themselves) spent on it. The kind "idle" is what is left of the step's time: on a GPU that
waits for launches it is large.
"""

import argparse
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from pconv.benchmark import (
    VARIANTS,
    l1_loss,
    make_step,
    provenance,
    synthetic_batch,
    time_interleaved,
)
from pconv.devices import resolve_device
from pconv.files import write_json
from pconv.precision import get_precision

# The first kind that has a part of an operator's name.
KINDS = {
    "convolution": ("conv",),
    "batch norm": ("batch_norm",),
    "optimizer": ("adam", "amp_", "unscale"),
    "pooling": ("pool",),
    "upsampling": ("upsample", "interpolate"),
    "joining and copying": ("cat", "copy", "clone", "slice", "contiguous", "fill", "zero"),
    "elementwise": ("",),
}


def kind_of(operator: str) -> str:
    return next(kind for kind, parts in KINDS.items() if any(part in operator for part in parts))


def profile_once(step: Callable[[], object], device: torch.device) -> dict[str, tuple[int, float]]:
    """{kind of work: (calls, seconds)} of one step, which is warmed up."""
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as recorded:
        step()
    found = defaultdict(lambda: (0, 0.0))
    for event in recorded.key_averages():
        # Kernels have rows of their own: their time is that of the operators that launched them.
        if event.device_type != DeviceType.CPU:
            continue
        on_gpu = device.type == "cuda"
        micro = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        if micro:
            calls, seconds = found[kind_of(event.key.lower())]
            found[kind_of(event.key.lower())] = (calls + event.count, seconds + micro / 1e6)
    return found


def profile_steps(
    steps: dict[str, Callable[[], object]], device: torch.device, repeats: int
) -> Iterator[dict]:
    """Yields rows with layer, kind, calls and seconds: medians over the turns that they take."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # or the profiler complains: no GPU
    taken = time_interleaved(steps, device, repeats)
    turns = [
        {layer: profile_once(step, device) for layer, step in steps.items()} for _ in range(repeats)
    ]
    for layer in steps:
        busy = 0.0
        for kind in KINDS:
            calls, seconds = np.median([turn[layer][kind] for turn in turns], axis=0)
            busy += seconds
            yield {"layer": layer, "kind": kind, "calls": int(calls), "seconds": float(seconds)}
        idle = max(0.0, float(np.median(taken[layer])) - busy)
        yield {"layer": layer, "kind": "idle", "calls": 0, "seconds": idle}


def measure(options: argparse.Namespace) -> Iterator[dict]:
    """Yields the rows of one precision after the other."""
    batch = synthetic_batch(
        options.size, options.batch, torch.channels_last, options.device, seed=0
    )
    for name in options.precision.split(","):
        precision = get_precision(name, options.device)
        steps = {}
        with precision.backend_flags():
            for layer in ("plain", "partial"):
                torch.manual_seed(0)
                model = VARIANTS[layer](widths=options.widths).to(
                    options.device, precision.parameters, memory_format=torch.channels_last
                )
                optimizer = torch.optim.Adam(model.parameters(), fused=True)
                steps[layer] = make_step(model, l1_loss, optimizer, precision, *batch)
                steps[layer]()
                steps[layer]()
            for row in profile_steps(steps, options.device, options.repeats):
                yield {"precision": name, **row}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--precision", default="fp32,bf16")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--widths", default="64,128,256,512,512")
    parser.add_argument("--repeats", type=int, default=5, help="turns")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    options.device = resolve_device(options.device)
    options.widths = [int(width) for width in options.widths.split(",")]
    settings = {name: getattr(options, name) for name in ("size", "batch", "widths", "repeats")}
    origin, rows = provenance(options.device, 0, **settings), []
    for row in measure(options):
        rows.append(row)
        text = f"{row['precision']:<10}{row['layer']:<10}{row['kind']:<22}{row['calls']:>8} calls"
        print(f"{text}{1000 * row['seconds']:>9.2f} ms", flush=True)
        write_json(options.json, rows, origin)


if __name__ == "__main__":
    main()
