"""The command line: pconv demo | train | evaluate | inpaint | bench (also `python -m pconv`)."""

import argparse
import os
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image

from pconv.benchmark import benchmark_training, megabytes, provenance
from pconv.checkpoint import load_checkpoint, locked
from pconv.data import PhotoFolder, TrainingBatches, as_photo, bundled_photos, centre_crop
from pconv.demo import WIDTHS, demo_photos, run_demo
from pconv.history import History, replacing, write_json
from pconv.inpainting import inpaint, load_weights, save_weights
from pconv.losses import InpaintingLoss, LossWeights, VGGFeatures
from pconv.metrics import damaged, evaluate
from pconv.precision import PRECISIONS, fast_precision, get_precision, speed_note
from pconv.train import Trainer, pick_device
from pconv.unet import PConvUNet

# What must stay the same when a training goes on.
_FIXED = ("photos", "size", "batch", "seed", "lr", "widths", "vgg_arch", "vgg_layers", "loss_weights")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        refuse(message)


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False) else super()._get_help_string(action)


def refuse(message: object):
    """One line on stderr, exit status 2."""
    print(f"pconv: {' '.join(str(message).split())}", file=sys.stderr)
    sys.exit(2)


@contextmanager
def door():
    """What the caller got wrong is refused here, before anything is written; what fails later is a bug, and shows."""
    try:
        yield
    except (ValueError, TypeError, OSError) as error:
        refuse(error)


def main(arguments: list[str] | None = None) -> None:
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
        out=Path("runs/demo"),
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
    sub.add_argument("--lr", type=float, default=2e-4, help="learning rate of Adam")
    sub.add_argument("--init", type=Path, help="weights to start from, with their widths")
    sub.add_argument("--vgg", default="imagenet", help="imagenet, random, or a file of weights")
    sub.add_argument("--vgg-arch", default="vgg16", help="vgg16 or vgg19")
    sub.add_argument("--vgg-layers", type=_names, default=("pool1", "pool2", "pool3"), help="layers of the loss")
    sub.add_argument("--loss-weights", type=_loss_weights, default=LossWeights(), help="such as valid=1,hole=6")

    sub = command(evaluate_command, "Measure weights on photos, by hole ratio.", size=256, photos=None)
    sub.add_argument("--weights", type=Path, required=True, help="what `pconv train` wrote")
    sub.add_argument("--csv", type=Path, help="write the table here")
    sub.add_argument("--json", type=Path, help="write the table here, with its provenance")

    sub = command(inpaint_command, "Fill the holes of one photo.")
    sub.add_argument("photo", type=Path, help="any photo")
    sub.add_argument("mask", type=Path, help="an image of the photo's size")
    sub.add_argument("-o", "--output", type=Path, required=True, help="the photo to write")
    sub.add_argument("--weights", type=Path, required=True, help="what `pconv train` wrote")
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
    options.run(options)


def demo(options: argparse.Namespace) -> None:
    """Trains the same U-Net on the same batches in every precision asked for and prints one table."""
    names = options.precision or (("fp32", "bf16") if options.device.type == "cpu" else ("fp32", "fp16", "bf16"))
    options.steps = options.steps or (80 if not any(speed_note(name, options.device) for name in names) else 60)
    with door():
        for name in names:
            get_precision(name, options.device)
        photos = None if options.photos is None else _photo_folder(options)
        train_photos, held_out = demo_photos(photos)
        PConvUNet(widths=WIDTHS).check_batch(options.batch, options.size, options.size)
        folder = _writable(options.out)
    run_demo(
        train_photos, held_out, folder, names, options.device, options.size, options.batch, options.steps, options.seed
    )


def train(options: argparse.Namespace) -> None:
    """Trains a U-Net on a folder of photos; writes weights.safetensors, checkpoint.pt and history.csv."""
    share = (int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))  # set by torchrun
    with ExitStack() as stack:
        with door():
            if share[1] > 1:
                if options.device.type == "cuda":
                    options.device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
                    torch.cuda.set_device(options.device)
                dist.init_process_group("nccl" if options.device.type == "cuda" else "gloo")
                stack.callback(dist.destroy_process_group)
            options.precision = options.precision or fast_precision(options.device)
            note = speed_note(get_precision(options.precision, options.device).name, options.device)
            photos = list(bundled_photos().values()) if options.photos is None else _photo_folder(options)
            batches = TrainingBatches(photos, options.size, options.batch, options.seed, share=share)
            torch.manual_seed(options.seed)
            model = load_weights(options.init).train() if options.init else PConvUNet(widths=options.widths)
            model.check_batch(options.batch // share[1], options.size, options.size)
            if options.vgg == "imagenet":
                features = VGGFeatures.available(options.vgg_arch, options.vgg_layers)
            else:
                features = VGGFeatures(options.vgg, options.vgg_arch, options.vgg_layers)
            if not options.lr > 0:
                raise ValueError(f"--lr {options.lr}: expected a positive number")
            loss = InpaintingLoss(features, options.loss_weights)
            trainer = Trainer(model, loss, options.precision, options.device, options.lr)
            trainer.settings = {name: str(getattr(options, name)) for name in _FIXED} | {"vgg": features.weights}
            checkpoint = options.out / "checkpoint.pt"
            if options.resume and checkpoint.exists():
                _resume(trainer, batches, checkpoint)
            elif share[0] == 0 and options.out.is_dir() and any(p.name[0] != "." for p in options.out.iterdir()):
                raise ValueError(f"{options.out} is not empty: name a new folder, or go on in it with --resume")
            if share[0] == 0:
                stack.enter_context(locked(_writable(options.out)))
        if note and share[0] == 0:
            print(f"Note: {note}.")
        try:
            trainer.fit(
                batches, max(0, options.steps - trainer.step), checkpoint=checkpoint, save_every=options.save_every
            )
        except KeyboardInterrupt:
            print(f"\nStopped and saved after step {trainer.step}; the same command with --resume goes on.")
            sys.exit(130)
        except (FloatingPointError, OSError) as error:  # the numbers or the disk gave out: not a bug, but an end
            print(f"pconv: {error}", file=sys.stderr)
            sys.exit(1)
        if share[0] == 0:
            trainer.history.to_csv(options.out / "history.csv")
            weights = options.out / "weights.safetensors"
            save_weights(trainer.model, weights, vgg=features.weights, precision=options.precision)
            if batches.unreadable:
                print(f"{len(batches.unreadable)} photo(s) could not be read, skipped:", file=sys.stderr)
                print("\n".join(batches.unreadable.values()), file=sys.stderr)
            print(f"Weights: {weights}\nHistory: {options.out / 'history.csv'}\nVGG: {features.weights}")


def _resume(trainer: Trainer, batches: TrainingBatches, checkpoint: Path) -> None:
    wanted, state = trainer.settings, load_checkpoint(checkpoint)
    for name, value in wanted.items():
        if state["settings"].get(name) != value:
            flag = name.replace("_", "-")
            raise ValueError(f"{checkpoint} was trained with --{flag} {state['settings'].get(name)}, not {value}")
    try:
        trainer.resume(state, batches)
    except ValueError as error:
        raise ValueError(f"{checkpoint}: {error}") from error
    print(f"resumed at step {trainer.step}")


def evaluate_command(options: argparse.Namespace) -> None:
    """Measures weights in six buckets of hole ratio, inside the photo and at its border."""
    with door():
        model = load_weights(options.weights, options.device)
        photos = bundled_photos(held_out=True) if options.photos is None else _named(_photo_folder(options))
        for path in filter(None, (options.csv, options.json)):
            _writable(path.parent)
    photos = {name: centre_crop(photo, options.size) for name, photo in photos.items()}
    rows = []
    for method, restore in {"damaged": damaged, "pconv": model}.items():
        rows += [{"method": method, **row} for row in evaluate(restore, photos, options.seed)]
    print(f"{'':<10}hole ratio    holes        L1    PSNR    SSIM   PSNR in holes  SSIM in holes")
    for row in rows:
        print(
            f"{row['method']:<10}({row['low']:.2f},{row['high']:.2f}]   {row['holes']:<9}{row['l1']:>6.4f}"
            f"{row['psnr']:>8.2f}{row['ssim']:>8.3f}{row['psnr_holes']:>16.2f}{row['ssim_holes']:>15.3f}"
        )
    if options.csv:
        History(rows).to_csv(options.csv)
    if options.json:
        record = provenance(options.device, options.seed, weights=str(options.weights), size=options.size)
        write_json(options.json, rows, record)


def inpaint_command(options: argparse.Namespace) -> None:
    """Fills the holes of one photo with trained weights."""
    with door():
        photo, white = as_photo(options.photo), as_photo(options.mask).max(2) > 127
        if white.shape != photo.shape[:2]:
            raise ValueError(f"{options.mask} has {white.shape} pixels, the photo {options.photo} {photo.shape[:2]}")
        if options.output.exists() and not options.force:
            raise ValueError(f"{options.output} exists: --force overwrites it")
        if Image.registered_extensions().get(options.output.suffix.lower()) not in Image.SAVE:
            raise ValueError(f"{options.output}: give the output a photo's ending, such as .png")
        model = load_weights(options.weights, options.device)
        _writable(options.output.parent)
    start = time.perf_counter()
    lossy = options.output.suffix.lower() in (".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".avif")
    if lossy:
        print(f"Note: {options.output.suffix} is lossy and changes all pixels a little; .png keeps them bit for bit.")
    result = inpaint(model, photo, white if options.mask_is == "holes" else ~white)
    with replacing(options.output) as temporary:
        Image.fromarray(result).save(temporary, **({"quality": 95} if lossy else {}))
    print(f"{options.output}: {photo.shape[1]}×{photo.shape[0]} pixels in {time.perf_counter() - start:.2f} s")


def bench(options: argparse.Namespace) -> None:
    """Prints what a training step costs with plain, partial and textbook convolutions."""
    with door():
        for name in options.precision:
            get_precision(name, options.device)
        if options.json:
            _writable(options.json.parent)
    settings = {
        "size": options.size, "batch": options.batch, "widths": options.widths,
        "channels_last": options.channels_last, "compiled": options.compile, "repeats": options.repeats,
    }  # fmt: skip
    rows = benchmark_training(options.precision, device=options.device, seed=options.seed, **settings)
    print(f"{'precision':<11}{'layer':<10}{'ms/step':>9}{'samples/s':>11}{'time':>8}{'saved':>10}{'peak':>10}")
    for row in rows:
        print(
            f"{row['precision']:<11}{row['layer']:<10}{1000 * row['seconds']:>9.1f}{row['samples_per_second']:>11.2f}"
            f"{row['relative_time']:>7.2f}×{megabytes(row['saved_bytes']):>10}{megabytes(row['peak_bytes']):>10}"
        )
    for note in filter(None, (speed_note(name, options.device) for name in options.precision)):
        print(f"Note: {note}.")
    if options.json:
        write_json(options.json, rows, provenance(options.device, options.seed, **settings))


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


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


def _photo_folder(options: argparse.Namespace) -> PhotoFolder:
    photos = PhotoFolder(options.photos, options.strict)
    if photos.unreadable:
        print(f"{len(photos.unreadable)} unreadable, skipped: {', '.join(photos.unreadable)}", file=sys.stderr)
    return photos


def _named(photos: PhotoFolder) -> dict[str, np.ndarray]:
    return dict(zip(photos.names, photos, strict=True))


def _writable(folder: Path) -> Path:
    """The folder, made where there is none; raises OSError where one cannot write to it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OSError(f"cannot write to {folder}: {error.strerror}") from error
    return folder


if __name__ == "__main__":
    main()
