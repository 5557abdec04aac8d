"""`pconv evaluate`: its table on the screen and in files."""

import argparse
import csv
import json
import os
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import torch
from helpers import assert_refused, run_to_exit
from odd_photos import RGB
from PIL import Image
from safetensors.torch import save_file
from torchvision.models import squeezenet1_1

from pconv.cli import main
from pconv.cli.evaluate import _load_crops, compare_with_best
from pconv.metrics import classical


def test_the_table_is_written_and_repeats_with_the_seed(tmp_path, photos, weights, capsys):
    table = tmp_path / "table.csv"
    evaluate = ["evaluate", "--photos", str(photos), "--size", "32", "--csv", str(table)]
    evaluate += ["--device", "cpu"]
    main([*evaluate, "--weights", str(weights), "--json", str(tmp_path / "table.json")])
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    methods = ["pconv", "damaged", *classical()]
    assert [row["method"] for row in rows] == [method for method in methods for _ in range(6 * 2)]
    record = json.loads((tmp_path / "table.json").read_text())
    assert len(record["rows"]) == len(rows) and record["settings"]["weights"] == weights.name
    first = table.read_bytes()
    main([*evaluate, "--weights", str(weights)])
    assert table.read_bytes() == first
    main([*evaluate, "--methods", "damaged,pconv"])  # with the shipped weights
    with open(table, newline="") as file:
        shipped = list(csv.DictReader(file))
    assert [row["method"] for row in shipped] == ["damaged"] * 12 + ["pconv"] * 12
    assert shipped[:12] == rows[12:24] and shipped[12:] != rows[:12]
    capsys.readouterr()
    assert_refused(capsys, [*evaluate, "--methods", "telepathy"], "telepathy")


def test_lpips_is_measured_from_a_file_and_else_not(tmp_path, photos, weights, capsys, monkeypatch):
    judge = tmp_path / "judge.safetensors"
    torch.manual_seed(0)
    state = {f"features.{name}": v for name, v in squeezenet1_1().features.state_dict().items()}
    channels = (64, 128, 256, 384, 384, 512, 512)
    save_file(state | {f"lin{i}": torch.rand(c) for i, c in enumerate(channels)}, judge)
    table = tmp_path / "table.json"
    evaluate = ["evaluate", "--photos", str(photos), "--size", "32", "--json", str(table)]
    evaluate += ["--weights", str(weights), "--methods", "damaged", "--device", "cpu"]
    main([*evaluate, "--lpips", str(judge)])
    record = json.loads(table.read_text())
    assert record["settings"]["lpips"] == "judge.safetensors"
    assert all(row["lpips"] > 0 for row in record["rows"])
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    column = printed[0].index("LPIPS")  # "hole ratio" is two words, and the method has no title
    first = next(line for line in printed if line[0] == "damaged")
    assert float(first[column]) == pytest.approx(record["rows"][0]["lpips"], abs=5e-5)
    monkeypatch.setattr("pconv.lpips.find_spec", lambda name: None)
    main(evaluate)
    record = json.loads(table.read_text())
    assert record["settings"]["lpips"] == "not measured"
    assert all(row["lpips"] is None for row in record["rows"])
    printed = capsys.readouterr().out
    assert printed.count("not measured") == 1 + 12 and "--lpips" in printed
    assert_refused(capsys, [*evaluate, "--lpips", tmp_path / "none.pth"], "none.pth")
    assert_refused(capsys, [*evaluate, "--lpips", weights], weights)


@pytest.mark.parametrize("flag", ["--csv", "--json"])
def test_tables_that_cannot_be_written_are_refused_before_the_work(flag, tmp_path, weights, capsys):
    (tmp_path / "folder").mkdir()
    for name in ("folder", 300 * "n"):
        arguments = ["evaluate", "--weights", weights, flag, tmp_path / name, "--device", "cpu"]
        assert_refused(capsys, arguments, name, unchanged=tmp_path)


@pytest.mark.parametrize("flag", ["--csv", "--json"])
def test_tables_on_a_full_disk(flag, small_disk, weights, capsys, tmp_path):
    (tmp_path / "in").mkdir()
    RGB.save(tmp_path / "in" / "photo.png")
    table = small_disk.folder / "table"
    small_disk.leave(0)
    arguments = ["evaluate", "--weights", weights, "--photos", tmp_path / "in", "--size", "16"]
    arguments += ["--methods", "damaged", flag, table]
    code, lines = run_to_exit(capsys, arguments)
    assert code == 1 and len(lines) == 1 and str(table) in lines[0]
    assert not list(small_disk.folder.iterdir())


def test_the_best_method_without_training_is_named_per_bucket(capsys, photos, weights):
    def row(method, holes="border", **values):
        return {"method": method, "low": 0.1, "high": 0.2, "holes": holes, "lpips": None} | values

    rows = [
        row("pconv", psnr=27.5, ssim=0.9, lpips=0.05),
        row("damaged", psnr=90.0, ssim=1.0, lpips=0.0),
        row("telea", psnr=27.0, ssim=0.92, lpips=0.08),
        row("fsr-fast", psnr=27.75, ssim=0.91, lpips=0.06),
    ]
    *_, line, _, _ = compare_with_best(rows)
    expected = "(0.10,0.20] border fsr-fast 27.75 -0.25 telea 0.920 -0.020 fsr-fast 0.060 -0.010"
    assert line.split() == expected.split()
    assert compare_with_best(rows[:2]) == [] == compare_with_best(rows[1:])
    unmeasured = [{**r, "lpips": None} for r in rows]
    assert compare_with_best(unmeasured)[-3].endswith("not measured")
    command = ["evaluate", "--photos", photos, "--size", "32", "--weights", weights]
    main([*map(str, command), "--methods", "pconv,damaged,biharmonic", "--device", "cpu"])
    out = capsys.readouterr().out
    assert out.count("biharmonic") == 12 + 2 * 12 + 1  # its rows, PSNR and SSIM, its rate


@pytest.mark.skipif(os.name == "nt", reason="pipes as Unix has them")
def test_a_reader_that_closes_the_pipe_ends_nothing(tmp_path, photos, weights):
    command = [sys.executable, "-m", "pconv", "evaluate", "--photos", photos, "--size", "32"]
    command += ["--weights", weights, "--methods", "damaged,pconv", "--device", "cpu"]
    command += ["--csv", tmp_path / "a.csv", "--json", tmp_path / "a.json"]
    with subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.readline()
        process.stdout.close()  # as `| head -1` does
        error = process.stderr.read()
        assert process.wait() == 0
    assert "Traceback" not in error and "BrokenPipe" not in error
    assert (tmp_path / "a.csv").read_text().count("pconv") == 12
    assert len(json.loads((tmp_path / "a.json").read_text())["rows"]) == 24


def test_only_one_photo_is_held_whole(tmp_path, weights, monkeypatch):
    """Of 40 photos of 2 megapixels, crops of 32x32 stay."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (1200, 1600, 3), np.uint8))
    picture.save(tmp_path / "0.bmp")
    for index in range(1, 40):
        os.link(tmp_path / "0.bmp", tmp_path / f"{index}.bmp")
    options = argparse.Namespace(photos=tmp_path, size=32, strict=False, verbose=False)
    tracemalloc.start()
    crops = _load_crops(options)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(crops) == 40
    assert held < 40 * 32 * 32 * 3 * 2 and peak < 5 * 1200 * 1600 * 3
