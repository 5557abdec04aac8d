"""The cases of notebook 09: each has a row, its counts are a formula's, failures are recorded."""

from types import SimpleNamespace

import pytest
import record_speed
import torch
from course import speed
from course.speed import (
    Case,
    MasksInLayers,
    convolution_speed,
    count_operators,
    matmul_speed,
    measure_speed,
    pixel_loss,
    time_loaders,
)

import pconv
from pconv import get_precision
from pconv.benchmark import VARIANTS

WIDTHS = (4, 6, 8)


def _loss():
    return pconv.InpaintingLoss(pconv.VGGFeatures("random", layers=("pool1",)))


def test_measure_speed_has_a_row_for_every_case():
    cases = [Case("fp32", 1), Case("fp32", 2), Case("bf16", 2, channels_last=True)]
    rows = list(measure_speed(cases, _loss(), size=32, widths=WIDTHS, repeats=2))
    assert [Case(*list(row.values())[:4]) for row in rows] == cases
    assert rows[0]["relative_speed"] == 1
    assert rows[1]["flops"] == rows[2]["flops"] == 2 * rows[0]["flops"] > 0
    assert rows[0]["peak_bytes"] < rows[1]["peak_bytes"]
    assert rows[2]["peak_bytes"] < rows[1]["peak_bytes"]


def test_speeds_are_medians_over_the_turns_of_the_seconds_that_were_measured(monkeypatch):
    """The machine slows down, and something disturbs the last turn of the second case."""
    first, second = Case("fp32", 1), Case("fp32", 4)
    measured = iter([{first: [2.0, 4.0, 5.0]}, {first: [1.0, 2.0, 4.0], second: [2.0, 4.0, 80.0]}])
    turns = []

    def take_turns(steps, device, repeats):
        turns.append((list(steps), device, repeats))
        for step in steps.values():
            step()
        return next(measured)

    monkeypatch.setattr(speed, "time_interleaved", take_turns)
    rows = list(measure_speed([first, second], _loss(), size=32, widths=WIDTHS, repeats=3))
    assert turns == [([first], torch.device("cpu"), 3), ([first, second], torch.device("cpu"), 3)]
    names = ("seconds", "samples_per_second", "relative_speed")
    # the second: 4 samples in 2, 4, 80 s are 2, 1, 0.05 a second; the first has 1, 0.5, 0.25
    assert [[row[name] for name in names] for row in rows] == [[4, 0.25, 1], [4, 1, 2]]


def test_measure_speed_counts_the_products_of_a_step():
    """One level: 7x7 down, 3x3 up; VGG's two convolutions and a Gram matrix of three images.

    The mask's sums are pooled: additions, which PyTorch does not count.
    """
    (row,) = measure_speed([Case("fp32", 1)], _loss(), size=32, widths=(8,), repeats=1)
    down, up = 16 * 16 * 49 * 3 * 8, 32 * 32 * 9 * 11 * 3
    vgg, gram = 32 * 32 * 9 * (3 * 64 + 64 * 64), 16 * 16 * 64 * 64
    # forward; then the weights' gradient, and the input's where it is needed
    by_hand = (2 * down) + (3 * up) + vgg * (1 + 2 + 2) + gram * (1 + 2 + 2)
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
    assert rows[1] == {**cases[1]._asdict(), "failed": rows[1]["failed"]}
    assert "not possible on cpu" in rows[1]["failed"]
    assert rows[2]["failed"] == "out of memory"
    with pytest.raises(ValueError, match="not possible"):
        list(measure_speed(cases[1:], _loss(), size=32, widths=WIDTHS))


def test_matmul_speed_is_of_the_dtype_that_is_multiplied(monkeypatch):
    seen = []
    monkeypatch.setattr(
        speed,
        "time_interleaved",
        lambda steps, *_: {
            name: [seen.append(step().dtype) or 2.0] for name, step in steps.items()
        },
    )
    assert matmul_speed(get_precision("bf16"), "cpu", side=10) == 1000
    matmul_speed(get_precision("fp32"), "cpu", side=10)
    assert seen == [torch.bfloat16, torch.float32]


def test_every_recorded_row_has_the_same_quantities():
    """A precision that a CPU cannot do, or only in hours, has the reason in place of numbers."""
    options = SimpleNamespace(
        precision=["fp32", "tf32", "fp16"],
        batch=1,
        size=16,
        widths=WIDTHS[:2],
        compile=[],
        repeats=1,
        device=torch.device("cpu"),
    )
    rows = list(record_speed.measure(options, _loss()))
    assert len(rows) == 3 * 2 * 2 and all(row.keys() == rows[0].keys() for row in rows)
    for row in rows:
        assert (
            (row["failed"] is None) == (row["seconds"] is not None) == (row["precision"] == "fp32")
        )
        record_speed.print_row(row)
    # What is recorded is left out.
    assert list(record_speed.measure(options, _loss(), rows)) == []
    again = list(record_speed.measure(options, _loss(), rows[:1] + rows[2:]))
    assert [row["channels_last"] for row in again] == [rows[1]["channels_last"]]
    assert {row["failed"].split()[0] for row in rows if row["failed"]} == {"tf32", "fp16"}


def test_the_cases_are_in_the_order_of_what_they_tell():
    cases = record_speed.list_cases(["fp32", "fp16"], 6, ["fp16"])
    assert cases[0] == Case("fp32", 6)
    assert cases[1:5] == [Case(name, b, True) for b in (6, 12) for name in ("fp32", "fp16")]
    assert cases[5] == Case("fp16", 6, True, True)
    assert cases[6:] == [Case("fp16", 6), Case("fp32", 12), Case("fp16", 12)]


def test_a_convolutions_speed_is_that_of_the_fastest_shape(monkeypatch):
    seen = []

    def take_turns(steps, device, repeats):
        seen.extend(step().dtype for step in steps.values())
        return {channels: [9.0, 2.0, 4.0] for channels in steps}

    monkeypatch.setattr(speed, "time_interleaved", take_turns)
    # the first turn does not count
    assert convolution_speed(get_precision("bf16"), "cpu") == 2 * 9 * 256**2 * 2 * 48**2 / 2
    assert set(seen) == {torch.bfloat16}


def test_masks_in_layers_give_the_same_output():
    torch.manual_seed(0)
    first = pconv.PConvUNet(widths=WIDTHS).eval()
    inside = MasksInLayers(widths=WIDTHS).eval()
    inside.load_state_dict(first.state_dict())
    photo, mask = torch.rand(2, 3, 32, 48), torch.rand(2, 1, 32, 48) > 0.7
    torch.testing.assert_close(inside(photo, mask), first(photo, mask), rtol=0, atol=1e-6)


def test_operators_do_not_depend_on_the_size_and_masks_first_need_fewer():
    counts = {
        kind: count_operators(kind, "fp32", 64, WIDTHS, batch=2)
        for kind in (VARIANTS["plain"], pconv.PConvUNet, MasksInLayers)
    }
    assert sorted(counts.values()) == list(counts.values())
    assert count_operators(pconv.PConvUNet, "fp32", 128, WIDTHS) == counts[pconv.PConvUNet]
    assert count_operators(pconv.PConvUNet, "bf16", 64, WIDTHS) > counts[pconv.PConvUNet]


def test_the_loss_on_pixels_has_no_texture():
    photo, mask = torch.rand(1, 3, 16, 16), torch.ones(1, 1, 16, 16)
    terms = pixel_loss()(torch.rand(1, 3, 16, 16), photo, mask)
    assert terms.valid > 0 and terms.perceptual == terms.style_out == terms.style_comp == 0


def test_loaders_are_timed_with_the_order_of_events():
    def slowly(seconds):
        while True:
            yield seconds

    def load(batches, events):
        for batch in batches:
            events.append("request")
            yield batch

    seconds, events = time_loaders(lambda: None, slowly, {"a": load}, torch.device("cpu"), count=2)
    assert list(seconds) == ["no loader", "a", "the disk alone"]
    assert events == {"a": ["request", "step", "request", "step"]}
