"""Odd but good photos, each with the pixels that a viewer shows, and files that are not photos."""

import io
import os
import struct
import zlib

import numpy as np
from helpers import GRAY, HOLES, PHOTO, RNG
from PIL import Image


def encoded(picture: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG of a hundred bytes whose header claims that size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + chunk(b"IDAT", zlib.compress(b"\0" * 999))
        + chunk(b"IEND", b"")
    )


def with_alpha(array: np.ndarray) -> np.ndarray:
    return np.dstack(
        (array, np.arange(array.shape[0] * array.shape[1]).reshape(array.shape[:2]) % 256)
    ).astype("u1")


def palette_picture() -> Image.Image:
    picture = Image.fromarray(GRAY % 7)
    picture.putpalette((np.arange(21, dtype=np.uint8) * 12).tobytes())
    return picture


def animation(format: str, **options) -> bytes:
    frames = [Image.fromarray(PHOTO), Image.fromarray(255 - PHOTO)]
    frames = [frame.quantize(64) for frame in frames] if format == "GIF" else frames
    return encoded(
        frames[0], format, save_all=True, append_images=frames[1:], duration=50, **options
    )


def first_frame(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def gray(levels: np.ndarray) -> np.ndarray:
    return np.repeat(np.round(levels).astype(np.uint8)[:, :, None], 3, 2)


RGB, LIGHT = Image.fromarray(PHOTO), GRAY / 255
JPEG, GIF = encoded(RGB, "JPEG"), animation("GIF")
HDR = np.where(HOLES, np.array([np.nan, np.inf, -np.inf])[np.arange(32) % 3], LIGHT).astype(
    np.float32
)
DEEP = RNG.integers(0, 65536, (24, 32)).astype(np.uint16)
LINE = RNG.integers(0, 256, (1, 4096, 3), dtype=np.uint8)
CMYK = RGB.convert("CMYK")

GOOD = {  # name of the file: (its bytes, the pixels that a viewer shows of it)
    "one pixel.png": (encoded(Image.fromarray(PHOTO[:1, :1]), "PNG"), PHOTO[:1, :1]),
    "a line.png": (encoded(Image.fromarray(LINE), "PNG"), LINE),
    "a column.png": (
        encoded(Image.fromarray(LINE.transpose(1, 0, 2)), "PNG"),
        LINE.transpose(1, 0, 2),
    ),
    "a PNG.jpg": (encoded(RGB, "PNG"), PHOTO),
    "a JPEG.png": (JPEG, first_frame(JPEG)),
    "no ending": (encoded(RGB, "PNG"), PHOTO),
    "16 bit.png": (encoded(Image.fromarray(DEEP), "PNG"), gray(DEEP / 257)),
    "16 bit.tif": (encoded(Image.fromarray(DEEP), "TIFF"), gray(DEEP / 257)),
    "cmyk.tif": (encoded(CMYK, "TIFF"), np.asarray(CMYK.convert("RGB"))),
    "palette.gif": (
        encoded(palette_picture(), "GIF"),
        first_frame(encoded(palette_picture(), "PNG")),
    ),
    "palette, one transparent.png": (
        encoded(palette_picture(), "PNG", transparency=3),
        first_frame(encoded(palette_picture(), "PNG")),
    ),
    "palette, seven transparencies.png": (
        encoded(palette_picture(), "PNG", transparency=bytes(range(0, 70, 10))),
        first_frame(encoded(palette_picture(), "PNG")),
    ),
    "rgba.png": (encoded(Image.fromarray(with_alpha(PHOTO)), "PNG"), PHOTO),
    "rgba.webp": (
        encoded(Image.fromarray(with_alpha(PHOTO)), "WEBP", lossless=True, exact=True),
        PHOTO,
    ),
    "la.png": (encoded(Image.fromarray(with_alpha(GRAY), "LA"), "PNG"), gray(GRAY)),
    "1 bit.tif": (encoded(Image.fromarray(HOLES), "TIFF"), gray(255.0 * HOLES)),
    "animated.gif": (GIF, first_frame(GIF)),
    "animated.png": (animation("PNG"), PHOTO),
    "animated.webp": (animation("WEBP", lossless=True), PHOTO),
    "nan and inf.tif": (
        encoded(Image.fromarray(HDR), "TIFF"),
        gray(255 * np.where(HOLES, 0, LIGHT)),
    ),
    "nothing but nan.tif": (
        encoded(Image.fromarray(HDR * np.float32("nan")), "TIFF"),
        gray(0 * LIGHT),
    ),
    "фото 写真 🏞 \u202egpj.png": (encoded(RGB, "PNG"), PHOTO),
    " -  two\nlines\t.png": (encoded(RGB, "PNG"), PHOTO),
    os.fsdecode(b"not utf-8 \xff\xfe.png"): (encoded(RGB, "PNG"), PHOTO),
    "n" * 251 + ".png": (encoded(RGB, "PNG"), PHOTO),
}
BAD = {
    "empty.png": b"",
    "text.jpg": b"not a photo",
    "cut.jpg": JPEG[: len(JPEG) * 2 // 3],
    "cut.tif": encoded(RGB, "TIFF")[:500],
    "cut.webp": encoded(RGB, "WEBP")[:-40],
    "cut.gif": GIF[:900],
    "header only.png": encoded(RGB, "PNG")[:40],
    "bomb.png": bomb(20_000, 20_000),
    "bomb below Pillow's limit.png": bomb(13_000, 13_000),
    "wrong sum.png": encoded(RGB, "PNG").replace(b"IDAT", b"IDAX"),
    "no number.ppm": b"P6\n24 3x2\n255\n" + PHOTO.tobytes(),
    "vector.svg": b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
    "notes.pdf": encoded(RGB, "PDF"),
    "weights.safetensors": struct.pack("<Q", 2) + b"{}",
}
