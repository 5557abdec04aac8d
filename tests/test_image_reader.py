"""Images in: 16 bits of every layout, profiles, EXIF that is odd or damaged, HEIC."""

import numpy as np
import pytest
import tifffile
from helpers import GRAY, PHOTO, RNG, assert_refused, inpaint_file
from PIL import Image, ImageCms

from pconv import image_reader
from pconv.cli import main
from pconv.image_reader import ImageFile, read_image, to_8_bits, turn, white_level
from pconv.image_writer import write_image
from pconv.photos import PhotoFolder, as_photo

pytestmark = pytest.mark.usefixtures("one_thread")

DEEP = RNG.integers(0, 65536, (24, 32, 4)).astype(np.uint16)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turn_is_what_pillow_does(orientation):
    picture = Image.fromarray(PHOTO)
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.info["exif"] = exif.tobytes()
    assert np.array_equal(turn(PHOTO, orientation), as_photo(picture))


# 16 bits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"planarconfig": "separate"},
        {"compression": "lzw"},
        {"compression": "zlib", "predictor": True},
        {"byteorder": ">"},
        {"tile": (16, 16)},
        {"bigtiff": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_tiff_of_16_bits_in_every_layout(channels, options, tmp_path):
    pixels = DEEP[:, :, 0] if channels == 1 else DEEP[:, :, :channels]
    if "planarconfig" in options and channels > 1:
        stored = np.moveaxis(pixels, 2, 0)
    else:
        stored, options = pixels, {k: v for k, v in options.items() if k != "planarconfig"}
    photometric = "minisblack" if channels == 1 else "rgb"
    extra = {"extrasamples": ["unassalpha"]} if channels == 4 else {}
    tifffile.imwrite(
        tmp_path / "deep.tif", stored, photometric=photometric, metadata=None, **extra, **options
    )
    image = read_image(tmp_path / "deep.tif")
    assert image.levels.dtype == np.uint16
    assert np.array_equal(image.levels, DEEP[:, :, 0] if channels == 1 else DEEP[:, :, :3])
    assert (image.alpha is None) == (channels < 4)
    if channels == 4:
        assert np.array_equal(image.alpha, DEEP[:, :, 3])


def test_tiff_in_which_0_is_white(tmp_path):
    tifffile.imwrite(tmp_path / "deep.tif", DEEP[:, :, 0], photometric="miniswhite")
    assert np.array_equal(read_image(tmp_path / "deep.tif").levels, 65535 - DEEP[:, :, 0])


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_16_bits_are_turned_as_exif_says(ending, tmp_path):
    stored = np.ascontiguousarray(np.rot90(DEEP[:, :, :3]))  # orientation 6 turns it back
    path = tmp_path / f"deep.{ending}"
    exif = Image.Exif()
    exif[0x0112] = 6
    if ending == "tif":
        tifffile.imwrite(path, stored, photometric="rgb", extratags=[(274, 3, 1, 6, True)])
    else:
        write_image(path, ImageFile(stored, exif=exif.tobytes()))
    image = read_image(path)
    assert np.array_equal(image.levels, DEEP[:, :, :3]) and image.orientation == 6


def test_16_bit_pgm(tmp_path):
    content = b"P5\n32 24\n65535\n" + DEEP[:, :, 0].astype(">u2").tobytes()
    (tmp_path / "deep.pgm").write_bytes(content)
    assert np.array_equal(read_image(tmp_path / "deep.pgm").levels, DEEP[:, :, 0])


@pytest.mark.parametrize("cut", [50, 400, -30])
def test_damaged_16_bit_files_are_refused_by_name(cut, workdir, weights, capsys):
    for ending in ("png", "tif"):
        write_image(f"deep.{ending}", ImageFile(DEEP[:, :, :3]))
        content = (workdir / f"deep.{ending}").read_bytes()
        (workdir / f"deep.{ending}").write_bytes(content[:cut])
        command = ["inpaint", f"deep.{ending}", "mask.png", "-o", "out.png", "--weights", weights]
        assert_refused(capsys, command, f"deep.{ending} is not a readable photo")


def test_white_levels_and_8_bits():
    assert white_level(PHOTO) == 255
    for most, expected in ((255, 255), (256, 1023), (4095, 4095), (5000, 16383), (65535, 65535)):
        pixels = np.zeros((2, 2, 3), np.uint16)
        pixels[0, 0, 0] = most
        assert white_level(pixels) == expected
        assert to_8_bits(pixels)[0, 0, 0] == round(most / expected * 255)
    pixels = np.full((2, 2, 3), 1000, np.uint16)
    pixels[0, 0] = 65535
    known = np.array([[False, True], [True, True]])[:, :, None]
    assert white_level(pixels, known) == 1023


# Profiles and EXIF --------------------------------------------------------------------------------


def test_cmyk_with_a_profile_that_is_none_for_it_is_converted_without(tmp_path):
    picture = Image.fromarray(PHOTO).convert("CMYK")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture.save(tmp_path / "print.tif", icc_profile=profile)
    image = read_image(tmp_path / "print.tif")
    assert np.array_equal(image.pixels, np.asarray(picture.convert("RGB")))
    assert image.icc_profile is None and "CMYK" in image.notes[0]


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff",
        b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x87\x69\0\x04\0\0\0\x01\xff\xff\xff\xff\0\0\0\0",
        b"Exif\0\0rubbish",
        b"Exif\0\0",
        b"\0",
    ],
)
def test_damaged_exif_does_not_keep_a_photo_from_being_filled(exif, workdir, weights, capsys):
    Image.fromarray(PHOTO).save("given.jpg", exif=exif)
    inpaint_file("given.jpg", "mask.png", "out.jpg", weights)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("dpi", [(0, 0), (1e9, 1e9), (-1, 5)])
def test_a_resolution_that_cannot_be_is_left_out(dpi, tmp_path):
    picture = Image.fromarray(PHOTO)
    picture.save(tmp_path / "photo.png")
    with Image.open(tmp_path / "photo.png") as opened:
        opened.info["dpi"] = dpi
        assert image_reader._resolution(opened) is None


# HEIC ---------------------------------------------------------------------------------------------


def test_heic_is_read_where_pillow_heif_is_installed(workdir, weights):
    pytest.importorskip("pillow_heif")
    Image.fromarray(PHOTO).save("photo.heic", quality=-1, chroma=444)
    read = read_image("photo.heic")
    assert read.format == "HEIF" and np.abs(read.pixels.astype(int) - PHOTO).mean() < 3
    filled = inpaint_file("photo.heic", "mask.png", "out.png", weights)
    assert filled.shape == PHOTO.shape


def test_heic_names_the_extra_where_it_is_not(workdir, weights, capsys, monkeypatch):
    monkeypatch.setattr(image_reader, "register_heif_opener", None)
    header = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
    (workdir / "photo.heic").write_bytes(header + bytes(400))
    command = ["inpaint", "photo.heic", "mask.png", "-o", "out.png", "--weights", weights]
    assert "pip install 'pconv[heic]'" in assert_refused(capsys, command, "photo.heic")
    (workdir / "photos").mkdir()
    (workdir / "photo.heic").rename(workdir / "photos" / "photo.heic")
    Image.fromarray(GRAY).save(workdir / "photos" / "other.png")
    monkeypatch.setattr("pconv.cli.common.register_heif_opener", None)
    folder = PhotoFolder(workdir / "photos")
    assert folder.names == ["other.png", "photo.heic"]
    command = ["evaluate", "--weights", weights, "--photos", "photos", "--size", "16"]
    main([str(word) for word in (*command, "--methods", "damaged")])
    assert "photo.heic (HEIC needs pillow-heif: pip install 'pconv[heic]')" in (
        capsys.readouterr().err
    )
