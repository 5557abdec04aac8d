"""Measurements by step: rows, series, files that are whole or not there, and curves."""

import csv
import json
import math

import pytest
from PIL import Image

from pconv import History
from pconv.history import plot_curves, replacing


@pytest.fixture
def history():
    history = History()
    history.record(10, total=3.0, samples_per_second=40.0)
    history.record(10, psnr=20.5)
    history.record(20, total=1 / 3, samples_per_second=50.0)
    history.record(30, samples_per_second=90.0)
    return history


def test_rows_hold_what_was_measured_at_their_step(history):
    assert history.rows == [
        {"step": 10, "total": 3.0, "samples_per_second": 40.0, "psnr": 20.5},
        {"step": 20, "total": 1 / 3, "samples_per_second": 50.0},
        {"step": 30, "samples_per_second": 90.0},
    ]
    assert History().rows == [] and History([{"step": 1}]).rows == [{"step": 1}]


def test_series_leave_out_what_is_absent(history):
    assert history.series("total") == ([10, 20], [3.0, 1 / 3])
    assert history.series("psnr") == ([10], [20.5])
    assert history.series("ssim") == ([], [])


def test_median(history):
    assert history.median("samples_per_second") == 50
    assert history.median("total") == pytest.approx((3 + 1 / 3) / 2)
    with pytest.raises(KeyError, match=r"ssim was never measured; there is .*psnr"):
        history.median("ssim")


def test_csv_holds_every_digit_and_an_empty_field_for_what_is_absent(history, tmp_path):
    history.to_csv(tmp_path / "history.csv")
    with open(tmp_path / "history.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["step", "total", "samples_per_second", "psnr"]
    assert rows[1:] == [["10", "3.0", "40.0", "20.5"], ["20", repr(1 / 3), "50.0", ""], ["30", "", "90.0", ""]]
    assert [file.name for file in tmp_path.iterdir()] == ["history.csv"]


def test_json_is_the_rows(history, tmp_path):
    history.to_json(str(tmp_path / "history.json"))
    assert json.loads((tmp_path / "history.json").read_text()) == history.rows
    assert [file.name for file in tmp_path.iterdir()] == ["history.json"]


def test_an_empty_history_makes_files_too(tmp_path):
    History().to_csv(tmp_path / "history.csv")
    History().to_json(tmp_path / "history.json")
    assert (tmp_path / "history.csv").read_text().strip() == ""
    assert json.loads((tmp_path / "history.json").read_text()) == []


@pytest.mark.parametrize("old", [None, "old"])
def test_replacing_is_all_or_nothing(tmp_path, old):
    path = tmp_path / "result.txt"
    if old:
        path.write_text(old)
    with pytest.raises(OSError, match="disk is full"), replacing(path) as temporary:
        temporary.write_text("half of the n")
        assert temporary.parent == path.parent and temporary.suffix == path.suffix
        assert (path.read_text() if old else path.exists()) == (old or False)
        raise OSError("disk is full")
    assert [file.read_text() for file in tmp_path.iterdir()] == ([old] if old else [])
    with replacing(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new" and len(list(tmp_path.iterdir())) == 1


def test_an_error_before_anything_was_written_is_the_one_raised(tmp_path):
    with pytest.raises(KeyError), replacing(tmp_path / "result.txt"):
        raise KeyError
    assert not list(tmp_path.iterdir())


def test_curves_are_a_panel_a_quantity(history, tmp_path):
    pytest.importorskip("matplotlib")
    quantities = {"total": "loss", "samples_per_second": "samples/s"}
    other = History([{"step": 10, "total": math.nan}, {"step": 20, "total": 2.0}])
    for count in (1, 2):
        plot_curves({"fp32": history, "bf16": other}, dict(list(quantities.items())[:count]), tmp_path / "curves.png")
        with Image.open(tmp_path / "curves.png") as picture:
            assert picture.format == "PNG" and picture.width == count * 4 * 120
            colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 24)}
        assert {(0x1F, 0x4E, 0x79), (0xE0, 0x7B, 0x00)} <= colours  # both lines are there
    assert [file.name for file in tmp_path.iterdir()] == ["curves.png"]
