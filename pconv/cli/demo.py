"""`pconv demo`: the shipped weights at work; then a small U-Net in FP32 and AMP, side by side."""

import argparse
import tempfile
from collections.abc import Sequence
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Subset
from tqdm.auto import tqdm

from pconv.benchmark import make_step, mebibytes, peak_memory, provenance
from pconv.checks import check_training_batch
from pconv.cli.common import (
    add_command,
    cli_errors,
    make_writable,
    name_list,
    name_photo,
    report_unreadable,
)
from pconv.cli.plots import plot_curves, write_sheet
from pconv.data import TrainingBatches
from pconv.devices import performance_warning
from pconv.files import write_json
from pconv.holes import random_holes
from pconv.inpainting import inpaint, load_pretrained
from pconv.losses import InpaintingLoss
from pconv.metrics import average, biharmonic, compare, damaged
from pconv.photos import PhotoFolder, ReadablePhotos, bundled_photos, center_crop
from pconv.precision import PRECISIONS, get_precision
from pconv.train import Trainer
from pconv.unet import SMALL_WIDTHS, PConvUNet
from pconv.vgg import VGGFeatures

DEFAULT_FOLDER = Path("runs/demo")
_ROUNDS = 8  # the precisions take turns, so that a machine that slows down slows all of them


def add_parser(commands) -> None:
    parser = add_command(
        commands,
        "demo",
        run,
        "Train one small U-Net in FP32 and in AMP and compare.",
        size=96,
        batch=4,
        steps=None,
        out=DEFAULT_FOLDER,
        photos=None,
    )
    names = ", ".join(PRECISIONS)
    parser.add_argument(
        "--precision",
        type=name_list,
        help=f"some of {names} (default: fp32,bf16; with fp16 on a GPU)",
    )
    parser.epilog = (
        "Default of --steps: 80, and 60 where a precision is emulated, so that it takes no more "
        "than 4 minutes."
    )


def run(options: argparse.Namespace) -> None:
    """Trains the same U-Net on the same batches in every precision and prints one table."""
    names = options.precision
    if names is None:
        names = ("fp32", "bf16") if options.device.type == "cpu" else ("fp32", "fp16", "bf16")
    with cli_errors():
        for name in names:
            get_precision(name, options.device)
        photos = options.photos and PhotoFolder(options.photos, options.strict)
        train_photos, held_out = split_photos(photos, options.strict, options.verbose)
        shipped = load_pretrained(options.device)
        check_training_batch(
            PConvUNet(widths=SMALL_WIDTHS), options.batch, options.size, options.size
        )
        folder = _make_folder(options.out)
    warnings = list(filter(None, (performance_warning(name, options.device) for name in names)))
    if options.steps is None:
        options.steps = 60 if warnings else 80
    methods = {"damaged": damaged, "biharmonic": biharmonic, "shipped": partial(inpaint, shipped)}
    sheet = folder / "shipped_weights.png"
    write_sheet(_draw_samples(held_out, 256, options.seed)[::3], methods, sheet)
    print(f"What the shipped weights do, as they are: {sheet}\n")
    samples = _draw_samples(held_out, options.size, options.seed)
    rows = [{"name": name, **_measure(restore, samples)} for name, restore in methods.items()]
    print(f"Now a small U-Net learns from scratch, in {' and '.join(names)}.")
    features = VGGFeatures.available()
    trainers, batches = _train(names, train_photos, samples, features, options)
    skipped = next(iter(batches.values())).unreadable.items()
    report_unreadable({name_photo(train_photos, i): why for i, why in skipped}, options.verbose)
    for name, trainer in trainers.items():
        rows.append(_summarize(name, trainers, next(batches[name])))
        methods[name] = partial(inpaint, trainer.model)
    _write_results(folder, rows, samples, methods, trainers, features, options)
    _print_table(rows)
    print(f"\nHeld out: {', '.join(held_out)}. PSNR in dB. ", end="")
    print(f"Memory: the peak of a training step. VGG: {features.weights}.")
    for warning in warnings:
        print(f"Note: {warning}.")
    print(f"Curves over time: {folder / 'curves.png'}")
    print(f"Before and after: {folder / 'before_after.png'}")


def split_photos(
    photos: PhotoFolder | None, strict: bool = False, verbose: bool = False
) -> tuple[Sequence[np.ndarray], dict[str, np.ndarray]]:
    """Photos to train on and, by name, photos held out.

    Args:
        photos: a folder, of which every fifth is held out, four at most; None for the bundled ones.
        strict: whether an unreadable photo is an error; else it is skipped, with a line that says
            so, and with `verbose` why.

    Raises ValueError for a folder with less than two photos that can be read.
    """
    if photos is None:
        return list(bundled_photos().values()), bundled_photos(held_out=True)
    apart = range(0, len(photos), min(5, len(photos)))
    candidates = ReadablePhotos(photos, apart)
    held_out = dict(islice(candidates, 4))
    if strict and candidates.unreadable:
        raise ValueError(next(iter(candidates.unreadable.values())))
    others = ReadablePhotos(photos, [i for i in range(len(photos)) if i not in apart])
    if not held_out or next(iter(others), None) is None:
        unreadable = [*candidates.unreadable.values(), *others.unreadable.values()]
        raise ValueError(
            f"{photos.folder} holds less than two photos that can be read: the demo trains on some "
            f"and holds others out. {' '.join(unreadable[-1:])}"
        )
    report_unreadable(candidates.unreadable, verbose)
    return Subset(photos, others.indices), held_out


def _make_folder(folder: Path) -> Path:
    """The folder --out; a temporary one if nobody asked for the default and it is not writable."""
    try:
        return make_writable(folder)
    except OSError as error:
        if folder != DEFAULT_FOLDER:
            raise
        temporary = Path(tempfile.mkdtemp(prefix="pconv-demo-"))
        print(f"Pictures go to {temporary}: {error}")
        return temporary


def _draw_samples(
    photos: dict[str, np.ndarray], size: int, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(photo, holes) pairs: the middle of each photo, three times, each time with other holes."""
    rng = np.random.default_rng(seed)
    crops = [center_crop(photo, size) for photo in photos.values()]
    return [(crop, random_holes(size, size, (0.1, 0.3), rng)) for crop in crops for _ in range(3)]


def _measure(restore, samples) -> dict[str, float]:
    """The means of `compare` over the samples."""
    return average([compare(restore(photo, holes), photo, holes) for photo, holes in samples])


def _train(
    names: Sequence[str],
    photos: list[np.ndarray],
    samples: list[tuple[np.ndarray, np.ndarray]],
    features: VGGFeatures,
    options: argparse.Namespace,
) -> tuple[dict[str, Trainer], dict[str, TrainingBatches]]:
    """Trains in every precision, from the same weights and on the same batches, in turns."""
    trainers, batches = {}, {}
    for name in names:
        torch.manual_seed(options.seed)
        trainers[name] = Trainer(
            PConvUNet(widths=SMALL_WIDTHS, residual=True),
            InpaintingLoss(features),
            name,
            options.device,
            lr=2e-3,
            log_every=options.steps,
        )
        batches[name] = TrainingBatches(
            photos,
            options.size,
            options.batch,
            seed=options.seed,
            ratio=(0.05, 0.4),
            device=options.device,
        )

    def validate(model: PConvUNet) -> dict[str, float]:
        return _measure(partial(inpaint, model), samples)

    total = options.steps * len(trainers)
    with tqdm(total=total, desc="training", unit="step", dynamic_ncols=True) as progress:
        for part in np.array_split(np.arange(options.steps), min(options.steps, _ROUNDS)):
            for name, trainer in trainers.items():
                trainer.fit(
                    batches[name],
                    len(part),
                    validate=validate,
                    validate_every=options.steps,
                    progress=progress,
                )
    return trainers, batches


def _summarize(name: str, trainers: dict[str, Trainer], batch) -> dict:
    """The row of a precision: its last measurement, its speed relative to the first, its memory."""
    trainer = trainers[name]
    image, mask = batch
    measurements = ("l1", "psnr", "ssim", "psnr_holes", "ssim_holes")
    last = trainer.history.rows[-1]
    rates = trainer.history.series("samples_per_second")[1]
    first_rates = next(iter(trainers.values())).history.series("samples_per_second")[1]

    model, loss, optimizer = trainer.model, trainer.loss, trainer.optimizer
    step = make_step(model, loss, optimizer, trainer.precision, image, mask, trainer.scaler)
    live = (*model.state_dict().values(), *loss.state_dict().values(), image, mask)
    return {
        "name": name,
        **{key: last[key] for key in measurements},
        "samples_per_second": float(np.median(rates)),
        "relative_speed": float(np.median(np.divide(rates, first_rates))),  # round by round
        "peak_bytes": peak_memory(step, trainer.device, optimizer, live),
    }


def _write_results(folder, rows, samples, methods, trainers, features, options) -> None:
    """Writes before_after.png, curves.png and demo.json."""
    write_sheet(samples[::3], methods, folder / "before_after.png")
    quantities = {
        "total": "training loss",
        "psnr_holes": "held-out PSNR in the holes (dB)",
        "ssim": "held-out SSIM",
    }
    histories = {name: trainer.history for name, trainer in trainers.items()}
    plot_curves(histories, quantities, folder / "curves.png")
    record = provenance(
        options.device,
        options.seed,
        vgg=features.weights,
        size=options.size,
        batch=options.batch,
        steps=options.steps,
        widths=SMALL_WIDTHS,
    )
    write_json(folder / "demo.json", rows, record)


def _print_table(rows: list[dict]) -> None:
    print(f"\n{'':<38}{'whole photo':>15}{'in the holes':>17}")
    print(
        f"{'':<12}{'samples/s':>9}{'speed':>8}{'memory':>9}"
        f"{'PSNR':>8}{'SSIM':>7}{'PSNR':>10}{'SSIM':>7}"
    )
    for row in rows:
        rate, speed, memory = "-", "-", "-"
        if "relative_speed" in row:
            rate = f"{row['samples_per_second']:.1f}"
            speed = f"{row['relative_speed']:.2f}×"
            memory = mebibytes(row["peak_bytes"])
        print(
            f"{row['name']:<12}{rate:>9}{speed:>8}{memory:>9}"
            f"{row['psnr']:>8.2f}{row['ssim']:>7.3f}"
            f"{row['psnr_holes']:>10.2f}{row['ssim_holes']:>7.3f}"
        )
