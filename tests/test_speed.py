"""The cases of notebook 08: every one has a row, what it counts is what a formula counts, what it cannot do it says."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from course import speed
from course.speed import Case, matmul_speed, measure_speed

import pconv
from pconv import get_precision

WIDTHS = (4, 6, 8)


def _loss():
    return pconv.InpaintingLoss(pconv.VGGFeatures("random", layers=("pool1",)))


def test_measure_speed_has_a_row_for_every_case():
    cases = [Case("fp32", 1), Case("fp32", 2), Case("bf16", 2, channels_last=True)]
    rows = list(measure_speed(cases, _loss(), size=32, widths=WIDTHS, repeats=2))
    assert [Case(*list(row.values())[:4]) for row in rows] == cases
    assert rows[0]["relative_speed"] == 1
    assert rows[1]["flops"] == rows[2]["flops"] == 2 * rows[0]["flops"] > 0
    assert rows[0]["peak_bytes"] < rows[1]["peak_bytes"] and rows[2]["peak_bytes"] < rows[1]["peak_bytes"]
    for row in rows:
        assert row["samples_per_second"] == pytest.approx(row["batch"] / row["seconds"], rel=0.5)  # medians of two


def test_measure_speed_counts_the_products_of_a_step():
    """One level: 7x7 down, 3x3 up, the mask's sums, VGG's two convolutions of three images, and a Gram matrix each."""
    (row,) = measure_speed([Case("fp32", 1)], _loss(), size=32, widths=(8,), repeats=1)
    down, up = 16 * 16 * 49 * 3 * 8, 32 * 32 * 9 * 11 * 3
    masks = 16 * 16 * 49 + 32 * 32 * 9
    vgg, gram = 32 * 32 * 9 * (3 * 64 + 64 * 64), 16 * 16 * 64 * 64
    # forward; then the weights' gradient, and the input's where it is asked for
    by_hand = (2 * down) + (3 * up) + masks + vgg * (1 + 2 + 2) + gram * (1 + 2 + 2)
    assert row["flops"] == 2 * by_hand


def test_what_a_case_cannot_do_is_recorded(monkeypatch):
    cases = [Case("fp32", 1), Case("tf32", 1), Case("fp32", 2)]
    prepared = speed._prepared

    def full(case, *arguments):
        if case.batch == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return prepared(case, *arguments)

    monkeypatch.setattr(speed, "_prepared", full)
    rows = list(measure_speed(cases, _loss(), size=32, widths=WIDTHS, repeats=1))
    assert rows[1] == {**cases[1]._asdict(), "failed": rows[1]["failed"]} and "not possible on cpu" in rows[1]["failed"]
    assert rows[2]["failed"] == "out of memory"
    with pytest.raises(ValueError, match="not possible"):
        list(measure_speed(cases[1:], _loss(), size=32, widths=WIDTHS))


def test_matmul_speed_is_of_the_dtype_that_is_multiplied(monkeypatch):
    seen = []
    monkeypatch.setattr(
        speed, "by_turns", lambda steps, *_: {name: [seen.append(step().dtype) or 2.0] for name, step in steps.items()}
    )
    assert matmul_speed(get_precision("bf16"), "cpu", side=10) == 1000
    matmul_speed(get_precision("fp32"), "cpu", side=10)
    assert seen == [torch.bfloat16, torch.float32]


def test_every_recorded_row_has_the_same_quantities():
    """Those of a precision that a CPU cannot do, or would take hours in, have the reason in place of numbers."""
    spec = importlib.util.spec_from_file_location(
        "record_speed", Path(__file__).parents[1] / "data" / "record_speed.py"
    )
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    options = SimpleNamespace(
        precision=["fp32", "tf32", "fp16"], batch=1, size=16, widths=WIDTHS[:2], compile=False, repeats=1,
        device=torch.device("cpu"),
    )  # fmt: skip
    rows = list(script.record(options, _loss()))
    assert len(rows) == 3 * 2 * 2 and all(row.keys() == rows[0].keys() for row in rows)
    for row in rows:
        assert (row["failed"] is None) == (row["seconds"] is not None) == (row["precision"] == "fp32")
        script.tell(row)
    assert {row["failed"].split()[0] for row in rows if row["failed"]} == {"tf32", "fp16"}
