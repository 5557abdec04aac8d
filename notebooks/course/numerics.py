"""The figures of notebook 06, and what was recorded about numerics on a CPU and on a GPU."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from PIL import Image
from torch import Tensor

from course import bits
from course.plots import picture
from course.records import RESULTS
from pconv.cli.plots import PRECISION_STYLES

GRAY = {"color": "#888888", "linewidth": 1, "linestyle": "--", "zorder": 0}


def draw_steps(numbers: dict[str, Tensor]) -> Axes:
    """Draws how far it is from each number to the next, for FP16, BF16 and FP32.

    numbers: all of "fp16" and all of "bf16" from 0 on, ascending.
    """
    powers = torch.arange(-40, 24).double().exp2().float()  # of FP32, the powers of two will do
    steps = {name: (x[1:-1], x.diff()[1:]) for name, x in numbers.items()}  # a log axis has no 0
    steps["fp32"] = (powers, powers.nextafter(torch.tensor(torch.inf)) - powers)
    axis = plt.figure(figsize=(8.6, 3.6), layout="constrained").subplots()
    for name in ("bf16", "fp16", "fp32"):
        style = {"drawstyle": "steps-post", "linewidth": 2, **PRECISION_STYLES[name]}
        axis.plot(*steps[name], label=name.upper(), **style)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log", base=2)
    axis.set(xlim=(2.0**-32, 2.0**21), ylim=(2.0**-56, 2.0**27))
    axis.set(xlabel="a number x", ylabel="step to the next number")
    places = {
        2.0**-24: "smallest\nFP16: $2^{-24}$",
        2.0**-14: "smallest\nnormal: $2^{-14}$",
        2.0**11: "whole numbers\nto $2^{11}$",
        65504: "largest:\n65504",
    }
    for place, words in places.items():
        axis.axvline(place, **GRAY)
        axis.text(place * 0.85, 2.0**26, words, ha="right", va="top", fontsize=9)
    axis.grid(alpha=0.3)
    axis.legend(loc="lower right")
    return axis


def inverse_error(n: Tensor, dtype: torch.dtype) -> Tensor:
    """The relative error of 1/n stored in a format, in percent. n: float64, of any shape."""
    return 100 * ((1 / n).to(dtype).double() * n - 1)


def draw_inverse_error(shapes: Sequence[tuple[int, int, int]]) -> Axes:
    """Draws the error of 1/n in FP16 and BF16 against n, with a dot at each (c, h, w)."""
    grid = torch.logspace(12, 27, 6000, base=2, dtype=torch.float64)
    axis = plt.figure(figsize=(8.6, 3.0), layout="constrained").subplots()
    for name, dtype in (("fp16", torch.float16), ("bf16", torch.bfloat16)):
        style = PRECISION_STYLES[name] | {"linestyle": "-", "linewidth": 1.6}
        axis.plot(grid, inverse_error(grid, dtype), label=name.upper(), **style)
    for c, h, w in shapes:
        n = torch.tensor(float(c * h * w), dtype=torch.float64)
        error = inverse_error(n, torch.float16).item()
        axis.plot(n, error, "o", color="black", markersize=7, zorder=3, clip_on=False)
        below = -50 < error < 0
        place = (n * (0.55 if error < -50 else 0.93), -50 if below else 60 if error >= 0 else -76)
        align = {"ha": "left" if error < -50 else "right", "va": "top" if below else "bottom"}
        axis.plot([n, place[0]], [error, place[1]], color="#888888", linewidth=0.8)
        axis.text(*place, f"{c}·{h}·{w}\n{error + 0.0:+.2f} %", fontsize=9, **align)
    axis.set_xscale("log", base=2)
    axis.set(xlim=(2**12, 2**27), ylim=(-118, 118), xlabel="n = c·h·w", ylabel="error of 1/n (%)")
    axis.axvline(2**14, **GRAY)
    axis.text(2**13.9, -112, "1/n normal", ha="right", fontsize=9)
    axis.text(2**14.1, -112, "1/n subnormal", fontsize=9)
    axis.legend(loc="upper left")
    axis.grid(alpha=0.3)
    return axis


def draw_epsilons(eps: Tensor, error: Tensor, first: dict[str, float]) -> list[Axes]:
    """Draws what an epsilon costs a window of one pixel, and from where on none is NaN.

    eps: (E,), ascending; error: (E,), in percent; first: {window: the first eps without NaN}.
    """
    figure = plt.figure(figsize=(8.6, 4.0), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    top.plot(eps, error.clamp(min=0.03), **PRECISION_STYLES["fp16"] | {"linestyle": "-"})
    top.set(yscale="log", ylim=(0.03, 60), ylabel="error of a window with\none valid pixel (%)")
    for row, start in enumerate(first.values()):
        bottom.barh(row, start - 1e-6, left=1e-6, color="#b5b5b5", height=0.6)
        bottom.barh(row, 1 - start, left=start, color="white", edgecolor="#888888", height=0.6)
        cost = error[(eps - start).abs().argmin()].clamp(min=0.03)
        top.plot([start, start], [cost, 0.03], **GRAY)
        top.plot(start, cost, "o", color="black", zorder=3, clip_on=False)
        bottom.text(1.15e-6, row, "NaN in an empty window", va="center", fontsize=9)
    bottom.set(yticks=range(len(first)), yticklabels=list(first), xscale="log", xlim=(1e-6, 1))
    bottom.set(xlabel="epsilon, in pure FP16")
    bottom.invert_yaxis()
    bottom.tick_params(axis="y", length=0)
    top.grid(alpha=0.3)
    return [top, bottom]


def draw_eight_bit_errors(factors: Tensor, errors: dict[tuple[str, bool], list[float]]) -> Axes:
    """Draws the error of storing a tensor in FP8 against the factor that it was multiplied by.

    errors: {(format, with a scale or not): in percent, one per factor}.
    """
    axis = plt.figure(figsize=(8.6, 3.3), layout="constrained").subplots()
    colors = {"e4m3": "#2f5fa8", "e5m2": "#b06000"}
    for (name, scaled), error in errors.items():
        style = {"linestyle": "-" if scaled else ":", "linewidth": 2.6 if scaled else 1.8}
        label = f"{name}, {'one scale per tensor' if scaled else 'as it is'}"
        axis.plot(factors, error, color=colors[name], label=label, **style)
    axis.set_xscale("log", base=2)
    axis.set(yscale="log", ylim=(1, 130), xlabel="the features were multiplied by")
    axis.set(ylabel="error, relative to\nthe features (%)", yticks=(1, 3, 10, 30, 100))
    axis.set_yticklabels(["1", "3", "10", "30", "100"])
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return axis


def draw_title(in_fp32: Tensor, in_fp16: Tensor, path: Path, eps: float = 1e-8) -> None:
    """Writes the title picture of notebook 06: the tensors of its cell `eight-layers`.

    Each photo, (1, 3, H, W), has the bits of the epsilon below it.
    """
    figure = plt.figure(figsize=(8.4, 3.7), dpi=90, layout="constrained")
    axes = figure.subplots(2, 2, height_ratios=(7, 1))
    for (top, bottom), name, photo in zip(axes.T, ("fp32", "fp16"), (in_fp32, in_fp16)):
        top.imshow(picture(photo), interpolation="antialiased")
        top.spines[:].set_visible(False)
        top.set(title=f"8 layers in {name.upper()}", xticks=[], yticks=[])
        number = bits.read(bits.stored(eps, name), name)
        bits.draw_fields(bottom, 0, number, size=7)
        words = f"$\\varepsilon = 10^{{-8}}$ is stored as {number.value:.3g}"
        bottom.set(xlim=(-1.5, 34), ylim=(1.4, -0.7))
        bottom.text(16.2, 1.3, words, ha="center")
        bottom.set_axis_off()
    file = io.BytesIO()
    figure.savefig(file)
    Image.open(file).convert("RGB").quantize(192).save(path, optimize=True)
    plt.close(figure)


def read_record(device: str) -> dict:
    """What scripts/record_numerics.py wrote on a "cpu" or on a "cuda" device."""
    return json.loads((RESULTS / f"numerics_{device}.json").read_text())


def recorded_table() -> str:
    """A Markdown table, CPU beside GPU: what autocast to FP16 casts, and the facts of this lesson.

    Facts that differ between the two come first, in bold.
    """
    records = [read_record(device) for device in ("cpu", "cuda")]
    columns = [{row["fact"]: row["found"] for row in record["rows"]} for record in records]
    pairs = {fact: tuple(column[fact] for column in columns) for fact in columns[0]}
    autocast: dict[tuple, list[str]] = {}
    for fact, pair in pairs.items():
        if fact.startswith("autocast: "):
            autocast.setdefault(pair, []).append(f"`{fact.removeprefix('autocast: ')}`")
    rows = [(", ".join(operations), *pair) for pair, operations in autocast.items()]
    rows += [(words, *pairs[fact]) for fact, words in FACTS.items()]
    rows.sort(key=lambda row: row[1] == row[2])  # stable: those that differ come first
    head = [
        f"{record['device']['name']}, torch {record['versions']['torch']}" for record in records
    ]
    lines = [f"| | CPU: {head[0]} | GPU: {head[1]} |", "|---|---|---|"]
    for words, *found in rows:
        cells = [_short(value) for value in found]
        if found[0] != found[1]:
            cells = [f"**{cell}**" for cell in cells]
        lines.append(f"| {words} | {' | '.join(cells)} |")
    return "\n".join(lines)


_EMPTY = "an empty window"
_GRAM = "1.1 over 64 x 1024^2: baddbmm is right to 0.2 %, partial sums"
FACTS = {
    f"epsilon 1e-08, {_EMPTY}, autocast float16": "ratio of an empty window, autocast, ε = 10⁻⁸",
    f"epsilon 1e-06, {_EMPTY}, autocast float16": "ratio of an empty window, autocast, ε = 10⁻⁶",
    f"epsilon 0.001, {_EMPTY}, autocast float16": "ratio of an empty window, autocast, ε = 10⁻³",
    f"epsilon 1e-06, {_EMPTY}, float16": "ratio of an empty window, all in FP16, ε = 10⁻⁶",
    "float16 2^15 / 2^20: the divisor is not rounded": "2¹⁵ in FP16, divided by 2²⁰",
    "baddbmm with alpha = 2^-28: alpha is not rounded": "`baddbmm`: sums of 2²⁴, `alpha` = 2⁻²⁸",
    "1.1 over 64 x 256^2: bmm, then divide": "Gram matrix of 1.1 over 64×256²: `bmm`, then divide",
    f"{_GRAM} may be float16": "Gram matrix of 1.1 over 64×1024²: `baddbmm` is right",
    f"{_GRAM} must not be float16": "the same, with partial sums in FP16 forbidden",
    "float32 ratio times float16 features": "an FP32 ratio times FP16 features",
}


def _short(found) -> str:
    names = {
        "to float16": "FP16",
        "to float32": "FP32",
        "input dtype kept": "the input's",
        "torch.float32": "FP32",
        "nan": "NaN",
        "True": "yes",
    }
    text = f"{found:g}" if isinstance(found, float) else str(found)
    return names.get(text, "0" if text == "0.0" else text)
