"""Trainings compared, for notebook 08: their curves, and how far apart they end."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from course import plots

# What is measured, as an axis says it. The first is the one that counts.
MEASURES = {
    "ssim_holes": "SSIM in the holes",
    "ssim": "SSIM, whole photo",
    "psnr": "PSNR, whole photo (dB)",
    "l1": "mean absolute difference",
}
BATCHES = 50  # that the loss of a running training is averaged over


def look(name: str) -> dict:
    """Color and dash of a precision, the same in the whole course; of all else, gray."""
    return {"color": "#888888", **plots.PRECISION_STYLES.get(name.removesuffix("-emulated"), {})}


def draw_runs(axes: tuple[Axes, Axes], runs: dict, steps: int) -> None:
    """Draws running trainings anew: their loss, and the SSIM in the holes of held-out photos.

    runs: (Trainer, batches) by name; its history has "held-out ssim_holes". steps: the width of
    the picture, in training steps.
    """
    left, right = axes
    left.clear()
    right.clear()
    for name, (trainer, _) in runs.items():
        at, loss = trainer.history.series("total")
        mean = [np.mean(loss[max(0, n - BATCHES) : n]) for n in range(1, len(loss) + 1)]
        left.plot(at, mean, label=name, linewidth=2, **look(name))
        at, values = trainer.history.series("held-out ssim_holes")
        right.plot(at, values, label=name, linewidth=2, **look(name))
    left.set(ylabel=f"training loss, mean of {BATCHES} batches")
    right.set(ylabel="SSIM in the holes, held-out photos")
    for axis in axes:
        axis.set(xlabel="training step", xlim=(0, steps))
        axis.grid(alpha=0.3)
    right.legend(loc="lower right")


def load_record(path: Path) -> dict:
    """A record of `scripts/record_training.py`, with its "precisions", the first of them FP32."""
    record = json.loads(Path(path).read_text())
    record["precisions"] = list(dict.fromkeys(row["precision"] for row in record["rows"]))
    return record


def measured(record: dict, precision: str, quantity: str) -> np.ndarray:
    """What was measured over time, one row per seed: (seeds, times). NaN: not measured then."""

    def curve(seed: int) -> list[float]:
        who = (seed, precision)
        rows = [row for row in record["curves"] if (row["seed"], row["precision"]) == who]
        return [row.get(quantity, np.nan) for row in rows]

    return np.array([curve(seed) for seed in record["seed"]])


def by_bucket(record: dict, precision: str, holes: str, quantity: str) -> np.ndarray:
    """What was measured after the last step: (seeds, 6), one column per range of hole ratios.

    holes: "interior" or "border".
    """
    found = {
        (row["seed"], row["low"]): row[quantity]
        for row in record["rows"]
        if (row["precision"], row["holes"]) == (precision, holes)
    }
    lows = sorted({low for _, low in found})
    return np.array([[found[seed, low] for low in lows] for seed in record["seed"]])


def draw_bands(axis: Axes, record: dict, quantity: str, ylabel: str) -> None:
    """Draws the mean over the seeds, and a band of one standard deviation on both sides of it."""
    for precision in record["precisions"]:
        steps = measured(record, precision, "step")[0]
        values = measured(record, precision, quantity)
        mean, sd = values.mean(0), values.std(0, ddof=1)
        style = look(precision)
        axis.plot(steps, mean, label=precision, linewidth=2, **style)
        axis.fill_between(steps, mean - sd, mean + sd, color=style["color"], alpha=0.15, lw=0)
    axis.set(xlabel="training step", ylabel=ylabel)
    axis.grid(alpha=0.3)


def draw_pairs(record: dict, quantity: str) -> None:
    """Draws one point per seed: FP32 across, another precision up; equal ones lie on the line."""
    others = record["precisions"][1:]
    size = (3.4 * len(others) + 0.4, 3.5)
    figure = plt.figure(figsize=size, layout="constrained")
    axes = figure.subplots(1, len(others), sharex=True, sharey=True, squeeze=False)[0]
    a = measured(record, "fp32", quantity)[:, -1]
    for axis, precision in zip(axes, others):
        b = measured(record, precision, quantity)[:, -1]
        axis.axline((a.mean(), a.mean()), slope=1, color="#888888", linewidth=1)
        axis.plot(a, b, "o", color=look(precision)["color"])
        axis.set(xlabel=f"{MEASURES[quantity]}, fp32", ylabel=precision, box_aspect=1)
        axis.set_title(f"one point per seed, correlation {np.corrcoef(a, b)[0, 1]:.2f}")
        axis.locator_params(nbins=4)


def draw_scale(record: dict, precision: str) -> None:
    """Draws the loss scale and the steps skipped so far, one line per seed."""
    steps = measured(record, precision, "step").T
    left, right = plt.subplots(1, 2, figsize=(10, 3), layout="constrained")[1]
    style = {"color": "#333333", "alpha": 0.35, "marker": "o", "markersize": 4}
    left.plot(steps, measured(record, precision, "loss_scale").T, **style)
    right.plot(steps, measured(record, precision, "skipped_steps").T, **style)
    left.set_yscale("log", base=2)
    left.set(ylabel="loss scale", title=f"{precision}, one line per seed")
    right.set(ylabel="steps skipped so far", title="darker where several lie on each other")
    for axis in (left, right):
        axis.set(xlabel="training step")
        axis.grid(alpha=0.3)


def simulate_pairs(
    shift: float, correlation: float, n: int, experiments: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Results of made-up experiments: (experiments, n) of FP32 and as many of AMP.

    Both scatter normally over the seeds, with standard deviation 1; FP32 around 0, AMP around
    `shift`. correlation: between the two results of a seed. The same seed gives the same numbers,
    moved by the shift.
    """
    rng = np.random.default_rng(seed)
    fp32, rest = rng.normal(size=(2, experiments, n))
    return fp32, shift + correlation * fp32 + (1 - correlation**2) ** 0.5 * rest


def draw_forest(axis: Axes, rows: list[dict], margin: float) -> None:
    """Draws each row's interval, in % of what training gains, over the shaded margin.

    rows: dictionaries with precision, measure, share and half (the middle and the half width of the
    interval, in %), verdict. margin: in %. Worse is left.
    """
    axis.axvspan(-margin, margin, color=plots.VALID, zorder=0)
    axis.axvline(0, color="#888888", linewidth=1)
    for y, row in enumerate(rows):
        color = look(row["precision"])["color"]
        bar = {"fmt": "s", "capsize": 4, "linewidth": 2, "color": color, "markersize": 5}
        axis.errorbar(row["share"], y, xerr=row["half"], **bar)
        if row["precision"] != rows[y - 1]["precision"] and y:
            axis.axhline(y - 0.5, color="#bbbbbb", linewidth=0.8)
    axis.set(ylim=(len(rows) - 0.4, -0.6), xlabel="minus FP32, % of what training gains")
    axis.set_yticks(range(len(rows)), [f"{row['precision']}   {row['name']}" for row in rows])
    axis.locator_params(axis="x", nbins=5, steps=[1, 2, 5, 10])
    right = axis.twinx()
    right.set(ylim=axis.get_ylim(), title=f"margin: {margin:g} %")
    right.set_yticks(range(len(rows)), [row["verdict"] for row in rows])
    for one in (axis, right):
        one.tick_params(axis="y", length=0)


def title_picture(record: dict, rows: list[dict], margin: float, path: Path) -> None:
    """Writes a PNG: every recorded training as a line, and the forest of their differences.

    rows, margin: as for `draw_forest`.
    """
    figure = Figure(figsize=(10, 3.3), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.1))
    for precision in record["precisions"]:
        steps = measured(record, precision, "step")
        lines = measured(record, precision, "ssim_holes")
        style = look(precision)
        left.plot(steps.T, lines.T, linewidth=0.9, alpha=0.6, **style)
        left.plot([], [], label=precision, linewidth=2, **style)
    count = len(record["precisions"]) * len(record["seed"])
    left.set(xlabel="training step", ylabel="SSIM in the holes", title=f"{count} trainings")
    left.grid(alpha=0.3)
    left.legend(loc="lower right")
    draw_forest(right, rows, margin)
    figure.savefig(path, dpi=100)
