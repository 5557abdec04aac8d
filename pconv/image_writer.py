"""One image file out, with all that its format can hold."""

import io
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from pconv.files import atomic_write
from pconv.image_reader import (
    EXIF_DIRECTORIES,
    LOSSY_FORMATS,
    RESOLUTION_TAGS,
    ImageFile,
    to_8_bits,
)

# What each format that is written can hold besides 8-bit RGB; dpi is the resolution.
CAN_HOLD = {
    "PNG": ("gray", "alpha", "16 bits", "color profile", "EXIF", "resolution"),
    "TIFF": ("gray", "alpha", "16 bits", "color profile", "EXIF", "resolution"),
    "JPEG": ("gray", "color profile", "EXIF", "resolution"),
    "WEBP": ("alpha", "color profile", "EXIF", "resolution"),  # the resolution in EXIF
    "AVIF": ("alpha", "color profile", "EXIF", "resolution"),
    "JPEG2000": ("gray", "alpha"),
    "TGA": ("gray", "alpha"),
    "QOI": ("alpha",),
    "BMP": ("gray", "resolution"),
    "PPM": ("gray",),
}
_LARGE = 3 * 4_000_000  # levels
_MOST_EXIF_IN_JPEG = 65533 - 6  # bytes, after the marker's length and "Exif\0\0"


def output_format(path: str | Path) -> str:
    """Pillow's name of the format that the ending of `path` stands for.

    Raises ValueError for an ending that no format for photos has.
    """
    name = Image.registered_extensions().get(Path(path).suffix.lower())
    if name not in CAN_HOLD:
        raise ValueError(f"{path}: give the output a photo's ending, such as .png")
    return name


def write_image(path: str | Path, image: ImageFile) -> list[str]:
    """Writes an image file, whole or not at all, in the format of its ending.

    Returns:
        What of it that format cannot hold, such as "alpha".

    Raises:
        ValueError, OSError: for an unknown ending, more pixels than the format can hold, or no
            room on the disk.
    """
    name = output_format(path)
    carried = {
        "alpha": image.alpha is not None,
        "16 bits": image.levels.dtype == np.uint16,
        "color profile": image.icc_profile,
        "EXIF": image.exif,
        "resolution": image.dpi,
    }
    lost = [what for what, there in carried.items() if there and what not in CAN_HOLD[name]]
    levels, alpha, exif = image.levels, image.alpha, image.exif
    as_rgb = levels.ndim == 2 and "gray" not in CAN_HOLD[name]
    if as_rgb or levels.dtype not in (np.uint8, np.uint16):
        levels = image.pixels
    if name in ("WEBP", "AVIF") and image.dpi:
        exif = _add_resolution(exif, image.dpi)
    if name == "JPEG" and len(exif or b"") > _MOST_EXIF_IN_JPEG:
        lost.append("EXIF")
    if as_rgb and image.icc_profile and image.icc_profile[16:20] == b"GRAY":
        lost.append("color profile")
    if "16 bits" in lost:
        levels = to_8_bits(levels)
    if "alpha" in lost:
        alpha = None
    if alpha is not None:
        alpha = alpha if alpha.dtype == levels.dtype else to_8_bits(alpha, 65535)
    options = (
        ("EXIF", "exif", exif),
        ("color profile", "icc_profile", image.icc_profile),
        ("resolution", "dpi", image.dpi),
    )
    kept = {option: value for what, option, value in options if value and what not in lost}
    encode = _encode_8_bits if levels.dtype == np.uint8 else _ENCODE_16_BITS[name]
    # In memory first: on a full disk Pillow cuts a JPEG short without an error.
    encoded = encode(name, levels, alpha, **kept)
    with atomic_write(path) as temporary:
        temporary.write_bytes(encoded)
    return lost


def _add_resolution(exif: bytes | None, dpi: tuple[float, float]) -> bytes:
    """EXIF that says it, for formats with no other place for it."""
    extended = Image.Exif()
    extended.load(exif)
    for tag, value in zip(RESOLUTION_TAGS, (*dpi, 2), strict=True):  # 2: per inch
        extended[tag] = value
    return extended.tobytes()


def _encode_8_bits(name: str, levels: np.ndarray, alpha: np.ndarray | None, **carried):
    picture = Image.fromarray(levels)
    if alpha is not None:
        picture.putalpha(Image.fromarray(alpha))
    if name in LOSSY_FORMATS:
        carried["quality"] = 95
    if name == "PNG" and levels.size > _LARGE:
        carried["compress_level"] = 1  # a fifth of the time for a tenth more bytes
    if name in ("WEBP", "AVIF"):
        carried.pop("dpi", None)
    encoded = io.BytesIO()
    picture.save(encoded, name, **carried)
    return encoded.getbuffer()


def _stack(levels: np.ndarray, alpha: np.ndarray | None) -> np.ndarray:
    stacked = levels if alpha is None else np.dstack((levels, alpha))
    return np.ascontiguousarray(stacked)


def _encode_png_16(name, levels, alpha, *, exif=None, icc_profile=None, dpi=None) -> bytes:
    encoded = imagecodecs.png_encode(_stack(levels, alpha))
    after_header = 8 + 25
    chunks = [encoded[:after_header]]

    def add(kind: bytes, data: bytes) -> None:
        checksum = zlib.crc32(kind + data)
        chunks.append(len(data).to_bytes(4) + kind + data + checksum.to_bytes(4))

    if icc_profile:
        add(b"iCCP", b"ICC profile\0\0" + zlib.compress(icc_profile))
    if exif:
        add(b"eXIf", exif.removeprefix(b"Exif\0\0"))
    if dpi:
        per_meter = [round(value / 0.0254).to_bytes(4) for value in dpi]
        add(b"pHYs", b"".join(per_meter) + b"\1")
    return b"".join((*chunks, encoded[after_header:]))


def _encode_tiff_16(name, levels, alpha, *, exif=None, icc_profile=None, dpi=None) -> bytes:
    if levels.ndim == 2 and alpha is not None:  # few programs read gray with alpha
        levels = np.repeat(levels[:, :, None], 3, 2)
    pixels = _stack(levels, alpha)
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    data = zlib.compress(pixels.astype("<u2").tobytes())
    directory = ImageFileDirectory_v2(b"II\x2a\x00\x08\x00\x00\x00")
    described = Image.Exif()
    described.load(exif)
    for tag, value in described.items():
        directory[tag] = described.get_ifd(tag) if tag in EXIF_DIRECTORIES else value
    structure = {
        256: pixels.shape[1],
        257: pixels.shape[0],
        258: (16,) * channels,
        259: 8,  # compressed by zlib
        262: 1 if levels.ndim == 2 else 2,  # black is zero, or RGB
        273: 0,  # where the pixels begin, after all tags
        277: channels,
        278: pixels.shape[0],  # rows in the one strip
        279: len(data),
    }
    if alpha is not None:
        structure[338] = 2  # transparency that the colors are not multiplied with
    if icc_profile:
        structure[34675] = icc_profile
    if dpi:
        structure |= {282: dpi[0], 283: dpi[1], 296: 2}  # per inch
    for tag, value in structure.items():
        directory[tag] = value
    encoded = io.BytesIO()
    directory.save(encoded)
    return encoded.getvalue() + data


_ENCODE_16_BITS = {"PNG": _encode_png_16, "TIFF": _encode_tiff_16}
