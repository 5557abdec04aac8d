"""Measurements by step: rows, series, a table."""

import csv

from pconv import History


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


def test_csv_holds_every_digit_and_an_empty_field_for_what_is_absent(history, tmp_path):
    history.to_csv(tmp_path / "history.csv")
    with open(tmp_path / "history.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["step", "total", "samples_per_second", "psnr"]
    assert rows[1:] == [
        ["10", "3.0", "40.0", "20.5"],
        ["20", repr(1 / 3), "50.0", ""],
        ["30", "", "90.0", ""],
    ]
    assert [file.name for file in tmp_path.iterdir()] == ["history.csv"]


def test_an_empty_history_makes_a_file_too(tmp_path):
    History().to_csv(tmp_path / "history.csv")
    assert (tmp_path / "history.csv").read_text().strip() == ""
