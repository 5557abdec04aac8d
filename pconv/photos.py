"""Photos in and out: one photo, a folder of them, and the ones that scikit-image bundles."""

from collections.abc import Sequence
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


def photo_files(folder: str | Path) -> list[Path]:
    """The files in a folder and its subfolders that have a photo format's ending, sorted.

    Raises FileNotFoundError if there is no such folder, ValueError if it holds no such file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}: give the folder your photos are in")
    endings = {e for e, name in Image.registered_extensions().items() if name in Image.OPEN}
    endings.update(HEIC_ENDINGS)
    files = [path for path in folder.rglob("*") if path.suffix.lower() in endings]
    files = sorted(path for path in files if path.is_file())
    if not files:
        raise ValueError(
            f"no photos in {folder}: it holds no file that ends in .jpg, .png or another photo "
            "format"
        )
    return files


class PhotoFolder(Sequence):
    """The photos of a folder and its subfolders, read one by one: `folder[i]` is uint8 (H, W, 3).

    `names` are their paths inside the folder. `unreadable` are those of files that have a photo's
    ending and are no photos.

    Args:
        folder: the folder.
        strict: whether one unreadable file is an error.

    Raises:
        FileNotFoundError, ValueError: as `photo_files`; ValueError also if no file is readable.
    """

    def __init__(self, folder: str | Path, strict: bool = False):
        self.folder = Path(folder)
        self.names = []
        self.unreadable = []
        for path in photo_files(folder):
            names = self.names if _has_photo_header(path) else self.unreadable
            names.append(str(path.relative_to(folder)))
        if not self.names or (strict and self.unreadable):
            path = self.folder / self.unreadable[0]
            raise ValueError(f"{path} is not a readable photo, whatever its name says")

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> np.ndarray:
        return as_photo(self.folder / self.names[index])


def _has_photo_header(path: Path) -> bool:
    try:
        with Image.open(path):
            return True
    except Exception:
        return False


def to_tensor(photo: np.ndarray, white: int = 255) -> Tensor:
    """uint8 or uint16 (H, W, 3) -> float32 (1, 3, H, W) in [0, 1]; it stays channels-last.

    white: the level that becomes 1.
    """
    return torch.from_numpy(photo.astype(np.float32) / white).permute(2, 0, 1)[None]


def center_crop(photo: np.ndarray, size: int) -> np.ndarray:
    """The middle of a photo, scaled so that its shorter side is `size`: uint8 (size, size, 3)."""
    fitted = ImageOps.fit(Image.fromarray(photo), (size, size), Image.Resampling.LANCZOS)
    return np.asarray(fitted)
