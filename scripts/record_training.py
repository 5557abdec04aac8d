"""Trains the same small U-Net in several precisions and with several seeds, and records the curves.

python scripts/record_training.py --json data/results/training_cpu.json

The U-Net is the paper's, smaller; it starts from random weights. The loss has the paper's terms;
the record says which VGG it had (`--vgg`). It is trained on the bundled photos, which everyone has,
and measured on those that are held out, before the first step and then over time. fp16-emulated is
FP16 for a machine without FP16 units: what the convolutions of the U-Net read and return is rounded
to float16, with a loss scale (`course.half.emulated_fp16`); VGG and the Gram matrices stay in
float32.

Written run by run; started again with the same settings, it trains what is missing.

On a GPU, which has time for larger crops and more seeds:

python scripts/record_training.py --device cuda --precision fp32,tf32,bf16,fp16 \
    --seeds 0,1,2,3,4,5 --size 96 --batch 16 --workers 4 \
    --json data/results/training_cuda.json
"""

import argparse
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

import pconv
from pconv.benchmark import provenance
from pconv.data import TrainingBatches
from pconv.devices import resolve_device
from pconv.files import write_json
from pconv.metrics import evaluate
from pconv.photos import center_crop
from pconv.train import Trainer
from pconv.unet import SMALL_WIDTHS

sys.path.insert(0, str(Path(__file__).parents[1] / "notebooks"))
from course.half import emulated_fp16
from course.records import choose_features, missing_cases, recorded_rows

EMULATED = "fp16-emulated"


def train(
    precision: str, seed: int, options: argparse.Namespace, features, held_out: dict
) -> tuple[list, list]:
    """Trains once; returns the curve and the last evaluation.

    The curve has one row before the first step and then one per `every` steps. Its loss is the mean
    over the batches since the row before. The evaluation has one row per bucket.
    """
    torch.manual_seed(seed)
    model = pconv.PConvUNet(widths=options.widths)
    emulated = replace(pconv.PRECISIONS["fp32"], name=EMULATED, scales=True)
    trainer = Trainer(
        model,
        pconv.InpaintingLoss(features),
        emulated if precision == EMULATED else precision,
        options.device,
        lr=2e-3,
        cosine_decay_steps=options.steps,
        log_every=1,
    )
    if trainer.precision.scales:
        trainer.scaler.set_growth_interval(options.growth)
    photos = list(pconv.bundled_photos().values())
    batches = TrainingBatches(
        photos, options.size, options.batch, seed=seed, workers=options.workers
    )

    def validate(model) -> dict[str, float]:
        rows = evaluate(model, held_out, seed=0)
        scale = {"loss_scale": trainer.scaler.get_scale()} if trainer.precision.scales else {}
        names = ("l1", "psnr", "ssim", "ssim_holes")
        means = {name: float(np.mean([row[name] for row in rows])) for name in names}
        return means | scale

    rounding = emulated_fp16(model) if precision == EMULATED else nullcontext()
    title = f"{precision}, seed {seed}"
    with tqdm(total=options.steps, desc=title, unit="step") as progress, rounding:
        start = {"step": 0, "skipped_steps": 0, **validate(model.eval())}
        trainer.fit(
            batches,
            options.steps,
            validate=validate,
            validate_every=options.every,
            progress=progress,
        )
        rows = evaluate(model, held_out, seed=0)
    who = {"seed": seed, "precision": precision}
    curve = [start]
    since = 0
    for at, row in enumerate(trainer.history.rows, 1):
        if "psnr" in row:  # measured there
            loss = float(np.mean([one["total"] for one in trainer.history.rows[since:at]]))
            curve.append({key: row[key] for key in start} | {"total": loss})
            since = at
    curve = [{**who, **row} for row in curve]
    return curve, [{**who, "step": options.steps, **row} for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--precision", default=f"fp32,bf16,{EMULATED}")
    parser.add_argument("--seeds", default="0,1,2,3")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument(
        "--every", type=int, default=25, help="steps from one measurement to the next"
    )
    parser.add_argument(
        "--growth",
        type=int,
        default=50,
        help="good steps until the loss scale doubles; torch: 2000",
    )
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--workers", type=int, default=0, help="processes that make batches")
    parser.add_argument("--widths", default=",".join(map(str, SMALL_WIDTHS)))
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--vgg", help="random, imagenet or a file (default: imagenet, where it can be had)"
    )
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    options.device = resolve_device(options.device)
    options.widths = [int(width) for width in options.widths.split(",")]
    features = choose_features(options.vgg)
    # four times the crop's pixels, so that there is more to fill than the network has seen at once
    held_out = {
        n: center_crop(photo, 2 * options.size)
        for n, photo in pconv.bundled_photos(held_out=True).items()
    }
    names = ("steps", "every", "growth", "size", "batch", "widths")
    origin = provenance(
        options.device,
        [int(seed) for seed in options.seeds.split(",")],
        vgg=features.weights,
        held_out=list(held_out),
        **{name: getattr(options, name) for name in names},
    )
    rows, curves = (
        recorded_rows(options.json, origin),
        recorded_rows(options.json, origin, "curves"),
    )
    precisions = options.precision.split(",")
    for seed, precision in missing_cases(rows, seed=origin["seed"], precision=precisions):
        curve, last = train(precision, seed, options, features, held_out)
        curves += curve
        rows += last
        # written now: it is kept, whatever becomes of the rest
        write_json(options.json, rows, origin | {"curves": curves})


if __name__ == "__main__":
    main()
