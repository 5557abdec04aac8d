"""Checkpoints: written whole or not at all, loaded as data, one training a folder."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from zipfile import ZipFile, is_zipfile

import torch

from pconv.history import replacing

_FORMAT = "pconv checkpoint 1"


def save_checkpoint(path: str | Path, state: dict) -> None:
    """Writes `state` (tensors, numbers, strings, lists and dicts of them) under a temporary name, then renames it.

    Killed at any moment, or with the disk full, the checkpoint that was there before is still there. Raises OSError.
    """
    buffer = io.BytesIO()
    torch.save({"format": _FORMAT, **state}, buffer)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(buffer.getbuffer())
        file.flush()
        os.fsync(file.fileno())


def load_checkpoint(path: str | Path) -> dict:
    """What `save_checkpoint` saved; no code of the file is run. Raises ValueError, by name, for anything else."""
    state = load_tensors(path)
    found = state.get("format") if isinstance(state, dict) else None
    if found != _FORMAT:
        kind = f"a checkpoint of another version ({found})" if found else "not a checkpoint of pconv"
        raise ValueError(f"{path} is {kind}; expected {_FORMAT!r}")
    return state


def load_tensors(path: str | Path) -> object:
    """What `torch.save` wrote, as data: no code of the file is run. Raises ValueError for what is not that."""
    try:
        if is_zipfile(path) and any(entry.compress_type for entry in ZipFile(path).infolist()):
            raise ValueError("it is compressed, as torch.save never does, and may grow without bounds")
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch.load raises anything at a damaged file: IndexError, struct.error, …
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path} is damaged or not a file of tensors: {reason}") from error


@contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Keeps a second training out of the folder; the lock dies with its process. Raises BlockingIOError."""
    with open(Path(folder) / ".lock", "a+b") as file:
        try:
            if os.name == "nt":
                import msvcrt

                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise BlockingIOError(f"another training is running in {folder}") from error
        for name in ("checkpoint.*.pt", "weights.*.safetensors", "history.*.csv"):
            for left_over in Path(folder).glob(f".{name}"):  # of a process that was killed while it wrote
                left_over.unlink()
        yield
