"""The flags of `pconv train`."""

import argparse
from pathlib import Path

from pconv.cli.common import add_command, name_list, positive_int
from pconv.holes import HOLE_KINDS
from pconv.losses import LossWeights
from pconv.precision import PRECISIONS
from pconv.unet import SMALL_WIDTHS


def add_flags(commands, run) -> None:
    """Adds the command; `run` is called with its options."""
    parser = add_command(
        commands,
        "train",
        run,
        "Train a U-Net.",
        size=128,
        batch=8,
        steps=1000,
        out=Path("runs/train"),
        photos=None,
        widths=SMALL_WIDTHS,
    )
    _add_loop_flags(parser)
    _add_optimizer_flags(parser)
    _add_model_flags(parser)


def _add_loop_flags(parser: argparse.ArgumentParser) -> None:
    names = ", ".join(PRECISIONS)
    parser.add_argument(
        "--precision", help=f"one of {names} (default: bf16 where the hardware has it)"
    )
    parser.add_argument(
        "--save-every", type=positive_int, default=500, help="steps from one checkpoint to the next"
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on from the checkpoint in the folder, if there is one",
    )
    parser.add_argument(
        "--workers",
        type=_worker_count,
        help="processes that make batches (default: with a GPU one per core, 16 at most; on a CPU "
        "0, as training takes all cores)",
    )
    parser.add_argument(
        "--finish",
        action="store_true",
        help="write the weights of the checkpoint in --out, as far as it was trained, and end",
    )
    parser.add_argument(
        "--log-dir",
        type=Path,
        metavar="DIR",
        help="write curves for TensorBoard, and pictures of two photos that are held out",
    )
    parser.add_argument(
        "--log-images-every",
        type=positive_int,
        default=200,
        metavar="N",
        help="steps from one picture in --log-dir to the next",
    )
    parser.add_argument("--compile", action="store_true", help="use torch.compile")
    parser.add_argument(
        "--holes",
        choices=tuple(HOLE_KINDS),
        default="irregular",
        help="irregular: strokes and blobs; mixed: also thick strokes, boxes, and outlines",
    )


def _add_optimizer_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--lr", type=_positive_float, default=2e-4, help="learning rate of Adam")
    parser.add_argument(
        "--schedule",
        choices=("constant", "cosine"),
        default="constant",
        help="of the learning rate; cosine: falls to 0 over --steps",
    )
    parser.add_argument(
        "--fine-tune-at",
        type=positive_int,
        metavar="N",
        help="from step N on, the paper's second phase: --fine-tune-lr, with the encoder's batch "
        "norm frozen",
    )
    parser.add_argument(
        "--fine-tune-lr",
        type=_positive_float,
        default=5e-5,
        help="learning rate from --fine-tune-at on",
    )
    parser.add_argument(
        "--ema",
        type=_decay,
        metavar="D",
        help="keep a moving average of the weights with this decay, such as 0.999, as the result",
    )
    parser.add_argument(
        "--ramp",
        type=positive_int,
        metavar="N",
        help="let the perceptual and style terms rise to their weights over N steps",
    )
    parser.add_argument(
        "--max-grad-norm",
        type=_positive_float,
        metavar="X",
        help="shorten a gradient whose norm is larger (default: never)",
    )
    parser.add_argument(
        "--grad-accum-steps",
        type=positive_int,
        default=1,
        metavar="N",
        help="compute a batch in N parts, one after the other, in less memory",
    )


def _add_model_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--residual",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="learn what to add to an interpolation; the paper's network paints from nothing",
    )
    parser.add_argument(
        "--copy-texture",
        action="store_true",
        help="refine the output with texture that is copied from what is known; 4 or more widths",
    )
    parser.add_argument("--init", type=Path, help="weights to start from, with their widths")
    parser.add_argument("--vgg", default="imagenet", help="imagenet, random, or a file of weights")
    parser.add_argument("--vgg-arch", default="vgg16", help="vgg16 or vgg19")
    parser.add_argument(
        "--vgg-layers",
        type=name_list,
        default=("pool1", "pool2", "pool3"),
        help="layers of the loss",
    )
    parser.add_argument(
        "--vgg-pooling",
        choices=("max", "average"),
        default="max",
        help="of the VGG; the gradient of average pooling reaches every pixel",
    )
    parser.add_argument(
        "--vgg-shift",
        type=positive_int,
        default=1,
        metavar="N",
        help="crop up to N - 1 rows and columns at random before the VGG sees an image, so that no "
        "fixed grid is learned; 8 suits layers up to relu3_1",
    )
    parser.add_argument(
        "--loss-weights", type=_loss_weights, default=LossWeights(), help="such as valid=1,hole=6"
    )


def _worker_count(text: str) -> int:
    return 0 if text == "0" else positive_int(text)


def _positive_float(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return value


def _decay(text: str) -> float:
    if not _positive_float(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number between 0 and 1")
    return float(text)


def _loss_weights(text: str) -> LossWeights:
    try:
        pairs = dict(pair.split("=") for pair in text.split(","))
        return LossWeights(**{name: float(value) for name, value in pairs.items()})
    except (ValueError, TypeError):
        example = ",".join(f"{name}={value:g}" for name, value in LossWeights()._asdict().items())
        raise argparse.ArgumentTypeError(f"{text!r} is not a list such as {example}") from None
