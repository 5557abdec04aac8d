"""`pconv evaluate`: measure weights by hole-ratio bucket, beside other methods."""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from pconv.benchmark import provenance
from pconv.cli.common import (
    add_command,
    check_output_file,
    cli_errors,
    name_list,
    report_unreadable,
)
from pconv.files import write_json
from pconv.history import History
from pconv.holes import BUCKETS
from pconv.inpainting import load_photo_weights, pretrained_file
from pconv.lpips import LPIPS
from pconv.metrics import ON_REQUEST, classical, damaged, evaluate
from pconv.photos import PhotoFolder, ReadablePhotos, bundled_photos, center_crop


def add_parser(commands) -> None:
    parser = add_command(
        commands,
        "evaluate",
        run,
        "Measure weights on photos, by hole ratio.",
        size=256,
        photos=None,
        weights=None,
    )
    parser.add_argument(
        "--methods",
        type=name_list,
        help="some of pconv, damaged, biharmonic, with OpenCV telea and navier-stokes, with its "
        "contrib modules fsr-fast (default: all) and fsr-best (half a minute per photo)",
    )
    parser.add_argument(
        "--lpips",
        type=Path,
        metavar="FILE",
        help="SqueezeNet's features and LPIPS's heads lin0 to lin6 (default: torchvision's, and "
        "those of the package lpips where it is installed; else LPIPS is not measured)",
    )
    parser.add_argument("--csv", type=Path, help="write the table here")
    parser.add_argument("--json", type=Path, help="write the table here, with its provenance")


def run(options: argparse.Namespace) -> None:
    with cli_errors():
        weights = options.weights or pretrained_file()
        methods = {"pconv": load_photo_weights(weights, options.device), "damaged": damaged}
        methods |= classical(on_request=True)
        names = options.methods or [name for name in methods if name not in ON_REQUEST]
        _check_methods(names, methods)
        lpips = _load_lpips(options.lpips)
        photos = _load_crops(options)
        for path in filter(None, (options.csv, options.json)):
            check_output_file(path)
    rows, rates = [], {}
    count = 2 * len(BUCKETS) * len(photos)
    print(_HEADER)
    for name in names:
        start = time.perf_counter()
        with tqdm(total=count, desc=name, unit="photo", leave=False, dynamic_ncols=True) as bar:
            results = evaluate(methods[name], photos, options.seed, bar, lpips)
        rates[name] = count / (time.perf_counter() - start)
        for row in results:
            print(_format_row(name, row), flush=True)
        rows += [{"method": name, **row} for row in results]
    for line in compare_with_best(rows):
        print(line)
    print("Photos per second: " + ", ".join(f"{name} {rate:.1f}" for name, rate in rates.items()))
    if options.csv:
        History(rows).to_csv(options.csv)
    if options.json:
        settings = {"weights": weights.name, "size": options.size, "photos": len(photos)}
        settings["lpips"] = "not measured" if lpips is None else Path(lpips.source).name
        write_json(options.json, rows, provenance(options.device, options.seed, **settings))


def _check_methods(names: Sequence[str], methods: dict) -> None:
    unknown = set(names) - set(methods)
    if unknown:
        raise ValueError(
            f"--methods {', '.join(sorted(unknown))}: expected some of {', '.join(methods)}"
        )


def _load_lpips(path: Path | None) -> LPIPS | None:
    """From --lpips, or what can be had; None, with one line that says why, if nothing can."""
    if path is not None:
        return LPIPS.from_file(path)
    try:
        return LPIPS.download()
    except OSError as error:
        print(f"LPIPS: not measured, because {error}; --lpips FILE gives both.")
        return None


def _load_crops(options: argparse.Namespace) -> list[np.ndarray]:
    """The middle of every photo that can be read; only one photo at a time is held whole."""
    if options.photos is None:
        photos = bundled_photos(held_out=True).values()
        return [center_crop(photo, options.size) for photo in photos]
    photos = ReadablePhotos(PhotoFolder(options.photos, options.strict))
    bar = tqdm(photos, total=len(photos.photos), unit="photo", delay=2, leave=False)
    crops = [center_crop(photo, options.size) for _, photo in bar]
    if options.strict and photos.unreadable:
        raise ValueError(next(iter(photos.unreadable.values())))
    if not crops:
        raise ValueError(f"no photo of {options.photos} can be read")
    report_unreadable(photos.unreadable, options.verbose)
    return crops


def compare_with_best(rows: list[dict]) -> list[str]:
    """Of each bucket the best method without training by each measure, and how far pconv is ahead.

    rows: those of `evaluate`, with their `method`. Returns lines; none without both to compare.
    """
    ours = {(row["low"], row["holes"]): row for row in rows if row["method"] == "pconv"}
    others = [row for row in rows if row["method"] not in ("pconv", "damaged")]
    if not ours or not others:
        return []
    lines = ["", f"{'best without training':<36}" + "".join(f"{m:>28}" for m in _MEASURES)]
    for (low, holes), mine in ours.items():
        rivals = [row for row in others if (row["low"], row["holes"]) == (low, holes)]
        bucket = f"({low:.2f},{mine['high']:.2f}]"
        line = f"{'':<14}{bucket}  {holes:<9}"
        for measure, (sign, digits) in _MEASURES.items():
            known = [row for row in rivals if row[measure] is not None]
            if mine[measure] is None or not known:
                line += f"{'not measured':>28}"
                continue
            best = max(known, key=lambda row: sign * row[measure])
            ahead = mine[measure] - best[measure]
            line += f"{best['method']:>13}{best[measure]:>7.{digits}f} {ahead:+7.{digits}f}"
        lines.append(line)
    return [
        *lines,
        "The number with a sign is pconv minus that method; of LPIPS, less is better.",
        "",
    ]


_MEASURES = {"psnr": (1, 2), "ssim": (1, 3), "lpips": (-1, 3)}  # which way is better, decimals
_HEADER = (
    f"{'':<14}hole ratio   holes        L1    PSNR    SSIM         LPIPS"
    "  PSNR in holes  SSIM in holes"
)


def _format_row(name: str, row: dict) -> str:
    bucket = f"({row['low']:.2f},{row['high']:.2f}]"
    lpips = "not measured" if row["lpips"] is None else f"{row['lpips']:.4f}"
    line = f"{name:<14}{bucket}  {row['holes']:<9}{row['l1']:>6.4f}"
    line += f"{row['psnr']:>8.2f}{row['ssim']:>8.4f}{lpips:>14}"
    return line + f"{row['psnr_holes']:>15.2f}{row['ssim_holes']:>15.4f}"
