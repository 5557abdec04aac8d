"""`pconv evaluate`: measure weights by hole-ratio bucket, beside other methods."""

import argparse
import time
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from pconv.benchmark import provenance
from pconv.cli.common import add_command, check_output_file, cli_errors, name_list, open_photos
from pconv.files import write_json
from pconv.history import History
from pconv.holes import BUCKETS
from pconv.inpainting import load_photo_weights, pretrained_file
from pconv.metrics import classical, damaged, evaluate
from pconv.photos import bundled_photos, center_crop


def add_parser(commands) -> None:
    parser = add_command(
        commands,
        "evaluate",
        run,
        "Measure weights on photos, by hole ratio.",
        size=256,
        photos=None,
    )
    parser.add_argument(
        "--weights", type=Path, help="what `pconv train` wrote (default: the shipped ones)"
    )
    parser.add_argument(
        "--methods",
        type=name_list,
        help="some of pconv, damaged, biharmonic and, where OpenCV is installed, telea, "
        "navier-stokes (default: all)",
    )
    parser.add_argument("--csv", type=Path, help="write the table here")
    parser.add_argument("--json", type=Path, help="write the table here, with its provenance")


def run(options: argparse.Namespace) -> None:
    with cli_errors():
        weights = options.weights or pretrained_file()
        methods = {"pconv": load_photo_weights(weights, options.device), "damaged": damaged}
        methods |= classical()
        _check_methods(options.methods, methods)
        photos = _load_photos(options)
        for path in filter(None, (options.csv, options.json)):
            check_output_file(path)
    photos = {name: center_crop(photo, options.size) for name, photo in photos.items()}
    rows, rates = [], {}
    count = 2 * len(BUCKETS) * len(photos)
    print(f"{'':<14}hole ratio   holes        L1    PSNR    SSIM   PSNR in holes  SSIM in holes")
    for name in options.methods or methods:
        start = time.perf_counter()
        with tqdm(total=count, desc=name, unit="photo", leave=False, dynamic_ncols=True) as bar:
            results = evaluate(methods[name], photos, options.seed, bar)
        rates[name] = count / (time.perf_counter() - start)
        for row in results:
            print(_format_row(name, row))
        rows += [{"method": name, **row} for row in results]
    print("Photos per second: " + ", ".join(f"{name} {rate:.1f}" for name, rate in rates.items()))
    if options.csv:
        History(rows).to_csv(options.csv)
    if options.json:
        settings = {"weights": weights.name, "size": options.size, "photos": len(photos)}
        write_json(options.json, rows, provenance(options.device, options.seed, **settings))


def _check_methods(names: tuple[str, ...] | None, methods: dict) -> None:
    unknown = set(names or ()) - set(methods)
    if unknown:
        raise ValueError(
            f"--methods {', '.join(sorted(unknown))}: expected some of {', '.join(methods)}"
        )


def _load_photos(options: argparse.Namespace) -> dict[str, np.ndarray]:
    if options.photos is None:
        return bundled_photos(held_out=True)
    photos = open_photos(options)
    return dict(zip(photos.names, photos, strict=True))


def _format_row(name: str, row: dict) -> str:
    bucket = f"({row['low']:.2f},{row['high']:.2f}]"
    line = f"{name:<14}{bucket}  {row['holes']:<9}{row['l1']:>6.4f}"
    line += f"{row['psnr']:>8.2f}{row['ssim']:>8.4f}"
    return line + f"{row['psnr_holes']:>16.2f}{row['ssim_holes']:>15.4f}"
