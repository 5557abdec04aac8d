"""Mask files of every kind: filled as meant, or refused by name, and what is unlikely is said."""

import numpy as np
import pytest
from helpers import HOLES, PHOTO, assert_refused, inpaint_file
from PIL import Image, ImageDraw, ImageFilter

from pconv import inpaint, load_weights
from pconv.cli import main
from pconv.image_reader import read_image
from pconv.mask_reader import read_mask
from pconv.photos import bundled_photos

pytestmark = pytest.mark.usefixtures("one_thread")


def ramp() -> np.ndarray:
    return np.tile(np.arange(0, 256, 8, dtype=np.uint8), (24, 1))  # all grays


def layer(color, alpha) -> Image.Image:
    """A layer of an image editor: one color, or one per pixel, (H, W, 3)."""
    pixels = np.broadcast_to(np.asarray(color, np.uint8), (*HOLES.shape, 3))
    return Image.fromarray(np.dstack((pixels, np.asarray(alpha, np.uint8))))


WHITE_OR_BLACK = np.where(HOLES[:, :, None], 255, 0)
MASKS = {  # what is drawn: (the file, where it is white)
    "all valid": (Image.new("L", (32, 24), 0), np.zeros((24, 32), bool)),
    "1 bit": (Image.fromarray(HOLES), HOLES),
    "0 and 1": (Image.fromarray(HOLES.astype(np.uint8)), HOLES),
    "0 and 1, 16 bit": (Image.fromarray(HOLES.astype(np.uint16)), HOLES),
    "0 and 100": (Image.fromarray((HOLES * 100).astype(np.uint8)), HOLES),
    "200 and 255": (Image.fromarray((HOLES * 55 + 200).astype(np.uint8)), HOLES),
    "0 and 65535": (Image.fromarray((HOLES * 65535).astype(np.uint16)), HOLES),
    "0 and 4095": (Image.fromarray((HOLES * 4095).astype(np.uint16)), HOLES),
    "rgb": (Image.fromarray(np.where(HOLES[:, :, None], 255, 0).astype("u1").repeat(3, 2)), HOLES),
    "one color": (
        Image.fromarray(np.dstack((HOLES * 255, 0 * HOLES, 0 * HOLES)).astype("u1")),
        HOLES,
    ),
    "palette": (Image.fromarray(HOLES).convert("L").convert("P"), HOLES),
    "opaque layer": (layer(WHITE_OR_BLACK, HOLES * 0 + 255), HOLES),
    "white brush on nothing": (layer(WHITE_OR_BLACK, HOLES * 255), HOLES),
    "white on transparent white": (layer(255, HOLES * 255), HOLES),
    "black on transparent white": (layer(WHITE_OR_BLACK ^ 255, HOLES * 255), HOLES),
    "black on transparent black": (layer(0, HOLES * 255), HOLES),
    "red on transparent": (layer((255, 0, 0), HOLES * 255), HOLES),
    "half opaque brush": (layer(255, HOLES * 128), HOLES),
    "white and black, both opaque, on nothing": (
        layer(WHITE_OR_BLACK, np.where(np.arange(32) < 28, 255, 0) + 0 * HOLES),
        HOLES,
    ),
    "gray with alpha": (Image.fromarray(np.dstack([HOLES * 255] * 2).astype("u1"), "LA"), HOLES),
}


@pytest.mark.parametrize("mask_is", ["holes", "valid"])
@pytest.mark.parametrize("name", MASKS)
def test_masks_of_every_kind_make_the_same_holes(name, mask_is, workdir, weights):
    picture, white = MASKS[name]
    picture.save("given.png")
    holes = white if mask_is == "holes" else ~white
    if holes.all():
        return
    filled = inpaint_file("photo.png", "given.png", "out.png", weights, "--mask-is", mask_is)
    assert np.array_equal(filled[~holes], PHOTO[~holes])
    assert np.array_equal(filled, inpaint(load_weights(weights), PHOTO, holes))


@pytest.mark.parametrize(
    ("levels", "words"),
    [
        (np.arange(768).reshape(24, 32) % 3, "has 3 levels from 0 to 2, of 255: which are holes?"),
        (HOLES + 100, "levels 100"),
        (0 * HOLES + 7, "has one level, 7 of 255: is it black or white?"),
    ],
)
def test_levels_that_are_neither_black_nor_white_are_refused(
    levels, words, workdir, weights, capsys
):
    if words == "levels 100":
        levels[0, 0] = 120
        words = "has 3 levels from 100 to 120, of 255"
    Image.fromarray(levels.astype(np.uint8)).save("given.png")
    command = ["inpaint", "photo.png", "given.png", "-o", "out.png", "--weights", weights]
    error = assert_refused(capsys, command, words, unchanged=workdir)
    assert "given.png" in error


@pytest.mark.parametrize("white_is", ["holes", "valid"])
def test_nan_in_a_float_mask_is_black(white_is, tmp_path):
    levels = np.where(HOLES, 1.0, 0.0).astype(np.float32)
    levels[0, 0] = np.nan
    Image.fromarray(levels).save(tmp_path / "given.tif")
    holes, _ = read_mask(tmp_path / "given.tif", white_is)
    assert np.array_equal(holes, (white_is == "holes") == HOLES)


# Soft edges ---------------------------------------------------------------------------------------


def draw_soft(kind: str) -> np.ndarray:
    """A disc with a soft edge, white on black, 0 to 1."""
    large = Image.new("L", (8 * 96, 8 * 96))
    ImageDraw.Draw(large).ellipse((200, 200, 520, 520), fill=255)
    small = large.resize((96, 96), Image.Resampling.BOX)
    if kind == "blurred":
        small = small.filter(ImageFilter.GaussianBlur(3))
    return np.asarray(small) / 255


@pytest.mark.parametrize("white_is", ["holes", "valid"])
@pytest.mark.parametrize("kind", ["antialiased", "blurred"])
@pytest.mark.parametrize("stored", ["png", "jpg", "16 bit", "alpha", "red"])
def test_nothing_of_a_soft_outline_stays(stored, kind, white_is, tmp_path):
    """What was laid over the photo with the mask as its opacity is gone: below the 1.5 of noise."""
    opacity = draw_soft(kind)
    drawn = opacity if white_is == "holes" else 1 - opacity
    levels = (255 * drawn).round().astype(np.uint8)
    path = tmp_path / f"mask.{'jpg' if stored == 'jpg' else 'png'}"
    if stored == "16 bit":
        Image.fromarray((65535 * drawn).round().astype(np.uint16)).save(path)
    elif stored == "alpha":
        Image.fromarray(np.dstack((0 * levels, 0 * levels, 0 * levels, levels))).save(path)
    elif stored == "red":
        Image.fromarray(np.dstack((levels, 0 * levels, 0 * levels))).save(path)
    else:
        Image.fromarray(levels).save(path, quality=95)
    holes, notes = read_mask(path, white_is)
    left = 255 * opacity[~holes]
    assert left.max() < (1.5 if stored == "jpg" else 0.51)
    assert notes == [] and holes.mean() < 0.4
    assert not holes[:8].any() and not holes[:, -8:].any()


def test_faint_noise_is_no_hole_unless_it_lies_beside_one(tmp_path):
    rng = np.random.default_rng(0)
    levels = rng.integers(0, 5, (96, 96)).astype(np.uint8)
    levels[30:60, 30:60] = 255 - levels[30:60, 30:60]
    Image.fromarray(levels).save(tmp_path / "noisy.png")
    holes, _ = read_mask(tmp_path / "noisy.png")
    assert holes[30:60, 30:60].all() and not holes[:20].any() and not holes[70:].any()


def test_more_gray_than_black_and_white_is_split_in_the_middle_and_said(workdir, weights, capsys):
    Image.fromarray(ramp()).save("given.png")
    filled = inpaint_file("photo.png", "given.png", "out.png", weights)
    holes = ramp() > 127
    assert np.array_equal(filled, inpaint(load_weights(weights), PHOTO, holes))
    assert "given.png has 32 gray levels, split in the middle" in capsys.readouterr().out


def test_photo_and_mask_swapped_and_strokes_on_the_photo_are_said(tmp_path, weights, capsys):
    photo = bundled_photos()["chelsea"][:200, :200]
    Image.fromarray(photo).save(tmp_path / "photo.png")
    strokes = photo.copy()
    strokes[50:70, 20:180] = (255, 0, 0)
    Image.fromarray(strokes).save(tmp_path / "strokes.png")
    mask = np.zeros((200, 200), np.uint8)
    mask[50:70, 20:180] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    for photo_file, mask_file in (("mask", "photo"), ("photo", "strokes")):
        paths = [tmp_path / f"{photo_file}.png", tmp_path / f"{mask_file}.png"]
        inpaint_file(*paths, tmp_path / f"{mask_file}_out.png", weights)
        assert f"{mask_file}.png has" in (line := capsys.readouterr().out)
        assert "is it a photo, or one with strokes on it?" in line


# How much is filled -------------------------------------------------------------------------------


def test_what_was_filled_is_said(workdir, weights, capsys):
    inpaint_file("photo.png", "mask.png", "out.png", weights)
    out = capsys.readouterr().out
    assert f"32×24 pixels, filled {HOLES.mean():.2%} of the photo, 1 hole, in" in out
    assert "Note" not in out
    three = HOLES.copy()
    three[0, 0] = three[20:, 25:] = three[19, 24] = True  # the last touches a corner
    Image.fromarray(three).save("mask.png")
    inpaint_file("photo.png", "mask.png", "out.png", weights, "--force")
    assert f"filled {three.mean():.2%} of the photo, 3 holes" in capsys.readouterr().out


def test_nothing_and_nearly_everything_is_said_and_everything_refused(workdir, weights, capsys):
    Image.new("L", (32, 24)).save("black.png")
    inpaint_file("photo.png", "black.png", "out.png", weights)
    out = capsys.readouterr().out
    assert "black.png has no hole, nothing is filled (--mask-is valid?)" in out
    assert "filled 0.00% of the photo, 0 holes" in out
    few = np.zeros((24, 32), np.uint8)
    few[3:5, 3:8] = 255
    Image.fromarray(few).save("few.png")
    inpaint_file("photo.png", "few.png", "out.png", weights, "--force", "--mask-is", "valid")
    assert "nearly all of the photo a hole (--mask-is holes?)" in capsys.readouterr().out
    command = ["inpaint", "photo.png", "black.png", "-o", "new.png", "--weights", weights]
    words = "black.png makes all of the photo a hole: there is nothing to continue"
    error = assert_refused(capsys, [*command, "--mask-is", "valid"], words, unchanged=workdir)
    assert "--mask-is holes?" in error


# Sizes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(24, 32), (33, 24), (1, 1), (64, 48)])
def test_masks_of_another_size_are_refused_with_both_sizes(size, workdir, weights, capsys):
    Image.new("L", size).save("given.png")
    arguments = ["inpaint", "photo.png", "given.png", "-o", "out.png", "--weights", weights]
    arguments += ["--device", "cpu"]
    error = assert_refused(capsys, arguments, "given.png", unchanged=workdir)
    assert f"{size[0]}×{size[1]} pixels (width × height), the photo 32×24" in error


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_mask_drawn_on_the_unturned_photo_is_turned_with_it(orientation, tmp_path, weights):
    """The fill lies where the mask was drawn on what is stored."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(PHOTO).save(tmp_path / "photo.png", exif=exif)
    Image.fromarray(HOLES).save(tmp_path / "mask.png")
    photo = read_image(tmp_path / "photo.png")
    holes, notes = read_mask(tmp_path / "mask.png", photo=photo)
    assert holes.shape == (32, 24) and "EXIF turns the photo, so" in notes[0]
    Image.fromarray(np.where(HOLES[:, :, None], 255, PHOTO)).save(
        tmp_path / "painted.png", exif=exif
    )
    painted = read_image(tmp_path / "painted.png").pixels
    assert np.array_equal(holes, (painted == 255).all(2))
    Image.fromarray(holes).save(tmp_path / "turned.png")  # one that fits is left as it is
    again, notes = read_mask(tmp_path / "turned.png", photo=photo)
    assert np.array_equal(again, holes) and notes == []
    out = tmp_path / "out.png"
    command = ["inpaint", tmp_path / "photo.png", tmp_path / "mask.png", "-o", out]
    main([str(word) for word in (*command, "--weights", weights)])
    filled = np.asarray(Image.open(out))
    assert np.array_equal(filled[~holes], photo.pixels[~holes])
    assert (filled[holes] != photo.pixels[holes]).any()
