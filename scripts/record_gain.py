"""Records what AMP gains over the size of the photos, for notebook 09.

python scripts/record_gain.py --json data/results/gain_cpu.json

Two U-Nets, a narrow and a wide one, on photos of 16 to 256 pixels a side: a training step in FP32
and with AMP in turns, channels last, with the loss on pixels alone. On a CPU that has units for
BF16 the wide one is measured once more with those units hidden from PyTorch's convolutions
(`units` is False), which then compute BF16 as a CPU without them does. One thread, so that what
else runs on the machine disturbs less.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from pconv.benchmark import provenance
from pconv.devices import cpu_bf16_units, default_precision, resolve_device
from pconv.files import write_json

sys.path.insert(0, str(Path(__file__).parents[1] / "notebooks"))
from course.speed import Case, measure_speed, pixel_loss

NARROW, WIDE = (8, 16, 32), (32, 64, 128)
HIDE_UNITS = {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}  # before AVX512-BF16 and AMX


def measure(options: argparse.Namespace, widths: tuple[int, ...], units: bool) -> Iterator[dict]:
    """Yields a row per size: the seconds of a step in both precisions, and the gain.

    widths: of the U-Net. units: what the row says about the units for BF16.
    """
    amp = "bf16" if options.device.type == "cpu" else default_precision(options.device)
    cases = [Case(name, options.batch, channels_last=True) for name in ("fp32", amp)]
    for size in options.sizes:
        fp32, low = measure_speed(
            cases, pixel_loss(), size, widths, options.device, repeats=options.repeats
        )
        yield {
            "widths": list(widths),
            "size": size,
            "precision": amp,
            "units": units,
            "seconds_fp32": fp32["seconds"],
            "seconds": low["seconds"],
            "gain": low["relative_speed"],
            "flops": fp32["flops"],
        }


def measure_without_units(options: argparse.Namespace) -> Iterator[dict]:
    """The rows of the wide U-Net from a process whose oneDNN knows no instructions for BF16."""
    sizes, repeats = ",".join(map(str, options.sizes)), str(options.repeats)
    command = [sys.executable, __file__, "--hidden", "--sizes", sizes, "--repeats", repeats]
    run = subprocess.run(
        [*command, "--batch", str(options.batch), "--device", "cpu"],
        env=os.environ | HIDE_UNITS,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    yield from map(json.loads, run.stdout.splitlines())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default="16,32,64,128,256", help="pixels per side")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9, help="turns")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--hidden", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    options.device = resolve_device(options.device)
    options.sizes = [int(size) for size in options.sizes.split(",")]
    torch.set_num_threads(1)
    if options.hidden:
        for row in measure(options, WIDE, units=False):
            print(json.dumps(row), flush=True)
        return
    if options.json is None:
        parser.error("--json: where to write the record?")
    settings = {name: getattr(options, name) for name in ("sizes", "batch", "repeats")}
    origin = provenance(options.device, 0, **settings)
    units = options.device.type == "cuda" or cpu_bf16_units() is not None
    rows = []
    parts = [measure(options, NARROW, units), measure(options, WIDE, units)]
    if options.device.type == "cpu" and units:
        parts.append(measure_without_units(options))
    for part in parts:
        for row in part:
            rows.append(row)
            print(f"{row['widths']}, {row['size']}: {row['gain']:.2f}", flush=True)
            write_json(options.json, rows, origin)


if __name__ == "__main__":
    main()
