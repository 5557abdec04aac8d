"""`pconv demo`: the table, the pictures, the curves."""

import json
import math

import pytest
from helpers import TINY, assert_refused
from PIL import Image

from pconv import History, VGGFeatures
from pconv.cli import main
from pconv.cli.plots import plot_curves


@pytest.fixture
def random_vgg(monkeypatch):
    """The demo's loss uses random filters, whether or not this machine has the ImageNet weights."""
    features = VGGFeatures("random")
    monkeypatch.setattr("pconv.vgg.VGGFeatures.available", lambda *_, **__: features)


def test_demo_prints_the_table_and_writes_the_pictures(tmp_path, photos, capsys, random_vgg):
    main(
        [
            "demo",
            *TINY,
            "--photos",
            str(photos),
            "--out",
            str(tmp_path / "out"),
            "--precision",
            "fp32,bf16",
        ]
    )
    out = capsys.readouterr().out
    rows = {line.split()[0]: line for line in out.splitlines() if line.split()}
    assert {"damaged", "biharmonic", "shipped", "fp32", "bf16"} <= rows.keys()
    assert "1.00×" in rows["fp32"] and "×" in rows["bf16"]
    for name in ("shipped_weights.png", "curves.png", "before_after.png"):
        with Image.open(tmp_path / "out" / name) as picture:
            assert min(picture.size) > 200
        assert str(tmp_path / "out" / name) in out
    record = json.loads((tmp_path / "out" / "demo.json").read_text())
    assert [row["name"] for row in record["rows"]] == [
        "damaged",
        "biharmonic",
        "shipped",
        "fp32",
        "bf16",
    ]
    assert record["settings"]["vgg"] == "random" and record["device"]["kind"] == "cpu"
    fp32 = record["rows"][3]
    assert f"{fp32['psnr']:.2f}" in rows["fp32"] and f"{fp32['ssim_holes']:.3f}" in rows["fp32"]
    assert fp32["peak_bytes"] > 1e6 and record["rows"][1]["psnr"] > record["rows"][0]["psnr"]


def test_demo_shows_its_pictures_where_the_project_cannot_be_written_to(
    photos, tmp_path, capsys, random_vgg, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "runs").write_text("no folder")
    main(["demo", *TINY, "--photos", str(photos), "--precision", "fp32"])
    (folder,) = tmp_path.glob("pconv-demo-*")
    assert f"Pictures go to {folder}: cannot write to runs/demo" in capsys.readouterr().out
    assert {"before_after.png", "curves.png", "demo.json", "shipped_weights.png"} == {
        p.name for p in folder.iterdir()
    }
    assert_refused(
        capsys, ["demo", *TINY, "--photos", photos, "--out", "runs/mine"], "cannot write"
    )


def test_demo_refuses_a_folder_with_one_photo(photos, tmp_path, capsys):
    for name in ("a.png", "b.jpg"):
        (photos / name).unlink()
    assert_refused(
        capsys, ["demo", "--photos", photos, "--out", tmp_path / "out"], "less than two photos"
    )


def test_curves_have_one_panel_per_quantity(history, tmp_path):
    pytest.importorskip("matplotlib")
    quantities = {"total": "loss", "samples_per_second": "samples/s"}
    other = History([{"step": 10, "total": math.nan}, {"step": 20, "total": 2.0}])
    for count in (1, 2):
        plot_curves(
            {"fp32": history, "bf16": other},
            dict(list(quantities.items())[:count]),
            tmp_path / "curves.png",
        )
        with Image.open(tmp_path / "curves.png") as picture:
            assert picture.format == "PNG" and picture.width == count * 4 * 120
            colors = {color for _, color in picture.convert("RGB").getcolors(1 << 24)}
        assert {(0x1F, 0x4E, 0x79), (0xE0, 0x7B, 0x00)} <= colors  # both lines are there
    assert [file.name for file in tmp_path.iterdir()] == ["curves.png"]
