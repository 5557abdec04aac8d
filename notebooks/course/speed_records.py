"""The recorded speeds, for notebooks 09 and 10: what is recorded, and what it says of a claim.

PYTHONPATH=notebooks python notebooks/course/speed_records.py PICTURE     (the one of notebook 09)
"""

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from course.records import RESULTS
from pconv.cli.plots import PRECISION_STYLES

TALK = {1: 1.4, 2: 1.8}  # a quotation: AMP over FP32, at the same and at the doubled batch


class SpeedRecord(NamedTuple):
    """What one machine has measured."""

    machine: str
    what: str  # the step, in words
    origin: str  # when, with which torch, by which command
    speeds: dict[tuple[str, int], float]  # {(precision, times the batch): relative samples/s}

    def gain(self, precision: str, times: int = 1, base: str = "fp32") -> float | None:
        """Samples/s over those of `base` at the single batch; None: not recorded."""
        pair = self.speeds.get((precision, times)), self.speeds.get((base, 1))
        return None if None in pair else pair[0] / pair[1]


def read_speeds(names: Iterable[str], folder: Path = RESULTS) -> list[SpeedRecord]:
    """The records among these files that exist.

    names: of files that scripts/record_speed.py or `pconv bench` wrote. Of each case the faster
    memory format counts, eager; of `pconv bench` the partial convolutions.
    """
    found = []
    for path in (folder / name for name in names):
        if not path.is_file():
            continue
        record = json.loads(path.read_text())
        batch, speeds = record["settings"]["batch"], {}
        for row in record["rows"]:
            if row.get("failed") or row.get("compiled") or row.get("layer", "partial") != "partial":
                continue
            case = row["precision"], row.get("batch", batch) // batch
            speed = row.get("relative_speed", row["samples_per_second"])
            speeds[case] = max(speed, speeds.get(case, 0))
        size, versions = record["settings"]["size"], record["versions"]
        loss = "L1 loss" if "layer" in record["rows"][0] else "full loss"
        what = f"{size} × {size} pixels, batch {batch}, {loss}"
        origin = f"{record['date']}, torch {versions['torch']}: {record['command']}"
        found.append(SpeedRecord(record["device"]["name"], what, origin, speeds))
    return found


def verdict(gain: float | None, claimed: float) -> str:
    """What a gain says of the claim that it is `claimed` or more, in words."""
    if gain is None:
        return "not shown"
    return f"{'holds' if gain >= claimed else 'does not hold'} ({gain:.2f})"


def judge_speed(record: SpeedRecord) -> dict[str, str]:
    """{a claim of the talk: its verdict on that machine}; the faster of FP16 and BF16 counts."""
    verdicts = {}
    for times, claimed in TALK.items():
        batch = "the same batch" if times == 1 else "the doubled batch"
        for base in ("fp32", "tf32"):
            gains = [record.gain(name, times, base) for name in ("fp16", "bf16")]
            best = max((gain for gain in gains if gain is not None), default=None)
            claim = f"{claimed} times {base.upper()} with {batch}"
            verdicts[claim] = verdict(best, claimed)
    return verdicts


def draw_speeds(axes: Sequence[Axes], records: Sequence[SpeedRecord]) -> None:
    """A panel per record: a bar per precision and batch, and the talk's two claims as lines."""
    for axis, record in zip(axes, records):
        rows = [
            (name, n) for n in (1, 2) for name in PRECISION_STYLES if (name, n) in record.speeds
        ]
        rows.sort(key=lambda row: (row[1], ["fp32", "tf32", "fp16", "bf16"].index(row[0])))
        gains = [record.gain(*row) for row in rows]
        labels = [name.upper() + (", doubled batch" if n == 2 else "") for name, n in rows]
        colors = [PRECISION_STYLES[name]["color"] for name, _ in rows]
        texts = [_over_both(record, *row) for row in rows]
        axis.bar_label(axis.barh(labels, gains, color=colors, height=0.6), texts, padding=3)
        top = 1.55 * max(gains) if any("TF32" in text for text in texts) else 1.2 * max(gains)
        for (n, claimed), dash in zip(TALK.items(), (":", "--")):
            label = f"the talk: {claimed}, {'doubled' if n == 2 else 'same'} batch"
            axis.axvline(claimed, color="#333333", linestyle=dash, linewidth=1.2, label=label)
        axis.set(title=f"{record.machine}\n{record.what}", xlim=(0, top))
        axis.set_xlabel("samples/s over FP32's (TF32 off)")
        axis.invert_yaxis()


def _over_both(record: SpeedRecord, precision: str, times: int) -> str:
    """A gain over FP32; of AMP over TF32, too, where that is recorded."""
    over = record.gain(precision, times, "tf32")
    more = f" ({over:.2f} over TF32)" if precision.endswith("16") and over else ""
    return f"{record.gain(precision, times):.2f}{more}"


class Gain(NamedTuple):
    """What AMP gains over the size of the photos, of one U-Net on one machine."""

    widths: tuple[int, ...]
    units: bool  # whether there are units for the half precision
    sizes: list[int]  # pixels per side
    gains: list[float]


def read_gains(name: str = "gain_cpu.json", folder: Path = RESULTS) -> list[Gain]:
    """What scripts/record_gain.py has measured."""
    curves = {}
    for row in json.loads((folder / name).read_text())["rows"]:
        key = tuple(row["widths"]), row["units"]
        curve = curves.setdefault(key, Gain(*key, [], []))
        curve.sizes.append(row["size"])
        curve.gains.append(row["gain"])
    return list(curves.values())


def draw_gains(axis: Axes, gains: Sequence[Gain]) -> None:
    """What AMP gains over the size of the photos, a curve per U-Net."""
    styles = {True: ("o-", PRECISION_STYLES["bf16"]["color"]), False: ("s:", "#555555")}
    for gain in gains:
        marker, color = styles[gain.units]
        narrow = max(gain.widths) < 64
        label = f"widths {', '.join(map(str, gain.widths))}"
        label += "" if gain.units else ", no units for BF16"
        fill = "white" if narrow else color
        axis.plot(gain.sizes, gain.gains, marker, color=color, markerfacecolor=fill, label=label)
    axis.axhline(1, color="#333333", linestyle="--", linewidth=1)
    sizes = gains[0].sizes
    axis.set_xscale("log", base=2)
    top = 1.45 * max(max(gain.gains) for gain in gains)  # room for the legend
    axis.set(xticks=sizes, xticklabels=sizes, ylim=(0, top))
    axis.set(xlabel="size of the photos (pixels per side)", ylabel="speed with AMP / in FP32")
    axis.grid(alpha=0.3)
    axis.legend(loc="upper left")


def draw_prices(axis: Axes, milliseconds: dict[str, dict[str, float]], title: str) -> None:
    """The time of a step by precision, a bar per network.

    milliseconds: {layer: {precision: of a step}}
    """
    names = list(milliseconds["plain"])
    colors = ("#999999", PRECISION_STYLES["bf16"]["color"], "#dddddd")
    for i, (layer, color) in enumerate(zip(milliseconds, colors)):
        at, heights = np.arange(len(names)) + 0.27 * (i - 1), milliseconds[layer].values()
        drawn = axis.bar(at, heights, 0.25, label=layer, color=color, edgecolor="#555555")
        axis.bar_label(drawn, fmt="%.0f", padding=2, fontsize=8)
    axis.set(ylabel="time of a step (ms)", title=title)
    axis.set(xticks=range(len(names)), xticklabels=[name.upper() for name in names])
    axis.legend()


def read_prices(name: str, folder: Path = RESULTS) -> tuple[dict, dict[str, dict[str, float]]]:
    """A record of `pconv bench`, and {layer: {precision: milliseconds of a step}}."""
    record, milliseconds = json.loads((folder / name).read_text()), {}
    for row in record["rows"]:
        milliseconds.setdefault(row["layer"], {})[row["precision"]] = 1e3 * row["seconds"]
    return record, milliseconds


def show_profile(name: str, folder: Path = RESULTS) -> None:
    """Prints how long the device was idle in a step, or that it is not recorded.

    name: of a file that scripts/record_profile.py writes.
    """
    path = folder / name
    if not path.is_file():
        print("how long that GPU is idle: not recorded yet (scripts/record_profile.py)")
        return
    record = json.loads(path.read_text())
    print(f"idle on {record['device']['name']}, ms of a step:")
    for row in record["rows"]:
        if row["kind"] == "idle":
            print(f"  {row['precision'].upper()}, {row['layer']}: {1e3 * row['seconds']:.1f}")


def _draw_title(path: str) -> None:
    figure = Figure(figsize=(9, 3.1), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw_gains(left, read_gains())
    left.set_title("CPU: what AMP gains depends on the network, the photo and the units")
    left.title.set_fontsize(9)
    record, milliseconds = read_prices("bench_cuda_512.json")
    draw_prices(right, milliseconds, f"{record['device']['name']}: three kinds of convolution")
    right.title.set_fontsize(9)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    _draw_title(sys.argv[1])
