"""`pconv bench`: its table on the screen and in a file."""

import json
from types import SimpleNamespace

import pytest
import torch
from helpers import assert_refused

from pconv import benchmark
from pconv.cli import main


def test_bench_prints_and_records(tmp_path, capsys):
    path = tmp_path / "bench.json"
    flags = ["--size", "32", "--batch", "2", "--widths", "4,4", "--precision", "fp32,bf16"]
    flags += ["--repeats", "2", "--device", "cpu", "--channels-last", "--json", str(path)]
    main(["bench", *flags])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    layers = [line[:2] for line in lines if line[0] in ("fp32", "bf16")]
    assert layers == [
        [p, layer] for p in ("fp32", "bf16") for layer in ("plain", "partial", "textbook")
    ]
    record = json.loads(path.read_text())
    assert record["settings"]["channels_last"] is True
    assert record["versions"]["torch"] == torch.__version__.split("+")[0]
    assert len(record["rows"]) == len(layers)
    assert all(row["relative_time"] == 1 for row in record["rows"] if row["layer"] == "plain")


def test_bench_of_some_layers_and_rows_written_one_precision_at_a_time(
    tmp_path, capsys, monkeypatch
):
    path = tmp_path / "bench.json"
    flags = ["bench", "--size", "32", "--batch", "1", "--widths", "4", "--precision", "fp32,bf16"]
    flags += ["--repeats", "1", "--device", "cpu", "--json", str(path)]
    main([*flags, "--layers", "plain,partial"])
    rows = json.loads(path.read_text())["rows"]
    assert [row["layer"] for row in rows] == ["plain", "partial"] * 2
    for layers in ("partial", "plain,partial,thick"):
        assert_refused(capsys, [*flags, "--layers", layers], layers.replace(",", ", "))
    measure = benchmark.benchmark_training

    def fail_in_bf16(precisions, **settings):
        if precisions == ("bf16",):
            raise torch.OutOfMemoryError("no memory")
        return measure(precisions, **settings)

    monkeypatch.setattr("pconv.cli.bench.benchmark_training", fail_in_bf16)
    path.unlink()
    with pytest.raises(torch.OutOfMemoryError):
        main(flags)
    assert [row["precision"] for row in json.loads(path.read_text())["rows"]] == ["fp32"] * 3


def test_a_table_that_cannot_be_written_is_refused_before_the_work(tmp_path, capsys):
    (tmp_path / "folder").mkdir()
    arguments = ["bench", "--json", tmp_path / "folder", "--device", "cpu"]
    assert_refused(capsys, arguments, "folder", unchanged=tmp_path)


def test_steps_between_syncs_are_timed_beside_single_steps(tmp_path, capsys, monkeypatch):
    """With a clock that moves by one second per step and by ten per wait."""
    clock = SimpleNamespace(now=0.0, perf_counter=lambda: clock.now)
    monkeypatch.setattr("pconv.benchmark.time", clock)
    prepare = benchmark._prepare_step

    def prepare_counted(*arguments):
        step, memory = prepare(*arguments)

        def counted():
            clock.now += 1
            step()

        return counted, memory

    monkeypatch.setattr(benchmark, "_prepare_step", prepare_counted)
    path = tmp_path / "bench.json"
    flags = ["--size", "32", "--batch", "2", "--widths", "4", "--precision", "fp32"]
    flags += ["--repeats", "2", "--device", "cpu", "--json", str(path)]
    main(["bench", *flags, "--steps-between-syncs", "3"])
    record = json.loads(path.read_text())
    for row in record["rows"]:
        assert row["seconds"] == row["unsynced_seconds"] == 1
        assert row["relative_time"] == row["unsynced_relative_time"] == 1
    assert clock.now == 3 * 2 * (1 + 3)
    assert record["settings"]["steps_between_syncs"] == 3
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split().count("time") == 2 and "unsynced" in lines[0]
    main(["bench", *flags])
    assert "unsynced" not in capsys.readouterr().out
    assert "unsynced_seconds" not in json.loads(path.read_text())["rows"][0]
