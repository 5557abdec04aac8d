"""Photos in and out: one photo, a folder of them, and the ones that scikit-image bundles."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from skimage import data as skimage_data
from torch import Tensor

from pconv.image_reader import HEIC_ENDINGS, ImageFile, decode, read_image, to_8_bits

# The left and the right view of the motorcycle are one scene, so both are trained on.
_TRAINING_PHOTOS = (
    "chelsea",
    "rocket",
    "immunohistochemistry",
    "retina",
    "hubble_deep_field",
    "grass",
    "gravel",
    "brick",
    "motorcycle",
)
_HELD_OUT_PHOTOS = ("astronaut", "coffee")


def bundled_photos(held_out: bool = False) -> dict[str, np.ndarray]:
    """scikit-image's bundled photos by name, uint8 (H, W, 3).

    held_out: the two that are kept out for measuring, instead of those to train on.
    """
    photos = {}
    for name in _HELD_OUT_PHOTOS if held_out else _TRAINING_PHOTOS:
        if name == "motorcycle":
            left, right, _ = skimage_data.stereo_motorcycle()
            photos |= {"motorcycle_left": left, "motorcycle_right": right}
        else:
            photos[name] = getattr(skimage_data, name)()
    return {name: as_photo(photo) for name, photo in photos.items()}


def as_photo(photo: np.ndarray | Image.Image | str | Path) -> np.ndarray:
    """Any photo as uint8 (H, W, 3).

    It is turned as its EXIF orientation says. Transparent pixels keep their color.

    Args:
        photo: a uint8 (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) array, a Pillow image, or a path.

    Raises:
        FileNotFoundError: for a path that is not there.
        ValueError: for a file that is not a readable photo, and for an array of another shape.
        TypeError: for an array that is not uint8.
    """
    if isinstance(photo, str | Path):
        return to_8_bits(read_image(photo).pixels)
    if isinstance(photo, Image.Image):
        return to_8_bits(ImageFile(*decode(photo)).pixels)
    photo = np.asarray(photo)
    if photo.dtype != np.uint8:
        raise TypeError(
            f"the photo is an array of {photo.dtype}; expected uint8: (255 * photo).astype('uint8')"
        )
    if photo.ndim == 2:
        photo = photo[:, :, None]
    if photo.ndim != 3 or photo.shape[2] not in (1, 3, 4) or 0 in photo.shape:
        raise ValueError(
            f"the photo has shape {photo.shape}; expected (H, W), (H, W, 3) or (H, W, 4)"
        )
    return np.ascontiguousarray(np.broadcast_to(photo[:, :, :3], (*photo.shape[:2], 3)))


def photo_files(folder: str | Path) -> list[str]:
    """The files below a folder that have a photo format's ending: sorted paths inside the folder.

    Linked folders are followed, each folder once. Hidden files and folders, whose names begin with
    a dot, are left out. No file is opened.

    Raises FileNotFoundError if there is no such folder, ValueError if it holds no such file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}: give the folder your photos are in")
    endings = {e for e, name in Image.registered_extensions().items() if name in Image.OPEN}
    endings.update(HEIC_ENDINGS)
    names, seen = [], set()
    for place, folders, files in os.walk(folder, followlinks=True):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in seen:  # a link to where we have been
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if name[0] != ".")
        inside = os.path.relpath(place, folder)
        for name in files:
            if name[0] != "." and os.path.splitext(name)[1].lower() in endings:
                names.append(name if inside == "." else os.path.join(inside, name))
    if not names:
        raise ValueError(
            f"no photos in {folder}: it holds no file that ends in .jpg, .png or another photo "
            "format"
        )
    return sorted(names)


class PhotoFolder(Sequence):
    """The photos of a folder and its subfolders, read one by one: `folder[i]` is uint8 (H, W, 3).

    A file is opened when its photo is asked for, so a folder of any size opens at once. `names` are
    the paths inside the folder.

    Args:
        folder: the folder.
        strict: whether all files are opened first, and one that is no photo is an error.

    Raises:
        FileNotFoundError, ValueError: as `photo_files`; ValueError also as `strict` says. Asking
            for a photo raises as `as_photo`.
    """

    def __init__(self, folder: str | Path, strict: bool = False):
        self.folder = Path(folder)
        self.names = photo_files(folder)
        for name in self.names if strict else ():
            if not _has_photo_header(self.folder / name):
                raise ValueError(f"{self.folder / name} is not a readable photo")

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> np.ndarray:
        return as_photo(self.folder / self.names[index])


def _has_photo_header(path: Path) -> bool:
    if not path.is_file():  # a pipe would be waited for
        return False
    try:
        with Image.open(path):
            return True
    except Exception:
        return False


class ReadablePhotos:
    """Iterates over (name, photo) of a folder; what cannot be read is left out.

    `unreadable` says why, by name, of those that the iteration has come to.

    Args:
        photos: the folder.
        indices: of the photos to read, in that order; by default all.
    """

    def __init__(self, photos: PhotoFolder, indices: Sequence[int] | None = None):
        self.photos = photos
        self.indices = range(len(photos)) if indices is None else indices
        self.unreadable = {}

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        for index in self.indices:
            name = self.photos.names[index]
            try:
                photo = self.photos[index]
            except (ValueError, OSError) as error:
                self.unreadable[name] = str(error)
            else:
                yield name, photo


def to_tensor(photo: np.ndarray, white: int = 255) -> Tensor:
    """uint8 or uint16 (H, W, 3) -> float32 (1, 3, H, W) in [0, 1]; it stays channels-last.

    white: the level that becomes 1.
    """
    return torch.from_numpy(photo.astype(np.float32) / white).permute(2, 0, 1)[None]


def center_crop(photo: np.ndarray, size: int) -> np.ndarray:
    """The middle of a photo, scaled so that its shorter side is `size`: uint8 (size, size, 3)."""
    fitted = ImageOps.fit(Image.fromarray(photo), (size, size), Image.Resampling.LANCZOS)
    return np.asarray(fitted)
