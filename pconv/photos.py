"""Photos in and out: one photo, a folder of them, and the ones that scikit-image bundles."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from skimage import data as skimage_data
from torch import Tensor

from pconv.files import atomic_write

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

LOSSLESS_FORMATS = ("PNG", "TIFF", "BMP", "PPM", "TGA", "QOI", "JPEG2000")
LOSSY_FORMATS = ("JPEG", "WEBP", "AVIF")
_FORMATS_WITH_ALPHA = ("PNG", "TIFF", "WEBP", "AVIF")


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
        return _read_photo(Path(photo))
    if isinstance(photo, Image.Image):
        return _convert_image(photo)
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


def _read_photo(path: Path) -> np.ndarray:
    if not path.is_file():
        raise FileNotFoundError(f"no photo at {path}")
    try:
        with Image.open(path) as image:
            return _convert_image(image)
    except Exception as error:  # Pillow raises anything at a damaged file: RuntimeError, ...
        raise ValueError(f"{path} is not a readable photo: {error}") from error


def _convert_image(image: Image.Image) -> np.ndarray:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):  # 16-bit and float grays: Pillow would clip, not scale
        levels = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0, neginf=0)
        white = 255
        if image.mode[0] == "I":
            white = 65535
        elif levels.max() <= 1:
            white = 1
        levels = (levels.clip(0) / white * 255).round().clip(0, 255)
        image = Image.fromarray(levels.astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return np.asarray(image.convert("RGB"))


def read_alpha(path: str | Path) -> Image.Image | None:
    """The transparency of a photo, turned as `as_photo` turns it; None for a photo without any."""
    with Image.open(path) as image:
        image = ImageOps.exif_transpose(image)
        return image.convert("RGBA").getchannel("A") if image.has_transparency_data else None


def output_format(path: str | Path) -> str:
    """Pillow's name of the format that the ending of `path` stands for.

    Raises ValueError for an ending that no format for photos has.
    """
    name = Image.registered_extensions().get(Path(path).suffix.lower())
    if name not in (*LOSSLESS_FORMATS, *LOSSY_FORMATS):
        raise ValueError(f"{path}: give the output a photo's ending, such as .png")
    return name


def save_photo(path: str | Path, photo: np.ndarray, alpha: Image.Image | None = None) -> None:
    """Writes a photo, whole or not at all, in the format of its ending.

    Args:
        photo: uint8 (H, W, 3).
        alpha: its transparency, which formats that have none leave out.

    Raises:
        ValueError, OSError: for an unknown ending, more pixels than the format can hold, or no
            room on the disk.
    """
    name = output_format(path)
    picture = Image.fromarray(photo)
    if alpha is not None and name in _FORMATS_WITH_ALPHA:
        picture.putalpha(alpha)
    options = {"quality": 95} if name in LOSSY_FORMATS else {}
    # In memory first: on a full disk Pillow cuts a JPEG short without an error.
    encoded = io.BytesIO()
    picture.save(encoded, name, **options)
    with atomic_write(path) as temporary:
        temporary.write_bytes(encoded.getbuffer())


def photo_files(folder: str | Path) -> list[Path]:
    """The files in a folder and its subfolders that have a photo format's ending, sorted.

    Raises FileNotFoundError if there is no such folder, ValueError if it holds no such file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}: give the folder your photos are in")
    endings = {e for e, name in Image.registered_extensions().items() if name in Image.OPEN}
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


def to_tensor(photo: np.ndarray) -> Tensor:
    """uint8 (H, W, 3) -> float32 (1, 3, H, W) in [0, 1]; the memory stays channels-last."""
    return torch.from_numpy(photo.astype(np.float32) / 255).permute(2, 0, 1)[None]


def center_crop(photo: np.ndarray, size: int) -> np.ndarray:
    """The middle of a photo, scaled so that its shorter side is `size`: uint8 (size, size, 3)."""
    fitted = ImageOps.fit(Image.fromarray(photo), (size, size), Image.Resampling.LANCZOS)
    return np.asarray(fitted)
