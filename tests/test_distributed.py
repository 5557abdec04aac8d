"""Two processes on their halves of every batch do what one does on the whole."""

import csv
import os
import subprocess
import sys
import time

import psutil
import pytest
import torch
from distributed_nodes import start_nodes, wait
from toy_training import Pixels, batches, make

from pconv import Trainer
from pconv.checkpoint import load_checkpoint
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


# Several machines ---------------------------------------------------------------------------------


@pytest.fixture
def machines(tmp_path):
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
    return folders


def test_machines_that_share_no_folder_train_and_resume_together(machines, tmp_path):
    flags = [*FLAGS[:-4], "--out", "out"]  # without --steps and --lr
    for steps in ("10", "20"):
        results = wait(start_nodes(machines, *flags, "--steps", steps, "--resume"))
        assert [code for code, *_ in results] == [0, 0], results
        speaks = [out.count("Weights:") for _, out, _ in results]
        assert speaks == [1, 0]
    assert "resumed at step 10" in results[0][1] and "resumed" not in results[1][1]
    assert not list(machines[1].iterdir())  # what is written is on the first machine
    main(["train", *flags[:-1], str(tmp_path / "one"), "--steps", "20"])
    one, two = (
        load_weights(folder / "weights.safetensors").state_dict()
        for folder in (tmp_path / "one", machines[0] / "out")
    )
    assert all((one[name] - two[name]).abs().max() < 2e-3 for name in one)


def test_where_one_machine_is_refused_the_others_end_with_one_line(machines, photos):
    (machines[0] / "photos").symlink_to(photos)  # the second has none
    flags = [*FLAGS, "--out", "out", "--photos", "photos"]
    (first_code, _, first), (second_code, _, second) = wait(start_nodes(machines, *flags))
    assert first_code and second_code
    ours = [[line for line in e.splitlines() if line[:6] == "pconv:"] for e in (first, second)]
    assert ours[0] == ["pconv: another process of this training was refused; see its line"]
    assert ours[1] == ["pconv: no folder photos: give the folder your photos are in"]
    assert not (machines[0] / "out").exists()


@pytest.mark.skipif(os.name == "nt", reason="kills as Unix does")
def test_where_one_process_dies_the_other_ends_with_one_line(machines):
    flags = [*FLAGS[:-4], "--out", "out", "--steps", "100000", "--save-every", "1"]
    nodes = start_nodes(machines, *flags)
    checkpoint = machines[0] / "out" / "checkpoint.pt"
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    (child,) = psutil.Process(nodes[1].pid).children()
    child.kill()
    (first_code, _, first), (second_code, *_) = wait(nodes)
    assert first_code and second_code
    ours = [line for line in first.replace("\r", "\n").splitlines() if line[:6] == "pconv:"]
    assert ours == ["pconv: another process of this training has ended"]
    assert "pconv/train.py" not in first  # no traceback of ours
    assert load_checkpoint(checkpoint)["step"] >= 1
