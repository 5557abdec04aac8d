"""What several test files share: small photos, flags, and ways to look at what a command did."""

import builtins
import errno
import gc
import io
import os
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from pconv.cli import main
from pconv.photos import as_photo

RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 256, (24, 32, 3), dtype=np.uint8)
GRAY = PHOTO[:, :, 0]
HOLES = np.zeros((24, 32), bool)
HOLES[8:14, 5:20] = True

# The smallest run of the demo and of a training.
TINY = ["--size", "32", "--batch", "2", "--steps", "2", "--device", "cpu"]
# A training without VGG, of a net with one level.
TRAIN = ["train", "--size", "16", "--batch", "2", "--widths", "4", "--precision", "fp32"]
TRAIN += ["--device", "cpu", "--vgg", "random", "--vgg-layers", "pool1"]
TRAIN += ["--loss-weights", "perceptual=0,style_out=0,style_comp=0"]


def damaged(height, width, batch=2, keep=0.6):
    """An image and a mask with small holes."""
    return torch.rand(batch, 3, height, width), torch.rand(batch, 1, height, width) < keep


# Commands -----------------------------------------------------------------------------------------


def listing(folder: Path) -> dict:
    """Everything in a folder, with the size, time and inode of each file: any write changes it."""
    stats = {path: path.lstat() for path in folder.rglob("*")}
    return {
        path: None if path.is_dir() else (stat.st_size, stat.st_mtime_ns, stat.st_ino)
        for path, stat in stats.items()
    }


def assert_refused(capsys, arguments: list, words="", unchanged: Path | None = None) -> str:
    """The command exits with status 2 and one line on stderr that holds `words`; returns the line.

    unchanged: a folder in which nothing may be written.
    """
    before = listing(unchanged) if unchanged else None
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert stop.value.code == 2, captured
    assert captured.err.count("\n") == 1 and captured.err.startswith("pconv: ")
    assert str(words) in captured.err
    if unchanged:
        assert listing(unchanged) == before
    return captured.err


def run_to_exit(capsys, arguments: list) -> tuple[int, list[str]]:
    """Runs a command that must exit; its status and the lines on stderr that begin with pconv."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    code, error = stop.value.code, capsys.readouterr().err
    if isinstance(code, str):  # sys.exit prints it, and makes it 1
        code, error = 1, error + code + "\n"
    return code, [line for line in error.splitlines() if line.startswith("pconv: ")]


def inpaint_file(photo, mask, output, weights, *flags) -> np.ndarray:
    """Runs `pconv inpaint`; returns the photo that it wrote, in 8 bits."""
    arguments = ["inpaint", photo, mask, "-o", output, "--weights", weights, "--device", "cpu"]
    main([str(argument) for argument in (*arguments, *flags)])
    with Image.open(output) as image, Image.open(photo) as given:
        gray = given.mode in ("1", "L", "LA", "F", "I;16") and image.format != "WEBP"
        mode = "I;16" if given.mode == "I;16" and image.format == "PNG" else "L" if gray else "RGB"
        if given.has_transparency_data and image.format == "PNG":
            mode += "A"
        assert image.mode == mode or image.format == "QOI"
    return as_photo(output)


# Disks and permissions ----------------------------------------------------------------------------


class SmallDisk:
    """A folder whose disk can be filled: `leave(n)` leaves room for n bytes.

    What does not fit is written in part, then the write raises ENOSPC, as on a real disk. This
    holds for what Python code opens with `open` or pathlib.
    """

    def __init__(self, folder: Path, monkeypatch):
        self.folder = folder
        self.capacity = None  # in bytes
        self._open = io.open
        for module in (builtins, io):  # pathlib looks it up in io
            monkeypatch.setattr(module, "open", self.open)

    def used(self) -> int:
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())

    def leave(self, room: int | None) -> None:
        """None: as much as the real disk has."""
        self.capacity = None if room is None else self.used() + room

    def open(self, file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, **rest):
        is_path = isinstance(file, str | os.PathLike)
        if not is_path or self.folder not in Path(file).absolute().parents or mode in ("r", "rb"):
            return self._open(file, mode, buffering, encoding, errors, newline, **rest)
        raw = _FileOnSmallDisk(file, mode.replace("b", "").replace("t", ""), **rest)
        raw.disk = self
        if buffering == 0:
            return raw
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline)


class _FileOnSmallDisk(io.FileIO):
    def write(self, data) -> int:
        if self.disk.capacity is None:
            return super().write(data)
        room = max(0, self.disk.capacity - self.disk.used())
        if len(data) and not room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(memoryview(data).cast("B")[:room])


@contextmanager
def no_permission(path: Path):
    """Nobody may read or write this file, or enter this folder; not even root, who else may."""

    def deny_below(function, *, path_itself):
        def guarded(file=".", *arguments, **options):
            if isinstance(file, str | bytes | os.PathLike):
                place = Path(os.fsdecode(file)).absolute()
                if path in place.parents or (path_itself and place == path):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))
            return function(file, *arguments, **options)

        return guarded

    mode = path.stat().st_mode
    path.chmod(0)
    places = [(builtins, "open"), (io, "open")]
    places += [(os, name) for name in ("open", "mkdir", "scandir", "listdir", "stat", "lstat")]
    try:
        with pytest.MonkeyPatch.context() as patch:
            for module, name in places:
                function = getattr(module, name)
                asks_the_folder_above = name in ("stat", "lstat", "mkdir")
                guarded = deny_below(function, path_itself=not asks_the_folder_above)
                patch.setattr(module, name, guarded)
            yield
    finally:
        path.chmod(mode)


# Memory -------------------------------------------------------------------------------------------


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="reads memory where Linux shows it"
)


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def count_live_tensors() -> int:
    gc.collect()
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


def assert_memory_is_flat(work, warm_up: int, times: int) -> None:
    """After work(warm_up), work(times) adds neither tensors nor memory."""
    work(warm_up)
    tensors, memory = count_live_tensors(), resident_bytes()
    work(times)
    assert count_live_tensors() <= tensors + 2
    assert resident_bytes() < memory * 1.03 + 2**24


# Operations ---------------------------------------------------------------------------------------

# They compute nothing: no kernel is launched.
_VIEWS = ("alias", "detach", "empty", "expand", "permute", "promote_types", "select", "slice")
_VIEWS += ("split", "squeeze", "t", "transpose", "unsqueeze", "view")


class _CountOperations(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        name = str(function).split(".")[1]
        if name not in _VIEWS and name != "split_with_sizes":
            self.counts[name] += 1
        return function(*arguments, **(keywords or {}))


def count_operations(function) -> Counter:
    """How many operations PyTorch computes in a call of `function`, by name, without views."""
    with _CountOperations() as mode:
        function()
    return mode.counts
