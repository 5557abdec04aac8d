"""The benchmark's variants compute what they claim to, and its memory figures add up."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch

from pconv.baselines import MultiChannelUNet, PlainUNet
from pconv.benchmark import (
    VARIANTS,
    benchmark_training,
    peak_memory,
    provenance,
    saved_bytes,
    time_interleaved,
)
from pconv.unet import PConvUNet

WIDTHS = (4, 6, 8)


def _twins(*kinds):
    models = [kind(widths=WIDTHS).eval() for kind in kinds]
    for model in models[1:]:
        model.load_state_dict(models[0].state_dict())
    return models


def test_the_textbook_layer_computes_the_same_unet():
    torch.manual_seed(0)
    partial, textbook = _twins(PConvUNet, MultiChannelUNet)
    image, mask = torch.rand(2, 3, 24, 32), (torch.rand(2, 1, 24, 32) > 0.4).float()
    # the textbook layer removes batch norm's values in holes in the next layer, by a product
    assert torch.allclose(partial(image, mask), textbook(image, mask), atol=1e-5)


def test_the_plain_unet_is_the_partial_one_without_its_masks():
    torch.manual_seed(0)
    partial, plain = _twins(PConvUNet, PlainUNet)
    image = torch.rand(1, 3, 128, 128)
    difference = (
        (partial(image, torch.ones(1, 1, 128, 128)) - plain(image, None)).abs().amax((0, 1))
    )
    assert difference[48:80, 48:80].max() < 1e-6  # no padding reaches the middle
    assert difference[0].max() > 1e-4


def test_rows_for_every_precision_and_variant(monkeypatch):
    """The seconds of each turn are given here; the rows hold their medians and ratios."""
    seconds = {"plain": [2.0, 4.0, 1.0], "partial": [3.0, 4.0, 9.0], "textbook": [8.0, 4.0, 2.0]}
    turns = []

    def take_turns(steps, device, repeats):
        turns.append((list(steps), device, repeats))
        for step in steps.values():
            step()
        return seconds

    monkeypatch.setattr("pconv.benchmark.time_interleaved", take_turns)
    rows = benchmark_training(("fp32", "bf16"), size=32, batch_size=2, widths=WIDTHS, repeats=3)
    assert turns == [(list(VARIANTS), torch.device("cpu"), 3)] * 2
    both = [(precision, layer) for precision in ("fp32", "bf16") for layer in VARIANTS]
    assert [(row["precision"], row["layer"]) for row in rows] == both
    names = ("seconds", "fastest", "samples_per_second", "relative_time")
    expected = [[2, 1, 1, 1], [4, 3, 0.5, 1.5], [4, 2, 0.5, 2]]
    assert [[row[name] for name in names] for row in rows] == expected * 2
    assert all(row["saved_bytes"] < row["peak_bytes"] for row in rows)
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
        peak_memory(
            lambda: [kept.append(torch.zeros(1000)) for _ in range(3)],
            torch.device("cpu"),
            optimizer,
            [],
        )
        == 12000
    )


def test_peak_memory_on_a_gpu_is_without_what_the_step_does_not_use(monkeypatch):
    """Other models lie in the GPU's memory, too: 5,000 bytes of them here."""
    weight = torch.zeros(1000, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.1)
    allocated = {"now": 9000, "most": 9000}

    def step():
        allocated["most"] = 9000 + 700

    def reset(device):
        allocated["most"] = allocated["now"]

    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: allocated["now"])
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: allocated["most"])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset)
    assert peak_memory(step, torch.device("cuda"), optimizer, [weight]) == 4000 + 700


def test_provenance_says_what_a_reader_needs():
    record = provenance("cpu", 7, size=32)
    assert record["device"]["kind"] == "cpu"
    assert record["device"]["name"]
    assert record["device"]["threads"] >= 1
    assert record["seed"] == 7 and record["settings"] == {"size": 32}
    assert record["versions"].keys() >= {"python", "torch", "torchvision", "numpy"}


def test_an_impossible_precision_is_refused():
    with pytest.raises(ValueError, match="tf32 is not possible on cpu"):
        benchmark_training(("tf32",), size=32, batch_size=1, widths=WIDTHS)


def test_steps_take_turns_and_each_turn_is_timed(monkeypatch):
    """A step of "a" takes one second of a made-up clock, of "b" two, of "c" three."""
    clock, calls = SimpleNamespace(now=0.0, perf_counter=lambda: clock.now), []
    monkeypatch.setattr("pconv.benchmark.time", clock)

    def step(name: str) -> None:
        calls.append(name)
        clock.now += "_abc".index(name)

    steps = {name: partial(step, name) for name in "abc"}
    seconds = time_interleaved(steps, torch.device("cpu"), 2)
    assert "".join(calls) == "abcabc"
    assert seconds == {"a": [1, 1], "b": [2, 2], "c": [3, 3]}
