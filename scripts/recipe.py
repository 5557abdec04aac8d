"""Trains the shipped weights on, for as many minutes as there are: the recipe of the day.

python scripts/recipe.py --photos photos/train --out runs/recipe --minutes 5 --vgg vgg19.safetensors

From the shipped weights, with their batch norm frozen. With a VGG (`--vgg`, or torchvision's where
it can be had) the loss asks for texture, too; without one it is L1 and SSIM, as random filters
teach no texture. The learning rate falls along a cosine that ends when the time does.

Every minute `weights.safetensors`, in half precision, and `recipe.json` are written to --out: the
first and the last row measure the bundled photos that are held out, the others the training.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

import pconv
from pconv.benchmark import provenance
from pconv.data import TrainingBatches
from pconv.devices import default_precision, resolve_device
from pconv.files import write_json
from pconv.photos import PhotoFolder, center_crop

LAYERS = ("relu1_2", "relu2_2", "relu3_1")
TEXTURE = pconv.LossWeights(
    valid=0.1, hole=6, ssim=2, perceptual=0.05, style_out=0, style_comp=8, tv=0
)
COLORS = pconv.LossWeights(valid=0.1, hole=6, ssim=2, perceptual=0, style_out=0, style_comp=0, tv=0)
WARM_UP = 20  # steps, of which the speed is not typical
SECONDS_BETWEEN_SAVES = 60


def make_trainer(vgg: str | None, device: torch.device, lr: float) -> pconv.Trainer:
    """The shipped weights, ready to be trained on."""
    features = pconv.VGGFeatures(vgg, "vgg19", LAYERS) if vgg else None
    if features is None:
        features = pconv.VGGFeatures.available("vgg19", LAYERS)
    weights = COLORS if features.weights == "random" else TEXTURE
    return pconv.Trainer(
        pconv.load_pretrained(),
        pconv.InpaintingLoss(features, weights),
        default_precision(device),
        device,
        lr=lr,
        fine_tune_at=0,  # the batch norm of the encoder stays as it is
        fine_tune_lr=lr,
    )


def train_for(
    seconds: float, trainer: pconv.Trainer, batches: TrainingBatches, save: Callable[[dict], None]
) -> None:
    """Trains until `seconds` from now; `save` gets a row every minute and at the end."""
    start = time.monotonic()
    trainer.fit(batches, WARM_UP)
    while True:
        begun, step = time.monotonic(), trainer.step
        left = seconds - (begun - start)
        # Ten steps tell the speed; the rest of the minute is trained in one go.
        trainer.fit(batches, 10)
        per_second = 10 / (time.monotonic() - begun)
        trainer.cosine_decay_steps = step + max(10, int(left * per_second))
        count = int(min(left, SECONDS_BETWEEN_SAVES) * per_second) - 10
        if count > 0:
            trainer.fit(batches, count)
        taken = time.monotonic() - begun
        row = {name: float(value) for name, value in trainer.history.rows[-1].items()}
        save(row | {"minutes": (time.monotonic() - start) / 60})
        if seconds - (time.monotonic() - start) < taken / 4:
            return


def measure(model: pconv.PConvUNet) -> dict[str, float]:
    """Means over the bundled photos that are held out."""
    photos = [center_crop(photo, 256) for photo in pconv.bundled_photos(held_out=True).values()]
    rows = pconv.evaluate(model, photos)
    return {name: float(np.mean([row[name] for row in rows])) for name in ("l1", "psnr", "ssim")}


def run(options: argparse.Namespace, photos: Sequence[np.ndarray]) -> None:
    begun = time.monotonic()
    device = resolve_device(options.device)
    torch.manual_seed(options.seed)
    trainer = make_trainer(options.vgg, device, options.lr)
    batches = TrainingBatches(
        photos, options.size, options.batch, seed=options.seed, workers=options.workers
    )
    names = ("size", "batch", "lr", "minutes")
    settings = {name: getattr(options, name) for name in names} | {"photos": len(photos)}
    vgg = Path(trainer.loss.features.weights).name
    origin = provenance(device, options.seed, vgg=vgg, **settings)
    rows = [{"step": 0, "what": "before", **measure(trainer.model)}]
    options.out.mkdir(parents=True, exist_ok=True)

    def save(row: dict) -> None:
        path = options.out / "weights.safetensors"
        pconv.save_weights(trainer.model, path, torch.float16)
        rows.append({"what": "training", **row})
        write_json(options.out / "recipe.json", rows, origin)
        print(f"step {trainer.step}: {row['minutes']:.1f} min, loss {row['total']:.4f}", flush=True)

    # Measuring takes the time it took before the training, once more.
    spent = time.monotonic() - begun
    train_for(max(1.0, 60 * options.minutes - 1.5 * spent), trainer, batches, save)
    trainer.model.eval()
    rows.append({"step": trainer.step, "what": "after", **measure(trainer.model)})
    write_json(options.out / "recipe.json", rows, origin)
    for row in (rows[0], rows[-1]):
        print(f"{row['what']:<8}{row['psnr']:6.2f} dB, SSIM {row['ssim']:.4f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, help="a folder (default: the bundled photos)")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--vgg", help="a file with VGG19's features up to relu3_1")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=4e-4)
    parser.add_argument("--workers", type=int, default=0, help="processes that make batches")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.photos is None:
        photos = list(pconv.bundled_photos().values())
    else:
        photos = PhotoFolder(options.photos)
    run(options, photos)


if __name__ == "__main__":
    main()
