"""The benchmark's variants compute what they claim to, and its memory figures add up."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import pconv
from pconv import benchmark
from pconv.benchmark import (
    VARIANTS,
    Case,
    PlainUNet,
    TextbookUNet,
    benchmark_training,
    by_turns,
    matmul_speed,
    measure_speed,
    peak_memory,
    provenance,
    saved_bytes,
)
from pconv.precision import get_precision
from pconv.unet import PConvUNet

WIDTHS = (4, 6, 8)


def _twins(*kinds):
    models = [kind(widths=WIDTHS).eval() for kind in kinds]
    for model in models[1:]:
        model.load_state_dict(models[0].state_dict())
    return models


def test_the_textbook_layer_computes_the_same_unet():
    torch.manual_seed(0)
    partial, textbook = _twins(PConvUNet, TextbookUNet)
    image, mask = torch.rand(2, 3, 24, 32), (torch.rand(2, 1, 24, 32) > 0.4).float()
    # after batch norm the textbook layer multiplies by the mask in the next layer, which selects the same features
    assert torch.allclose(partial(image, mask), textbook(image, mask), atol=1e-5)


def test_the_plain_unet_is_the_partial_one_without_its_masks():
    torch.manual_seed(0)
    partial, plain = _twins(PConvUNet, PlainUNet)
    image = torch.rand(1, 3, 128, 128)
    difference = (partial(image, torch.ones(1, 1, 128, 128)) - plain(image, None)).abs().amax((0, 1))
    assert difference[48:80, 48:80].max() < 1e-6  # no padding reaches the middle
    assert difference[0].max() > 1e-4


def test_rows_for_every_precision_and_variant():
    rows = benchmark_training(("fp32", "bf16"), size=32, batch=2, widths=WIDTHS, repeats=2)
    assert [(row["precision"], row["layer"]) for row in rows] == [(p, v) for p in ("fp32", "bf16") for v in VARIANTS]
    for row in rows:
        assert 0 < row["fastest"] <= row["seconds"] and row["saved_bytes"] < row["peak_bytes"]
        assert row["samples_per_second"] == pytest.approx(2 / row["seconds"])
    saved = {(row["precision"], row["layer"]): row["saved_bytes"] for row in rows}
    assert saved["fp32", "textbook"] > 1.5 * saved["fp32", "plain"]
    assert saved["bf16", "plain"] < saved["fp32", "plain"]


def test_saved_bytes_counts_each_storage_once():
    x = torch.rand(1000, requires_grad=True)
    assert saved_bytes(lambda: (x * x).sum()) == 4000  # x twice
    assert saved_bytes(lambda: (x.exp() * x).sum()) == 8000  # x, and exp(x) for both


def test_peak_memory_of_known_allocations():
    weight = torch.zeros(1000, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.1)

    def step():
        for _ in range(3):
            torch.zeros(1000)  # freed at once: 4,000 bytes at a time

    assert peak_memory(step, torch.device("cpu"), optimizer, [weight]) == 8000
    kept = []
    assert (
        peak_memory(lambda: [kept.append(torch.zeros(1000)) for _ in range(3)], torch.device("cpu"), optimizer, [])
        == 12000
    )


def test_provenance_says_what_a_reader_needs():
    record = provenance("cpu", 7, size=32)
    assert record["device"]["kind"] == "cpu" and record["device"]["name"] and record["device"]["threads"] >= 1
    assert record["seed"] == 7 and record["settings"] == {"size": 32}
    assert record["versions"].keys() >= {"python", "torch", "torchvision", "numpy"}


def test_an_impossible_precision_is_refused():
    with pytest.raises(ValueError, match="tf32 is not possible on cpu"):
        benchmark_training(("tf32",), size=32, batch=1, widths=WIDTHS)


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
    prepared = benchmark._prepared

    def full(case, *arguments):
        if case.batch == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return prepared(case, *arguments)

    monkeypatch.setattr(benchmark, "_prepared", full)
    rows = list(measure_speed(cases, _loss(), size=32, widths=WIDTHS, repeats=1))
    assert rows[1] == {**cases[1]._asdict(), "failed": rows[1]["failed"]} and "not possible on cpu" in rows[1]["failed"]
    assert rows[2]["failed"] == "out of memory"
    with pytest.raises(ValueError, match="not possible"):
        list(measure_speed(cases[1:], _loss(), size=32, widths=WIDTHS))


def test_steps_take_turns():
    calls = []
    seconds = by_turns({name: lambda name=name: calls.append(name) for name in "abc"}, torch.device("cpu"), 2)
    assert "".join(calls) == "abcabc" and {name: len(times) for name, times in seconds.items()} == dict.fromkeys(
        "abc", 2
    )


def test_matmul_speed_is_of_the_dtype_that_is_multiplied(monkeypatch):
    seen = []
    monkeypatch.setattr(
        benchmark,
        "by_turns",
        lambda steps, *_: {name: [seen.append(step().dtype) or 2.0] for name, step in steps.items()},
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
