"""`pconv inpaint`: fill the holes of one photo."""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy import ndimage
from torch import nn

from pconv.cli.common import (
    add_command,
    check_not_overwritten,
    check_output_file,
    cli_errors,
    exit_with_error,
    out_of_memory_errors,
)
from pconv.image_reader import LOSSY_FORMATS, ImageFile, read_image
from pconv.image_writer import output_format, write_image
from pconv.inpainting import inpaint, load_photo_weights, pretrained_file
from pconv.mask_reader import read_mask

_NEARLY_ALL = 0.9  # of the photo


def add_parser(commands) -> None:
    parser = add_command(commands, "inpaint", run, "Fill the holes of one photo.", weights=None)
    parser.add_argument("photo", type=Path, help="any photo")
    parser.add_argument("mask", type=Path, help="an image of the photo's size")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the photo to write")
    parser.add_argument(
        "--mask-is",
        choices=("holes", "valid"),
        default="holes",
        help="what white means in the mask",
    )
    parser.add_argument("--force", action="store_true", help="overwrite the output")


def run(options: argparse.Namespace) -> None:
    start = time.perf_counter()
    with out_of_memory_errors("make the photo smaller, free memory, or use --device cpu"):
        with cli_errors():
            photo = read_image(options.photo)
            holes, notes = read_mask(options.mask, options.mask_is, photo)
            notes = [f"{options.photo}: {note}" for note in photo.notes] + notes
            notes += _check_coverage(options, holes)
            check_not_overwritten(options.output, options.force)
            output_format(options.output)  # an ending that it does not know is refused here
            model = load_photo_weights(options.weights or pretrained_file(), options.device)
            check_output_file(options.output)
        filled = _fill(model, photo, holes)
        try:
            lost = write_image(options.output, filled)
        except (OSError, ValueError) as error:  # no room, or more pixels than the format can hold
            exit_with_error(f"{options.output} cannot be written: {error}")
        holes_filled = _count_holes(holes)
    notes += _describe_losses(options.output, lost)
    if notes:
        print(f"Note: {'; '.join(notes)}.")
    height, width = holes.shape
    print(
        f"{options.output}: {width}×{height} pixels, filled {holes.mean():.2%} of the photo, "
        f"{holes_filled}, in {time.perf_counter() - start:.2f} s"
    )


def _fill(model: nn.Module, photo: ImageFile, holes: np.ndarray) -> ImageFile:
    """The photo filled, as gray and as transparent as it was, but opaque in its holes."""
    pixels = inpaint(model, photo.pixels, holes, progress=True)
    levels = pixels[:, :, 0] if photo.levels.ndim == 2 else pixels
    alpha = photo.alpha
    if alpha is not None:
        alpha = np.where(holes, np.iinfo(alpha.dtype).max, alpha).astype(alpha.dtype)
    return replace(photo, levels=levels, alpha=alpha)


def _check_coverage(options: argparse.Namespace, holes: np.ndarray) -> list[str]:
    """What is unlikely to be meant; raises ValueError if nothing is left of the photo."""
    other = "valid" if options.mask_is == "holes" else "holes"
    if holes.all():
        raise ValueError(
            f"{options.mask} makes all of the photo a hole: there is nothing to continue. "
            f"Is it the opposite, --mask-is {other}?"
        )
    if not holes.any():
        return [f"{options.mask} has no hole, nothing is filled (--mask-is {other}?)"]
    if holes.mean() > _NEARLY_ALL:
        return [f"{options.mask} makes nearly all of the photo a hole (--mask-is {other}?)"]
    return []


def _count_holes(holes: np.ndarray) -> str:
    rows, columns = (np.flatnonzero(holes.any(axis)) for axis in (1, 0))
    if not len(rows):
        return "0 holes"
    box = holes[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    count = ndimage.label(box, np.ones((3, 3)))[1]
    return f"{count} hole{'s' if count > 1 else ''}"


def _describe_losses(output: Path, lost: list[str]) -> list[str]:
    ending, notes = output.suffix, []
    if output_format(output) in LOSSY_FORMATS:
        notes.append(
            f"{ending} is lossy and changes all pixels a little; .png keeps them bit for bit"
        )
    if lost:
        notes.append(f"{ending} cannot hold the photo's {', '.join(lost)}; .png can")
    return notes
