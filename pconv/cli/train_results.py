"""What a training is, for its checkpoint and its weights: settings, the record, the results."""

import argparse
import ast
import json
from pathlib import Path

from pconv.averaging import MovingAverage
from pconv.benchmark import provenance
from pconv.checkpoint import load_checkpoint
from pconv.cli.common import cli_errors
from pconv.history import History
from pconv.inpainting import read_metadata, save_weights
from pconv.losses import InpaintingLoss
from pconv.train import Trainer
from pconv.unet import PConvUNet

# What must stay the same when a training goes on, and its value for a checkpoint without it.
_SAME = {
    "photos": None,
    "size": None,
    "batch": None,
    "seed": None,
    "lr": None,
    "schedule": None,
    "widths": None,
    "residual": None,
    "copy_texture": "False",
    "vgg": None,
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


def describe_settings(options: argparse.Namespace, loss: InpaintingLoss) -> dict[str, str]:
    """The settings that a checkpoint keeps."""
    settings = {name: str(getattr(options, name)) for name in _SAME}
    settings["vgg"] = loss.features.weights if loss.uses_features else "not used"
    if options.schedule == "cosine":
        settings["schedule"] += f" over {options.steps} steps"
    settings["folder"] = str(options.photos and options.photos.resolve())
    settings["photo_count"] = str(options.photo_count)
    settings["past"] = json.dumps(options.past)
    return settings


def check_settings(checkpoint: Path, state: dict, trainer: Trainer) -> None:
    """Raises ValueError, with the flag, if a checkpoint is of another training."""
    settings = state.get("settings")
    if not isinstance(settings, dict):
        raise ValueError(f"{checkpoint} has no settings: it is not a checkpoint of `pconv train`")
    expected = {"precision": trainer.precision.name, **trainer.settings}
    actual = {"precision": state.get("precision"), **_SAME, **settings}
    for name in ("precision", *_SAME):
        same_folder = name == "photos" and actual.get("folder") == expected["folder"]
        if actual[name] != expected[name] and not same_folder:
            flag = name.replace("_", "-")
            before = f"--{flag} {actual[name]}"
            raise ValueError(f"{checkpoint} was trained with {before}, not {expected[name]}")


def read_record(path: Path) -> list:
    """How weights were trained; raises ValueError if that is damaged."""
    try:
        return [*json.loads(read_metadata(path).get("training", "[]"))]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: its record of past training is damaged: {error}") from error


def write_results(trainer: Trainer, options: argparse.Namespace) -> None:
    """Writes history.csv and the weights to --out."""
    _write(
        trainer.trained_model,
        trainer.history,
        trainer.step,
        trainer.precision.name,
        trainer.settings,
        options,
    )


def finish(options: argparse.Namespace) -> None:
    """The results of a training that was stopped, from its checkpoint alone."""
    checkpoint = options.out / "checkpoint.pt"
    with cli_errors():
        if not checkpoint.is_file():
            raise FileNotFoundError(
                f"no checkpoint at {checkpoint}: --out is the training's folder"
            )
        state = load_checkpoint(checkpoint)
        model = _rebuild_model(checkpoint, state)
    history = History(state["history"])
    _write(model, history, state["step"], state["precision"], state["settings"], options)


def _rebuild_model(checkpoint: Path, state: dict) -> PConvUNet:
    """The model, or the average of its weights, of a checkpoint; raises ValueError."""
    try:
        settings = state["settings"]
        model = PConvUNet(
            widths=ast.literal_eval(settings["widths"]),
            residual=settings["residual"] == "True",
            copy_texture=settings.get("copy_texture") == "True",
        )
        model.load_state_dict(state["model"])
        if state.get("average"):
            average = MovingAverage(model, float(settings["ema"]))
            average.load_state_dict(state["average"])
            model = average.module
    except (KeyError, ValueError, TypeError, SyntaxError, RuntimeError, AttributeError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(f"{checkpoint} is not a checkpoint of `pconv train`: {reason}") from error
    return model


def _write(
    model: PConvUNet,
    history: History,
    step: int,
    precision: str,
    settings: dict[str, str],
    options: argparse.Namespace,
) -> None:
    csv, weights = options.out / "history.csv", options.out / "weights.safetensors"
    history.to_csv(csv)
    steps, rates = history.series("samples_per_second")
    passed = [after - before for before, after in zip([0, *steps], steps)]
    seconds = sum(int(settings["batch"]) * n / rate for n, rate in zip(passed, rates, strict=True))
    private = ("seed", "folder", "photo_count", "past")
    public = {name: value for name, value in settings.items() if name not in private}
    phase = provenance(options.device, int(settings["seed"]), **public, precision=precision)
    phase |= {"steps": step, "hours": round(seconds / 3600, 2)}
    phase["photos"] = int(settings.get("photo_count", 0))
    past = json.loads(settings.get("past", "[]"))
    save_weights(model, weights, training=json.dumps([*past, phase]))
    print(f"Weights: {weights}\nHistory: {csv}\nVGG: {settings['vgg']}")
