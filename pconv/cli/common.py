"""What the commands share: errors in one line, types of arguments, flags, folders."""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import torch
from torch.utils.data import Subset

from pconv.image_reader import HEIC_ADVICE, HEIC_ENDINGS, register_heif_opener

_FEW = 3  # names in a line


def exit_with_error(message: object) -> NoReturn:
    """One line on stderr, exit status 2."""
    print(f"pconv: {' '.join(str(message).split())}", file=sys.stderr)
    sys.exit(2)


@contextmanager
def cli_errors() -> Iterator[None]:
    """Turns what a check raises into one line and exit status 2.

    It stands around checks of what the user gave, never around the work: a bug shows its traceback.
    """
    try:
        yield
    except (ValueError, TypeError, OSError) as error:
        exit_with_error(error)


@contextmanager
def out_of_memory_errors(advice: str) -> Iterator[None]:
    """Where memory ends: one line that says what to do, and exit status 2."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError):
        exit_with_error(f"not enough memory: {advice}")
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):  # what PyTorch says on a CPU
            raise
        exit_with_error(f"not enough memory: {advice}")


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        exit_with_error(message)


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, but not "None" and "False"."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False:
            return action.help
        return super()._get_help_string(action)


def add_command(commands, name: str, run, text: str, **defaults) -> argparse.ArgumentParser:
    """A command with --device, --seed, and those of the shared flags that have a default here."""
    parser = commands.add_parser(name, help=text, description=text, formatter_class=HelpFormatter)
    parser.set_defaults(run=run)
    for flag, default in defaults.items():
        kind, text = _SHARED_FLAGS[flag]
        parser.add_argument(f"--{flag}", type=kind, default=default, help=text)
    if "photos" in defaults:
        parser.add_argument(
            "--strict", action="store_true", help="refuse a folder with an unreadable photo"
        )
        parser.add_argument(
            "--verbose", action="store_true", help="name every photo that is skipped, and say why"
        )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--seed", type=seed, default=0, help="of weights, batches and holes")
    return parser


def positive_int(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def seed(text: str) -> int:
    if not text.isdigit() or int(text) >= 2**64:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 0 to 2**64 - 1")
    return int(text)


def crop_size(text: str) -> int:
    if positive_int(text) < 16:
        raise argparse.ArgumentTypeError(f"{text} pixels are too few: at least 16")
    return int(text)


def name_list(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def width_list(text: str) -> tuple[int, ...]:
    return tuple(positive_int(width) for width in text.split(","))


_SHARED_FLAGS = {
    "size": (crop_size, "pixels per side of a crop"),
    "batch": (positive_int, "photos per training step"),
    "steps": (positive_int, "training steps"),
    "out": (Path, "folder to write to"),
    "photos": (Path, "folder of photos (default: scikit-image's bundled ones)"),
    "widths": (width_list, "features per level, from the full resolution down"),
    "weights": (Path, "what `pconv train` wrote (default: the shipped ones)"),
}


def report_unreadable(unreadable: dict[str, str], verbose: bool) -> None:
    """How many photos were skipped, in one line on stderr; if verbose, which and why.

    unreadable: why, by name.
    """
    if not unreadable:
        return
    names = ", ".join(list(unreadable)[:_FEW])
    if len(unreadable) > _FEW:
        names += f" and {len(unreadable) - _FEW} more; --verbose says which and why"
    if any(Path(name).suffix.lower() in HEIC_ENDINGS for name in unreadable):
        names += f" ({HEIC_ADVICE})" if register_heif_opener is None else ""
    print(f"{len(unreadable)} unreadable, skipped: {names}", file=sys.stderr)
    for reason in unreadable.values() if verbose else ():
        print(" ".join(reason.split()), file=sys.stderr)


def name_photo(photos: Sequence, index: int) -> str:
    """The path inside its folder of a photo of a PhotoFolder or of a Subset of one."""
    if isinstance(photos, Subset):
        return name_photo(photos.dataset, photos.indices[index])
    return photos.names[index]


def make_writable(folder: Path) -> Path:
    """The folder, made if there is none; raises OSError if one cannot write to it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OSError(f"cannot write to {folder}: {error.strerror}") from error
    return folder


def check_not_overwritten(path: Path, force: bool) -> None:
    """Raises ValueError if the output is there and --force is not given."""
    if path.exists() and not force:
        raise ValueError(f"{path} exists: --force overwrites it")


def check_output_file(path: Path) -> None:
    """Makes the folder of `path`; raises OSError if `path` cannot be written there."""
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: name a file")
    make_writable(path.parent)
