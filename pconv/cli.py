"""The command line: pconv demo | train | evaluate | inpaint | bench (also `python -m pconv`)."""

import argparse
import errno
import logging
import sys
import warnings
from pathlib import Path

from pconv.commands import DEMO_FOLDER, bench, demo, door, evaluate_command, inpaint_command, refuse, train
from pconv.demo import WIDTHS
from pconv.losses import LossWeights
from pconv.precision import PRECISIONS
from pconv.train import pick_device


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        refuse(message)


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False) else super()._get_help_string(action)


def main(arguments: list[str] | None = None) -> None:
    if hasattr(sys.stdout, "reconfigure"):  # a path may hold bytes that are no text
        sys.stdout.reconfigure(errors="backslashreplace")
    warnings.filterwarnings("ignore", module="PIL")  # what is wrong with a photo is said in one line, by `refuse`
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    parser = _Parser(prog="pconv", description="Image inpainting with partial convolutions, in mixed precision.")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)

    def command(run, text: str, **defaults) -> argparse.ArgumentParser:
        name = run.__name__.removesuffix("_command")
        sub = commands.add_parser(name, help=text, description=text, formatter_class=_Help)
        sub.set_defaults(run=run)
        for flag, default in defaults.items():
            kind, text = _SHARED[flag]
            sub.add_argument(f"--{flag}", type=kind, default=default, help=text)
        if "photos" in defaults:
            sub.add_argument("--strict", action="store_true", help="refuse a folder with an unreadable photo")
        sub.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
        sub.add_argument("--seed", type=int, default=0, help="of weights, batches and holes")
        return sub

    names = ", ".join(PRECISIONS)
    sub = command(
        demo,
        "Train one small U-Net in FP32 and in AMP and compare.",
        size=96,
        batch=4,
        steps=None,
        out=DEMO_FOLDER,
        photos=None,
    )
    sub.add_argument("--precision", type=_names, help=f"some of {names} (default: fp32,bf16; with fp16 on a GPU)")
    sub.epilog = (
        "Default of --steps: 80, and 60 where a precision is emulated, so that it takes no more than 4 minutes."
    )

    sub = command(
        train, "Train a U-Net.", size=128, batch=8, steps=1000, out=Path("runs/train"), photos=None, widths=WIDTHS
    )
    sub.add_argument("--precision", help=f"one of {names} (default: bf16 where the hardware has it)")
    sub.add_argument("--save-every", type=_count, default=500, help="steps from one checkpoint to the next")
    sub.add_argument("--resume", action="store_true", help="go on from the checkpoint in the folder, if there is one")
    sub.add_argument("--workers", type=_workers, help="processes that make batches (default: with a GPU one a core, 16 "
                     "at most; on a CPU 0, as training takes all cores)")  # fmt: skip
    sub.add_argument("--lr", type=float, default=2e-4, help="learning rate of Adam")
    sub.add_argument("--schedule", choices=("constant", "cosine"), default="constant",
                     help="of the learning rate; cosine: falls to 0 over --steps")  # fmt: skip
    sub.add_argument("--residual", action=argparse.BooleanOptionalAction, default=True,
                     help="learn what to add to an interpolation; the paper's network paints from nothing")  # fmt: skip
    sub.add_argument("--init", type=Path, help="weights to start from, with their widths")
    sub.add_argument("--vgg", default="imagenet", help="imagenet, random, or a file of weights")
    sub.add_argument("--vgg-arch", default="vgg16", help="vgg16 or vgg19")
    sub.add_argument("--vgg-layers", type=_names, default=("pool1", "pool2", "pool3"), help="layers of the loss")
    sub.add_argument("--loss-weights", type=_loss_weights, default=LossWeights(), help="such as valid=1,hole=6")

    sub = command(evaluate_command, "Measure weights on photos, by hole ratio.", size=256, photos=None)
    sub.add_argument("--weights", type=Path, help="what `pconv train` wrote (default: the shipped ones)")
    sub.add_argument("--methods", type=_names, help="some of pconv, damaged, biharmonic and, where "
                     "OpenCV is installed, telea, navier-stokes (default: all)")  # fmt: skip
    sub.add_argument("--csv", type=Path, help="write the table here")
    sub.add_argument("--json", type=Path, help="write the table here, with its provenance")

    sub = command(inpaint_command, "Fill the holes of one photo.")
    sub.add_argument("photo", type=Path, help="any photo")
    sub.add_argument("mask", type=Path, help="an image of the photo's size")
    sub.add_argument("-o", "--output", type=Path, required=True, help="the photo to write")
    sub.add_argument("--weights", type=Path, help="what `pconv train` wrote (default: the shipped ones)")
    sub.add_argument("--mask-is", choices=("holes", "valid"), default="holes", help="what white means in the mask")
    sub.add_argument("--force", action="store_true", help="overwrite the output")

    sub = command(bench, "Time the U-Net beside plain convolutions and the textbook layer.", size=128, batch=4,
                  widths=(64, 128, 256, 512, 512))  # fmt: skip
    sub.add_argument("--precision", type=_names, default=("fp32", "bf16"), help=f"some of {names}")
    sub.add_argument("--channels-last", action="store_true", help="use channels-last memory")
    sub.add_argument("--compile", action="store_true", help="use torch.compile")
    sub.add_argument("--repeats", type=_count, default=7, help="turns that each variant takes")
    sub.add_argument("--json", type=Path, help="write the table here, with its provenance")

    options = parser.parse_args(arguments)
    with door():
        options.device = pick_device(options.device)
    try:
        options.run(options)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        sys.exit(f"pconv: {error}")  # the disk is full: not a bug, but an end


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _workers(text: str) -> int:
    return 0 if text == "0" else _count(text)


def _size(text: str) -> int:
    if _count(text) < 16:
        raise argparse.ArgumentTypeError(f"{text} pixels are too few: at least 16")
    return int(text)


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _widths(text: str) -> tuple[int, ...]:
    return tuple(_count(width) for width in text.split(","))


def _loss_weights(text: str) -> LossWeights:
    try:
        pairs = dict(pair.split("=") for pair in text.split(","))
        return LossWeights(**{name: float(value) for name, value in pairs.items()})
    except (ValueError, TypeError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a list such as {','.join(f'{k}={v:g}' for k, v in LossWeights()._asdict().items())}"
        ) from None


_SHARED = {
    "size": (_size, "pixels a side of a crop"),
    "batch": (_count, "photos a training step"),
    "steps": (_count, "training steps"),
    "out": (Path, "folder to write to"),
    "photos": (Path, "folder of photos (default: scikit-image's bundled ones)"),
    "widths": (_widths, "features a level, from the full resolution down"),
}


if __name__ == "__main__":
    main()
