"""What a training step costs, in time and memory, always beside a baseline in the same run."""

import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from importlib.metadata import version

import numpy as np
import torch
from torch import Tensor, nn

from pconv.baselines import MultiChannelUNet, PlainUNet
from pconv.devices import cpu_bf16_units
from pconv.holes import random_holes
from pconv.losses import LossTerms, l1
from pconv.precision import Precision, get_precision
from pconv.train import training_step
from pconv.unet import PConvUNet

VARIANTS = {"plain": PlainUNet, "partial": PConvUNet, "textbook": MultiChannelUNet}


def benchmark_training(
    precisions: Sequence[str] = ("fp32", "bf16"),
    *,
    size: int = 128,
    batch_size: int = 4,
    widths: Sequence[int] = (64, 128, 256, 512, 512),
    device: str | torch.device = "cpu",
    channels_last: bool = False,
    compile: bool = False,
    repeats: int = 7,
    steps_between_syncs: int = 1,
    variants: Sequence[str] = tuple(VARIANTS),
    seed: int = 0,
) -> list[dict]:
    """The training step of PConvUNet beside those of PlainUNet and of MultiChannelUNet.

    They take turns, so that a machine that slows down slows all. An L1 loss and Adam are the
    rest of the step.

    Args:
        precisions: names of `pconv.precision`.
        size: of an image, in pixels per side.
        batch_size: images per step.
        widths: of the U-Net.
        device: "cpu", "cuda" or "cuda:N".
        channels_last, compile: as in `Trainer`.
        repeats: turns.
        steps_between_syncs: with more than 1, that many steps are also timed between two waits for
            the device, as in training.
        variants: some of "plain", which the others are compared with, "partial" and "textbook".
        seed: of weights, images and holes.

    Returns:
        A row per precision and variant: `seconds` (median), `fastest`, `samples_per_second`,
        `relative_time` (median over the turns of its time / the plain one's), `saved_bytes` (kept
        for the backward pass) and `peak_bytes`. With steps_between_syncs > 1 also
        `unsynced_seconds`, per step, and `unsynced_relative_time`.

    Raises:
        ValueError: for a precision that the device lacks, and for variants without "plain".
    """
    check_variants(variants)
    device = torch.device(device)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    image, mask = synthetic_batch(size, batch_size, memory_format, device, seed)
    rows = []
    for precision in [get_precision(name, device) for name in precisions]:
        steps, memory = {}, {}
        with precision.backend_flags():
            for name in variants:
                torch.manual_seed(seed)
                model = VARIANTS[name](widths=widths)
                model = model.to(device, precision.parameters, memory_format=memory_format)
                steps[name], memory[name] = _prepare_step(model, precision, image, mask, compile)
            seconds = time_interleaved(steps, device, repeats)
            unsynced = None
            if steps_between_syncs > 1:
                unsynced = time_interleaved(steps, device, repeats, steps_between_syncs)
        for name in variants:
            row = {"precision": precision.name, "layer": name}
            row |= _summarize(name, seconds, batch_size) | memory[name]
            if unsynced is not None:
                summary = _summarize(name, unsynced, batch_size)
                row["unsynced_seconds"] = summary["seconds"]
                row["unsynced_relative_time"] = summary["relative_time"]
            rows.append(row)
    return rows


def check_variants(variants: Sequence[str]) -> None:
    """Raises ValueError for variants without "plain", or that are not there."""
    if "plain" not in variants or not set(variants) <= VARIANTS.keys():
        given = ", ".join(variants)
        raise ValueError(f"layers {given}: expected plain and some of {', '.join(VARIANTS)}")


def _prepare_step(model, precision: Precision, image: Tensor, mask: Tensor, compile: bool):
    """A training step, run twice, and the memory it takes."""
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    run = torch.compile(model) if compile else model
    step = make_step(run, l1_loss, optimizer, precision, image, mask)
    step()
    step()  # the second has the optimizer's state and the gradients in place
    live = (*model.state_dict().values(), image, mask)
    memory = {
        "saved_bytes": saved_bytes(step),
        "peak_bytes": peak_memory(step, image.device, optimizer, live),
    }
    return step, memory


def _summarize(name: str, seconds: dict[str, list[float]], batch_size: int) -> dict:
    times = seconds[name]
    return {
        "seconds": float(np.median(times)),
        "fastest": min(times),
        "samples_per_second": batch_size / float(np.median(times)),
        "relative_time": float(np.median(np.divide(times, seconds["plain"]))),
    }


def time_interleaved(
    steps: Mapping[str, Callable[[], object]], device: torch.device, repeats: int, count: int = 1
) -> dict[str, list[float]]:
    """{name: seconds per step, of each turn}; the steps take turns.

    A machine that slows down so slows all. count: steps per turn, before the device is waited for.
    """
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    seconds = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            wait()
            start = time.perf_counter()
            for _ in range(count):
                step()
            wait()
            seconds[name].append((time.perf_counter() - start) / count)
    return seconds


def synthetic_batch(
    size: int, batch_size: int, memory_format: torch.memory_format, device: torch.device, seed: int
) -> tuple[Tensor, Tensor]:
    """Random images (N, 3, size, size) and bool masks (N, 1, size, size), 20 to 30 % holes."""
    rng = np.random.default_rng(seed)
    holes = np.stack([random_holes(size, size, (0.2, 0.3), rng) for _ in range(batch_size)])
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(batch_size, 3, size, size, generator=generator)
    masks = torch.from_numpy(~holes)[:, None]
    return images.to(device).contiguous(memory_format=memory_format), masks.to(device)


def l1_loss(output: Tensor, target: Tensor, mask: Tensor) -> LossTerms:
    """A loss that costs next to nothing: the mean absolute difference of (N, C, H, W)."""
    return LossTerms(*[l1(output.float(), target)] * len(LossTerms._fields))  # the total counts


def make_step(
    model: nn.Module,
    loss: nn.Module,
    optimizer: torch.optim.Optimizer,
    precision: Precision,
    images: Tensor,
    masks: Tensor,
    scaler: torch.amp.GradScaler | None = None,
) -> Callable[[], LossTerms]:
    """The training step of that batch, to be called without arguments; by default a new scaler."""
    if scaler is None:
        scaler = precision.scaler(images.device.type)
    return lambda: training_step(model, loss, optimizer, scaler, precision, images, masks)


@contextmanager
def watch_saved_tensors() -> Iterator[dict[int, Tensor]]:
    """What autograd keeps in the meantime for a backward pass, each storage once, by its address.

    Yields the tensors, which hold the storages, so that no address is used twice.
    """
    saved = {}

    def pack(tensor: Tensor) -> Tensor:
        saved[storage_address(tensor)] = tensor.detach()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield saved


def storage_address(tensor: Tensor) -> int:
    """The address of its storage, not of its data: a fake tensor has no data."""
    return tensor.untyped_storage()._cdata


def count_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the storages of these tensors, no two of which share one."""
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


def saved_bytes(step: Callable[[], object]) -> int:
    """Bytes of all tensors that `step` keeps for its backward pass, each storage counted once."""
    with watch_saved_tensors() as saved:
        step()
    return count_bytes(saved.values())


def peak_memory(
    step: Callable[[], object],
    device: torch.device,
    optimizer: torch.optim.Optimizer,
    live: Iterable[Tensor],
) -> int:
    """The most bytes that tensors take during a training step.

    On a GPU it is the allocator's own count, less what the step does not use, such as other models;
    on a CPU the sum of the allocations and releases that PyTorch's profiler sees. live: tensors
    that exist before the step and that it uses, such as weights and batch.
    """
    optimizer.zero_grad()  # gradients of the step before do not count
    states = [value for state in optimizer.state.values() for value in state.values()]
    live = [*live, *(value for value in states if isinstance(value, Tensor))]
    before = sum({tensor.data_ptr(): tensor.nbytes for tensor in live}.values())
    if device.type == "cuda":
        others = torch.cuda.memory_allocated(device) - before
        torch.cuda.reset_peak_memory_stats(device)
        step()
        return torch.cuda.max_memory_allocated(device) - others
    os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # or the profiler complains: no GPU
    cpu = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=cpu, profile_memory=True) as profile:
        step()
    events = profile.profiler.kineto_results.events()
    events = [event for event in events if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return before + int(np.max(np.cumsum(changes), initial=0))


def mebibytes(size: int) -> str:
    """A number of bytes in words."""
    return f"{size / 2**20:.0f} MiB"


def provenance(device: str | torch.device, seed: int, **settings) -> dict:
    """What every recorded result says about itself, ready for JSON."""
    is_script = sys.argv[0].endswith(".py") and not sys.argv[0].endswith("__main__.py")
    program = f"python {sys.argv[0]}" if is_script else "pconv"
    packages = ("torch", "torchvision", "numpy", "scikit-image")
    return {
        "device": _describe_device(torch.device(device)),
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in packages},
        },
        "date": date.today().isoformat(),
        "command": " ".join([program, *sys.argv[1:]]),
        "seed": seed,
        "settings": settings,
    }


def _describe_device(device: torch.device) -> dict:
    if device.type == "cuda":
        return {"name": torch.cuda.get_device_name(device), "kind": "cuda"}
    has_capabilities = hasattr(torch.cpu, "get_capabilities")  # since torch 2.11
    capabilities = torch.cpu.get_capabilities() if has_capabilities else {}
    return {
        "name": capabilities.get("cpu_name") or platform.processor() or platform.machine(),
        "kind": "cpu",
        "threads": torch.get_num_threads(),
        "bf16_units": cpu_bf16_units(),
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
    }
