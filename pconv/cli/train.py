"""`pconv train`: train a U-Net on a folder of photos."""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
import torch.distributed as dist

from pconv.benchmark import provenance
from pconv.checkpoint import load_checkpoint, lock_folder
from pconv.checks import check_training_batch
from pconv.cli.common import cli_errors, exit_with_error, make_writable, open_photos
from pconv.cli.train_flags import add_flags
from pconv.data import TrainingBatches, check_shares
from pconv.devices import default_precision, performance_warning
from pconv.inpainting import load_photo_weights, read_metadata, save_weights
from pconv.losses import InpaintingLoss
from pconv.photos import bundled_photos
from pconv.precision import get_precision
from pconv.train import Trainer
from pconv.unet import PConvUNet
from pconv.vgg import VGGFeatures

# What must stay the same when a training goes on, and its value for a checkpoint without it.
_RESUME_SETTINGS = {
    "photos": None,
    "size": None,
    "batch": None,
    "seed": None,
    "lr": None,
    "schedule": None,
    "widths": None,
    "residual": None,
    "copy_texture": "False",
    "vgg_arch": None,
    "vgg_layers": None,
    "loss_weights": None,
    "fine_tune_at": "None",
    "fine_tune_lr": "5e-05",
    "max_grad_norm": "None",
    "grad_accum_steps": "1",
    "holes": "irregular",
    "ema": "None",
    "ramp": "None",
    "vgg_pooling": "max",
    "vgg_shift": "1",
}


def add_parser(commands) -> None:
    add_flags(commands, run)


def run(options: argparse.Namespace) -> None:
    """Writes weights.safetensors, checkpoint.pt and history.csv to --out."""
    with ExitStack() as stack:
        rank, world_size = stack.enter_context(_process_group(options))
        trainer, batches, past = _build(options, rank, world_size)
        checkpoint = options.out / "checkpoint.pt"
        if rank == 0:
            with cli_errors():
                _check_unused(options, checkpoint)
                make_writable(options.out)
                stack.enter_context(lock_folder(options.out))
                _check_unused(options, checkpoint)  # another training may have ended meanwhile
        if options.resume and checkpoint.is_file():
            with cli_errors():
                _resume(trainer, batches, checkpoint)
            if rank == 0:
                print(f"resumed at step {trainer.step}")
        warning = performance_warning(trainer.precision.name, options.device)
        if warning and rank == 0:
            print(f"Note: {warning}.")
        _fit(trainer, batches, checkpoint, options)
        if rank == 0:
            _write_results(trainer, batches, past, options)


@contextmanager
def _process_group(options: argparse.Namespace) -> Iterator[tuple[int, int]]:
    """The rank of this process and how many there are; torchrun sets both."""
    rank = int(os.environ.get("RANK", 0))
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    if world_size == 1:
        yield rank, world_size
        return
    backend = "gloo"
    if options.device.type == "cuda":
        backend = "nccl"
        options.device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(options.device)
    dist.init_process_group(backend)
    try:
        yield rank, world_size
    finally:
        dist.destroy_process_group()


def _build(
    options: argparse.Namespace, rank: int, world_size: int
) -> tuple[Trainer, TrainingBatches, list]:
    """The trainer, its batches, and the record of the trainings that --init comes from."""
    if options.precision is None:
        options.precision = default_precision(options.device)
    with cli_errors():
        get_precision(options.precision, options.device)
        photos = _open_photos(options)
        check_shares(options.batch, world_size)
    batches = TrainingBatches(
        photos,
        options.size,
        options.batch,
        seed=options.seed,
        holes=options.holes,
        rank=rank,
        world_size=world_size,
        workers=_default_workers(options) if options.workers is None else options.workers,
        device=options.device,
    )
    torch.manual_seed(options.seed)
    model, past = _make_model(options)
    with cli_errors():
        check_training_batch(model, options.batch // world_size, options.size, options.size)
        features = _make_features(options)
    loss = InpaintingLoss(features, options.loss_weights, options.vgg_shift)
    trainer = _make_trainer(model, loss, options)
    return trainer, batches, past


def _make_trainer(model: PConvUNet, loss: InpaintingLoss, options: argparse.Namespace) -> Trainer:
    cosine = options.schedule == "cosine"
    trainer = Trainer(
        model,
        loss,
        options.precision,
        options.device,
        lr=options.lr,
        fine_tune_at=options.fine_tune_at,
        fine_tune_lr=options.fine_tune_lr,
        cosine_decay_steps=options.steps if cosine else None,
        ema=options.ema,
        texture_ramp_steps=options.ramp or 0,
        grad_accum_steps=options.grad_accum_steps,
        max_grad_norm=options.max_grad_norm,
        compile=options.compile,
    )
    trainer.settings = {name: str(getattr(options, name)) for name in _RESUME_SETTINGS}
    trainer.settings["vgg"] = loss.features.weights if loss.uses_features else "not used"
    if cosine:
        trainer.settings["schedule"] += f" over {options.steps} steps"
    return trainer


def _open_photos(options: argparse.Namespace) -> Sequence:
    """The photos, of which at least one can be read; raises ValueError if none can."""
    if options.photos is None:
        return list(bundled_photos().values())
    photos = open_photos(options)
    for index in range(len(photos)):
        try:
            photos[index]
            return photos
        except ValueError as error:
            last = error
    raise ValueError(f"no photo of {photos.folder} can be read; the last: {last}")


def _default_workers(options: argparse.Namespace) -> int:
    """A GPU waits for its photos; a CPU's cores have enough to do."""
    if options.device.type != "cuda":
        return 0
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return min(16, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def _make_model(options: argparse.Namespace) -> tuple[PConvUNet, list]:
    """A new model, or that of --init and the record of how it was trained."""
    if options.init is None:
        if options.copy_texture and len(options.widths) < 4:
            exit_with_error(f"--copy-texture needs 4 or more --widths, not {len(options.widths)}")
        kinds = {"residual": options.residual, "copy_texture": options.copy_texture}
        return PConvUNet(widths=options.widths, **kinds), []
    with cli_errors():
        model = load_photo_weights(options.init).train()
        past = _read_record(options.init)
    options.widths = model.widths
    options.residual = model.residual
    options.copy_texture = model.copy_texture
    return model, past


def _read_record(path: Path) -> list:
    try:
        return [*json.loads(read_metadata(path).get("training", "[]"))]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: its record of past training is damaged: {error}") from error


def _make_features(options: argparse.Namespace) -> VGGFeatures:
    if options.vgg == "imagenet":
        return VGGFeatures.available(options.vgg_arch, options.vgg_layers, options.vgg_pooling)
    return VGGFeatures(options.vgg, options.vgg_arch, options.vgg_layers, options.vgg_pooling)


def _check_unused(options: argparse.Namespace, checkpoint: Path) -> None:
    """Raises ValueError if the folder --out holds results that are not to be resumed."""
    if options.resume and checkpoint.is_file():
        return
    if options.out.is_dir() and any(path.name[0] != "." for path in options.out.iterdir()):
        raise ValueError(
            f"{options.out} is not empty: name a new folder, or go on in it with --resume"
        )


def _resume(trainer: Trainer, batches: TrainingBatches, checkpoint: Path) -> None:
    """Goes on from the checkpoint; raises ValueError if it is of another training."""
    state = load_checkpoint(checkpoint)
    settings = state.get("settings")
    if not isinstance(settings, dict):
        raise ValueError(f"{checkpoint} has no settings: it is not a checkpoint of `pconv train`")
    for name, expected in trainer.settings.items():
        actual = settings.get(name, _RESUME_SETTINGS.get(name))
        if actual != expected:
            flag = name.replace("_", "-")
            raise ValueError(f"{checkpoint} was trained with --{flag} {actual}, not {expected}")
    try:
        trainer.resume(state, batches)
    except ValueError as error:
        raise ValueError(f"{checkpoint}: {error}") from error


def _fit(
    trainer: Trainer, batches: TrainingBatches, checkpoint: Path, options: argparse.Namespace
) -> None:
    """Trains to step --steps; Ctrl-C, numbers that diverge and a full disk end it in one line."""
    steps = max(0, options.steps - trainer.step)
    try:
        trainer.fit(batches, steps, checkpoint=checkpoint, save_every=options.save_every)
    except KeyboardInterrupt:
        print(f"\nStopped and saved after step {trainer.step}", end="")
        print("; the same command with --resume goes on.")
        sys.exit(130)
    except (FloatingPointError, OSError) as error:
        print(f"pconv: {error}", file=sys.stderr)
        sys.exit(1)


def _write_results(
    trainer: Trainer, batches: TrainingBatches, past: list, options: argparse.Namespace
) -> None:
    """Writes history.csv and the weights, and says what was skipped."""
    history = options.out / "history.csv"
    weights = options.out / "weights.safetensors"
    trainer.history.to_csv(history)
    rates = trainer.history.series("samples_per_second")[1]
    seconds = options.batch * trainer.log_every * sum(1 / rate for rate in rates)
    settings = {name: value for name, value in trainer.settings.items() if name != "seed"}
    phase = provenance(options.device, options.seed, **settings, precision=options.precision)
    phase["steps"] = trainer.step
    phase["photos"] = len(batches.photos)
    phase["hours"] = round(seconds / 3600, 2)
    save_weights(trainer.trained_model, weights, training=json.dumps([*past, phase]))
    if batches.unreadable:
        print(f"{len(batches.unreadable)} photo(s) could not be read, skipped:", file=sys.stderr)
        print("\n".join(batches.unreadable.values()), file=sys.stderr)
    print(f"Weights: {weights}\nHistory: {history}\nVGG: {trainer.settings['vgg']}")
