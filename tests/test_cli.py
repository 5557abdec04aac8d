"""The command line as a whole: its flags, and what every command refuses in one line."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from helpers import HOLES, PHOTO, TINY, assert_refused
from PIL import Image

from pconv.cli import main


def _text_named_jpg(folder):
    folder.mkdir()
    (folder / "note.jpg").write_text("not a photo")
    return folder


@pytest.mark.parametrize("command", ["demo", "train"])
@pytest.mark.parametrize(
    ("prepare", "flags", "words"),
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
def test_bad_input_ends_in_one_line_and_nothing_is_written(
    command, prepare, flags, words, tmp_path, capsys
):
    target = prepare(tmp_path)
    flags = [str(target) if flag is None else flag for flag in flags]
    before = sorted(tmp_path.rglob("*"))
    if command == "train":
        flags = [*flags, "--vgg", "random"]
    assert_refused(capsys, [command, "--out", tmp_path / "out", *flags], words)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("command", ["demo", "train"])
def test_an_unwritable_folder_is_refused(command, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert_refused(
        capsys, [command, "--out", tmp_path / "file" / "out", "--device", "cpu"], "cannot write to"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_unreadable_photo_among_others_is_named_and_skipped(photos, tmp_path, capsys):
    (photos / "broken.jpg").write_text("not a photo")
    arguments = ["train", *TINY, "--photos", str(photos), "--vgg", "random", "--widths", "4"]
    arguments += ["--precision", "fp32"]
    assert_refused(capsys, [*arguments, "--out", tmp_path / "strict", "--strict"], "broken.jpg")
    main([*arguments, "--out", str(tmp_path / "out")])
    assert "1 unreadable, skipped: broken.jpg" in capsys.readouterr().err


def test_from_the_shell_a_refusal_is_one_line_and_exit_2():
    run = subprocess.run(
        [sys.executable, "-m", "pconv", "demo", "--precision", "fp12", "--device", "cpu"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 2 and run.stdout == ""
    assert run.stderr.startswith("pconv: unknown precision 'fp12'") and run.stderr.count("\n") == 1


# command: its flags, each with the default that the help must show (None: it has none to show)
FLAGS = {
    "demo": {
        "--photos": "scikit-image's bundled ones",
        "--out": "runs/demo",
        "--steps": None,  # shown below the list
        "--size": "96",
        "--batch": "4",
        "--precision": "fp32,bf16",
        "--device": "auto",
        "--seed": "0",
        "--strict": None,
    },
    "train": {
        "--photos": "scikit-image's bundled ones",
        "--out": "runs/train",
        "--steps": "1000",
        "--size": "128",
        "--batch": "8",
        "--widths": "(32, 64, 128, 128, 128)",
        "--precision": "bf16 where the hardware has it",
        "--device": "auto",
        "--seed": "0",
        "--strict": None,
        "--save-every": "500",
        "--resume": None,
        "--workers": "on a CPU 0",
        "--compile": None,
        "--lr": "0.0002",
        "--fine-tune-at": None,
        "--fine-tune-lr": "5e-05",
        "--max-grad-norm": "never",
        "--grad-accum-steps": "1",
        "--schedule": "constant",
        "--residual": "True",
        "--init": None,
        "--vgg": "imagenet",
        "--vgg-arch": "vgg16",
        "--vgg-layers": "('pool1', 'pool2', 'pool3')",
        "--loss-weights": "valid=1",
    },
    "evaluate": {
        "--weights": "the shipped ones",
        "--photos": "scikit-image's bundled ones",
        "--size": "256",
        "--methods": "all",
        "--csv": None,
        "--json": None,
        "--device": "auto",
        "--seed": "0",
        "--strict": None,
    },
    "inpaint": {
        "--output": None,
        "--weights": "the shipped ones",
        "--mask-is": "holes",
        "--force": None,
        "--device": "auto",
        "--seed": "0",
    },
    "bench": {
        "--size": "128",
        "--batch": "4",
        "--widths": "(64, 128, 256, 512, 512)",
        "--precision": "('fp32', 'bf16')",
        "--channels-last": None,
        "--compile": None,
        "--repeats": "7",
        "--steps-between-syncs": "1",
        "--json": None,
        "--device": "auto",
        "--seed": "0",
    },
}


@pytest.mark.parametrize("command", FLAGS)
def test_help_lists_every_flag_with_its_default(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")  # so that no line is wrapped
    monkeypatch.setenv("NO_COLOR", "1")
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    options = capsys.readouterr().out.partition("options:")[2]
    lines = {}
    for option in re.split(r"\n +(?=-)", options):  # a long flag has its help on the next line
        if flag := re.search(r"--[\w-]+", option):
            lines[flag[0]] = " ".join(option.split())
    assert FLAGS[command].keys() <= lines.keys()
    for flag, default in FLAGS[command].items():
        if default is not None:
            assert default in lines[flag].partition("default: ")[2], flag


def test_weights_that_train_wrote_serve_evaluate_and_inpaint(tmp_path, photos, workdir):
    """And everything has a default that works from one command to the next."""
    out = tmp_path / "out"
    flags = ["--vgg", "random", "--widths", "4", "--precision", "fp32"]
    main(["train", *TINY, "--photos", str(photos), "--out", str(out), *flags])
    weights = ["--weights", str(out / "weights.safetensors"), "--device", "cpu"]
    table = ["--csv", "table.csv", "--json", "table.json"]
    main(["evaluate", *weights, "--photos", str(photos), "--size", "32", *table])
    record = json.loads((tmp_path / "table.json").read_text())
    assert record["settings"]["weights"] == "weights.safetensors"
    main(["inpaint", "photo.png", "mask.png", "-o", "result.png", *weights])
    result = np.asarray(Image.open("result.png"))
    assert np.array_equal(result[~HOLES], PHOTO[~HOLES])
