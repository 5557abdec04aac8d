"""Files from strangers, full disks, two at once, long use: a right result or one line that names what is wrong."""

import errno
import gc
import io
import json
import os
import struct
import subprocess
import sys
import tempfile
import zipfile
import zlib
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from pconv import InpaintingLoss, PConvUNet, Trainer, VGGFeatures, inpaint, load_weights, save_weights
from pconv.checkpoint import load_checkpoint
from pconv.cli import main
from pconv.data import PhotoFolder, TrainingBatches, as_photo
from pconv.inpainting import read_metadata

RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 256, (24, 32, 3), dtype=np.uint8)
GREY = PHOTO[:, :, 0]
HOLES = np.zeros((24, 32), bool)
HOLES[8:14, 5:20] = True
GIGABYTE = 2**30


@pytest.fixture(autouse=True)
def _one_thread():
    """Nets as tiny as these wait longer for a second thread than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_weights(PConvUNet(widths=(4,)), path)
    return path


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to work in that holds a photo and its mask."""
    Image.fromarray(PHOTO).save(tmp_path / "photo.png")
    Image.fromarray(HOLES).save(tmp_path / "mask.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def listing(folder: Path) -> dict:
    """All that lies in a folder, and of what is no folder its size and time: what changes when anything is written."""
    found = {path: path.lstat() for path in folder.rglob("*")}
    return {
        path: None if path.is_dir() else (stat.st_size, stat.st_mtime_ns, stat.st_ino) for path, stat in found.items()
    }


def refused(capsys, folder: Path, says: object, arguments: list) -> str:
    """The one line of a command that exits with status 2 and leaves the folder as it was."""
    before = listing(folder)
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert stop.value.code == 2, captured
    assert captured.err.count("\n") == 1 and captured.err.startswith("pconv: ") and str(says) in captured.err
    assert listing(folder) == before
    return captured.err


def fill(photo, mask, output, weights, *more):
    """`pconv inpaint`; the photo that it wrote."""
    main(["inpaint", *map(str, (photo, mask)), "-o", str(output), "--weights", str(weights), "--device", "cpu", *more])
    with Image.open(output) as image:
        with Image.open(photo) as given:
            assert image.mode == ("RGBA" if given.has_transparency_data and image.format == "PNG" else "RGB")
        return np.asarray(image.convert("RGB"))


# Photos ---------------------------------------------------------------------------------------------------------------


def encoded(picture: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG of a hundred bytes whose header claims that size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 999)) + chunk(b"IEND", b"")


def with_alpha(array: np.ndarray) -> np.ndarray:
    return np.dstack((array, np.arange(array.shape[0] * array.shape[1]).reshape(array.shape[:2]) % 256)).astype("u1")


def palette_picture() -> Image.Image:
    picture = Image.fromarray(GREY % 7)
    picture.putpalette((np.arange(21, dtype=np.uint8) * 12).tobytes())
    return picture


def animation(format: str, **options) -> bytes:
    frames = [Image.fromarray(PHOTO), Image.fromarray(255 - PHOTO)]
    frames = [frame.quantize(64) for frame in frames] if format == "GIF" else frames
    return encoded(frames[0], format, save_all=True, append_images=frames[1:], duration=50, **options)


def first_frame(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def grey(levels: np.ndarray) -> np.ndarray:
    return np.repeat(np.round(levels).astype(np.uint8)[:, :, None], 3, 2)


RGB, LIGHT = Image.fromarray(PHOTO), GREY / 255
JPEG, GIF = encoded(RGB, "JPEG"), animation("GIF")
HDR = np.where(HOLES, np.array([np.nan, np.inf, -np.inf])[np.arange(32) % 3], LIGHT).astype(np.float32)
DEEP = RNG.integers(0, 65536, (24, 32)).astype(np.uint16)
LINE = RNG.integers(0, 256, (1, 4096, 3), dtype=np.uint8)
CMYK = RGB.convert("CMYK")

GOOD = {  # name of the file: (its bytes, the pixels that a viewer shows of it)
    "one pixel.png": (encoded(Image.fromarray(PHOTO[:1, :1]), "PNG"), PHOTO[:1, :1]),
    "a line.png": (encoded(Image.fromarray(LINE), "PNG"), LINE),
    "a column.png": (encoded(Image.fromarray(LINE.transpose(1, 0, 2)), "PNG"), LINE.transpose(1, 0, 2)),
    "a PNG.jpg": (encoded(RGB, "PNG"), PHOTO),
    "a JPEG.png": (JPEG, first_frame(JPEG)),
    "no ending": (encoded(RGB, "PNG"), PHOTO),
    "16 bit.png": (encoded(Image.fromarray(DEEP), "PNG"), grey(DEEP / 257)),
    "16 bit.tif": (encoded(Image.fromarray(DEEP), "TIFF"), grey(DEEP / 257)),
    "cmyk.tif": (encoded(CMYK, "TIFF"), np.asarray(CMYK.convert("RGB"))),
    "palette.gif": (encoded(palette_picture(), "GIF"), first_frame(encoded(palette_picture(), "PNG"))),
    "palette, one transparent.png": (
        encoded(palette_picture(), "PNG", transparency=3),
        first_frame(encoded(palette_picture(), "PNG")),
    ),
    "palette, seven transparencies.png": (
        encoded(palette_picture(), "PNG", transparency=bytes(range(0, 70, 10))),
        first_frame(encoded(palette_picture(), "PNG")),
    ),
    "rgba.png": (encoded(Image.fromarray(with_alpha(PHOTO)), "PNG"), PHOTO),
    "rgba.webp": (encoded(Image.fromarray(with_alpha(PHOTO)), "WEBP", lossless=True, exact=True), PHOTO),
    "la.png": (encoded(Image.fromarray(with_alpha(GREY), "LA"), "PNG"), grey(GREY)),
    "1 bit.tif": (encoded(Image.fromarray(HOLES), "TIFF"), grey(255.0 * HOLES)),
    "animated.gif": (GIF, first_frame(GIF)),
    "animated.png": (animation("PNG"), PHOTO),
    "animated.webp": (animation("WEBP", lossless=True), PHOTO),
    "nan and inf.tif": (encoded(Image.fromarray(HDR), "TIFF"), grey(255 * np.where(HOLES, 0, LIGHT))),
    "nothing but nan.tif": (encoded(Image.fromarray(HDR * np.float32("nan")), "TIFF"), grey(0 * LIGHT)),
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


@pytest.mark.parametrize("name", GOOD)
def test_odd_photos_are_filled_and_keep_every_pixel_outside_the_holes(name, folder, weights, capsys):
    data, pixels = GOOD[name]
    photo, mask, output = folder / name, folder / "the mask.png", folder / "result.png"
    try:
        photo.write_bytes(data)
    except OSError as error:
        pytest.skip(f"this file system takes no such name: {error.strerror}")
    holes = np.zeros(pixels.shape[:2], bool)
    holes[: holes.shape[0] // 2 + 1, : holes.shape[1] // 2 + 1] = True
    Image.fromarray(holes).save(mask)
    filled = fill(photo, mask, output, weights)
    assert np.array_equal(filled[~holes], pixels[~holes])
    assert np.array_equal(filled, inpaint(load_weights(weights), pixels, holes))
    assert capsys.readouterr().err == ""
    output.unlink()
    if "." in name:
        output = photo.with_suffix(".png") if len(name) > 200 else photo.with_name("out" + photo.stem + ".png")
        filled_again = fill(photo, mask, output, weights, "--force")  # a name as odd for the output
        assert np.array_equal(filled_again, filled)
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("role", ["photo", "mask"])
@pytest.mark.parametrize("name", BAD)
def test_what_is_no_photo_is_refused_by_name(name, role, folder, weights, capsys):
    (folder / name).write_bytes(BAD[name])
    files = {"photo": "photo.png", "mask": "mask.png"} | {role: name}
    arguments = ["inpaint", files["photo"], files["mask"], "-o", "new/out.png", "--weights", weights, "--device", "cpu"]
    assert "not a readable photo" in refused(capsys, folder, name, arguments)


@pytest.mark.parametrize("role", ["photo", "mask"])
@pytest.mark.parametrize("kind", ["folder", "pipe", "loop", "dangling", "missing", "too long", "device", "nul"])
def test_what_is_no_file_is_refused_by_name(kind, role, folder, weights, capsys):
    name = folder / {"too long": 300 * "n" + ".png", "nul": "a\0b.png"}.get(kind, f"{kind}.png")
    if kind == "folder":
        name.mkdir()
    elif kind == "pipe":
        if not hasattr(os, "mkfifo"):
            pytest.skip("no pipes with a name here")
        os.mkfifo(name)
    elif kind == "device":
        name = Path("/dev/zero")
    elif kind in ("loop", "dangling"):
        name.symlink_to(name if kind == "loop" else folder / "gone.png")
    files = {"photo": "photo.png", "mask": "mask.png"} | {role: name}
    says = name.name if kind != "nul" else "no photo at"
    refused(capsys, folder, says, ["inpaint", files["photo"], files["mask"], "-o", "out.png", "--weights", weights])


SEEDS = [data for data, _ in GOOD.values() if len(data) < 8000] + [
    encoded(RGB, format) for format in ("TIFF", "BMP", "PPM", "TGA", "PCX", "SGI", "WEBP", "JPEG2000", "QOI", "DDS")
]


@settings(max_examples=150)
@given(st.data())
def test_damaged_anywhere_a_photo_is_read_or_refused_by_name(data):
    """Bytes changed, cut away or put in: what Pillow raises then is seldom what it documents."""
    content = bytearray(data.draw(st.sampled_from(SEEDS)))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, max(0, min(len(content), 300) - 1)))  # the headers are at the beginning
        change = data.draw(st.sampled_from(["set", "cut", "insert"]))
        if change == "cut":
            del content[data.draw(st.integers(place, len(content))) :]
        else:
            byte = data.draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]) | st.integers(0, 255))
            content[place : place + (change == "set")] = bytes([byte])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "odd.photo"
        path.write_bytes(content)
        try:
            photo = as_photo(path)
        except ValueError as error:
            assert str(path) in str(error)
        else:
            assert photo.dtype == np.uint8 and photo.ndim == 3 and photo.shape[2] == 3


def test_folders_of_photos_from_strangers(tmp_path, weights, capsys):
    """Loops, pipes, folders named like photos: what can be read is, the rest is named, nothing hangs."""
    (tmp_path / "in" / "deep").mkdir(parents=True)
    photos = tmp_path / "in"
    for name in ("rgba.png", "16 bit.png", "nan and inf.tif", "animated.gif"):
        (photos / "deep" / name).write_bytes(GOOD[name][0])
    (photos / "deep" / "loop").symlink_to(photos)
    (photos / "loop.png").symlink_to(photos / "loop.png")
    (photos / "folder.jpg").mkdir()
    for name in ("bomb.png", "empty.png"):
        (photos / name).write_bytes(BAD[name])
    if hasattr(os, "mkfifo"):
        os.mkfifo(photos / "pipe.jpg")
    found = PhotoFolder(photos)
    assert found.unreadable == ["bomb.png", "empty.png"] and [Path(name).name for name in found.names] == sorted(
        ("16 bit.png", "animated.gif", "nan and inf.tif", "rgba.png")
    )
    for name, photo in zip(found.names, found, strict=True):
        assert np.array_equal(photo, GOOD[Path(name).name][1])
    evaluation = ["evaluate", "--weights", weights, "--photos", photos, "--size", "16", "--methods", "damaged"]
    main([*map(str, evaluation), "--csv", str(tmp_path / "table.csv")])
    assert "2 unreadable, skipped: bomb.png, empty.png" in capsys.readouterr().err
    assert (tmp_path / "table.csv").read_text().count("damaged") == 12
    refused(capsys, tmp_path, "bomb.png", [*evaluation, "--strict"])
    for name in found.unreadable:
        (photos / name).unlink()
    (photos / "deep" / "cut.jpg").write_bytes(BAD["cut.jpg"])  # its header is whole
    refused(capsys, tmp_path, "cut.jpg", [*evaluation, "--csv", tmp_path / "other.csv"])
    refused(capsys, tmp_path, "in/loop.png", ["evaluate", "--weights", weights, "--photos", photos / "loop.png"])
    refused(capsys, tmp_path, "table.csv", ["evaluate", "--weights", weights, "--photos", tmp_path / "table.csv"])


TRAIN = ["train", "--size", "16", "--batch", "2", "--widths", "4", "--precision", "fp32", "--device", "cpu",
         "--vgg", "random", "--vgg-layers", "pool1",
         "--loss-weights", "perceptual=0,style_out=0,style_comp=0"]  # fmt: skip


def test_a_training_on_cut_photos_alone_is_refused_before_it_makes_a_folder(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "cut.jpg").write_bytes(BAD["cut.jpg"])
    refused(capsys, tmp_path, "cut.jpg", [*TRAIN, "--photos", tmp_path / "in", "--out", tmp_path / "out"])


def test_the_painter_takes_the_same_photos(tmp_path):
    painter = pytest.importorskip("pconv.painter")
    for name in ("rgba.png", "nan and inf.tif", "one pixel.png"):
        (tmp_path / name).write_bytes(GOOD[name][0])
        assert np.array_equal(painter.MaskPainter(tmp_path / name).photo, GOOD[name][1])
    (tmp_path / "bomb.png").write_bytes(BAD["bomb.png"])
    with pytest.raises(ValueError, match=r"bomb\.png is not a readable photo"):
        painter.MaskPainter(tmp_path / "bomb.png")


# Permissions ----------------------------------------------------------------------------------------------------------


@contextmanager
def as_nobody():
    """Root may read and write everything; so root becomes nobody for a while."""
    if not hasattr(os, "geteuid"):
        pytest.skip("no such permissions here")
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.fixture
def shared(weights):
    """A folder that everybody may enter, with a photo, a mask and the weights."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        folder.chmod(0o755)
        Image.fromarray(PHOTO).save(folder / "photo.png")
        Image.fromarray(HOLES).save(folder / "mask.png")
        (folder / "w.safetensors").write_bytes(weights.read_bytes())
        fill(folder / "photo.png", folder / "mask.png", folder / "out.png", folder / "w.safetensors")  # all is imported
        (folder / "out.png").unlink()
        yield folder


@pytest.mark.parametrize("locked_up", ["photo.png", "mask.png", "w.safetensors", "closed"])
def test_files_and_folders_without_permission_are_refused_by_name(locked_up, shared, capsys):
    (shared / "closed").mkdir()
    (shared / locked_up).chmod(0)
    output = shared / "closed" / "out.png"
    if locked_up != "closed":
        (shared / "closed").chmod(0o777)
    arguments = ["inpaint", shared / "photo.png", shared / "mask.png", "-o", output, "--device", "cpu"]
    before = listing(shared)
    with as_nobody(), pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in [*arguments, "--weights", shared / "w.safetensors"]])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1
    assert locked_up in error and "ermission denied" in error
    assert listing(shared) == before


def test_a_folder_of_photos_without_permission(shared, capsys):
    (shared / "in" / "closed").mkdir(parents=True)
    (shared / "in" / "closed").chmod(0)
    with as_nobody(), pytest.raises(SystemExit) as stop:
        main([*TRAIN, "--photos", str(shared / "in" / "closed"), "--out", str(shared / "out")])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and str(shared / "in" / "closed") in error
    assert not (shared / "out").exists()


# Masks ----------------------------------------------------------------------------------------------------------------


def ramp() -> np.ndarray:
    return np.tile(np.arange(0, 256, 8, dtype=np.uint8), (24, 1))  # antialiased: all greys


MASKS = {  # what is drawn: (the file, where it is white)
    "all hole": (Image.new("L", (32, 24), 255), np.ones((24, 32), bool)),
    "all valid": (Image.new("L", (32, 24), 0), np.zeros((24, 32), bool)),
    "antialiased": (Image.fromarray(ramp()), ramp() > 127),
    "1 bit": (Image.fromarray(HOLES), HOLES),
    "rgb": (Image.fromarray(np.where(HOLES[:, :, None], 255, 0).astype("u1").repeat(3, 2)), HOLES),
    "one colour": (Image.fromarray(np.dstack((HOLES * 255, 0 * HOLES, 0 * HOLES)).astype("u1")), HOLES),
    "rgba, opaque": (Image.fromarray(np.dstack([HOLES * 255] * 3 + [HOLES * 0 + 255]).astype("u1")), HOLES),
    "rgba, brush on nothing": (Image.fromarray(np.dstack([HOLES * 255] * 4).astype("u1")), HOLES),
    "la": (Image.fromarray(np.dstack([HOLES * 255] * 2).astype("u1"), "LA"), HOLES),
    "16 bit": (Image.fromarray((HOLES * 65535).astype(np.uint16)), HOLES),
    "palette": (Image.fromarray(HOLES).convert("L").convert("P"), HOLES),
}


@pytest.mark.parametrize("mask_is", ["holes", "valid"])
@pytest.mark.parametrize("name", MASKS)
def test_masks_of_every_kind_make_the_same_holes(name, mask_is, folder, weights):
    picture, white = MASKS[name]
    picture.save("given.png")
    holes = white if mask_is == "holes" else ~white
    filled = fill("photo.png", "given.png", "out.png", weights, "--mask-is", mask_is)
    assert np.array_equal(filled[~holes], PHOTO[~holes])
    assert np.array_equal(filled, inpaint(load_weights(weights), PHOTO, holes))


def test_a_float_mask_with_nan_is_a_mask(folder, weights):
    levels = np.where(HOLES, 1.0, 0.0).astype(np.float32)
    levels[0, 0] = np.nan
    Image.fromarray(levels).save("given.tif")
    assert np.array_equal(fill("photo.png", "given.tif", "out.png", weights)[~HOLES], PHOTO[~HOLES])


@pytest.mark.parametrize("size", [(24, 32), (33, 24), (1, 1), (64, 48)])
def test_masks_of_another_size_are_refused_with_both_sizes(size, folder, weights, capsys):
    Image.new("L", size).save("given.png")
    arguments = ["inpaint", "photo.png", "given.png", "-o", "out.png", "--weights", weights, "--device", "cpu"]
    error = refused(capsys, folder, "given.png", arguments)
    assert f"({size[1]}, {size[0]})" in error and "(24, 32)" in error


# Outputs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "more", "says"),
    [
        ("taken.png", [], "taken.png exists: --force overwrites it"),
        ("photo.png", [], "photo.png exists"),
        ("mask.png", [], "mask.png exists"),
        ("folder.png", [], "folder.png"),
        ("folder.png", ["--force"], "folder.png is a folder"),
        ("folder", [], "folder"),
        ("out", [], "out: give the output a photo's ending"),
        ("out.", [], "out.: give the output a photo's ending"),
        (".png", [], ".png: give the output"),
        ("out.gif", [], "out.gif: give the output"),  # 256 colours
        ("out.ico", [], "out.ico: give the output"),  # another size
        ("out.eps", [], "out.eps: give the output"),
        ("out.h5", [], "out.h5: give the output"),
        (252 * "n" + ".png", [], "File name too long"),
        ("taken.png/out.png", ["--force"], "taken.png"),
        ("/dev/null", ["--force"], "/dev/null"),
        ("", [], ". exists"),
    ],
)
def test_outputs_that_cannot_be_are_refused_and_change_nothing(output, more, says, folder, weights, capsys):
    (folder / "taken.png").write_bytes(b"precious")
    (folder / "folder.png").mkdir()
    (folder / "folder").mkdir()
    arguments = ["inpaint", "photo.png", "mask.png", "-o", output, "--weights", weights, "--device", "cpu", *more]
    refused(capsys, folder, says, arguments)


def test_more_columns_than_the_format_holds_are_refused_and_leave_nothing(tmp_path, weights, capsys):
    Image.new("RGB", (16_384, 1)).save(tmp_path / "line.png")
    arguments = ["inpaint", tmp_path / "line.png", tmp_path / "line.png", "--weights", weights, "--device", "cpu"]
    refused(capsys, tmp_path, tmp_path / "out.webp", [*arguments, "-o", tmp_path / "out.webp"])


def test_forced_onto_the_photo_itself_and_into_new_folders(folder, weights):
    wanted = fill("photo.png", "mask.png", "a/b/out.png", weights)
    assert np.array_equal(fill("photo.png", "mask.png", "photo.png", weights, "--force"), wanted)
    assert np.array_equal(wanted[~HOLES], PHOTO[~HOLES])
    assert sorted(path.name for path in folder.iterdir()) == ["a", "mask.png", "photo.png"]


@pytest.mark.parametrize("ending", ["png", "tif", "bmp", "ppm", "tga", "jp2", "qoi", "jpg", "webp"])
def test_formats_are_exact_or_say_that_they_are_not(ending, folder, weights, capsys):
    result = fill("photo.png", "mask.png", f"out.{ending}", weights)
    assert np.array_equal(result[~HOLES], PHOTO[~HOLES]) != ("is lossy" in capsys.readouterr().out)


@pytest.mark.parametrize("flag", ["--csv", "--json"])
def test_tables_that_cannot_be_written_are_refused_before_the_work(flag, tmp_path, weights, capsys):
    (tmp_path / "folder").mkdir()
    for name in ("folder", 300 * "n"):
        refused(capsys, tmp_path, name, ["evaluate", "--weights", weights, flag, tmp_path / name, "--device", "cpu"])
    refused(capsys, tmp_path, "folder", ["bench", "--json", tmp_path / "folder", "--device", "cpu"])


# Weights and checkpoints are data -------------------------------------------------------------------------------------


class _Payload:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def saved(value, **options) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def compressed(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return buffer.getvalue()


def with_header(architecture, **metadata) -> bytes:
    """Weights of a tiny net, whose header says that they are of `architecture`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        header = architecture if isinstance(architecture, str) else json.dumps(architecture)
        save_file(PConvUNet(widths=(4,)).state_dict(), path, {"architecture": header, **metadata})
        return path.read_bytes()


def shape(**changes) -> dict:
    return {"in_channels": 3, "out_channels": 3, "widths": [4], "residual": False} | changes


def tensors(change) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        state = {name: change(value) for name, value in PConvUNet(widths=(4,)).state_dict().items()}
        save_file(state, path, {"architecture": json.dumps(shape())})
        return path.read_bytes()


TINY = tensors(lambda value: value)
OLD = {"_use_new_zipfile_serialization": False}
HOSTILE = {
    "pickle": lambda mark: saved({"encoder.0.conv.weight": _Payload(mark)}),
    "old pickle": lambda mark: saved({"encoder.0.conv.weight": _Payload(mark)}, **OLD),
    "cut pickle": lambda mark: saved({"encoder.0.conv.weight": torch.ones(9)}, **OLD)[:60],
    "compressed": lambda mark: compressed(saved({"weight": torch.zeros(2**22)})),
    "length 2**63": lambda mark: struct.pack("<Q", 2**63) + TINY[8:],
    "length 2**40": lambda mark: struct.pack("<Q", 2**40) + TINY[8:],
    "length 99 MB": lambda mark: struct.pack("<Q", 99_000_000) + TINY[8:],
    "bad JSON": lambda mark: struct.pack("<Q", 9) + b"{'a': 1]}",
    "deep JSON": lambda mark: struct.pack("<Q", 10**6) + b"[" * 10**6,
    "beyond the end": lambda mark: TINY.replace(b'"data_offsets":[0,', b'"data_offsets":[9,'),
    "cut": lambda mark: TINY[:-1],
    "widths 10**9": lambda mark: with_header(shape(widths=[10**9])),
    "widths 10**9, twice": lambda mark: with_header(shape(widths=[10**9, 10**9])),
    "widths that take 3 GB": lambda mark: with_header(shape(widths=[2**12, 2**13])),
    "widths 10**30": lambda mark: with_header(shape(widths=[10**30])),
    "widths -4": lambda mark: with_header(shape(widths=[-4])),
    "widths inf": lambda mark: with_header(shape(widths=[float("inf")])),
    "widths nan": lambda mark: with_header(shape(widths=[float("nan")])),
    "widths of a million levels": lambda mark: with_header(shape(widths=[1] * 10**6)),
    "widths in words": lambda mark: with_header(shape(widths="many")),
    "channels 10**9": lambda mark: with_header(shape(in_channels=10**9)),
    "channels -3": lambda mark: with_header(shape(in_channels=-3)),
    "channels None": lambda mark: with_header(shape(out_channels=None)),
    "brackets": lambda mark: with_header("[" * 10**5),
    "a class": lambda mark: with_header(shape(__class__="os.system")),
    "integers": lambda mark: tensors(lambda value: value.to(torch.int32)),
    "booleans": lambda mark: tensors(lambda value: value.bool()),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_weights_run_nothing_and_are_refused_by_name(kind, folder, weights, capsys):
    path, out = folder / "theirs.safetensors", folder / "out"
    path.write_bytes(HOSTILE[kind](folder / "mark"))
    refused(capsys, folder, path, ["inpaint", "photo.png", "mask.png", "-o", "out.png", "--weights", path])
    refused(capsys, folder, path, ["evaluate", "--weights", path, "--csv", out / "table.csv", "--device", "cpu"])
    refused(capsys, folder, path, [*TRAIN, "--init", path, "--out", out])
    assert not (folder / "mark").exists()


def test_weights_of_other_channels_and_other_records(folder, capsys):
    path, photos = folder / "theirs.safetensors", folder / "in"
    photos.mkdir()
    (folder / "photo.png").rename(photos / "photo.png")
    save_weights(PConvUNet(4, 4, widths=(4,)), path)
    says = f"{path} takes 4 channels and gives 4; a photo has 3"
    refused(capsys, folder, says, ["inpaint", "in/photo.png", "mask.png", "-o", "out.png", "--weights", path])
    refused(capsys, folder, says, ["evaluate", "--weights", path, "--photos", photos, "--size", "16"])
    for record in ("{not JSON", "3"):
        path.write_bytes(with_header(shape(), training=record))
        assert read_metadata(path)["training"] == record
        refused(capsys, folder, path, [*TRAIN, "--init", path, "--photos", photos, "--out", folder / "out"])


def vgg(**changes) -> dict:
    state = VGGFeatures("random", layers=("pool1",)).stack.state_dict()
    return {f"features.{name}": value for name, value in state.items()} | changes


KEY = "features.0.weight"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("vgg.pth", lambda mark: saved(vgg(**{KEY: _Payload(mark)})), "damaged"),
        ("vgg.pth", lambda mark: saved(_Payload(mark), **OLD), "damaged"),
        ("vgg.pth", lambda mark: saved(vgg(), **OLD)[:5000], "damaged"),
        ("vgg.pth", lambda mark: saved(vgg(), **OLD)[:70], "damaged"),
        ("vgg.pth", lambda mark: compressed(saved(vgg())), "compressed"),
        ("vgg.pth", lambda mark: saved(vgg(**{KEY: "text"})), "is str"),
        ("vgg.pth", lambda mark: saved(vgg(**{KEY: torch.ones(64, 3, 3, 3, dtype=torch.int8)})), "is torch.int8"),
        ("vgg.pth", lambda mark: saved(vgg(**{KEY: torch.ones(64, 3, 3, 3, dtype=torch.cfloat)})), "is torch.complex"),
        ("vgg.pth", lambda mark: saved([1, 2]), "not a state_dict"),
        ("vgg.safetensors", lambda mark: struct.pack("<Q", 2**40) + b"{}", "safetensors"),
        ("vgg.safetensors", lambda mark: saved(vgg(**{KEY: _Payload(mark)})), "safetensors"),
    ],
)
def test_hostile_vgg_weights_run_nothing_and_are_refused_by_name(name, content, says, tmp_path, capsys):
    path = tmp_path / name
    path.write_bytes(content(tmp_path / "mark"))
    arguments = [*TRAIN, "--out", tmp_path / "out", "--vgg", path]
    assert says in refused(capsys, tmp_path, path, arguments)
    assert not (tmp_path / "mark").exists()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "out"
    main([*TRAIN, "--steps", "2", "--out", str(out)])
    return out


def test_a_checkpoint_that_lacks_a_part_or_holds_another_thing_is_refused_by_name(
    trained, tmp_path, capsys, monkeypatch
):
    features = VGGFeatures("random", layers=("pool1",))
    monkeypatch.setattr("pconv.commands.VGGFeatures", lambda *_: features)  # made once
    whole = load_checkpoint(trained / "checkpoint.pt")
    path = tmp_path / "checkpoint.pt"
    (tmp_path / ".lock").touch()
    arguments = [*TRAIN, "--steps", "3", "--resume", "--out", tmp_path]
    wrong = {name: "another thing" for name in whole if name not in ("format", "precision", "random_cuda")}
    wrong |= {"settings": {}, "model": {KEY: 3}, "optimizer": {}, "random": torch.zeros(3), "threads": -1}
    for name, value in wrong.items():
        path.write_bytes(saved(whole | {name: value}))
        refused(capsys, tmp_path, path, arguments)
        path.write_bytes(saved({key: value for key, value in whole.items() if key != name}))
        refused(capsys, tmp_path, path, arguments)
    for content in (saved({"format": whole["format"]}), compressed(saved(whole)), saved(whole, **OLD)[:-9]):
        path.write_bytes(content)
        refused(capsys, tmp_path, path, arguments)


CHILD = """
import contextlib, io, json, resource, sys
from pconv.cli import main
results = []
for arguments in json.load(sys.stdin):
    error = io.StringIO()
    try:
        with contextlib.redirect_stderr(error):
            main(arguments)
        code = 0
    except SystemExit as stop:
        code = stop.code
    results.append((code, error.getvalue()))
try:
    with open("/proc/self/status") as file:
        peak = next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) * 1024
except OSError:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps([results, peak]))
"""


@pytest.mark.skipif(os.name == "nt", reason="measures memory as Unix does")
def test_bombs_are_refused_in_less_than_two_gigabytes_and_without_pillows_warnings(folder, weights):
    """In a process of their own: the peak is that of all of them, and warnings go to stderr as they do for a user."""
    commands, names = [], []
    end = ["-o", "out.png", "--weights", str(weights), "--device", "cpu"]
    for name in ("bomb.png", "bomb below Pillow's limit.png", "cut.tif"):
        (folder / name).write_bytes(BAD[name])
        commands += [["inpaint", name, "mask.png", *end], ["inpaint", "photo.png", name, *end]]
        names += [name, name]
    many = encoded(RGB, "TIFF").replace(struct.pack("<HHII", 277, 3, 1, 3), struct.pack("<HHII", 277, 3, 1, 99))
    (folder / "many.tif").write_bytes(many)
    commands.append(["inpaint", "many.tif", "mask.png", *end])
    names.append("many.tif")
    for kind in ("length 2**40", "widths 10**9", "widths that take 3 GB", "widths of a million levels", "deep JSON"):
        (folder / f"{kind}.safetensors").write_bytes(HOSTILE[kind](None))
        commands.append(["inpaint", "photo.png", "mask.png", *end, "--weights", f"{kind}.safetensors"])
        names.append(f"{kind}.safetensors")
    before = listing(folder)
    run = subprocess.run(
        [sys.executable, "-c", CHILD], input=json.dumps(commands), capture_output=True, text=True, check=True
    )
    results, peak = json.loads(run.stdout)
    for name, (code, error) in zip(names, results, strict=True):
        assert code == 2 and error.count("\n") == 1 and name in error, error
    assert run.stderr == "" and listing(folder) == before
    assert peak < 2 * GIGABYTE


# A full disk, two at once ---------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A disk of one megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("may not mount a small disk here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def fill_up(disk: Path, leave: int) -> None:
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    (disk / "ballast").write_bytes(bytes(free - leave))


def ended(capsys, arguments) -> tuple[int, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    code, error = stop.value.code, capsys.readouterr().err
    if isinstance(code, str):  # sys.exit prints it, and makes it 1
        code, error = 1, error + code + "\n"
    return code, [line for line in error.splitlines() if line.startswith("pconv: ")]


@pytest.mark.parametrize("leave", [0, 8192])
def test_training_on_a_full_disk_keeps_what_was_saved_and_ends_in_one_line(leave, small_disk, capsys):
    out = small_disk / "out"
    main([*TRAIN, "--steps", "2", "--out", str(out)])
    before = listing(out)
    kept = {path: path.read_bytes() for path in before}
    fill_up(small_disk, leave)
    more = [*TRAIN, "--steps", "4", "--save-every", "1", "--resume", "--out", out]
    code, lines = ended(capsys, more)
    assert code == 1 and len(lines) == 1 and "No space left" in lines[0] and str(out) in lines[0]
    assert not [path for path in out.iterdir() if path not in kept]  # no half of a file
    assert all(path.stat().st_size for path in kept if path.name != ".lock")
    load_checkpoint(out / "checkpoint.pt")
    load_weights(out / "weights.safetensors")
    (small_disk / "ballast").unlink()
    main([str(argument) for argument in more])
    assert load_checkpoint(out / "checkpoint.pt")["step"] == 4


def test_an_end_without_room_for_the_weights_names_them_and_keeps_the_checkpoint(small_disk, capsys, monkeypatch):
    out = small_disk / "out"
    monkeypatch.setattr("pconv.commands.provenance", lambda *_, **__: fill_up(small_disk, 0) or {})
    code, lines = ended(capsys, [*TRAIN, "--steps", "2", "--out", out])
    assert code == 1
    assert lines == [f"pconv: [Errno {errno.ENOSPC}] No space left on device: '{out / 'weights.safetensors'}'"]
    assert load_checkpoint(out / "checkpoint.pt")["step"] == 2
    assert sorted(path.name for path in out.iterdir()) == [".lock", "checkpoint.pt", "history.csv"]


@pytest.mark.parametrize("ending", ["png", "bmp", "tif", "jpg", "jp2", "webp"])
def test_inpainting_on_a_full_disk_leaves_the_old_result(ending, small_disk, folder, weights, capsys):
    large = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    Image.fromarray(large).save("photo.png")
    Image.new("L", (200, 200)).save("mask.png")
    output = small_disk / f"out.{ending}"
    output.write_bytes(b"precious")
    fill_up(small_disk, 8192)
    arguments = ["inpaint", "photo.png", "mask.png", "-o", output, "--weights", weights, "--device", "cpu", "--force"]
    error = refused(capsys, folder, output, arguments)
    assert "cannot be written" in error and output.read_bytes() == b"precious"
    assert sorted(path.name for path in small_disk.iterdir()) == ["ballast", output.name]


def test_tables_on_a_full_disk(small_disk, weights, capsys, tmp_path):
    photos = tmp_path / "in"
    photos.mkdir()
    RGB.save(photos / "photo.png")
    fill_up(small_disk, 0)
    evaluation = ["evaluate", "--weights", weights, "--photos", photos, "--size", "16", "--methods", "damaged"]
    for flag in ("--csv", "--json"):
        code, lines = ended(capsys, [*evaluation, flag, small_disk / "table"])
        assert code == 1 and len(lines) == 1 and str(small_disk / "table") in lines[0]
    assert [path.name for path in small_disk.iterdir()] == ["ballast"]


RACE = """
import os, sys
from pconv.cli import main
read, write = os.pipe()
children = []
for name in sys.argv[1:3]:
    children.append(os.fork())
    if children[-1] == 0:
        os.close(write)
        sys.stdout, sys.stderr = open(os.devnull, "w"), open(name, "w", buffering=1)
        os.read(read, 1)  # until the parent closes its end: both start at once
        try:
            main(sys.argv[3:])
            code = 0
        except SystemExit as stop:
            code = stop.code
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            code = 99
        os._exit(code)
os.close(write)
print(*(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks processes")
def test_of_two_trainings_started_at_the_same_moment_one_goes_on(tmp_path):
    out, errors = tmp_path / "out", [tmp_path / "first", tmp_path / "second"]
    command = [sys.executable, "-c", RACE, *errors, *TRAIN, "--steps", "30", "--out", out]
    run = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True, timeout=240)
    assert sorted(run.stdout.split()) == ["0", "2"], [path.read_text() for path in errors]
    error = errors[run.stdout.split().index("2")].read_text()
    assert error.count("\n") == 1 and str(out) in error and ("another training" in error or "not empty" in error)
    assert load_checkpoint(out / "checkpoint.pt")["step"] == 30
    left = sorted(path.name for path in out.iterdir())
    assert left == [".lock", "checkpoint.pt", "history.csv", "weights.safetensors"]


@pytest.mark.parametrize("resume", [[], ["--resume"]])
def test_a_training_that_ended_before_the_lock_was_free_is_seen(resume, trained, tmp_path, capsys, monkeypatch):
    """The other one fills the folder after this one looked into it: nothing of it is written over."""
    import pconv.commands

    out, really = tmp_path / "out", pconv.commands._writable

    def meanwhile(folder, *arguments):
        out.mkdir()
        for path in trained.iterdir():
            (out / path.name).write_bytes(path.read_bytes())
        return really(folder, *arguments)

    monkeypatch.setattr("pconv.commands._writable", meanwhile)
    command = [*TRAIN, "--steps", "3", "--out", str(out), *resume]
    if resume:
        main(command)
        assert "resumed at step 2" in capsys.readouterr().out
        return
    with pytest.raises(SystemExit) as stop:
        main(command)
    assert stop.value.code == 2 and "not empty" in capsys.readouterr().err
    assert (out / "weights.safetensors").read_bytes() == (trained / "weights.safetensors").read_bytes()


# Long use -------------------------------------------------------------------------------------------------------------


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def live_tensors() -> int:
    gc.collect()
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


def flat(work, warm_up: int, times: int) -> None:
    """After the warm-up neither the tensors that live nor the memory grow."""
    work(warm_up)
    tensors, memory = live_tensors(), resident()
    work(times)
    assert live_tensors() <= tensors + 2
    assert resident() < memory * 1.03 + 2**24


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads memory where Linux shows it")
def test_memory_is_flat_over_many_training_steps():
    loss = InpaintingLoss(VGGFeatures("random", layers=("pool1",)))
    batches = TrainingBatches([np.tile(PHOTO, (3, 3, 1))], 32, 2, seed=0)
    trainer = Trainer(PConvUNet(widths=(4, 4)), loss, "fp32", "cpu")
    flat(lambda steps: trainer.fit(batches, steps), 10, 60)
    assert trainer.step == 70 and len(trainer.history.rows) == 7


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads memory where Linux shows it")
def test_memory_is_flat_over_many_inpaintings(tmp_path, weights):
    photo, mask = tmp_path / "photo.png", tmp_path / "mask.png"
    Image.fromarray(np.tile(PHOTO, (6, 6, 1))).save(photo)
    Image.fromarray(np.tile(HOLES, (6, 6))).save(mask)
    flat(lambda times: [fill(photo, mask, tmp_path / "out.png", weights, "--force") for _ in range(times)], 5, 50)
    assert len(list(tmp_path.iterdir())) == 3
