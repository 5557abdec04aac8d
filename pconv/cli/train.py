"""`pconv train`: train a U-Net on a folder of photos."""

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from pconv import distributed
from pconv.checkpoint import load_checkpoint, lock_folder
from pconv.checks import check_training_batch
from pconv.cli.common import (
    cli_errors,
    exit_with_error,
    make_writable,
    name_photo,
    report_unreadable,
)
from pconv.cli.train_flags import add_flags
from pconv.cli.train_results import (
    check_settings,
    describe_settings,
    finish,
    read_record,
    write_results,
)
from pconv.data import TrainingBatches, UnreadablePhotosError, check_shares
from pconv.devices import default_precision, performance_warning
from pconv.inpainting import load_photo_weights
from pconv.losses import InpaintingLoss
from pconv.photos import PhotoFolder, ReadablePhotos, bundled_photos
from pconv.precision import get_precision
from pconv.train import Trainer
from pconv.unet import PConvUNet
from pconv.vgg import VGGFeatures


def add_parser(commands) -> None:
    add_flags(commands, run)


def run(options: argparse.Namespace) -> None:
    """Writes weights.safetensors, checkpoint.pt and history.csv to --out."""
    if options.finish:
        finish(options)
        return
    with ExitStack() as stack:
        rank, world_size = stack.enter_context(_process_group(options))
        with _all_or_none():
            trainer, batches = _build(options, rank, world_size)
        state = None
        checkpoint = options.out / "checkpoint.pt"
        with _all_or_none(), cli_errors():
            if rank == 0:
                _check_unused(options, checkpoint)
                make_writable(options.out)
                stack.enter_context(lock_folder(options.out))
                _check_unused(options, checkpoint)  # another training may have ended meanwhile
                state = _load_state(trainer, checkpoint, options)
        state = distributed.broadcast(state)  # the others may have another disk
        with _all_or_none(), cli_errors():
            validate = _open_log(trainer, options, state) if rank == 0 else None
            if state is not None:
                _resume(trainer, batches, checkpoint, state, rank)
        warning = performance_warning(trainer.precision.name, options.device)
        if warning and rank == 0:
            print(f"Note: {warning}.")
        _fit(trainer, batches, checkpoint, options, validate)
        if rank == 0:
            write_results(trainer, options)
            skipped = batches.unreadable.items()
            report_unreadable(
                {name_photo(batches.photos, index): why for index, why in skipped}, options.verbose
            )


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


@contextmanager
def _all_or_none() -> Iterator[None]:
    """Where one of several processes is refused, the others end, too, instead of waiting for it."""
    refused = None
    try:
        yield
    except SystemExit as stop:
        refused = stop
    if not any(distributed.gather(refused is not None)):
        return
    if refused is not None:
        raise refused
    exit_with_error("another process of this training was refused; see its line")


def _build(
    options: argparse.Namespace, rank: int, world_size: int
) -> tuple[Trainer, TrainingBatches]:
    """The trainer and its batches."""
    if options.precision is None:
        options.precision = default_precision(options.device)
    with cli_errors():
        get_precision(options.precision, options.device)
        photos = _open_photos(options)
        check_shares(options.batch, world_size)
    options.photo_count = len(photos)
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
    model = _make_model(options)
    with cli_errors():
        check_training_batch(model, options.batch // world_size, options.size, options.size)
        features = _make_features(options)
    loss = InpaintingLoss(features, options.loss_weights, options.vgg_shift)
    return _make_trainer(model, loss, options), batches


def _make_trainer(model: PConvUNet, loss: InpaintingLoss, options: argparse.Namespace) -> Trainer:
    trainer = Trainer(
        model,
        loss,
        options.precision,
        options.device,
        lr=options.lr,
        fine_tune_at=options.fine_tune_at,
        fine_tune_lr=options.fine_tune_lr,
        cosine_decay_steps=options.steps if options.schedule == "cosine" else None,
        ema=options.ema,
        texture_ramp_steps=options.ramp or 0,
        grad_accum_steps=options.grad_accum_steps,
        max_grad_norm=options.max_grad_norm,
        compile=options.compile,
    )
    trainer.settings = describe_settings(options, loss)
    return trainer


def _open_photos(options: argparse.Namespace) -> Sequence:
    """The photos, of which at least one can be read; raises ValueError if none can."""
    if options.photos is None:
        return list(bundled_photos().values())
    photos = PhotoFolder(options.photos, options.strict)
    readable = ReadablePhotos(photos)
    if next(iter(readable), None) is None:
        last = list(readable.unreadable.values())[-1]
        raise ValueError(f"no photo of {photos.folder} can be read; the last: {last}")
    return photos


def _default_workers(options: argparse.Namespace) -> int:
    """A GPU waits for its photos; a CPU's cores have enough to do."""
    if options.device.type != "cuda":
        return 0
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return min(16, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def _make_model(options: argparse.Namespace) -> PConvUNet:
    """A new model, or that of --init."""
    options.past = []
    if options.init is None:
        if options.copy_texture and len(options.widths) < 4:
            exit_with_error(f"--copy-texture needs 4 or more --widths, not {len(options.widths)}")
        kinds = {"residual": options.residual, "copy_texture": options.copy_texture}
        return PConvUNet(widths=options.widths, **kinds)
    with cli_errors():
        model = load_photo_weights(options.init).train()
        options.past = read_record(options.init)
    options.widths = model.widths
    options.residual = model.residual
    options.copy_texture = model.copy_texture
    return model


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


def _load_state(trainer: Trainer, checkpoint: Path, options: argparse.Namespace) -> dict | None:
    """What the checkpoint holds, if it is to be resumed; raises ValueError if it is of another."""
    if not (options.resume and checkpoint.is_file()):
        return None
    state = load_checkpoint(checkpoint)
    check_settings(checkpoint, state, trainer)
    return state


def _resume(
    trainer: Trainer, batches: TrainingBatches, checkpoint: Path, state: dict, rank: int
) -> None:
    """Goes on from the checkpoint; raises ValueError if it is of another training."""
    settings = trainer.settings
    try:
        trainer.resume(state, batches)
    except ValueError as error:
        raise ValueError(f"{checkpoint}: {error}") from error
    trainer.settings = settings
    if rank != 0:
        return
    print(f"resumed at step {trainer.step}")
    before, now = state["threads"], torch.get_num_threads()
    if before != now and trainer.device.type == "cpu":
        print(
            f"Note: it was saved with {before} threads and goes on with {now}, so not bit for bit; "
            f"with OMP_NUM_THREADS={before} it would."
        )


def _open_log(
    trainer: Trainer, options: argparse.Namespace, state: dict | None
) -> Callable[[nn.Module], dict[str, float]] | None:
    """Makes the trainer's history write to --log-dir; returns what measures held-out photos."""
    if options.log_dir is None:
        return None
    try:
        from pconv.cli.tensorboard import HeldOutPhotos, TensorBoardHistory
    except ImportError:
        raise ValueError("--log-dir needs tensorboard: pip install 'pconv[tensorboard]'") from None
    trainer.history = TensorBoardHistory(make_writable(options.log_dir), state)
    return HeldOutPhotos(trainer, options.size)


def _fit(
    trainer: Trainer,
    batches: TrainingBatches,
    checkpoint: Path,
    options: argparse.Namespace,
    validate: Callable | None,
) -> None:
    """Trains to step --steps; Ctrl-C, numbers that diverge and a full disk end it in one line."""
    steps = max(0, options.steps - trainer.step)
    try:
        trainer.fit(
            batches,
            steps,
            checkpoint=checkpoint,
            save_every=options.save_every,
            validate=validate,
            validate_every=options.log_images_every,
        )
    except KeyboardInterrupt:
        print(f"\nStopped and saved after step {trainer.step}", end="")
        print("; the same command with --resume goes on, --finish writes the weights.")
        sys.exit(130)
    except (FloatingPointError, UnreadablePhotosError, OSError) as error:
        print(f"pconv: {error}", file=sys.stderr)
        sys.exit(1)
    except RuntimeError as error:
        if not distributed.is_peer_failure(error):
            raise
        print("pconv: another process of this training has ended", file=sys.stderr)
        sys.exit(1)
