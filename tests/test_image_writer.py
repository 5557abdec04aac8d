"""What a photo carries goes through a file and back, in every format that can hold it."""

import io

import numpy as np
import pytest
import tifffile
from helpers import GRAY, HOLES, PHOTO, RNG, inpaint_file
from PIL import Image, ImageCms

from pconv.cli import main
from pconv.image_reader import ImageFile, read_image
from pconv.image_writer import CAN_HOLD, write_image

pytestmark = pytest.mark.usefixtures("one_thread")

DEEP = RNG.integers(0, 65536, PHOTO.shape).astype(np.uint16)
ALPHA = RNG.integers(0, 256, GRAY.shape).astype(np.uint8)
ENDINGS = {
    "PNG": "png",
    "TIFF": "tif",
    "JPEG": "jpg",
    "WEBP": "webp",
    "AVIF": "avif",
    "JPEG2000": "jp2",
    "TGA": "tga",
    "QOI": "qoi",
    "BMP": "bmp",
    "PPM": "ppm",
}
LOSSLESS = set(ENDINGS) - {"JPEG", "WEBP", "AVIF"}


def make_exif(orientation: int = 1) -> Image.Exif:
    exif = Image.Exif()
    exif[0x010F] = "A camera"
    exif[0x8298] = "Its owner"
    exif[0x0112] = orientation
    exif.get_ifd(0x8769)[0x829A] = 0.5  # the exposure, in seconds
    exif.get_ifd(0x8769)[0x9003] = "2020:01:02 03:04:05"
    exif.get_ifd(0x8825)[1] = "N"
    return exif


def make_profile(space: str = "sRGB") -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile(space)).tobytes()


def make_image(gray: bool, alpha: bool, deep: bool) -> ImageFile:
    levels = (DEEP if deep else PHOTO)[:, :, 0] if gray else (DEEP if deep else PHOTO)
    transparency = None
    if alpha:
        transparency = ALPHA.astype(np.uint16) * 257 if deep else ALPHA
    profile = None if gray else make_profile()
    exif = make_exif().tobytes()
    return ImageFile(levels, transparency, exif=exif, icc_profile=profile, dpi=(300.0, 240.0))


def described(image: ImageFile) -> tuple:
    exif = Image.Exif()
    exif.load(image.exif)
    taken = exif.get_ifd(0x8769)
    return exif.get(0x010F), exif.get(0x8298), taken.get(0x829A), taken.get(0x9003)


def test_every_format_that_is_written_is_tested():
    assert set(CAN_HOLD) == set(ENDINGS)


@pytest.mark.parametrize("name", ENDINGS)
@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("deep", [False, True])
def test_what_a_format_can_hold_comes_back(name, gray, alpha, deep, tmp_path):
    image, path = make_image(gray, alpha, deep), tmp_path / f"photo.{ENDINGS[name]}"
    lost = write_image(path, image)
    back = read_image(path)
    there = {"alpha": alpha, "16 bits": deep, "color profile": not gray}
    there |= {"EXIF": True, "resolution": True}
    assert lost == [what for what in there if there[what] and what not in CAN_HOLD[name]]
    if "EXIF" not in lost:
        assert described(back) == ("A camera", "Its owner", 0.5, "2020:01:02 03:04:05")
    if "color profile" not in lost:
        assert back.icc_profile == image.icc_profile
    if "resolution" not in lost and name not in ("WEBP", "AVIF"):
        np.testing.assert_allclose(back.dpi, (300, 240), atol=0.02)
    if name in LOSSLESS and "16 bits" not in lost:
        expected = image.pixels
        assert np.array_equal(back.pixels, expected) and back.pixels.dtype == expected.dtype
        if alpha and "alpha" not in lost:
            assert np.array_equal(back.alpha, image.alpha)
        few_read_it = name == "TIFF" and alpha and deep
        if gray and "gray" in CAN_HOLD[name] and not few_read_it:
            assert back.levels.ndim == 2
    if deep and "16 bits" in lost and name in LOSSLESS:
        expected = (image.pixels / 65535 * 255).round()
        assert np.abs(back.pixels - expected).max() <= 1


@pytest.mark.parametrize("name", ["WEBP", "AVIF"])
def test_a_resolution_in_exif(name, tmp_path):
    path = tmp_path / f"photo.{ENDINGS[name]}"
    write_image(path, ImageFile(PHOTO, dpi=(300.0, 240.0)))
    exif = Image.open(path).getexif()
    assert (exif[0x011A], exif[0x011B], exif[0x0128]) == (300, 240, 2)


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_16_bits_are_read_by_other_programs(ending, tmp_path):
    path = tmp_path / f"deep.{ending}"
    write_image(path, ImageFile(DEEP))
    if ending == "tif":
        assert np.array_equal(tifffile.imread(path), DEEP)
    with Image.open(path) as picture:  # Pillow gives 8 of the 16 bits
        assert np.abs(np.asarray(picture) - DEEP / 257.0).max() <= 1


def test_exif_too_long_for_jpeg_is_left_out_and_said(tmp_path):
    exif = make_exif()
    exif.get_ifd(0x8769)[0x927C] = bytes(70_000)  # the maker's own notes
    image = ImageFile(PHOTO, exif=exif.tobytes())
    assert write_image(tmp_path / "photo.jpg", image) == ["EXIF"]
    assert read_image(tmp_path / "photo.jpg").exif is None
    assert write_image(tmp_path / "photo.png", image) == []


def test_a_profile_for_gray_does_not_go_with_rgb(tmp_path):
    profile = bytearray(make_profile())
    profile[16:20] = b"GRAY"
    image = ImageFile(GRAY, icc_profile=bytes(profile))
    assert write_image(tmp_path / "photo.webp", image) == ["color profile"]
    assert read_image(tmp_path / "photo.webp").icc_profile is None
    assert write_image(tmp_path / "photo.jpg", image) == []


# The command --------------------------------------------------------------------------------------


def run(photo, output, weights, *flags) -> ImageFile:
    Image.fromarray(HOLES).save("mask.png")
    main(["inpaint", photo, "mask.png", "-o", output, "--weights", str(weights), *flags])
    return read_image(output)


@pytest.mark.parametrize("ending", ["png", "tif", "jpg", "webp", "avif"])
def test_profile_exif_and_resolution_survive_the_fill(ending, workdir, weights, capsys):
    profile = make_profile() + b"as of another space"
    profile = len(profile).to_bytes(4) + profile[4:]  # its first word is its length
    upright = Image.fromarray(PHOTO)
    stored = upright.transpose(Image.Transpose.ROTATE_90)
    stored.save("given.png", exif=make_exif(6), icc_profile=profile, dpi=(240, 240))
    result = run("given.png", f"out.{ending}", weights)
    assert result.pixels.shape == PHOTO.shape and result.orientation == 1
    assert result.icc_profile == profile
    assert described(result) == ("A camera", "Its owner", 0.5, "2020:01:02 03:04:05")
    if ending not in ("webp", "avif"):
        np.testing.assert_allclose(result.dpi, 240, atol=0.02)
    out = capsys.readouterr().out
    assert "cannot hold" not in out
    if ending in ("png", "tif"):
        assert np.array_equal(result.pixels[~HOLES], PHOTO[~HOLES]) and "Note" not in out


def test_no_small_copy_of_what_was_painted_over_stays(workdir, weights):
    """A camera's EXIF holds a thumbnail of the photo as it was."""
    thumbnail = io.BytesIO()
    Image.fromarray(PHOTO).save(thumbnail, "JPEG")
    exif = make_exif()
    exif._ifds[1] = {0x0201: 9999, 0x0202: len(thumbnail.getvalue())}
    raw = exif.tobytes() + thumbnail.getvalue()
    Image.fromarray(PHOTO).save("given.jpg", exif=raw)
    assert thumbnail.getvalue() in (workdir / "given.jpg").read_bytes()
    run("given.jpg", "out.jpg", weights)
    written = (workdir / "out.jpg").read_bytes()
    assert written.count(b"\xff\xd8\xff") == 1 and b"A camera" in written


def test_what_is_lost_is_said_in_one_line(workdir, weights, capsys):
    Image.fromarray(np.dstack((PHOTO, ALPHA))).save(
        "given.png", exif=make_exif(), icc_profile=make_profile(), dpi=(240, 240)
    )
    run("given.png", "out.bmp", weights)
    lines = capsys.readouterr().out.splitlines()
    words = "Note: .bmp cannot hold the photo's alpha, color profile, EXIF; .png can."
    assert lines[0] == words and len(lines) == 2


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize("bits", [12, 16])
@pytest.mark.parametrize("gray", [False, True])
def test_16_bits_stay_outside_the_holes(gray, bits, ending, workdir, weights, capsys):
    deep = (DEEP[:, :, 0] if gray else DEEP) >> (16 - bits)
    write_image(f"given.{ending}", ImageFile(deep))
    result = run(f"given.{ending}", f"out.{ending}", weights)
    assert result.levels.dtype == np.uint16 and result.levels.shape == deep.shape
    assert np.array_equal(result.levels[~HOLES], deep[~HOLES])
    assert (result.levels[HOLES] != deep[HOLES]).any()
    assert "Note" not in capsys.readouterr().out
    in_8_bits = run(f"given.{ending}", "out.bmp", weights)
    assert ".bmp cannot hold the photo's 16 bits" in capsys.readouterr().out
    assert in_8_bits.pixels[~HOLES].max() > 240  # 12 bits are not black


@pytest.mark.parametrize(
    ("mode", "expected"), [("L", "L"), ("1", "L"), ("LA", "LA"), ("RGB", "RGB"), ("P", "RGB")]
)
def test_gray_stays_gray(mode, expected, workdir, weights):
    picture = Image.fromarray(GRAY if mode != "RGB" else np.repeat(GRAY[:, :, None], 3, 2))
    picture.convert(mode).save("given.png")
    run("given.png", "out.png", weights)
    with Image.open("out.png") as result:
        assert result.mode == expected
        levels = np.asarray(result.convert("RGB"))
    assert (levels == levels[:, :, :1]).all()


def test_a_transparent_hole_becomes_opaque_where_it_is_filled(workdir, weights):
    alpha = np.where(HOLES, 0, ALPHA).astype(np.uint8)
    Image.fromarray(np.dstack((PHOTO, alpha))).save("given.png")
    result = run("given.png", "out.png", weights)
    assert (result.alpha[HOLES] == 255).all() and np.array_equal(
        result.alpha[~HOLES], ALPHA[~HOLES]
    )
    given = np.dstack((DEEP[:, :, 0],) * 3), alpha.astype(np.uint16) * 257
    write_image("deep.png", ImageFile(*given))
    deep = run("deep.png", "out_deep.png", weights)
    assert (deep.alpha[HOLES] == 65535).all() and deep.alpha.dtype == np.uint16


def test_cmyk_becomes_rgb_and_animations_their_first_frame_and_that_is_said(
    workdir, weights, capsys
):
    Image.fromarray(PHOTO).convert("CMYK").save("print.tif")
    run("print.tif", "out.png", weights)
    assert "Note: print.tif: its CMYK becomes RGB." in capsys.readouterr().out
    frames = [Image.fromarray(PHOTO), Image.fromarray(255 - PHOTO)]
    for name in ("pages.tif", "frames.webp", "frames.png"):
        options = {"lossless": True} if name.endswith("webp") else {}
        frames[0].save(name, save_all=True, append_images=frames[1:], **options)
        result = run(name, f"out_{name}.png", weights)
        assert np.array_equal(result.pixels[~HOLES], PHOTO[~HOLES])
        words = f"Note: {name}: it has 2 frames or pages, of which the first is used"
        assert words in capsys.readouterr().out


def test_the_helper_of_other_tests_sees_the_mode(workdir, weights):
    assert inpaint_file("photo.png", "mask.png", "out.png", weights).shape == PHOTO.shape
