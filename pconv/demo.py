"""`pconv demo`: what the shipped weights do; then a small U-Net trained in FP32 and in AMP, side by side, one table."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from pconv.benchmark import megabytes, peak_memory, provenance
from pconv.data import PhotoFolder, TrainingBatches, bundled_photos, centre_crop, random_holes
from pconv.history import plot_curves, replacing, write_json
from pconv.inpainting import inpaint
from pconv.losses import InpaintingLoss, VGGFeatures
from pconv.metrics import classical, compare, damaged
from pconv.precision import speed_note
from pconv.train import Trainer, training_step
from pconv.unet import PConvUNet

WIDTHS = (32, 64, 128, 128, 128)  # a U-Net that a laptop trains in minutes
_ROUNDS = 8  # the precisions take turns, so that a machine that slows down slows all of them


def demo_photos(photos: PhotoFolder | None) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
    """Photos to train on and, by name, photos held out: the bundled ones, or every fifth of a folder, four at most."""
    if photos is None:
        return list(bundled_photos().values()), bundled_photos(held_out=True)
    if len(photos) < 2:
        raise ValueError(f"{photos.folder} holds one photo: the demo trains on some and holds others out")
    held_out = range(0, len(photos), min(5, len(photos)))
    shown = {photos.names[i]: photos[i] for i in held_out[:4]}
    return [photos[i] for i in range(len(photos)) if i not in held_out], shown


def run_demo(
    train_photos: Sequence[np.ndarray],
    held_out: dict[str, np.ndarray],
    shipped: PConvUNet,
    folder: Path,
    precisions: Sequence[str],
    device: torch.device,
    size: int,
    batch: int,
    steps: int,
    seed: int,
) -> list[dict]:
    """Trains in every precision from the same weights on the same batches; prints the table and returns its rows.

    Writes shipped_weights.png at once, then before_after.png, curves.png and demo.json to `folder`.
    """
    methods = {
        "damaged": damaged,
        "biharmonic": classical()["biharmonic"],
        "shipped": lambda photo, holes: inpaint(shipped, photo, holes),
    }
    samples = _samples(held_out, 256, seed)[::3]
    _write_sheet(samples, methods, folder / "shipped_weights.png")
    print(f"What the shipped weights do, as they are: {folder / 'shipped_weights.png'}\n")
    samples = _samples(held_out, size, seed)

    def measured(restore) -> dict[str, float]:
        rows = [compare(restore(photo, holes), photo, holes) for photo, holes in samples]
        return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}

    rows = [{"name": name, **measured(restore)} for name, restore in methods.items()]
    print(f"Now a small U-Net learns from scratch, in {' and '.join(precisions)}.")
    features, trainers, batches = VGGFeatures.available(), {}, {}
    for name in precisions:
        torch.manual_seed(seed)
        model = PConvUNet(widths=WIDTHS, residual=True)
        trainers[name] = Trainer(model, InpaintingLoss(features), name, device, lr=2e-3, read_every=steps)
        batches[name] = TrainingBatches(train_photos, size, batch, seed, (0.05, 0.4))
        methods[name] = lambda photo, holes, model=model: inpaint(model, photo, holes)
    with tqdm(total=steps * len(trainers), desc="training", unit="step", dynamic_ncols=True) as bar:
        for part in np.array_split(np.arange(steps), min(steps, _ROUNDS)):
            for name, trainer in trainers.items():
                trainer.fit(batches[name], len(part), lambda _, name=name: measured(methods[name]), steps, bar)

    histories = {name: trainer.history for name, trainer in trainers.items()}
    for name, trainer in trainers.items():
        image, mask = (t.to(device) for t in next(batches[name]))
        rates, first = (histories[key].series("samples_per_second")[1] for key in (name, precisions[0]))
        last = {key: histories[name].rows[-1][key] for key in rows[0] if key != "name"}  # measured when it ended
        rows.append({"name": name, **last, "samples_per_second": float(np.median(rates))})
        rows[-1]["relative_speed"] = float(np.median(np.divide(rates, first)))  # round by round
        rows[-1]["peak_bytes"] = peak_memory(
            lambda t=trainer, image=image, mask=mask: training_step(
                t.model, t.loss, t.optimizer, t.scaler, t.precision, image, mask
            ),
            trainer.device,
            trainer.optimizer,
            (*trainer.model.state_dict().values(), *features.state_dict().values(), image, mask),
        )
    sheet = folder / "before_after.png"
    _write_sheet(samples[::3], methods, sheet)
    curves = {"total": "training loss", "psnr_holes": "held-out PSNR in the holes (dB)", "ssim": "held-out SSIM"}
    plot_curves(histories, curves, folder / "curves.png")
    record = provenance(device, seed, vgg=features.weights, size=size, batch=batch, steps=steps, widths=WIDTHS)
    write_json(folder / "demo.json", rows, record)

    print(f"\n{'':<38}{'whole photo':>15}{'in the holes':>17}")
    print(f"{'':<12}{'samples/s':>9}{'speed':>8}{'memory':>9}{'PSNR':>8}{'SSIM':>7}{'PSNR':>10}{'SSIM':>7}")
    for row in rows:
        cost = f"{'-':>9}{'-':>8}{'-':>9}"
        if "relative_speed" in row:
            speed = f"{row['relative_speed']:.2f}×"
            cost = f"{row['samples_per_second']:>9.1f}{speed:>8}{megabytes(row['peak_bytes']):>9}"
        quality = f"{row['psnr']:>8.2f}{row['ssim']:>7.3f}{row['psnr_holes']:>10.2f}{row['ssim_holes']:>7.3f}"
        print(f"{row['name']:<12}{cost}{quality}")
    print(
        f"\nHeld out: {', '.join(held_out)}. PSNR in dB. Memory: the peak of a training step. VGG: {features.weights}."
    )
    for note in filter(None, (speed_note(name, device) for name in precisions)):
        print(f"Note: {note}.")
    print(f"Curves over time: {folder / 'curves.png'}\nBefore and after: {sheet}")
    return rows


def _samples(photos: dict[str, np.ndarray], size: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The middle of each photo, three times, each time with other holes."""
    rng = np.random.default_rng(seed)
    crops = [centre_crop(photo, size) for photo in photos.values()]
    return [(crop, random_holes(size, size, (0.1, 0.3), rng)) for crop in crops for _ in range(3)]


def _write_sheet(samples, methods: dict, path: Path) -> None:
    """Photo and restorations side by side, a row a photo, as a PNG."""
    from matplotlib.figure import Figure  # only where used

    columns = {"photo": lambda photo, holes: photo, **methods}
    figure = Figure(figsize=(2.2 * len(columns), 2.4 * len(samples)), layout="constrained")
    for panels, sample in zip(figure.subplots(len(samples), len(columns), squeeze=False), samples):
        for panel, (title, restore) in zip(panels, columns.items()):
            panel.imshow(restore(*sample))
            panel.set_title(title)
            panel.axis("off")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)
