"""What a training step keeps in memory, counted and measured, for notebook 10.

python notebooks/course/memory.py PICTURE        (draws the picture of the title)
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch._subclasses.fake_tensor import FakeTensorMode

from course.records import RESULTS
from course.speed import pixel_loss
from pconv import PConvUNet, get_precision
from pconv.benchmark import (
    VARIANTS,
    count_bytes,
    l1_loss,
    peak_memory,
    storage_address,
    synthetic_batch,
    watch_saved_tensors,
)
from pconv.cli.plots import PRECISION_STYLES
from pconv.train import training_step

PAPER = (64, 128, 256, 512, 512, 512, 512, 512)  # widths


def measure_peak(
    precision: str,
    batch: int,
    size: int = 64,
    widths: Sequence[int] = (8, 16, 32),
    device: str | torch.device = "cpu",
    parts: int = 1,
) -> int:
    """The most bytes that tensors take during a training step with the loss on pixels and Adam.

    size: pixels per side. parts: in which the batch is computed, one after the other.
    """
    device, how = torch.device(device), get_precision(precision, device)
    torch.manual_seed(0)
    model = PConvUNet(widths=widths).to(device)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    batch = synthetic_batch(size, batch, torch.contiguous_format, device, seed=0)
    arguments = model, pixel_loss(), optimizer, how.scaler(device.type), how, *batch

    def step() -> None:
        with how.backend_flags():
            training_step(*arguments, grad_accum_steps=parts)

    step()  # Adam's moments exist from the first step on
    return peak_memory(step, device, optimizer, (*model.state_dict().values(), *batch))


class Kept(NamedTuple):
    """Bytes that a forward pass keeps for the backward pass."""

    activations: int  # and, with AMP, half copies of the weights
    weights: int  # that the backward pass reads where they lie


def count_kept(
    precision: str,
    batch: int,
    size: int = 512,
    widths: Sequence[int] = PAPER,
    loss=l1_loss,
    kind: type[PConvUNet] = PConvUNet,
) -> Kept:
    """What a forward pass of a U-Net and its loss keeps; nothing is computed or allocated.

    precision: "fp32" or "bf16". size: pixels per side. loss: of (output, target, mask).
    kind: of U-Net.
    """
    how = get_precision(precision, "cpu")
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = kind(widths=widths)
        images = torch.rand(batch, 3, size, size)
        masks = torch.ones(batch, 1, size, size, dtype=torch.bool)
        with watch_saved_tensors() as saved, how.context("cpu"):
            loss(model(images, masks), images, masks)
        weights = {storage_address(weight) for weight in model.parameters()}
        activations = [tensor for address, tensor in saved.items() if address not in weights]
        kept = count_bytes(activations)
        return Kept(kept, count_bytes(saved.values()) - kept)


def count_weights(widths: Sequence[int] = PAPER) -> int:
    """How many numbers a U-Net of these widths learns."""
    with torch.device("meta"):
        return sum(weight.numel() for weight in PConvUNet(widths=widths).parameters())


class Peak(NamedTuple):
    """A peak that a GPU has measured beside what was counted for it, in bytes."""

    precision: str
    states: int  # weights, gradients, Adam's two moments
    kept: int  # for the backward pass
    peak: int


def read_peaks(name: str = "bench_cuda_512.json", folder: Path = RESULTS) -> list[Peak]:
    """The peaks of the plain U-Net in a record of `pconv bench`, beside their count.

    The plain one is measured first, when no other network lies in the GPU's memory.
    """
    record, found = json.loads((folder / name).read_text()), []
    settings = record["settings"]
    size, batch, widths = (settings[key] for key in ("size", "batch", "widths"))
    for row in record["rows"]:
        if row["layer"] == "plain":
            how = "bf16" if row["precision"].endswith("16") else "fp32"
            kept = count_kept(how, batch, size, widths, kind=VARIANTS["plain"])
            states = 16 * count_weights(widths)
            found.append(Peak(row["precision"], states, kept.activations, row["peak_bytes"]))
    return found


def draw_peaks(axis: Axes, peaks: Sequence[Peak], title: str) -> None:
    """A bar per precision: states, what is kept, and the rest of the measured peak."""
    names = [peak.precision.upper() for peak in peaks]
    colors = [PRECISION_STYLES[peak.precision]["color"] for peak in peaks]
    left = [0.0] * len(peaks)
    for label, settings, values in (
        ("weights, gradients, Adam: counted", {"alpha": 1.0}, [peak.states for peak in peaks]),
        ("kept for the backward pass: counted", {"alpha": 0.6}, [peak.kept for peak in peaks]),
        (
            "the rest of the measured peak",
            {"alpha": 0.2, "hatch": "//"},
            [peak.peak - peak.states - peak.kept for peak in peaks],
        ),
    ):
        widths = [value / 2**20 for value in values]
        axis.barh(
            names, widths, left=left, color=colors, edgecolor="#333333", label=label, **settings
        )
        for name, start, width in zip(names, left, widths):
            color = "white" if settings["alpha"] == 1 else "black"
            middle = start + width / 2
            axis.text(middle, name, f"{width:.0f}", ha="center", va="center", color=color)
        left = [start + width for start, width in zip(left, widths)]
    axis.set(xlabel="memory of a training step (MiB)", title=title)
    axis.invert_yaxis()
    legend = axis.figure.legend(loc="outside lower center", ncols=3)
    for handle in legend.legend_handles:
        handle.set_facecolor("#555555")


def _draw_title(path: str) -> None:
    figure = Figure(figsize=(9, 2.9), layout="constrained")
    axis = figure.subplots()
    title = "The paper's U-Net on an H100, 6 photos of 512 × 512: peak memory, counted and measured"
    draw_peaks(axis, read_peaks(), title)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    _draw_title(sys.argv[1])
