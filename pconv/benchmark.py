"""What a training step costs, in time and memory, always beside a baseline measured in the same run."""

import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from importlib.metadata import version

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pconv.data import random_holes
from pconv.losses import LossTerms
from pconv.precision import cpu_bf16_units, get_precision
from pconv.train import training_step
from pconv.unet import PConvUNet, _upsampled


class PlainUNet(PConvUNet):
    """The same U-Net of `nn.Conv2d`: what a partial convolution is compared with. Ignores the mask."""

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        device, x, skips = image.device.type, image, []
        if torch.is_autocast_enabled(device):
            x = x.to(torch.get_autocast_dtype(device))
        for block in self.encoder:
            skips.append(x)
            x = self._block(block, x)
        for block in self.decoder:
            skip = skips.pop()
            x = self._block(block, torch.cat((_upsampled(x, skip), skip), 1))
        return x

    @staticmethod
    def _block(block: nn.Module, x: Tensor) -> Tensor:
        y = block.conv._conv_forward(x, block.conv.weight, block.conv.bias)
        y = y if block.norm is None else block.norm(y)
        return y if block.activation is None else block.activation(y)


class TextbookUNet(PConvUNet):
    """The same U-Net of the textbook layer: a mask for every feature, convolved with a C_out x C_in kernel of ones.

    The rules of NVIDIA/partialconv with multi_channel=True: x * mask, ratio = K / (sum + 1e-8), clamped masks.
    """

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        x, mask, skips = image, mask.expand_as(image), []
        for block in self.encoder:
            skips.append((x, mask))
            x, mask = self._block(block, x, mask)
        for block in self.decoder:
            skip, skip_mask = skips.pop()
            x = torch.cat((_upsampled(x, skip), skip), 1)
            x, mask = self._block(block, x, torch.cat((_upsampled(mask, skip), skip_mask), 1))
        return x

    @staticmethod
    def _block(block: nn.Module, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        conv = block.conv
        with torch.no_grad():
            ones = torch.ones_like(conv.weight)
            total = F.conv2d(mask, ones, None, conv.stride, conv.padding)
            new_mask = total.clamp(0, 1)
            ratio = ones[0].numel() / (total + 1e-8) * new_mask
        y = conv._conv_forward(x * mask, conv.weight, conv.bias)
        if conv.bias is None:
            y = y * ratio
        else:
            bias = conv.bias.view(1, -1, 1, 1)
            y = ((y - bias) * ratio + bias) * new_mask
        y = y if block.norm is None else block.norm(y)
        return (y if block.activation is None else block.activation(y)), new_mask


VARIANTS = {"plain": PlainUNet, "partial": PConvUNet, "textbook": TextbookUNet}


def benchmark_training(
    precisions: Sequence[str] = ("fp32", "bf16"),
    size: int = 128,
    batch: int = 4,
    widths: Sequence[int] = (64, 128, 256, 512, 512),
    device: str | torch.device = "cpu",
    channels_last: bool = False,
    compiled: bool = False,
    repeats: int = 7,
    seed: int = 0,
) -> list[dict]:
    """The training step of PConvUNet beside the same U-Net of plain convolutions and of the textbook layer.

    The three take turns, so that a machine that slows down slows all; an L1 loss and Adam are the rest of the step.
    size: pixels a side; repeats: turns. Returns a row for each precision and variant: `seconds` (median), `fastest`,
    `samples_per_second`, `relative_time` (median over the turns of its time / the plain one's), `saved_bytes` (kept for
    the backward pass) and `peak_bytes`. Raises ValueError for a precision the device cannot do.
    """
    device, rows = torch.device(device), []
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    image, mask = example_batch(size, batch, memory_format, device, seed)
    for precision in [get_precision(name, device) for name in precisions]:
        steps, memory = {}, {}
        with precision.math_mode():
            for name, kind in VARIANTS.items():
                torch.manual_seed(seed)
                model = kind(widths=widths).to(device, precision.parameters, memory_format=memory_format)
                optimizer = torch.optim.Adam(model.parameters(), fused=True)
                run = torch.compile(model) if compiled else model
                step = steps[name] = step_of(run, _l1, optimizer, precision, image, mask)
                step()
                step()  # the second has the optimiser's state and the gradients in place
                memory[name] = {
                    "saved_bytes": saved_bytes(step),
                    "peak_bytes": peak_memory(step, device, optimizer, (*model.state_dict().values(), image, mask)),
                }
            seconds = by_turns(steps, device, repeats)
        for name, times in seconds.items():
            rows.append(
                {
                    "precision": precision.name,
                    "layer": name,
                    "seconds": float(np.median(times)),
                    "fastest": min(times),
                    "samples_per_second": batch / float(np.median(times)),
                    "relative_time": float(np.median(np.divide(times, seconds["plain"]))),
                    **memory[name],
                }
            )
    return rows


def by_turns(steps: Mapping, device: torch.device, repeats: int) -> dict:
    """{name: seconds of each turn}: the steps take turns, so that a machine that slows down slows all."""
    seconds = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            seconds[name].append(_seconds(step, device))
    return seconds


def example_batch(size: int, batch: int, memory_format, device: torch.device, seed: int) -> tuple[Tensor, Tensor]:
    """Random images (batch, 3, size, size) and masks (batch, 1, size, size) with a fifth to three tenths of holes."""
    rng = np.random.default_rng(seed)
    holes = np.stack([random_holes(size, size, (0.2, 0.3), rng) for _ in range(batch)])
    image = torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))
    mask = torch.from_numpy(~holes)[:, None].float()
    return image.to(device).contiguous(memory_format=memory_format), mask.to(device)


def _l1(output: Tensor, target: Tensor, mask: Tensor) -> LossTerms:
    return LossTerms(*[F.l1_loss(output.float(), target)] * len(LossTerms._fields))  # the total is all that counts


def step_of(model, loss, optimizer, precision, image, mask) -> Callable[[], object]:
    """The training step of that batch, to be called without arguments."""
    scaler = precision.scaler(image.device.type)
    return lambda: training_step(model, loss, optimizer, scaler, precision, image, mask)


def _seconds(step: Callable[[], object], device: torch.device) -> float:
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    step()
    wait()
    return time.perf_counter() - start


def saved_bytes(step: Callable[[], object]) -> int:
    """Bytes of all tensors that `step` keeps for its backward pass, each storage counted once."""
    storages = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage  # held, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step()
    return sum(storage.nbytes() for storage in storages.values())


def peak_memory(
    step: Callable[[], object], device: torch.device, optimizer: torch.optim.Optimizer, live: Iterable[Tensor]
) -> int:
    """The most bytes that tensors take during a training step; live: weights, batch, whatever exists before it.

    On a GPU the allocator's own count; on a CPU the allocations and releases that PyTorch's profiler sees.
    """
    optimizer.zero_grad()  # gradients of the step before are not to be counted
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        step()
        return torch.cuda.max_memory_allocated(device)
    live = (*live, *(t for state in optimizer.state.values() for t in state.values() if isinstance(t, Tensor)))
    before = sum({tensor.data_ptr(): tensor.nbytes for tensor in live}.values())
    os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # or the profiler complains on stderr that there is no GPU
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    events = (event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]")
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return before + int(np.max(np.cumsum(changes), initial=0))


def provenance(device: str | torch.device, seed: int, **settings) -> dict:
    """What every recorded result says about itself: device, versions, date, command, seed and settings."""
    device = torch.device(device)
    if device.type == "cuda":
        hardware = {"name": torch.cuda.get_device_name(device), "kind": "cuda"}
    else:
        found = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        hardware = {
            "name": found.get("cpu_name") or platform.processor() or platform.machine(),
            "kind": "cpu",
            "threads": torch.get_num_threads(),
            "bf16_units": cpu_bf16_units(),
            "instruction_set": torch.backends.cpu.get_cpu_capability(),
        }
    is_script = sys.argv[0].endswith(".py") and not sys.argv[0].endswith("__main__.py")
    versions = {name: version(name) for name in ("torch", "torchvision", "numpy", "scikit-image")}
    return {
        "device": hardware,
        "versions": {"python": platform.python_version(), **versions},
        "date": date.today().isoformat(),
        "command": " ".join([f"python {sys.argv[0]}" if is_script else "pconv", *sys.argv[1:]]),
        "seed": seed,
        "settings": settings,
    }


def megabytes(size: int) -> str:
    return f"{size / 2**20:.0f} MB"
