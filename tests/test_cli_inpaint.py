"""`pconv inpaint`: outputs, formats, transparency, permissions, a full disk, memory."""

import json
import os
import struct
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import (
    HOLES,
    PHOTO,
    assert_memory_is_flat,
    assert_refused,
    inpaint_file,
    listing,
    needs_proc,
    no_permission,
)
from hostile_files import HOSTILE_WEIGHTS
from odd_photos import BAD, RGB, encoded
from PIL import Image
from tqdm import tqdm

from pconv import inpaint, load_weights
from pconv.cli import main

GIGABYTE = 2**30


pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_holes_are_filled_and_the_rest_is_kept(tmp_path, photos, weights, capsys):
    holes = np.zeros((40, 48), dtype=np.uint8)
    holes[10:20, 10:30] = 255
    Image.fromarray(holes).save(tmp_path / "mask.png")
    command = ["inpaint", str(photos / "a.png"), str(tmp_path / "mask.png"), "--device", "cpu"]
    command += ["--weights", str(weights), "-o"]
    main([*command, str(tmp_path / "holes.png")])
    main([*command, str(tmp_path / "valid.png"), "--mask-is", "valid"])
    photo = np.asarray(Image.open(photos / "a.png"))
    for name, white_is_hole in (("holes", True), ("valid", False)):
        kept = (holes == 0) == white_is_hole
        result = np.asarray(Image.open(tmp_path / f"{name}.png"))
        assert (result[kept] == photo[kept]).all() and (result[~kept] != photo[~kept]).any()
    capsys.readouterr()
    assert_refused(capsys, [*command, tmp_path / "holes.png"], "exists")
    main([*command, str(tmp_path / "holes.png"), "--force"])


@pytest.mark.parametrize(
    ("photo", "mask", "extra", "words"),
    [
        ("gone.png", "mask.png", [], "gone.png"),
        ("photo.png", "gone.png", [], "gone.png"),
        ("photo.png", "small.png", [], "small.png"),
        ("photo.png", "mask.png", ["-o", "result.xyz"], "result.xyz"),
        ("photo.png", "mask.png", ["--weights", "photo.png"], "photo.png"),
        ("photo.png", "mask.png", ["--mask-is", "gray"], "gray"),
    ],
)
def test_inpaint_refuses_by_name(photo, mask, extra, words, weights, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (20, 30)).save("photo.png")
    Image.new("L", (20, 30)).save("mask.png")
    Image.new("L", (20, 29)).save("small.png")
    arguments = ["inpaint", photo, mask, "-o", "result.png", "--weights", weights]
    arguments += ["--device", "cpu", *extra]
    assert_refused(capsys, arguments, words)
    assert not (tmp_path / "result.png").exists()


@pytest.mark.parametrize("orientation", [1, 6])
def test_inpaint_keeps_the_transparency_and_turns_it_with_the_photo(orientation, weights, tmp_path):
    rng = np.random.default_rng(0)
    stored = Image.fromarray(rng.integers(0, 256, (24, 40, 4), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "photo.png", exif=exif)
    turned = np.asarray(
        stored if orientation == 1 else stored.transpose(Image.Transpose.ROTATE_270)
    )
    holes = np.zeros(turned.shape[:2], bool)
    holes[5:12, 7:15] = True
    Image.fromarray(holes).save(tmp_path / "mask.png")
    for ending in (".png", ".jpg"):
        files = [tmp_path / "photo.png", tmp_path / "mask.png", "-o", tmp_path / f"out{ending}"]
        main(["inpaint", *map(str, files), "--weights", str(weights)])
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.mode == "RGBA" and picture.getexif().get(0x0112, 1) == 1
        assert np.array_equal(np.asarray(picture)[~holes], turned[~holes])
        assert (np.asarray(picture)[holes][:, 3] == 255).all()  # so that the fill is seen
    with Image.open(tmp_path / "out.jpg") as picture:
        assert picture.mode == "RGB" and picture.size == turned.shape[1::-1]


# Outputs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "more", "words"),
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
        ("out.gif", [], "out.gif: give the output"),  # 256 colors
        ("out.ico", [], "out.ico: give the output"),  # another size
        ("out.eps", [], "out.eps: give the output"),
        ("out.h5", [], "out.h5: give the output"),
        (252 * "n" + ".png", [], "File name too long"),
        ("taken.png/out.png", ["--force"], "taken.png"),
        ("/dev/null", ["--force"], "/dev/null"),
        ("", [], ". exists"),
    ],
)
def test_outputs_that_cannot_be_are_refused_and_change_nothing(
    output, more, words, workdir, weights, capsys
):
    (workdir / "taken.png").write_bytes(b"precious")
    (workdir / "folder.png").mkdir()
    (workdir / "folder").mkdir()
    arguments = ["inpaint", "photo.png", "mask.png", "-o", output, "--weights", weights]
    arguments += ["--device", "cpu", *more]
    assert_refused(capsys, arguments, words, unchanged=workdir)


def test_more_columns_than_the_format_holds_are_refused_and_leave_nothing(
    tmp_path, weights, capsys
):
    Image.new("RGB", (16_384, 1)).save(tmp_path / "line.png")
    arguments = ["inpaint", tmp_path / "line.png", tmp_path / "line.png", "--weights", weights]
    arguments += ["--device", "cpu"]
    assert_refused(
        capsys, [*arguments, "-o", tmp_path / "out.webp"], tmp_path / "out.webp", unchanged=tmp_path
    )


def test_forced_onto_the_photo_itself_and_into_new_folders(workdir, weights):
    expected = inpaint_file("photo.png", "mask.png", "a/b/out.png", weights)
    assert np.array_equal(
        inpaint_file("photo.png", "mask.png", "photo.png", weights, "--force"), expected
    )
    assert np.array_equal(expected[~HOLES], PHOTO[~HOLES])
    assert sorted(path.name for path in workdir.iterdir()) == ["a", "mask.png", "photo.png"]


@pytest.mark.parametrize("ending", ["png", "tif", "bmp", "ppm", "tga", "jp2", "qoi", "jpg", "webp"])
def test_formats_are_exact_or_say_that_they_are_not(ending, workdir, weights, capsys):
    result = inpaint_file("photo.png", "mask.png", f"out.{ending}", weights)
    assert np.array_equal(result[~HOLES], PHOTO[~HOLES]) != ("is lossy" in capsys.readouterr().out)


@pytest.mark.parametrize("ending", ["png", "bmp", "tif", "jpg", "jp2", "webp"])
def test_inpainting_on_a_full_disk_leaves_the_old_result(
    ending, small_disk, workdir, weights, capsys
):
    large = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    Image.fromarray(large).save("photo.png")
    Image.new("L", (200, 200)).save("mask.png")
    output = small_disk.folder / f"out.{ending}"
    output.write_bytes(b"precious")
    small_disk.leave(8192)
    arguments = ["inpaint", "photo.png", "mask.png", "-o", output, "--weights", weights]
    arguments += ["--device", "cpu", "--force"]
    error = assert_refused(capsys, arguments, output, unchanged=workdir)
    assert "cannot be written" in error and output.read_bytes() == b"precious"
    assert [path.name for path in small_disk.folder.iterdir()] == [output.name]


@pytest.mark.parametrize("closed", ["photo.png", "mask.png", "w.safetensors", "closed"])
def test_files_and_folders_without_permission_are_refused_by_name(closed, workdir, weights, capsys):
    (workdir / "closed").mkdir()
    (workdir / "w.safetensors").write_bytes(weights.read_bytes())
    output = workdir / "closed" / "out.png"
    arguments = ["inpaint", workdir / "photo.png", workdir / "mask.png", "-o", output]
    arguments += ["--weights", workdir / "w.safetensors", "--device", "cpu"]
    before = listing(workdir)
    with no_permission(workdir / closed):
        error = assert_refused(capsys, arguments, closed)
    assert "ermission denied" in error and listing(workdir) == before
    main([str(argument) for argument in arguments])  # that was all that was wrong
    assert output.is_file()


# Memory -------------------------------------------------------------------------------------------


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
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
print(json.dumps([results, peak]))
"""


@pytest.mark.skipif(os.name == "nt", reason="measures memory as Unix does")
def test_bombs_are_refused_in_less_than_two_gigabytes_and_without_pillows_warnings(
    workdir, weights
):
    """In a process of its own: it has a peak of its own, and warnings go to stderr there."""
    commands, names = [], []
    end = ["-o", "out.png", "--weights", str(weights), "--device", "cpu"]
    for name in ("bomb.png", "bomb below Pillow's limit.png", "cut.tif"):
        (workdir / name).write_bytes(BAD[name])
        commands += [["inpaint", name, "mask.png", *end], ["inpaint", "photo.png", name, *end]]
        names += [name, name]
    many = encoded(RGB, "TIFF").replace(
        struct.pack("<HHII", 277, 3, 1, 3), struct.pack("<HHII", 277, 3, 1, 99)
    )
    (workdir / "many.tif").write_bytes(many)
    commands.append(["inpaint", "many.tif", "mask.png", *end])
    names.append("many.tif")
    for kind in (
        "length 2**40",
        "widths 10**9",
        "widths that take 3 GB",
        "widths of a million levels",
        "deep JSON",
    ):
        (workdir / f"{kind}.safetensors").write_bytes(HOSTILE_WEIGHTS[kind](None))
        commands.append(
            ["inpaint", "photo.png", "mask.png", *end, "--weights", f"{kind}.safetensors"]
        )
        names.append(f"{kind}.safetensors")
    before = listing(workdir)
    run = subprocess.run(
        [sys.executable, "-c", CHILD],
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        check=True,
    )
    results, peak = json.loads(run.stdout)
    for name, (code, error) in zip(names, results, strict=True):
        assert code == 2 and error.count("\n") == 1 and name in error, error
    assert run.stderr == "" and listing(workdir) == before
    assert peak < 2 * GIGABYTE


@needs_proc
def test_memory_is_flat_over_many_inpaintings(tmp_path, weights):
    photo, mask = tmp_path / "photo.png", tmp_path / "mask.png"
    Image.fromarray(np.tile(PHOTO, (6, 6, 1))).save(photo)
    Image.fromarray(np.tile(HOLES, (6, 6))).save(mask)

    def work(times: int) -> None:
        for _ in range(times):
            inpaint_file(photo, mask, tmp_path / "out.png", weights, "--force")

    assert_memory_is_flat(work, 5, 50)
    assert len(list(tmp_path.iterdir())) == 3


MEMORY_ENDS = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to"),
]


@pytest.mark.parametrize("error", MEMORY_ENDS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("where", ["pconv.image_reader._read_opened", "pconv.inpainting.fill"])
def test_where_memory_ends_one_line_says_what_to_do(
    where, error, workdir, weights, capsys, monkeypatch
):
    def fail(*arguments):
        raise error

    if where.endswith("_read_opened") and not isinstance(error, MemoryError):
        pytest.skip("no tensors are made there")
    monkeypatch.setattr(where, fail)
    command = ["inpaint", "photo.png", "mask.png", "-o", "out.png", "--weights", weights]
    words = "not enough memory: make the photo smaller, free memory, or use --device cpu"
    assert_refused(capsys, [*command, "--device", "cpu"], words, unchanged=workdir)


def test_other_errors_are_bugs_and_stay_tracebacks(workdir, weights, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("a bug")

    monkeypatch.setattr("pconv.inpainting.fill", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        inpaint_file("photo.png", "mask.png", "out.png", weights)


# Ctrl-C, progress, checkpoints --------------------------------------------------------------------


INTERRUPTED = """
import os, signal, sys, time

def interrupt(*arguments, **options):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(5)

moment, *arguments = sys.argv[1:]
if moment == "import":
    class Finder:
        def find_spec(self, name, *rest):
            if name == "torch":
                interrupt()
    sys.meta_path.insert(0, Finder())
else:
    import importlib
    module, name = moment.rsplit(".", 1)
    setattr(importlib.import_module(module), name, interrupt)
sys.argv = ["pconv", *arguments]
from pconv.__main__ import main
main()
"""


@pytest.mark.parametrize(
    "moment",
    [
        "import",
        "pconv.image_reader._read_opened",
        "pconv.inpainting.fill",
        "pconv.image_writer._encode_8_bits",
        "os.replace",
    ],
)
@pytest.mark.skipif(os.name == "nt", reason="sends signals as Unix does")
def test_ctrl_c_at_any_moment_ends_without_a_traceback_and_leaves_nothing(moment, workdir, weights):
    before = listing(workdir)
    command = ["inpaint", "photo.png", "mask.png", "-o", "out.png", "--weights", str(weights)]
    run = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, moment, *command], capture_output=True, text=True
    )
    assert run.returncode == 130 and run.stdout == ""
    assert run.stderr == ("" if moment == "import" else "pconv: interrupted\n")
    assert listing(workdir) == before


def test_a_bar_shows_where_it_takes_long(workdir, weights, monkeypatch):
    bars = []

    class Bar(tqdm):
        def __init__(self, **options):
            super().__init__(**options)
            self.options = options
            bars.append(self)

    monkeypatch.setattr("pconv.inpainting.tqdm", Bar)
    inpaint_file("photo.png", "mask.png", "out.png", weights)
    (bar,) = bars
    assert bar.options["delay"] == 2 and not bar.options["disable"]
    assert bar.n == bar.total == 1
    inpaint(load_weights(weights), PHOTO, HOLES)
    assert bars[1].options["disable"]  # of Python it has to be asked for


def test_a_checkpoint_is_named_as_one_and_where_the_weights_are(workdir, trained, capsys):
    command = ["inpaint", "photo.png", "mask.png", "-o", "out.png", "--weights"]
    checkpoint = trained / "checkpoint.pt"
    error = assert_refused(capsys, [*command, checkpoint], checkpoint, unchanged=workdir)
    assert (
        "it is a checkpoint, from which `pconv train --resume` goes on; the weights are in "
        in error
    )
    assert str(trained / "weights.safetensors") in error
    (workdir / "checkpoint.pt").write_bytes(checkpoint.read_bytes())
    error = assert_refused(capsys, [*command, "checkpoint.pt"], "checkpoint.pt", unchanged=workdir)
    assert "the weights will be, once the training has ended, in weights.safetensors" in error
