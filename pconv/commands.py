"""What each command does: what the caller got wrong is refused first, then the work is done and told."""

import argparse
import io
import json
import os
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image, ImageOps
from tqdm.auto import tqdm

from pconv.benchmark import benchmark_training, megabytes, provenance
from pconv.checkpoint import load_checkpoint, locked
from pconv.data import BUCKETS, PhotoFolder, TrainingBatches, as_photo, bundled_photos, centre_crop
from pconv.demo import WIDTHS, demo_photos, run_demo
from pconv.history import History, replacing, write_json
from pconv.inpainting import inpaint, load_pretrained, load_weights, pretrained_file, read_metadata, save_weights
from pconv.losses import InpaintingLoss, VGGFeatures
from pconv.metrics import classical, damaged, evaluate
from pconv.precision import fast_precision, get_precision, speed_note
from pconv.train import Trainer
from pconv.unet import PConvUNet

DEMO_FOLDER = Path("runs/demo")
_LOSSLESS = ("PNG", "TIFF", "BMP", "PPM", "TGA", "QOI", "JPEG2000")
_LOSSY = ("JPEG", "WEBP", "AVIF")
_WITH_ALPHA = ("PNG", "TIFF", "WEBP", "AVIF")

# What must stay the same when a training goes on.
_FIXED = (
    "photos", "size", "batch", "seed", "lr", "schedule", "widths", "residual", "vgg_arch", "vgg_layers", "loss_weights"
)  # fmt: skip


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


def demo(options: argparse.Namespace) -> None:
    """Trains the same U-Net on the same batches in every precision asked for and prints one table."""
    names = options.precision or (("fp32", "bf16") if options.device.type == "cpu" else ("fp32", "fp16", "bf16"))
    options.steps = options.steps or (80 if not any(speed_note(name, options.device) for name in names) else 60)
    with door():
        for name in names:
            get_precision(name, options.device)
        photos = None if options.photos is None else _photo_folder(options)
        train_photos, held_out = demo_photos(photos)
        shipped = load_pretrained(options.device)
        PConvUNet(widths=WIDTHS).check_batch(options.batch, options.size, options.size)
        try:
            folder = _writable(options.out)
        except OSError as error:
            if options.out != DEMO_FOLDER:  # asked for
                raise
            folder = Path(tempfile.mkdtemp(prefix="pconv-demo-"))
            print(f"Pictures go to {folder}: {error}")
    run_demo(
        train_photos, held_out, shipped, folder, names,
        options.device, options.size, options.batch, options.steps, options.seed,
    )  # fmt: skip


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
            if options.workers is None:  # a GPU waits for its photos; a CPU's cores have enough to do
                cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
                ranks = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
                options.workers = min(16, cores // ranks) if options.device.type == "cuda" else 0
            batches = TrainingBatches(
                photos, options.size, options.batch, options.seed, share=share, workers=options.workers
            )
            batches[0]  # refuses photos of which none can be read, before anything is written
            torch.manual_seed(options.seed)
            if options.init:
                model, before = _photo_weights(options.init).train(), read_metadata(options.init).get("training", "[]")
                try:
                    before = [*json.loads(before)]
                except (ValueError, TypeError) as error:
                    raise ValueError(f"{options.init}: its record of past training is damaged: {error}") from error
                options.widths, options.residual = model.widths, model.residual
            else:
                model, before = PConvUNet(widths=options.widths, residual=options.residual), []
            model.check_batch(options.batch // share[1], options.size, options.size)
            if options.vgg == "imagenet":
                features = VGGFeatures.available(options.vgg_arch, options.vgg_layers)
            else:
                features = VGGFeatures(options.vgg, options.vgg_arch, options.vgg_layers)
            if not options.lr > 0:
                raise ValueError(f"--lr {options.lr}: expected a positive number")
            loss = InpaintingLoss(features, options.loss_weights)
            cosine = options.steps if options.schedule == "cosine" else None
            trainer = Trainer(model, loss, options.precision, options.device, options.lr, cosine=cosine)
            trainer.settings = {name: str(getattr(options, name)) for name in _FIXED}
            trainer.settings["vgg"] = features.weights if loss.uses_features else "not used"
            if cosine:
                trainer.settings["schedule"] += f" over {cosine} steps"
            checkpoint = options.out / "checkpoint.pt"
            if share[0] == 0:
                _check_unused(options, checkpoint)
                stack.enter_context(locked(_writable(options.out)))
                _check_unused(options, checkpoint)  # another training may have ended there in between
            if options.resume and checkpoint.is_file():
                _resume(trainer, batches, checkpoint)
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
            settings = {name: value for name, value in trainer.settings.items() if name != "seed"}
            phase = provenance(options.device, options.seed, **settings, precision=options.precision)
            rates = trainer.history.series("samples_per_second")[1]
            seconds = options.batch * trainer.read_every * sum(1 / rate for rate in rates)
            phase |= {"steps": trainer.step, "photos": len(photos), "hours": round(seconds / 3600, 2)}
            save_weights(trainer.model, weights, training=json.dumps([*before, phase]))
            if batches.unreadable:
                print(f"{len(batches.unreadable)} photo(s) could not be read, skipped:", file=sys.stderr)
                print("\n".join(batches.unreadable.values()), file=sys.stderr)
            print(f"Weights: {weights}\nHistory: {options.out / 'history.csv'}\nVGG: {trainer.settings['vgg']}")


def _check_unused(options: argparse.Namespace, checkpoint: Path) -> None:
    goes_on = options.resume and checkpoint.is_file()
    if not goes_on and options.out.is_dir() and any(path.name[0] != "." for path in options.out.iterdir()):
        raise ValueError(f"{options.out} is not empty: name a new folder, or go on in it with --resume")


def _resume(trainer: Trainer, batches: TrainingBatches, checkpoint: Path) -> None:
    wanted, state = trainer.settings, load_checkpoint(checkpoint)
    if not isinstance(state.get("settings"), dict):
        raise ValueError(f"{checkpoint} has no settings: it is not a checkpoint of `pconv train`")
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
    """Measures weights in six buckets of hole ratio, inside the photo and at its border, beside other methods."""
    with door():
        weights = options.weights or pretrained_file()
        methods = {"pconv": _photo_weights(weights, options.device), "damaged": damaged, **classical()}
        unknown = set(options.methods or ()) - set(methods)
        if unknown:
            raise ValueError(f"--methods {', '.join(sorted(unknown))}: expected some of {', '.join(methods)}")
        photos = bundled_photos(held_out=True) if options.photos is None else _named(_photo_folder(options))
        for path in filter(None, (options.csv, options.json)):
            _writable(path.parent, path)
    photos = {name: centre_crop(photo, options.size) for name, photo in photos.items()}
    methods = {name: methods[name] for name in options.methods or methods}
    rows, count, rates = [], 2 * len(BUCKETS) * len(photos), {}
    print(f"{'':<14}hole ratio   holes        L1    PSNR    SSIM   PSNR in holes  SSIM in holes")
    for method, restore in methods.items():
        start = time.perf_counter()
        with tqdm(total=count, desc=method, unit="photo", leave=False, dynamic_ncols=True) as bar:
            found = evaluate(restore, photos, options.seed, bar)
        rates[method] = count / (time.perf_counter() - start)
        for row in found:
            print(
                f"{method:<14}({row['low']:.2f},{row['high']:.2f}]  {row['holes']:<9}{row['l1']:>6.4f}"
                f"{row['psnr']:>8.2f}{row['ssim']:>8.4f}{row['psnr_holes']:>16.2f}{row['ssim_holes']:>15.4f}"
            )
        rows += [{"method": method, **row} for row in found]
    print("Photos a second: " + ", ".join(f"{name} {rate:.1f}" for name, rate in rates.items()))
    if options.csv:
        History(rows).to_csv(options.csv)
    if options.json:
        settings = {"weights": weights.name, "size": options.size, "photos": len(photos)}
        write_json(options.json, rows, provenance(options.device, options.seed, **settings))


def inpaint_command(options: argparse.Namespace) -> None:
    """Fills the holes of one photo with trained weights."""
    with door():
        photo, white = as_photo(options.photo), as_photo(options.mask).max(2) > 127
        alpha = _alpha(options.photo)
        if white.shape != photo.shape[:2]:
            raise ValueError(f"{options.mask} has {white.shape} pixels, the photo {options.photo} {photo.shape[:2]}")
        if options.output.exists() and not options.force:
            raise ValueError(f"{options.output} exists: --force overwrites it")
        format = Image.registered_extensions().get(options.output.suffix.lower())
        if format not in (*_LOSSLESS, *_LOSSY):
            raise ValueError(f"{options.output}: give the output a photo's ending, such as .png")
        model = _photo_weights(options.weights or pretrained_file(), options.device)
        _writable(options.output.parent, options.output)
    start = time.perf_counter()
    if format in _LOSSY:
        print(f"Note: {options.output.suffix} is lossy and changes all pixels a little; .png keeps them bit for bit.")
    picture = Image.fromarray(inpaint(model, photo, white if options.mask_is == "holes" else ~white))
    if alpha is not None and format in _WITH_ALPHA:
        picture.putalpha(alpha)
    try:
        encoded = io.BytesIO()  # on a full disk Pillow itself would cut a JPEG without a word and never end a JPEG 2000
        picture.save(encoded, format, **({"quality": 95} if format in _LOSSY else {}))
        with replacing(options.output) as temporary:
            temporary.write_bytes(encoded.getbuffer())
    except (OSError, ValueError) as error:  # no room left, or more pixels a side than the format can hold
        refuse(f"{options.output} cannot be written: {error}")
    print(f"{options.output}: {photo.shape[1]}×{photo.shape[0]} pixels in {time.perf_counter() - start:.2f} s")


def _alpha(path: Path) -> Image.Image | None:
    """The photo's transparency, turned as the photo is: it is handed on as it was. None for a photo that has none."""
    with Image.open(path) as image:
        image = ImageOps.exif_transpose(image)
        return image.convert("RGBA").getchannel("A") if image.has_transparency_data else None


def bench(options: argparse.Namespace) -> None:
    """Prints what a training step costs with plain, partial and textbook convolutions."""
    with door():
        for name in options.precision:
            get_precision(name, options.device)
        if options.json:
            _writable(options.json.parent, options.json)
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


def _photo_folder(options: argparse.Namespace) -> PhotoFolder:
    photos = PhotoFolder(options.photos, options.strict)
    if photos.unreadable:
        print(f"{len(photos.unreadable)} unreadable, skipped: {', '.join(photos.unreadable)}", file=sys.stderr)
    return photos


def _photo_weights(path: Path, device: str | torch.device = "cpu") -> PConvUNet:
    model = load_weights(path, device)
    if (model.in_channels, model.out_channels) != (3, 3):
        raise ValueError(f"{path} takes {model.in_channels} channels and gives {model.out_channels}; a photo has 3")
    return model


def _named(photos: PhotoFolder) -> dict[str, np.ndarray]:
    return dict(zip(photos.names, photos, strict=True))


def _writable(folder: Path, file: Path | None = None) -> Path:
    """The folder, made where there is none; raises OSError where one cannot write to it, or the file cannot be one."""
    if file is not None and file.is_dir():
        raise IsADirectoryError(f"{file} is a folder: name a file")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OSError(f"cannot write to {folder}: {error.strerror}") from error
    return folder
