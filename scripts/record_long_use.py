"""Trains for a long time, paints many strokes, and records memory and speed meanwhile.

python scripts/record_long_use.py --json data/results/long_use_cpu.json

Memory is that of the process, in bytes, after garbage has been collected and the allocator has
returned what it kept. The strokes are what the painter's frontend sends;
tests/browser/test_long_use.py draws them in a browser.
"""

import argparse
import ctypes
import gc
import time
from functools import partial
from pathlib import Path

import numpy as np
import psutil
from tqdm.auto import tqdm

import pconv
from pconv.benchmark import mebibytes, provenance
from pconv.data import TrainingBatches
from pconv.files import write_json
from pconv.painter import MaskPainter

PARTS = 10


def measure_memory() -> int:
    gc.collect()
    if hasattr(ctypes.CDLL(None), "malloc_trim"):  # glibc
        ctypes.CDLL(None).malloc_trim(0)
    return psutil.Process().memory_info().rss


def train(count: int):
    """Trains in parts; yields after each part the steps so far, and the samples of the part."""
    model = pconv.PConvUNet(widths=(16, 32, 64), residual=True)
    trainer = pconv.Trainer(model, pconv.InpaintingLoss(pconv.VGGFeatures("random")), "fp32", "cpu")
    batches = TrainingBatches(list(pconv.bundled_photos().values()), 48, 4, seed=0)
    for _ in range(PARTS):
        trainer.fit(batches, count // PARTS)
        yield trainer.step, 4 * count // PARTS


def paint(count: int):
    """Paints strokes on a photo of 512x512 pixels, each inpainted with the shipped weights.

    Yields as `train`.
    """
    photo, rng = pconv.bundled_photos(held_out=True)["astronaut"], np.random.default_rng(0)
    painter = MaskPainter(photo, on_change=partial(pconv.inpaint, pconv.load_pretrained()))
    for part in range(PARTS):
        for _ in tqdm(range(count // PARTS), desc=f"strokes, part {part + 1}"):
            holes = pconv.random_holes(512, 512, (0.01, 0.3), rng)
            painter.set_state({"_bits": memoryview(np.packbits(holes).tobytes())})
        yield (part + 1) * (count // PARTS), count // PARTS


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--strokes", type=int, default=300)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    rows = []
    for what, parts in (
        ("training steps", train(options.steps)),
        ("strokes", paint(options.strokes)),
    ):
        start = time.perf_counter()
        for count, samples in parts:
            rate = samples / (time.perf_counter() - start)
            rows.append(
                {
                    "what": what,
                    "count": count,
                    "memory_bytes": measure_memory(),
                    "samples_per_second": rate,
                }
            )
            used = mebibytes(rows[-1]["memory_bytes"])
            print(f"{count:>6} {what:<16}{used:>9}{rate:8.2f} samples/s", flush=True)
            start = time.perf_counter()
    write_json(
        options.json, rows, provenance("cpu", 0, steps=options.steps, strokes=options.strokes)
    )


if __name__ == "__main__":
    main()
