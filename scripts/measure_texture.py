"""Measures the texture of fills: how sharp it is, and whether it repeats a pattern of the network.

python scripts/measure_texture.py --photos photos/kodak24 --json data/results/texture_kodak.json

PSNR and SSIM reward a smooth fill, and a network that is trained for texture likes to draw a grid:
its layers see every second, fourth, eighth pixel. Both show in the spectrum of what it paints.

In windows of 32x32 pixels that lie inside a hole, the luminance minus its mean, times a Hann
window, is transformed along rows and along columns; the powers of all rows (columns) are averaged.

sharpness     log10 of the power at periods of 3 to 8 pixels, over the photo's own in that window: 0
              is as sharp as the photo, -1 has a tenth of its power
pattern_4, _8 log10 of the power at a period of 4 (8) pixels over the geometric mean of the powers
              two frequencies below and above; a photo's own is about 0

Each is the mean over windows, rows and columns. `photo` is the photo itself. Holes are wide boxes
and thick strokes for `boxes`, and those of `pconv evaluate` for the other rows, by bucket.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

import pconv
from pconv.benchmark import provenance
from pconv.files import write_json
from pconv.holes import BUCKETS
from pconv.inpainting import pretrained_file
from pconv.metrics import Restorer, classical
from pconv.photos import PhotoFolder, center_crop

WINDOW = 32  # pixels per side
STEP = 8  # pixels from one window to the next
ROUNDING = 0.2  # power that rounding to 8 bits leaves: below it a pattern is not there
LUMINANCE = np.array([0.299, 0.587, 0.114])  # of RGB (ITU-R BT.601)


def windows_in(holes: np.ndarray) -> Iterator[tuple[slice, slice]]:
    """The windows of 32x32 pixels, on a grid of 8, that lie inside the holes, bool (H, W)."""
    for top in range(0, holes.shape[0] - WINDOW + 1, STEP):
        for left in range(0, holes.shape[1] - WINDOW + 1, STEP):
            window = slice(top, top + WINDOW), slice(left, left + WINDOW)
            if holes[window].all():
                yield window


def power(pixels: np.ndarray) -> np.ndarray:
    """Power per frequency, (2, 17): along rows and along columns, of uint8 (32, 32, 3)."""
    gray = pixels @ LUMINANCE
    hann = np.hanning(WINDOW + 1)[:-1]
    gray = (gray - gray.mean()) * np.outer(hann, hann)
    return np.stack([(np.abs(np.fft.rfft(gray, axis=axis)) ** 2).mean(1 - axis) for axis in (1, 0)])


def pattern(spectrum: np.ndarray, period: int) -> float:
    """log10 of the power at `period` pixels over that of its neighbors; mean of the directions.

    spectrum: (2, 17), from `power`. The Hann window spreads a frequency over the ones beside it, so
    the neighbors are those two away.
    """
    at = WINDOW // period
    logs = np.log10(spectrum + ROUNDING)
    return float((logs[:, at] - (logs[:, at - 2] + logs[:, at + 2]) / 2).mean())


def sharpness(spectrum: np.ndarray, reference: np.ndarray) -> float:
    """log10 of the power at periods of 3 to 8 pixels, over that of `reference`; both (2, 17)."""
    fine = slice(WINDOW // 8, WINDOW // 3 + 1)
    ratio = (spectrum[:, fine].sum(1) + ROUNDING) / (reference[:, fine].sum(1) + ROUNDING)
    return float(np.log10(ratio).mean())


def measure(restored: np.ndarray, photo: np.ndarray, holes: np.ndarray) -> list[dict[str, float]]:
    """One row per window inside the holes. restored, photo: uint8 (H, W, 3); holes: bool (H, W)."""
    rows = []
    for window in windows_in(holes):
        fill, own = power(restored[window]), power(photo[window])
        rows.append(
            {
                "sharpness": sharpness(fill, own),
                "pattern_4": pattern(fill, 4),
                "pattern_8": pattern(fill, 8),
            }
        )
    return rows


def wide_holes(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A box that takes a sixth to a third of the photo, bool (H, W)."""
    share = np.sqrt(rng.uniform(1 / 6, 1 / 3))
    stretch = rng.uniform(0.8, 1.25)
    rows = min(int(height * share * stretch), height - 2)
    columns = min(int(width * share / stretch), width - 2)
    top = rng.integers(1, height - rows)
    left = rng.integers(1, width - columns)
    holes = np.zeros((height, width), bool)
    holes[top : top + rows, left : left + columns] = True
    return holes


def draw_cases(photos: list[np.ndarray], seed: int) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(name of the row, photo, holes), each photo with holes of every bucket and with a box."""
    for index, photo in enumerate(photos):
        for number, (low, high) in enumerate(BUCKETS):
            rng = np.random.default_rng((seed, number, index))
            holes = pconv.random_holes(*photo.shape[:2], (low, high), rng)
            yield f"({low:.2f},{high:.2f}]", photo, holes
        rng = np.random.default_rng((seed, len(BUCKETS), index))
        yield "box", photo, wide_holes(*photo.shape[:2], rng)


def compare_methods(methods: dict[str, Restorer], photos: list[np.ndarray], seed: int) -> list:
    """Rows: method, holes, windows (how many) and the means of `measure`."""
    values = {}
    cases = list(draw_cases(photos, seed))
    for holes_name, photo, holes in tqdm(cases, unit="photo", leave=False):
        if next(windows_in(holes), None) is None:
            continue
        for method, restore in methods.items():
            restored = restore(photo, holes)
            values.setdefault((method, holes_name), []).extend(measure(restored, photo, holes))
    rows = []
    for (method, holes_name), found in sorted(values.items(), key=lambda item: item[0][1]):
        means = {key: float(np.mean([value[key] for value in found])) for key in found[0]}
        rows.append({"method": method, "holes": holes_name, "windows": len(found), **means})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, default=pretrained_file())
    parser.add_argument("--photos", type=Path, required=True, help="a folder")
    parser.add_argument("--size", type=int, default=256, help="pixels per side of the center crop")
    parser.add_argument("--seed", type=int, default=0, help="of the holes")
    parser.add_argument("--json", type=Path, help="write the table here, with its provenance")
    options = parser.parse_args()
    model = pconv.load_weights(options.weights)
    methods = {
        "photo": lambda photo, holes: photo,
        "pconv": lambda photo, holes: pconv.inpaint(model, photo, holes),
    }
    methods |= {name: method for name, method in classical().items() if name == "fsr-fast"}
    photos = [center_crop(photo, options.size) for photo in PhotoFolder(options.photos)]
    rows = compare_methods(methods, photos, options.seed)
    print(f"{'':<12}{'holes':<14}windows  sharpness  pattern, period 4  period 8")
    for row in rows:
        line = f"{row['method']:<12}{row['holes']:<14}{row['windows']:>7}{row['sharpness']:>11.2f}"
        print(f"{line}{row['pattern_4']:>19.2f}{row['pattern_8']:>10.2f}")
    if options.json:
        settings = {"weights": options.weights.name, "size": options.size, "photos": len(photos)}
        write_json(options.json, rows, provenance("cpu", options.seed, **settings))


if __name__ == "__main__":
    main()
