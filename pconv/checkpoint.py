"""Checkpoints: written whole or not at all, loaded as data, one training per folder."""

import io
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from zipfile import ZipFile, is_zipfile

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pconv.files import atomic_write

_FORMAT = "pconv checkpoint 1"


def get_training_state(trainer, batches: Iterable | None = None) -> dict:
    """All that a training needs to go on: weights, optimizer, random numbers, place in the data.

    trainer: a Trainer. batches: what it trains on; their `position` is kept if they have one.
    """
    random_cuda = None
    if trainer.device.type == "cuda":
        random_cuda = torch.cuda.get_rng_state(trainer.device)
    return {
        "step": trainer.step,
        "model": trainer.model.state_dict(),
        "average": {} if trainer.average is None else trainer.average.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "scaler": trainer.scaler.state_dict(),
        "precision": trainer.precision.name,
        "settings": trainer.settings,
        "threads": torch.get_num_threads(),
        "random": torch.get_rng_state(),
        "random_cuda": random_cuda,
        "history": trainer.history.rows,
        "position": getattr(batches, "position", trainer.step),
    }


def set_training_state(trainer, state: dict, batches: Iterable | None = None) -> None:
    """Makes a trainer, and its batches, what they were when `state` was taken.

    Raises ValueError if a part is missing, or if model or precision are not those of the state.
    """
    own = get_training_state(trainer)
    state = {"average": {}, **state}  # checkpoints from before there were averages
    own["random_cuda"] = state.get("random_cuda")  # None without a GPU
    missing = [key for key, value in own.items() if not isinstance(state.get(key), type(value))]
    if missing:
        names = ", ".join(missing)
        raise ValueError(f"the checkpoint has no {names} as Trainer.state() gives it")
    if state["precision"] != own["precision"]:
        raise ValueError(
            f"the checkpoint was trained in {state['precision']}, not in {own['precision']}"
        )
    try:
        trainer.model.load_state_dict(state["model"])
        if trainer.average is not None and state["average"]:
            trainer.average.load_state_dict(state["average"])
        trainer.optimizer.load_state_dict(state["optimizer"])
        trainer.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["random"])
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(f"the checkpoint is of another model: {reason}") from error
    if state["random_cuda"] is not None and trainer.device.type == "cuda":
        torch.cuda.set_rng_state(state["random_cuda"], trainer.device)
    trainer.step = state["step"]
    trainer.history.rows = state["history"]
    trainer.settings = state["settings"]
    if hasattr(batches, "position"):
        batches.position = state["position"]


def save_checkpoint(path: str | Path, state: dict) -> None:
    """Writes `state` (tensors, numbers, strings, lists and dicts of them), whole or not at all.

    Killed at any moment, or with the disk full, the checkpoint that was there before is still
    there. Raises OSError.
    """
    buffer = io.BytesIO()
    torch.save({"format": _FORMAT, **state}, buffer)
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        file.write(buffer.getbuffer())
        file.flush()
        os.fsync(file.fileno())


def load_checkpoint(path: str | Path) -> dict:
    """What `save_checkpoint` saved; no code of the file is run.

    Raises ValueError, with the path, for anything else.
    """
    state = load_tensors(path)
    actual = state.get("format") if isinstance(state, dict) else None
    if actual != _FORMAT:
        kind = (
            f"a checkpoint of another version ({actual})" if actual else "not a checkpoint of pconv"
        )
        raise ValueError(f"{path} is {kind}; expected {_FORMAT!r}")
    return state


def load_tensors(path: str | Path) -> object:
    """What `torch.save` wrote, as data: no code of the file is run.

    Raises ValueError, with the path, for anything else, and OSError if it cannot be read.
    """
    try:
        if is_zipfile(path) and any(entry.compress_type for entry in ZipFile(path).infolist()):
            raise ValueError(
                "it is compressed, as torch.save never does, and may grow without bounds"
            )
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch.load raises anything at a damaged file: IndexError, ...
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path} is damaged or not a file of tensors: {reason}") from error


def load_weights_file(path: str | Path) -> dict[str, Tensor]:
    """A state_dict from a .safetensors file, or from one that `torch.save` wrote; as data.

    Raises FileNotFoundError, and ValueError with the path for a file that is neither.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"no weights at {path}: give a torchvision-format .pth or .safetensors file"
        )
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
    state = load_tensors(path)
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds a {type(state).__name__}, not a state_dict")
    return state


@contextmanager
def lock_folder(folder: str | Path) -> Iterator[None]:
    """Keeps a second training out of the folder; the lock dies with its process.

    On a disk that cannot lock, a line on stderr says so, and nothing is kept out. Raises
    BlockingIOError if another training holds the lock.
    """
    folder = Path(folder)
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise BlockingIOError(f"another training is running in {folder}") from None
    except (OSError, NotImplementedError) as error:
        print(
            f"Note: {folder} cannot be locked ({error}): do not start a second training there.",
            file=sys.stderr,
        )
    try:
        _remove_temporary_files(folder)
        yield
    finally:
        lock.release()


def _remove_temporary_files(folder: Path) -> None:
    """Those of a process that was killed while it wrote."""
    for name in ("checkpoint.*.pt", "weights.*.safetensors", "history.*.csv"):
        for temporary in folder.glob(f".{name}"):
            temporary.unlink()
