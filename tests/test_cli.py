"""The commands as a user types them: what they write, what they print, and what they refuse."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from pconv.cli import main
from pconv.data import bundled_photos
from pconv.inpainting import load_weights, read_metadata, save_weights
from pconv.metrics import classical
from pconv.unet import PConvUNet

TINY = ["--size", "32", "--batch", "2", "--steps", "2", "--device", "cpu"]


@pytest.fixture
def photos(tmp_path):
    """A folder of three small real photos, one of them in a subfolder."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for name, photo in zip(("a.png", "b.jpg", "more/c.PNG"), bundled_photos().values(), strict=False):
        Image.fromarray(photo).resize((48, 40)).save(folder / name)
    return folder


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    save_weights(PConvUNet(widths=(4, 4)), tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


def refused(capsys, arguments) -> str:
    """The one line that a refused command prints."""
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert stop.value.code == 2
    assert captured.err.count("\n") == 1
    return captured.err


def test_demo_prints_the_table_and_writes_the_pictures(tmp_path, photos, capsys, monkeypatch):
    monkeypatch.setattr("pconv.losses.VGGFeatures.available", lambda: __import__("pconv").VGGFeatures("random"))
    main(["demo", *TINY, "--photos", str(photos), "--out", str(tmp_path / "out"), "--precision", "fp32,bf16"])
    out = capsys.readouterr().out
    rows = {line.split()[0]: line for line in out.splitlines() if line.split()}
    assert {"damaged", "biharmonic", "shipped", "fp32", "bf16"} <= rows.keys()
    assert "1.00×" in rows["fp32"] and "×" in rows["bf16"]
    for name in ("shipped_weights.png", "curves.png", "before_after.png"):
        with Image.open(tmp_path / "out" / name) as picture:
            assert min(picture.size) > 200
        assert str(tmp_path / "out" / name) in out
    record = json.loads((tmp_path / "out" / "demo.json").read_text())
    assert [row["name"] for row in record["rows"]] == ["damaged", "biharmonic", "shipped", "fp32", "bf16"]
    assert record["settings"]["vgg"] == "random" and record["device"]["kind"] == "cpu"
    fp32 = record["rows"][3]
    assert f"{fp32['psnr']:.2f}" in rows["fp32"] and f"{fp32['ssim_holes']:.3f}" in rows["fp32"]
    assert fp32["peak_bytes"] > 1e6 and record["rows"][1]["psnr"] > record["rows"][0]["psnr"]


def test_train_evaluate_inpaint_go_together(tmp_path, photos, capsys):
    out = tmp_path / "out"
    main(["train", *TINY, "--photos", str(photos), "--out", str(out), "--vgg", "random", "--widths", "4,6,8",
          "--precision", "fp32", "--loss-weights", "valid=1,hole=2,tv=0"])  # fmt: skip
    assert load_weights(out / "weights.safetensors").widths == (4, 6, 8)
    with open(out / "history.csv", newline="") as file:
        row = list(csv.DictReader(file))[-1]
    total = 1 * float(row["valid"]) + 2 * float(row["hole"]) + 0.05 * float(row["perceptual"])
    total += 120 * (float(row["style_out"]) + float(row["style_comp"]))
    assert row["step"] == "2" and float(row["total"]) == pytest.approx(total, rel=1e-4)

    table = tmp_path / "table.csv"
    evaluate = ["evaluate", "--photos", str(photos), "--size", "32", "--csv", str(table), "--device", "cpu"]
    main([*evaluate, "--weights", str(out / "weights.safetensors"), "--json", str(tmp_path / "table.json")])
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    methods = ["pconv", "damaged", *classical()]
    assert [row["method"] for row in rows] == [method for method in methods for _ in range(6 * 2)]
    record = json.loads((tmp_path / "table.json").read_text())
    assert len(record["rows"]) == len(rows) and record["settings"]["weights"] == "weights.safetensors"
    first = table.read_bytes()
    main([*evaluate, "--weights", str(out / "weights.safetensors")])
    assert table.read_bytes() == first  # the same seed, the same numbers
    main([*evaluate, "--methods", "damaged,pconv"])  # with the shipped weights
    with open(table, newline="") as file:
        shipped = list(csv.DictReader(file))
    assert [row["method"] for row in shipped] == ["damaged"] * 12 + ["pconv"] * 12
    assert shipped[:12] == rows[12:24] and shipped[12:] != rows[:12]
    capsys.readouterr()
    assert "telepathy" in refused(capsys, [*evaluate, "--methods", "telepathy"])

    holes = np.zeros((40, 48), dtype=np.uint8)
    holes[10:20, 10:30] = 255
    Image.fromarray(holes).save(tmp_path / "mask.png")
    command = ["inpaint", str(photos / "a.png"), str(tmp_path / "mask.png"), "--device", "cpu"]
    command += ["--weights", str(out / "weights.safetensors"), "-o"]
    main([*command, str(tmp_path / "holes.png")])
    main([*command, str(tmp_path / "valid.png"), "--mask-is", "valid"])
    photo = np.asarray(Image.open(photos / "a.png"))
    for name, white_is_hole in (("holes", True), ("valid", False)):
        kept = (holes == 0) == white_is_hole
        result = np.asarray(Image.open(tmp_path / f"{name}.png"))
        assert (result[kept] == photo[kept]).all() and (result[~kept] != photo[~kept]).any()
    capsys.readouterr()
    assert "exists" in refused(capsys, [*command, tmp_path / "holes.png"])
    main([*command, str(tmp_path / "holes.png"), "--force"])


def test_weights_tell_how_they_were_trained_from_the_first_phase_on(tmp_path, photos, capsys):
    common = ["train", *TINY, "--photos", str(photos), "--precision", "fp32", "--vgg", "random"]
    main([*common, "--out", str(tmp_path / "one"), "--widths", "4,6", "--no-residual",
          "--loss-weights", "perceptual=0,style_out=0,style_comp=0,ssim=1"])  # fmt: skip
    one = tmp_path / "one" / "weights.safetensors"
    main([*common, "--out", str(tmp_path / "two"), "--init", str(one), "--schedule", "cosine", "--seed", "1"])
    phases = json.loads(read_metadata(tmp_path / "two" / "weights.safetensors")["training"])
    assert phases[:1] == json.loads(read_metadata(one)["training"]) and len(phases) == 2
    assert [phase["seed"] for phase in phases] == [0, 1]
    assert [phase["steps"] for phase in phases] == [2, 2] and [phase["photos"] for phase in phases] == [3, 3]
    assert [phase["settings"]["vgg"] for phase in phases] == ["not used", "random"]
    assert phases[1]["settings"]["schedule"] == "cosine over 2 steps"
    assert {phase["settings"]["widths"] for phase in phases} == {"(4, 6)"}  # those of the weights it starts from
    assert {phase["settings"]["residual"] for phase in phases} == {"False"}


def test_a_cosine_goes_on_over_the_same_steps(tmp_path, photos, capsys):
    command = ["train", *TINY, "--photos", str(photos), "--widths", "4", "--vgg", "random", "--precision", "fp32",
               "--schedule", "cosine", "--out", str(tmp_path / "out")]  # fmt: skip
    main(command)
    capsys.readouterr()
    refusal = refused(capsys, [*command, "--resume", "--steps", "4"])
    assert "--schedule cosine over 2 steps, not cosine over 4 steps" in refusal


@pytest.mark.parametrize("flag", [[], ["--residual"], ["--no-residual"]])
def test_train_learns_a_residual_unless_told(tmp_path, photos, flag):
    main(["train", *TINY, "--photos", str(photos), "--widths", "4", "--vgg", "random", "--precision", "fp32",
          "--out", str(tmp_path / "out"), *flag])  # fmt: skip
    assert load_weights(tmp_path / "out" / "weights.safetensors").residual == (flag != ["--no-residual"])


def test_demo_shows_its_pictures_where_the_project_cannot_be_written_to(photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("pconv.losses.VGGFeatures.available", lambda: __import__("pconv").VGGFeatures("random"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "runs").write_text("no folder")
    main(["demo", *TINY, "--photos", str(photos), "--precision", "fp32"])
    (folder,) = tmp_path.glob("pconv-demo-*")
    assert f"Pictures go to {folder}: cannot write to runs/demo" in capsys.readouterr().out
    assert {"before_after.png", "curves.png", "demo.json", "shipped_weights.png"} == {p.name for p in folder.iterdir()}
    assert "cannot write" in refused(capsys, ["demo", *TINY, "--photos", photos, "--out", "runs/mine"])


def test_demo_refuses_a_folder_with_one_photo(photos, tmp_path, capsys):
    for name in ("a.png", "b.jpg"):
        (photos / name).unlink()
    assert "holds one photo" in refused(capsys, ["demo", "--photos", photos, "--out", tmp_path / "out"])


def test_train_starts_from_given_weights(tmp_path, photos, weights):
    main(["train", *TINY, "--photos", str(photos), "--out", str(tmp_path / "o"), "--vgg", "random", "--init",
          str(weights), "--lr", "1e-9", "--precision", "fp32"])  # fmt: skip
    start, end = load_weights(weights), load_weights(tmp_path / "o" / "weights.safetensors")
    assert torch.allclose(start.encoder[0].conv.weight, end.encoder[0].conv.weight, atol=1e-6)


def test_bench_prints_and_records(tmp_path, capsys):
    path = tmp_path / "bench.json"
    main(["bench", "--size", "32", "--batch", "2", "--widths", "4,4", "--precision", "fp32,bf16", "--repeats", "2",
          "--device", "cpu", "--channels-last", "--json", str(path)])  # fmt: skip
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    layers = [line[:2] for line in lines if line[0] in ("fp32", "bf16")]
    assert layers == [[p, layer] for p in ("fp32", "bf16") for layer in ("plain", "partial", "textbook")]
    record = json.loads(path.read_text())
    assert (
        record["settings"]["channels_last"] is True and record["versions"]["torch"] == torch.__version__.split("+")[0]
    )
    assert all(row["relative_time"] == 1 for row in record["rows"] if row["layer"] == "plain")


def _text_named_jpg(folder):
    folder.mkdir()
    (folder / "note.jpg").write_text("not a photo")
    return folder


@pytest.mark.parametrize("command", ["demo", "train"])
@pytest.mark.parametrize(
    ("prepare", "flags", "says"),
    [
        (lambda t: t / "gone", ["--photos", None], "gone"),
        (lambda t: (t / "empty").mkdir() or t / "empty", ["--photos", None], "empty"),
        (lambda t: _text_named_jpg(t / "text"), ["--photos", None], "note.jpg"),
        (lambda t: None, ["--precision", "fp12"], "fp12"),
        (lambda t: None, ["--precision", "tf32", "--device", "cpu"], "tf32"),
        (lambda t: None, ["--device", "cuda:99"], "cuda:99"),
        (lambda t: None, ["--device", "abacus"], "abacus"),
        (lambda t: None, ["--steps", "0"], "0"),
        (lambda t: None, ["--size", "3"], "3"),
        (lambda t: None, ["--size", "16", "--batch", "1"], "batch norm"),
        (lambda t: None, ["--nonsense"], "--nonsense"),
    ],
)
def test_bad_input_ends_in_one_line_and_nothing_is_written(command, prepare, flags, says, tmp_path, capsys):
    target = prepare(tmp_path)
    flags = [str(target) if flag is None else flag for flag in flags]
    before = sorted(tmp_path.rglob("*"))
    if command == "train":
        flags = [*flags, "--vgg", "random"]
    assert says in refused(capsys, [command, "--out", tmp_path / "out", *flags])
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("command", ["demo", "train"])
def test_an_unwritable_folder_is_refused(command, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert "cannot write to" in refused(capsys, [command, "--out", tmp_path / "file" / "out", "--device", "cpu"])
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--lr", "-1"], "--lr"),
        (["--vgg", "gone.pth"], "gone.pth"),
        (["--vgg-arch", "vgg99"], "vgg99"),
        (["--vgg-layers", "pool9"], "pool9"),
        (["--loss-weights", "hole=many"], "hole=many"),
        (["--loss-weights", "holes=1"], "holes=1"),
        (["--widths", "8,x"], "x"),
        (["--init", "gone.safetensors"], "gone.safetensors"),
    ],
)
def test_train_refuses_by_name(flags, says, tmp_path, capsys):
    random = [] if "--vgg" in flags else ["--vgg", "random"]
    assert says in refused(capsys, ["train", "--out", tmp_path / "out", "--device", "cpu", *random, *flags])
    assert not (tmp_path / "out").exists()


def test_train_refuses_a_used_folder(tmp_path, capsys):
    (tmp_path / "history.csv").write_text("precious")
    assert "not empty" in refused(capsys, ["train", "--out", tmp_path, "--vgg", "random", "--device", "cpu"])
    assert (tmp_path / "history.csv").read_text() == "precious"


def test_an_unreadable_photo_among_others_is_named_and_skipped(photos, tmp_path, capsys):
    (photos / "broken.jpg").write_text("not a photo")
    arguments = ["train", *TINY, "--photos", str(photos), "--vgg", "random", "--widths", "4", "--precision", "fp32"]
    assert "broken.jpg" in refused(capsys, [*arguments, "--out", tmp_path / "strict", "--strict"])
    main([*arguments, "--out", str(tmp_path / "out")])
    assert "1 unreadable, skipped: broken.jpg" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("photo", "mask", "extra", "says"),
    [
        ("gone.png", "mask.png", [], "gone.png"),
        ("photo.png", "gone.png", [], "gone.png"),
        ("photo.png", "small.png", [], "small.png"),
        ("photo.png", "mask.png", ["-o", "result.xyz"], "result.xyz"),
        ("photo.png", "mask.png", ["--weights", "photo.png"], "photo.png"),
        ("photo.png", "mask.png", ["--mask-is", "grey"], "grey"),
    ],
)
def test_inpaint_refuses_by_name(photo, mask, extra, says, weights, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (20, 30)).save("photo.png")
    Image.new("L", (20, 30)).save("mask.png")
    Image.new("L", (20, 29)).save("small.png")
    arguments = ["inpaint", photo, mask, "-o", "result.png", "--weights", weights, "--device", "cpu", *extra]
    assert says in refused(capsys, arguments)
    assert not (tmp_path / "result.png").exists()


@pytest.mark.parametrize("orientation", [1, 6])
def test_inpaint_keeps_the_transparency_and_turns_it_with_the_photo(orientation, weights, tmp_path):
    rng = np.random.default_rng(0)
    stored = Image.fromarray(rng.integers(0, 256, (24, 40, 4), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "photo.png", exif=exif)
    turned = np.asarray(stored if orientation == 1 else stored.transpose(Image.Transpose.ROTATE_270))
    holes = np.zeros(turned.shape[:2], bool)
    holes[5:12, 7:15] = True
    Image.fromarray(holes).save(tmp_path / "mask.png")
    for ending in (".png", ".jpg"):
        main(["inpaint", str(tmp_path / "photo.png"), str(tmp_path / "mask.png"), "-o", str(tmp_path / f"out{ending}"),
              "--weights", str(weights)])  # fmt: skip
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.mode == "RGBA" and picture.getexif().get(0x0112, 1) == 1
        assert np.array_equal(np.asarray(picture)[~holes], turned[~holes])
        assert np.array_equal(np.asarray(picture)[:, :, 3], turned[:, :, 3])
    with Image.open(tmp_path / "out.jpg") as picture:
        assert picture.mode == "RGB" and picture.size == turned.shape[1::-1]


def test_from_the_shell_a_refusal_is_one_line_and_exit_2():
    run = subprocess.run(
        [sys.executable, "-m", "pconv", "demo", "--precision", "fp12", "--device", "cpu"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 2 and run.stdout == ""
    assert run.stderr.startswith("pconv: unknown precision 'fp12'") and run.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["demo", "train", "evaluate", "inpaint", "bench"])
def test_help_lists_the_knobs(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0 and "--device" in capsys.readouterr().out
