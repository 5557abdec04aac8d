"""One image file in, with all that it carries: transparency, 16 bits, color profile, EXIF."""

import io
from dataclasses import dataclass, field
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from PIL import Image, ImageCms, ImageOps

try:
    from pillow_heif import register_heif_opener
except ImportError:  # the extra "heic"
    register_heif_opener = None
else:
    register_heif_opener()

HEIC_ENDINGS = (".heic", ".heif")
HEIC_ADVICE = "HEIC needs pillow-heif: pip install 'pconv[heic]'"
LOSSY_FORMATS = ("JPEG", "WEBP", "AVIF")
_ORIENTATION = 0x0112
RESOLUTION_TAGS = (0x011A, 0x011B, 0x0128)  # horizontal, vertical, unit
EXIF_DIRECTORIES = (0x8769, 0x8825)  # how it was taken, where
# Of the rest of EXIF what describes the photo: not how its file stores pixels, nor a small copy of
# it, which would still show what was painted over.
_DESCRIPTIONS = (0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x013C, 0x8298)


@dataclass
class ImageFile:
    """What an image file holds, turned as its EXIF orientation says.

    levels: (H, W) if it is gray, else (H, W, 3); uint8, uint16, or float64 of a rarer kind.
    alpha: (H, W), uint8 or uint16, or None without transparency.
    orientation: 1 to 8, by which it was turned.
    format: Pillow's name, such as "PNG".
    exif, icc_profile: as bytes, or None; the EXIF without orientation and thumbnail.
    dpi: horizontal and vertical, in pixels per inch, or None.
    notes: what of it is not as it was in the file, for people.
    """

    levels: np.ndarray
    alpha: np.ndarray | None = None
    orientation: int = 1
    format: str | None = None
    exif: bytes | None = None
    icc_profile: bytes | None = None
    dpi: tuple[float, float] | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def pixels(self) -> np.ndarray:
        """uint8 or uint16 (H, W, 3); gray is repeated, rarer kinds are scaled to 8 bits."""
        levels = self.levels
        if levels.dtype not in (np.uint8, np.uint16):
            levels = np.nan_to_num(levels, posinf=0, neginf=0)
            white = 1 if levels.max() <= 1 else 255
            levels = (levels / white * 255).round().clip(0, 255).astype(np.uint8)
        if levels.ndim == 2:
            levels = levels[:, :, None]
        return np.ascontiguousarray(np.broadcast_to(levels, (*levels.shape[:2], 3)))


def read_image(path: str | Path) -> ImageFile:
    """Reads an image file of any kind.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if it is not a readable photo.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no photo at {path}")
    try:
        with Image.open(path) as image:
            return _read_opened(image, path)
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises anything at a damaged file: RuntimeError, ...
        reason = error
        if path.suffix.lower() in HEIC_ENDINGS and register_heif_opener is None:
            reason = HEIC_ADVICE
        raise ValueError(f"{path} is not a readable photo: {reason}") from error


def _read_opened(image: Image.Image, path: Path) -> ImageFile:
    orientation = image.getexif().get(_ORIENTATION, 1)
    notes = []
    if getattr(image, "n_frames", 1) > 1:
        notes.append(f"it has {image.n_frames} frames or pages, of which the first is used")
    icc_profile = image.info.get("icc_profile")
    if image.mode == "CMYK":
        icc_profile = None
        notes.append("its CMYK becomes RGB")
    elif image.mode == "F":
        notes.append("its levels are floating-point numbers, which become 8 bits")
    carried = {
        "orientation": orientation if orientation in range(2, 9) else 1,
        "format": image.format,
        "exif": _clean_exif(image, notes),
        "icc_profile": icc_profile,
        "dpi": _resolution(image),
        "notes": notes,
    }
    deep = _read_16_bits(image, path)
    if deep is not None:
        levels, alpha = (turn(part, orientation) for part in deep)
        return ImageFile(levels, alpha, **carried)
    return ImageFile(*decode(image), **carried)


def decode(image: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
    """The levels and the alpha of a Pillow image, as in `ImageFile`."""
    if image.getexif().get(_ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        levels = np.asarray(image)
        fits = image.mode != "F" and levels.min() >= 0 and levels.max() <= 65535
        return levels.astype(np.uint16 if fits else np.float64), None
    if image.mode == "CMYK" and image.info.get("icc_profile"):
        image = _convert_cmyk(image)
    gray = image.mode in ("1", "L", "LA", "La")
    if image.has_transparency_data:
        pixels = _to_array(image, "LA" if gray else "RGBA")
        return (pixels[:, :, 0] if gray else pixels[:, :, :3]), pixels[:, :, -1]
    return _to_array(image, "L" if gray else "RGB"), None


def _to_array(image: Image.Image, mode: str) -> np.ndarray:
    return np.asarray(image if image.mode == mode else image.convert(mode))


def _convert_cmyk(image: Image.Image) -> Image.Image:
    """Its inks as the colors that its profile says; unchanged if that is no profile for CMYK."""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        return ImageCms.profileToProfile(
            image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except ImageCms.PyCMSError:
        return image


def _read_16_bits(image: Image.Image, path: Path) -> tuple[np.ndarray, np.ndarray | None] | None:
    """Levels and alpha of a PNG or TIFF of 16 bits per channel, not turned; else None.

    Pillow would give 8 of the 16.
    """
    if image.format == "PNG":
        with open(path, "rb") as file:
            if file.read(25)[24:] != b"\x10":
                return None
        pixels = imagecodecs.png_decode(path.read_bytes())
    elif image.format == "TIFF":
        tags = image.tag_v2
        gray_or_rgb = tags.get(262) in (0, 1, 2)
        if not gray_or_rgb or set(tags.get(258, ())) != {16} or set(tags.get(339, (1,))) != {1}:
            return None
        with tifffile.TiffFile(path) as file:
            page = file.pages[0]
            pixels = page.asarray()
        if page.planarconfig == 2 and pixels.ndim == 3:
            pixels = np.moveaxis(pixels, 0, 2)
        if tags[262] == 0:  # 0 is white
            pixels = 65535 - pixels
    else:
        return None
    if pixels.ndim == 2:
        return pixels, None
    channels = pixels.shape[2]
    levels = pixels[:, :, 0] if channels < 3 else pixels[:, :, :3]
    return levels, (pixels[:, :, channels - 1] if channels in (2, 4) else None)


def turn(array: np.ndarray | None, orientation: int) -> np.ndarray | None:
    """(H, W, ...) turned as an EXIF orientation says: EXIF 2.3, 4.6.4 A."""
    if array is None:
        return None
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    return array


def white_level(pixels: np.ndarray, where: np.ndarray | bool = True) -> int:
    """The level of white: 255 of 8 bits; of 16, that of the 8, 10, 12 or 14 that are used.

    Cameras and scanners store 12 bits in files of 16, which would look black.

    Args:
        pixels: uint8 or uint16 (H, W, 3).
        where: bool (H, W, 1), the pixels that count.
    """
    if pixels.dtype == np.uint8:
        return 255
    most = pixels.max(where=where, initial=0)
    return next(2**bits - 1 for bits in (8, 10, 12, 14, 16) if most < 2**bits)


def to_8_bits(pixels: np.ndarray, white: int | None = None) -> np.ndarray:
    """uint8 of uint8 or uint16; white: the level that becomes 255, by default its own."""
    if pixels.dtype == np.uint8:
        return pixels
    white = white or white_level(pixels)
    return (pixels.astype(np.float32) * (255 / white)).round().clip(0, 255).astype(np.uint8)


def _resolution(image: Image.Image) -> tuple[float, float] | None:
    try:
        dpi = tuple(float(value) for value in image.info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return dpi if len(dpi) == 2 and all(0.1 < value < 1e5 for value in dpi) else None


def _clean_exif(image: Image.Image, notes: list[str]) -> bytes | None:
    """The EXIF that describes the photo; adds a note if it is damaged."""
    try:
        given, kept = image.getexif(), Image.Exif()
        for tag in (*_DESCRIPTIONS, *RESOLUTION_TAGS):
            if tag in given:
                kept[tag] = given[tag]
        for tag in EXIF_DIRECTORIES:
            if given.get_ifd(tag):
                kept[tag] = dict(given.get_ifd(tag))
        return kept.tobytes() if len(kept) else None
    except Exception as error:  # Pillow raises anything here, too
        notes.append(f"its EXIF is damaged and left out ({type(error).__name__})")
        return None
