"""Trains the shipped weights on, for as many minutes as there are: the recipe of the day.

python scripts/recipe.py --photos photos/train --out runs/recipe --minutes 60 --vgg vgg.safetensors

From the shipped weights, with their batch norm frozen and holes of many kinds; a tenth of the
photos is gray. With a VGG (`--vgg`, or torchvision's where it can be had) the loss asks for
texture, and guides what is copied; without one it is L1 and SSIM, as random filters teach no
texture. The learning rate falls along a cosine that ends when the time does.

Every minute `weights.safetensors`, in half precision, and `recipe.json` are written to --out: the
first and the last row measure the bundled photos that are held out, the others the training.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

import pconv
from pconv.benchmark import provenance
from pconv.data import TrainingBatches
from pconv.devices import default_precision, resolve_device
from pconv.files import write_json
from pconv.inpainting import pretrained_file, read_metadata
from pconv.losses import gram_matrix, l1
from pconv.patches import CELL, NEVER
from pconv.photos import PhotoFolder, as_photo, center_crop

LAYERS = ("relu1_2", "relu2_2", "relu3_1")
TEXTURE = pconv.LossWeights(
    valid=0, hole=2, perceptual=0.08, style_out=0, style_comp=30, tv=0, ssim=0
)
COLORS = pconv.LossWeights(valid=0, hole=6, perceptual=0, style_out=0, style_comp=0, tv=0, ssim=2)
GUIDANCE = 0.05  # weight of the cross-entropy that says what to copy
GUIDE_SHARPNESS = 0.08  # of the similarities that it follows
GRAY_EVERY = 10  # photos
WARM_UP = 20  # steps, of which the speed is not typical
SECONDS_BETWEEN_SAVES = 60


class SomeGray(Sequence):
    """Photos of which every tenth is gray, so that gray photos are filled without colors."""

    def __init__(self, photos: Sequence):
        self.photos = photos

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> np.ndarray:
        photo = as_photo(self.photos[index])
        if index % GRAY_EVERY:
            return photo
        gray = np.rint(photo @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)
        return np.repeat(gray[:, :, None], 3, 2)


class TextureLoss(pconv.InpaintingLoss):
    """The loss of the composite alone, and guidance for what the model copies.

    Cells should copy from those that look alike to VGG in the real photo, which the model does not
    see: a cross-entropy with the softmax of their similarity.
    """

    def __init__(self, features, weights: pconv.LossWeights, shift: int, model: pconv.PConvUNet):
        super().__init__(features, weights, shift)
        self.seen = {}
        if model.copier is None:
            return
        match = model.copier.match

        def watched(known: Tensor, mask: Tensor, *others: Tensor) -> Tensor:
            self.seen = {"mask": mask, "logits": match(known, mask, *others)}
            return self.seen["logits"]

        model.copier.match = watched

    def forward(self, output: Tensor, target: Tensor, mask: Tensor) -> pconv.LossTerms:
        terms = super().forward(output, target, mask)
        if not self.uses_features or not self.seen:
            return terms
        return terms._replace(total=terms.total + GUIDANCE * self._guide(target))

    def _compare_features(self, output: Tensor, composite: Tensor, target: Tensor) -> list[Tensor]:
        with torch.no_grad():
            real_features = self.features(target)
        sums = [output.new_zeros(()) for _ in range(3)]
        for made, real in zip(self.features(composite), real_features, strict=True):
            sums[0] = sums[0] + l1(made, real)
            sums[2] = sums[2] + l1(gram_matrix(made), gram_matrix(real))
        return sums

    def _guide(self, target: Tensor) -> Tensor:
        mask, logits = self.seen["mask"], self.seen["logits"]
        possible = logits > -NEVER / 2  # a cell must know what the other lacks
        with torch.no_grad():
            cells = self._describe(target)
            similarity = cells @ cells.mT / GUIDE_SHARPNESS
            wanted = similarity.masked_fill(~possible, -torch.inf).softmax(2).nan_to_num(0)
        asked = (F.avg_pool2d(mask, CELL).flatten(1) < 0.5) & possible.any(2)
        chosen = logits.log_softmax(2)
        entropy = -(wanted * chosen).sum(2)
        return (entropy * asked).sum() / asked.sum().clamp(min=1)

    def _describe(self, image: Tensor) -> Tensor:
        """VGG features around each cell, of length 1: (N, cells, channels)."""
        bottom, right = -image.shape[2] % CELL, -image.shape[3] % CELL
        image = F.pad(image, (0, right, 0, bottom), mode="replicate")
        rows, columns = (size // CELL for size in image.shape[2:])
        parts = []
        for feature in self.features(image):
            step = image.shape[2] // feature.shape[2]
            around = F.pad(feature.float(), [4 // step] * 4, mode="reflect")
            means = F.avg_pool2d(around, 2 * CELL // step, CELL // step)[:, :, :rows, :columns]
            means = means - means.mean((2, 3), keepdim=True)
            power = means.square().sum(1, keepdim=True).mean((2, 3), keepdim=True)
            parts.append(means / power.sqrt().clamp(min=1e-4))
        return F.normalize(torch.cat(parts, 1), dim=1).flatten(2).mT


def freeze_batch_norm(model: pconv.PConvUNet) -> None:
    """Its statistics and weights no longer change: a batch of a CPU is too small for them."""
    for block in (*model.encoder, *model.decoder):
        if block.norm is not None:
            block.norm.eval().requires_grad_(False)
            block.norm.train = lambda mode=True, norm=block.norm: norm


def make_trainer(
    vgg: str | None, device: torch.device, lr: float, init: Path | None = None
) -> pconv.Trainer:
    """The weights to start from, ready to be trained on."""
    if vgg:
        features = pconv.VGGFeatures(vgg, "vgg19", LAYERS, "average")
    else:
        features = pconv.VGGFeatures.available("vgg19", LAYERS, "average")
    model = pconv.load_weights(init or pretrained_file())
    freeze_batch_norm(model)
    weights = COLORS if features.weights == "random" else TEXTURE
    return pconv.Trainer(
        model,
        TextureLoss(features, weights, CELL, model),
        default_precision(device),
        device,
        lr=lr,
        ema=0.995,
        max_grad_norm=1.0,
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
    trainer = make_trainer(options.vgg, device, options.lr, options.init)
    batches = TrainingBatches(
        SomeGray(photos),
        options.size,
        options.batch,
        seed=options.seed,
        holes="mixed",
        workers=options.workers,
        device=device,
    )
    names = ("size", "batch", "lr", "minutes")
    settings = {name: getattr(options, name) for name in names} | {"photos": len(photos)}
    vgg = Path(trainer.loss.features.weights).name
    origin = provenance(device, options.seed, vgg=vgg, **settings)
    past = json.loads(read_metadata(options.init or pretrained_file()).get("training", "[]"))
    rows = [{"step": 0, "what": "before", **measure(trainer.model)}]
    options.out.mkdir(parents=True, exist_ok=True)

    def save(row: dict) -> None:
        path = options.out / "weights.safetensors"
        phase = origin | {"steps": trainer.step, "hours": round(row["minutes"] / 60, 2)}
        phase["photos"] = len(photos)
        training = json.dumps([*past, phase])
        pconv.save_weights(trainer.trained_model, path, torch.float16, training=training)
        rows.append({"what": "training", **row})
        write_json(options.out / "recipe.json", rows, origin)
        print(f"step {trainer.step}: {row['minutes']:.1f} min, loss {row['total']:.4f}", flush=True)

    # Measuring takes the time it took before the training, once more.
    spent = time.monotonic() - begun
    train_for(max(1.0, 60 * options.minutes - 1.5 * spent), trainer, batches, save)
    trained = trainer.trained_model.eval()
    rows.append({"step": trainer.step, "what": "after", **measure(trained)})
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
    parser.add_argument("--init", type=Path, help="weights (default: the shipped ones)")
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
