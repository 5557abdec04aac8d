"""Two processes on their halves of every batch do what one does on the whole."""

import csv
import os
import subprocess
import sys

import pytest
import torch
from toy_training import Pixels, batches, make

from pconv import Trainer
from pconv.cli import main
from pconv.data import TrainingBatches
from pconv.inpainting import load_weights

# One level has no batch norm, whose statistics two halves of a batch do not share on a CPU.
FLAGS = ["--size", "32", "--batch", "4", "--widths", "8", "--device", "cpu", "--precision", "fp32"]
FLAGS += ["--vgg", "random", "--vgg-layers", "pool1", "--steps", "30", "--lr", "2e-3"]


def test_two_gloo_processes_follow_the_loss_curve_of_one(tmp_path):
    main(["train", *FLAGS, "--out", str(tmp_path / "one")])
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    command = [*torchrun, "-m", "pconv", "train", *FLAGS, "--out", str(tmp_path / "two")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        command, capture_output=True, text=True, env=environment, check=False, timeout=600
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("Weights:") == 1  # one process writes and speaks
    curves = {}
    for name in ("one", "two"):
        with open(tmp_path / name / "history.csv", newline="") as file:
            curves[name] = [float(row["total"]) for row in csv.DictReader(file)]
    assert len(curves["one"]) == 3 and curves["one"][-1] < curves["one"][0]
    assert curves["two"] == pytest.approx(curves["one"], rel=1e-3)
    one, two = (
        load_weights(tmp_path / name / "weights.safetensors").state_dict()
        for name in ("one", "two")
    )
    assert all((one[name] - two[name]).abs().max() < 2e-3 for name in one)


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(ValueError, match="batch of 3 cannot be shared equally by 2"):
        TrainingBatches([], 32, 3, seed=0, rank=0, world_size=2)


def test_a_distributed_model_lives_no_longer_than_a_fit(tmp_path):
    """Also in a group of one process: freed after its group, in torch 2.9 it waits forever."""
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        trainer = Trainer(make(), Pixels(), "fp32", "cpu")
        trainer.fit(batches(), 1)
        assert trainer._run is None
    finally:
        torch.distributed.destroy_process_group()
