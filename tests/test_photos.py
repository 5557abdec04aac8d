"""Photos of every kind, damaged ones too: read right, or refused by name. Folders of photos."""

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import assert_refused, inpaint_file
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_photos import BAD, GOOD, RGB, encoded
from PIL import Image

from pconv import inpaint, load_weights
from pconv.cli import main
from pconv.image_reader import to_8_bits
from pconv.photos import (
    PhotoFolder,
    ReadablePhotos,
    as_photo,
    bundled_photos,
    center_crop,
    photo_files,
    to_tensor,
)

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = np.random.default_rng(0).integers(0, 256, (12, 17, 3), dtype=np.uint8)


# Formats ------------------------------------------------------------------------------------------


def test_bundled_photos():
    trained_on, held_out = bundled_photos(), bundled_photos(held_out=True)
    assert list(held_out) == ["astronaut", "coffee"] and not trained_on.keys() & held_out.keys()
    assert {"chelsea", "motorcycle_left", "motorcycle_right", "grass"} <= trained_on.keys()
    for photo in (*trained_on.values(), *held_out.values()):
        assert photo.dtype == np.uint8
        assert photo.ndim == 3
        assert photo.shape[2] == 3
        assert min(photo.shape[:2]) >= 256
    assert (trained_on["grass"] == trained_on["grass"][:, :, :1]).all()  # gray


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA", "P", "1"])
def test_modes_that_lose_nothing(tmp_path, mode):
    """Gray is repeated, transparent pixels keep their color, palettes are looked up."""
    gray = SMALL[:, :, 0]
    alpha = np.zeros((*gray.shape, 1), np.uint8)
    palette = np.arange(21, dtype=np.uint8) * 12
    array, expected = {
        "RGB": (SMALL, SMALL),
        "L": (gray, gray[:, :, None].repeat(3, 2)),
        "RGBA": (np.concatenate((SMALL, alpha), 2), SMALL),
        "LA": (np.concatenate((gray[:, :, None], alpha), 2), gray[:, :, None].repeat(3, 2)),
        "P": (gray % 7, palette.reshape(7, 3)[gray % 7]),
        "1": (gray > 127, np.where(gray[:, :, None] > 127, 255, 0).repeat(3, 2)),
    }[mode]
    picture = Image.fromarray(array)
    if mode == "P":
        picture.putpalette(palette.tobytes())
    path = tmp_path / "photo.png"
    # of a palette, one color is transparent
    picture.save(path, **({"transparency": 3} if mode == "P" else {}))
    with Image.open(path) as reopened:
        assert reopened.mode == mode
    for source in (picture, path, str(path)):
        photo = as_photo(source)
        assert photo.dtype == np.uint8
        assert photo.shape == SMALL.shape
        assert np.array_equal(photo, expected)


def test_cmyk_jpeg(tmp_path):
    path = tmp_path / "print.jpg"
    flat = Image.new("CMYK", (16, 8), (0, 255, 255, 0))  # magenta and yellow ink make red
    flat.save(path, quality=95)
    assert np.abs(as_photo(path).astype(int) - (255, 0, 0)).max() <= 6
    assert as_photo(path).shape == (8, 16, 3)


def test_16_bit_png_is_scaled_and_not_clipped(tmp_path):
    levels = np.linspace(0, 65535, 12 * 17).round().astype(np.uint16).reshape(12, 17)
    path = tmp_path / "deep.png"
    Image.fromarray(levels).save(path)
    photo = as_photo(path)
    assert photo.shape == (12, 17, 3) and (photo == photo[:, :, :1]).all()
    assert np.abs(photo[:, :, 0] - levels / 257).max() <= 0.5


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
def test_fewer_bits_in_a_file_of_16_are_not_black(tmp_path, bits):
    levels = np.linspace(0, 2**bits - 1, 12 * 17).round().astype(np.uint16).reshape(12, 17)
    Image.fromarray(levels).save(tmp_path / "camera.png")
    photo = as_photo(tmp_path / "camera.png")
    assert np.abs(photo[:, :, 0] - levels / (2**bits - 1) * 255).max() <= 0.5


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    """The tag words where the stored row 0 and column 0 belong: EXIF 2.3, 4.6.4 A."""
    upright = np.zeros((16, 24, 3), np.uint8)
    upright[:8, :8], upright[:8, 16:], upright[8:, :8] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    to_stored = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.png"
    Image.fromarray(np.ascontiguousarray(to_stored(upright))).save(path, exif=exif)
    assert np.array_equal(as_photo(path), upright)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (SMALL, SMALL),
        (SMALL[:, :, 0], SMALL[:, :, [0, 0, 0]]),
        (SMALL[:, :, :1], SMALL[:, :, [0, 0, 0]]),
        (SMALL[:, :, [0, 1, 2, 0]], SMALL),
        (SMALL[::-1, ::2], SMALL[::-1, ::2]),
    ],
)
def test_arrays(array, expected):
    photo = as_photo(array)
    assert np.array_equal(photo, expected) and photo.flags.c_contiguous


@pytest.mark.parametrize(
    ("photo", "error", "words"),
    [
        (SMALL / 255, TypeError, r"array of float64; expected uint8: \(255 \* photo\)"),
        (SMALL[:, :, :2], ValueError, r"shape \(12, 17, 2\); expected"),
        (SMALL[None], ValueError, r"shape \(1, 12, 17, 3\)"),
        (SMALL[:0], ValueError, r"shape \(0, 17, 3\)"),
        ("no/such/photo.jpg", FileNotFoundError, r"no photo at no/such/photo\.jpg"),
    ],
)
def test_what_is_no_photo_is_refused(photo, error, words):
    with pytest.raises(error, match=words):
        as_photo(photo)


def test_to_tensor_and_center_crop():
    tensor = to_tensor(SMALL)
    assert tensor.shape == (1, 3, 12, 17) and tensor.dtype == torch.float32
    assert tensor.is_contiguous(memory_format=torch.channels_last)
    assert np.array_equal(tensor[0].permute(1, 2, 0).numpy(), SMALL.astype(np.float32) / 255)
    wide = np.repeat(np.repeat(SMALL[:4, :8], 8, 0), 8, 1)  # blocks of 8: 32 x 64
    assert np.array_equal(center_crop(wide, 32), wide[:, 16:48])
    assert center_crop(wide, 16).shape == (16, 16, 3) == center_crop(wide[:9], 16).shape


# Odd and damaged files ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", GOOD)
def test_odd_photos_are_filled_and_keep_every_pixel_outside_the_holes(
    name, workdir, weights, capsys
):
    data, pixels = GOOD[name]
    photo, mask, output = workdir / name, workdir / "the mask.png", workdir / "result.png"
    try:
        photo.write_bytes(data)
    except OSError as error:
        pytest.skip(f"this file system takes no such name: {error.strerror}")
    holes = np.zeros(pixels.shape[:2], bool)
    if holes.size > 1:
        holes[: (holes.shape[0] + 1) // 2, : (holes.shape[1] + 1) // 2] = True
    Image.fromarray(holes).save(mask)
    filled = inpaint_file(photo, mask, output, weights)
    assert np.array_equal(filled[~holes], pixels[~holes])
    assert np.array_equal(filled, to_8_bits(inpaint(load_weights(weights), photo, holes)))
    assert capsys.readouterr().err == ""
    output.unlink()
    if "." in name:
        output = (
            photo.with_suffix(".png")
            if len(name) > 200
            else photo.with_name("out" + photo.stem + ".png")
        )
        # a name as odd for the output
        filled_again = inpaint_file(photo, mask, output, weights, "--force")
        assert np.array_equal(filled_again, filled)
    assert not [path.name for path in workdir.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("role", ["photo", "mask"])
@pytest.mark.parametrize("name", BAD)
def test_what_is_no_photo_is_refused_by_name(name, role, workdir, weights, capsys):
    (workdir / name).write_bytes(BAD[name])
    files = {"photo": "photo.png", "mask": "mask.png"} | {role: name}
    arguments = ["inpaint", files["photo"], files["mask"], "-o", "new/out.png"]
    arguments += ["--weights", weights, "--device", "cpu"]
    assert "not a readable photo" in assert_refused(capsys, arguments, name, unchanged=workdir)


@pytest.mark.parametrize("role", ["photo", "mask"])
@pytest.mark.parametrize(
    "kind", ["folder", "pipe", "loop", "dangling", "missing", "too long", "device", "nul"]
)
def test_what_is_no_file_is_refused_by_name(kind, role, workdir, weights, capsys):
    name = workdir / {"too long": 300 * "n" + ".png", "nul": "a\0b.png"}.get(kind, f"{kind}.png")
    if kind == "folder":
        name.mkdir()
    elif kind == "pipe":
        if not hasattr(os, "mkfifo"):
            pytest.skip("no pipes with a name here")
        os.mkfifo(name)
    elif kind == "device":
        name = Path("/dev/zero")
    elif kind in ("loop", "dangling"):
        name.symlink_to(name if kind == "loop" else workdir / "gone.png")
    files = {"photo": "photo.png", "mask": "mask.png"} | {role: name}
    words = name.name if kind != "nul" else "no photo at"
    assert_refused(
        capsys,
        ["inpaint", files["photo"], files["mask"], "-o", "out.png", "--weights", weights],
        words,
        unchanged=workdir,
    )


SEEDS = [data for data, _ in GOOD.values() if len(data) < 8000] + [
    encoded(RGB, format)
    for format in ("TIFF", "BMP", "PPM", "TGA", "PCX", "SGI", "WEBP", "JPEG2000", "QOI", "DDS")
]


@settings(max_examples=150)
@given(st.data())
def test_damaged_anywhere_a_photo_is_read_or_refused_by_name(data):
    """Bytes changed, cut away or put in: what Pillow raises then is seldom what it documents."""
    content = bytearray(data.draw(st.sampled_from(SEEDS)))
    for _ in range(data.draw(st.integers(1, 4))):
        # the headers are at the beginning
        place = data.draw(st.integers(0, max(0, min(len(content), 300) - 1)))
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


# Folders ------------------------------------------------------------------------------------------


@pytest.fixture
def mixed_folder(tmp_path):
    """Three photos, one with an uppercase ending, one nested; a text file named .jpg; a note."""
    (tmp_path / "b" / "c").mkdir(parents=True)
    Image.fromarray(SMALL).save(tmp_path / "a.PNG")
    Image.fromarray(SMALL[::-1]).save(tmp_path / "b" / "c" / "d.Jpeg")
    Image.fromarray(SMALL[:, :, 0]).save(tmp_path / "b" / "e.bmp")
    (tmp_path / "b" / "text.jpg").write_text("not a photo")
    (tmp_path / "notes.txt").write_text("not named like one")
    (tmp_path / "folder.png").mkdir()
    return tmp_path


def test_photo_folder_names_what_ends_like_a_photo_and_can_be_strict(mixed_folder):
    photos = PhotoFolder(mixed_folder)
    assert photos.names == ["a.PNG", "b/c/d.Jpeg", "b/e.bmp", "b/text.jpg"]
    assert np.array_equal(photos[0], SMALL) and photo_files(str(mixed_folder)) == photos.names
    readable = ReadablePhotos(photos)
    assert [name for name, _ in readable] == photos.names[:3]
    assert list(readable.unreadable) == ["b/text.jpg"]
    assert "text.jpg is not a readable photo" in readable.unreadable["b/text.jpg"]
    assert [name for name, _ in ReadablePhotos(photos, [2, 0])] == ["b/e.bmp", "a.PNG"]
    with pytest.raises(ValueError, match=r"text\.jpg is not a readable photo"):
        PhotoFolder(mixed_folder, strict=True)
    (mixed_folder / "b" / "text.jpg").unlink()
    assert len(PhotoFolder(mixed_folder, strict=True)) == 3


def test_a_folder_opens_without_opening_a_file(mixed_folder, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("opened")

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", refuse)
        patch.setattr("PIL.Image.open", refuse)
        assert len(PhotoFolder(mixed_folder)) == 4


def test_hidden_files_are_left_out_and_linked_folders_followed_once(mixed_folder, tmp_path):
    content = (mixed_folder / "a.PNG").read_bytes()
    (mixed_folder / "._a.PNG").write_bytes(b"what macOS leaves beside a file")
    (mixed_folder / ".thumbnails").mkdir()
    (mixed_folder / ".thumbnails" / "a.png").write_bytes(content)
    elsewhere = tmp_path.parent / f"{tmp_path.name} elsewhere"
    (elsewhere / "deep").mkdir(parents=True)
    (elsewhere / "deep" / "z.png").write_bytes(content)
    (elsewhere / "back").symlink_to(mixed_folder)
    (elsewhere / "deep" / "up").symlink_to(elsewhere)
    (mixed_folder / "link").symlink_to(elsewhere)
    (mixed_folder / "linked file.png").symlink_to(elsewhere / "deep" / "z.png")
    names = PhotoFolder(mixed_folder).names
    assert names == sorted(names)
    assert set(names) == {
        "a.PNG",
        "b/c/d.Jpeg",
        "b/e.bmp",
        "b/text.jpg",
        "link/deep/z.png",
        "linked file.png",
    }


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with a name here")
def test_a_strict_folder_refuses_a_pipe_and_does_not_wait_for_it(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ValueError, match=r"pipe\.jpg is not a readable photo"):
        PhotoFolder(tmp_path, strict=True)


def test_photo_cut_in_the_middle_is_refused_by_name(mixed_folder):
    whole = (mixed_folder / "a.PNG").read_bytes()
    (mixed_folder / "a.PNG").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"a\.PNG is not a readable photo"):
        as_photo(mixed_folder / "a.PNG")


def test_folders_without_a_photo_are_refused_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere"):
        PhotoFolder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=f"no photos in {tmp_path}"):
        PhotoFolder(tmp_path)


def test_folders_of_photos_from_strangers(tmp_path, weights, capsys):
    """Loops, pipes, folders named like photos: unreadable ones are named, and nothing hangs."""
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
    readable = ReadablePhotos(PhotoFolder(photos))
    for name, photo in readable:
        assert np.array_equal(photo, GOOD[Path(name).name][1])
    bad = ["bomb.png", "empty.png", "loop.png"] + ["pipe.jpg"] * hasattr(os, "mkfifo")
    assert sorted(readable.unreadable) == bad
    evaluation = ["evaluate", "--weights", weights, "--photos", photos, "--size", "16"]
    evaluation += ["--methods", "damaged"]
    main([*map(str, evaluation), "--csv", str(tmp_path / "table.csv")])
    assert f"{len(bad)} unreadable, skipped: bomb.png, empty.png, loop.png" in (
        capsys.readouterr().err
    )
    assert (tmp_path / "table.csv").read_text().count("damaged") == 12
    assert_refused(capsys, [*evaluation, "--strict"], "bomb.png", unchanged=tmp_path)
    for name in bad:
        (photos / name).unlink()
    (photos / "deep" / "cut.jpg").write_bytes(BAD["cut.jpg"])  # its header is whole
    main([*map(str, evaluation), "--verbose"])
    error = capsys.readouterr().err
    assert "1 unreadable, skipped: deep/cut.jpg\n" in error
    assert "cut.jpg is not a readable photo" in error.split("\n", 1)[1]
    assert_refused(capsys, [*evaluation, "--strict"], "cut.jpg", unchanged=tmp_path)
    assert_refused(
        capsys,
        ["evaluate", "--weights", weights, "--photos", photos / "loop.png"],
        "in/loop.png",
        unchanged=tmp_path,
    )
    assert_refused(
        capsys,
        ["evaluate", "--weights", weights, "--photos", tmp_path / "table.csv"],
        "table.csv",
        unchanged=tmp_path,
    )
