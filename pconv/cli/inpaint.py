"""`pconv inpaint`: fill the holes of one photo."""

import argparse
import time
from pathlib import Path

import numpy as np

from pconv.cli.common import add_command, check_output_file, cli_errors, exit_with_error
from pconv.holes import read_holes
from pconv.inpainting import inpaint, load_photo_weights, pretrained_file
from pconv.photos import LOSSY_FORMATS, as_photo, output_format, read_alpha, save_photo


def add_parser(commands) -> None:
    parser = add_command(commands, "inpaint", run, "Fill the holes of one photo.")
    parser.add_argument("photo", type=Path, help="any photo")
    parser.add_argument("mask", type=Path, help="an image of the photo's size")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the photo to write")
    parser.add_argument(
        "--weights", type=Path, help="what `pconv train` wrote (default: the shipped ones)"
    )
    parser.add_argument(
        "--mask-is",
        choices=("holes", "valid"),
        default="holes",
        help="what white means in the mask",
    )
    parser.add_argument("--force", action="store_true", help="overwrite the output")


def run(options: argparse.Namespace) -> None:
    with cli_errors():
        photo = as_photo(options.photo)
        holes = read_holes(options.mask, white_is=options.mask_is)
        alpha = read_alpha(options.photo)
        _check_mask_size(options, photo, holes)
        _check_output(options)
        model = load_photo_weights(options.weights or pretrained_file(), options.device)
        check_output_file(options.output)
    start = time.perf_counter()
    if output_format(options.output) in LOSSY_FORMATS:
        ending = options.output.suffix
        print(
            f"Note: {ending} is lossy and changes all pixels a little; .png keeps them bit for bit."
        )
    filled = inpaint(model, photo, holes)
    try:
        save_photo(options.output, filled, alpha)
    except (OSError, ValueError) as error:  # no room, or more pixels than the format can hold
        exit_with_error(f"{options.output} cannot be written: {error}")
    size = f"{photo.shape[1]}×{photo.shape[0]} pixels"
    print(f"{options.output}: {size} in {time.perf_counter() - start:.2f} s")


def _check_mask_size(options: argparse.Namespace, photo: np.ndarray, holes: np.ndarray) -> None:
    if holes.shape != photo.shape[:2]:
        raise ValueError(
            f"{options.mask} has {holes.shape} pixels, the photo {options.photo} {photo.shape[:2]}"
        )


def _check_output(options: argparse.Namespace) -> None:
    if options.output.exists() and not options.force:
        raise ValueError(f"{options.output} exists: --force overwrites it")
    output_format(options.output)
