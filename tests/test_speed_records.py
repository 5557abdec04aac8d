"""What notebooks 09 and 10 read from records: gains, verdicts, peaks, SSIM."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from course.memory import PAPER, count_kept, count_weights, measure_peak, read_peaks
from course.speed_records import (
    SpeedRecord,
    judge_speed,
    read_gains,
    read_speeds,
    show_profile,
    verdict,
)
from course.talk import amp_calls, recorded_facts, ssim_differences

import pconv
from pconv.files import write_json
from pconv.train import training_step

ROOT = Path(__file__).parents[1]
ORIGIN = {
    "device": {"name": "Test"},
    "versions": {"torch": "2"},
    "date": "2026-01-01",
    "command": "x",
    "seed": 0,
    "settings": {"size": 32, "batch": 4, "widths": [4, 8]},
}


def write_speeds(path, rows):
    keys = ("precision", "batch", "channels_last", "relative_speed")
    more = {"compiled": False, "failed": None, "samples_per_second": 1.0}
    write_json(path, [dict(zip(keys, row)) | more for row in rows], ORIGIN)


def test_of_each_case_the_faster_memory_format_counts(tmp_path):
    rows = [("fp32", 4, False, 1.0), ("fp32", 4, True, 2.0), ("bf16", 8, True, 3.0)]
    write_speeds(tmp_path / "speed_cpu.json", rows)
    (record,) = read_speeds(("speed_cpu.json", "speed_cuda.json"), tmp_path)
    assert record.speeds == {("fp32", 1): 2.0, ("bf16", 2): 3.0}
    assert record.gain("bf16", 2) == 1.5 and record.gain("bf16") is None
    assert record.machine == "Test" and "full loss" in record.what


def test_of_a_bench_the_partial_convolutions_count():
    (record,) = read_speeds(["bench_cuda_512.json"])
    rows = json.loads((ROOT / "data" / "results" / "bench_cuda_512.json").read_text())["rows"]
    partial = {row["precision"]: row for row in rows if row["layer"] == "partial"}
    gain = partial["fp16"]["samples_per_second"] / partial["fp32"]["samples_per_second"]
    assert record.gain("fp16") == gain and "L1 loss" in record.what


@pytest.mark.parametrize(
    "gain, words", [(None, "not shown"), (1.4, "holds (1.40)"), (1.39, "does not hold (1.39)")]
)
def test_verdicts(gain, words):
    assert verdict(gain, 1.4) == words


def test_a_claim_is_judged_against_both_baselines():
    speeds = {("fp32", 1): 1.0, ("tf32", 1): 2.0, ("fp16", 1): 2.5, ("bf16", 1): 2.6}
    verdicts = judge_speed(SpeedRecord("a GPU", "", "", speeds))
    assert list(verdicts.values()) == ["holds (2.60)", "does not hold (1.30)"] + 2 * ["not shown"]


def test_recorded_gains_have_a_curve_per_network():
    curves = read_gains()
    assert [(gain.widths, gain.units) for gain in curves] == [
        ((8, 16, 32), True),
        ((32, 64, 128), True),
        ((32, 64, 128), False),
    ]
    assert all(len(gain.sizes) == len(gain.gains) == 5 for gain in curves)


def test_a_profile_is_shown_or_said_to_be_missing(tmp_path, capsys):
    show_profile("profile_cuda_512.json", tmp_path)
    assert "not recorded yet" in capsys.readouterr().out
    rows = [{"precision": "bf16", "layer": "plain", "kind": "idle", "seconds": 0.0042}]
    write_json(tmp_path / "profile_cuda_512.json", rows, ORIGIN)
    show_profile("profile_cuda_512.json", tmp_path)
    assert "BF16, plain: 4.2" in capsys.readouterr().out


def test_gains_are_recorded(tmp_path):
    """By the script, tiny; on a CPU with units once more with the units hidden."""
    path = tmp_path / "gain.json"
    script = ROOT / "scripts" / "record_gain.py"
    settings = ["--sizes", "16", "--repeats", "2", "--batch", "1", "--device", "cpu"]
    command = [sys.executable, str(script), *settings, "--json", str(path)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    rows = json.loads(path.read_text())["rows"]
    names = {"widths", "size", "precision", "units", "seconds_fp32", "seconds", "gain", "flops"}
    assert len(rows) in (2, 3) and all(row.keys() == names for row in rows)


def test_kept_bytes_are_those_that_a_gpu_has_measured():
    peaks = read_peaks()
    rows = json.loads((ROOT / "data" / "results" / "bench_cuda_512.json").read_text())["rows"]
    measured = {row["precision"]: row for row in rows if row["layer"] == "plain"}
    assert [peak.precision for peak in peaks] == ["fp32", "tf32", "fp16", "bf16"]
    for peak in peaks:
        assert peak.peak == measured[peak.precision]["peak_bytes"] > peak.states + peak.kept
    assert peaks[2].kept == pytest.approx(measured["fp16"]["saved_bytes"], rel=1e-3)


def test_kept_bytes_grow_with_the_batch_and_weights_do_not():
    two, four = (count_kept("fp32", n, 32, (4, 8)) for n in (2, 4))
    assert four.activations > 1.5 * two.activations and four.weights == two.weights
    assert two.weights < 4 * count_weights((4, 8))
    assert count_weights(PAPER) == sum(p.numel() for p in pconv.PConvUNet().parameters())


def test_a_peak_in_parts_is_lower():
    whole, parts = (measure_peak("fp32", 4, 32, (4, 8), parts=n) for n in (1, 4))
    assert parts < 0.7 * whole


def test_the_amp_calls_are_read_from_the_code():
    expected = ["precision.context", "scaler.scale", "scaler.step", "scaler.update"]
    assert sorted(amp_calls(training_step)) == expected
    assert amp_calls(pconv.gram_matrix) == []


def test_ssim_differences_are_paired_by_seed(tmp_path):
    ssim = {("fp32", 0): 0.7, ("fp32", 1): 0.6, ("bf16", 0): 0.71, ("bf16", 1): 0.61}
    rows = [{"precision": p, "seed": s, "ssim": value} for (p, s), value in ssim.items()]
    write_json(tmp_path / "training.json", rows, ORIGIN)
    (found,) = ssim_differences("training.json", tmp_path)
    assert found.mean == pytest.approx(0.01) and found.half_width < 1e-9 and found.seeds == 2


def test_recorded_facts_are_of_a_gpu():
    device, facts = recorded_facts()
    assert "NVIDIA" in device and facts["epsilon 1e-08, an empty window, float16"] == "nan"
