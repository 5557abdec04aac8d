"""Nothing that was saved is ever lost, and a training that goes on is the training that was not interrupted."""

import errno
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import pconv.train
from pconv import InpaintingLoss, PConvUNet, Trainer, VGGFeatures
from pconv.checkpoint import load_checkpoint, locked, save_checkpoint
from pconv.cli import main
from pconv.data import TrainingBatches, bundled_photos
from pconv.inpainting import load_weights

SCRIPT = Path(__file__).with_name("killed_training.py")
FLAGS = [
    "--size",
    "16",
    "--batch",
    "2",
    "--widths",
    "4,4",
    "--vgg",
    "random",
    "--vgg-layers",
    "pool1",
    "--device",
    "cpu",
]


def weights(folder: Path) -> dict:
    return load_weights(folder / "weights.safetensors").state_dict()


def run_script(folder: Path, precision: str, kills: int) -> str:
    command = [sys.executable, str(SCRIPT), str(folder), precision, str(kills), "0"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.strip()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_killed_at_random_moments_and_resumed_is_bit_for_bit_uninterrupted(precision, tmp_path):
    assert int(run_script(tmp_path / "killed", precision, 12)) >= 5  # fewer than 12 where the machine is very fast
    assert run_script(tmp_path / "whole", precision, 0) == "0"
    killed, whole = weights(tmp_path / "killed"), weights(tmp_path / "whole")
    assert all(torch.equal(killed[name], whole[name]) for name in whole)
    assert load_checkpoint(tmp_path / "killed" / "checkpoint.pt")["step"] == 120
    left = {path.name for path in (tmp_path / "killed").iterdir()}
    assert left == {".lock", "checkpoint.pt", "weights.safetensors", "history.csv"}


def _trainer(precision="fp32", **options) -> tuple[Trainer, TrainingBatches]:
    torch.manual_seed(0)
    loss = InpaintingLoss(VGGFeatures("random", layers=("pool1",)))
    batches = TrainingBatches(list(bundled_photos().values()), 16, 2, seed=0)
    return Trainer(PConvUNet(widths=(4, 4)), loss, precision, "cpu", lr=1e-3, **options), batches


def test_the_second_phase_too_goes_on_where_it_was(tmp_path):
    whole, batches = _trainer(fine_tune_at=3)
    whole.fit(batches, 8)
    first, batches = _trainer(fine_tune_at=3)
    first.fit(batches, 5, checkpoint=tmp_path / "c.pt")
    second, batches = _trainer(fine_tune_at=3)
    second.resume(load_checkpoint(tmp_path / "c.pt"), batches)
    second.fit(batches, 3)
    expected = whole.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in second.model.state_dict().items())
    assert [row["step"] for row in second.history.rows] == [5, 8]


def test_interrupted_saves_after_the_step_and_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    taken, real, handler = [], pconv.train.training_step, signal.getsignal(signal.SIGINT)

    def step(*arguments):
        taken.append(1)
        if len(taken) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return real(*arguments)

    monkeypatch.setattr("pconv.train.training_step", step)
    command = ["train", *FLAGS, "--out", str(tmp_path / "o"), "--precision", "fp32", "--steps", "6"]
    with pytest.raises(SystemExit) as stop:
        main(command)
    assert stop.value.code == 130 and "--resume" in capsys.readouterr().out
    assert load_checkpoint(tmp_path / "o" / "checkpoint.pt")["step"] == 3
    assert not (tmp_path / "o" / "weights.safetensors").exists()
    main([*command, "--resume"])
    assert "resumed at step 3" in capsys.readouterr().out and len(taken) == 6
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.skipif(os.name == "nt", reason="sends a POSIX signal")
def test_interrupted_in_a_terminal_the_workers_let_the_training_save(tmp_path):
    """There Ctrl-C reaches every process of the group, those that make the batches, too."""
    command = [sys.executable, "-m", "pconv", "train", *FLAGS, "--out", str(tmp_path / "o"), "--precision", "fp32",
               "--steps", "100000", "--save-every", "5", "--workers", "2"]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          start_new_session=True) as process:  # fmt: skip
        deadline = time.monotonic() + 60
        while not (tmp_path / "o" / "checkpoint.pt").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        said = process.communicate(timeout=60)[0]
    assert process.returncode == 130 and "Stopped and saved" in said and "Traceback" not in said, said
    assert load_checkpoint(tmp_path / "o" / "checkpoint.pt")["step"] >= 5


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path, monkeypatch):
    save_checkpoint(tmp_path / "c.pt", {"step": 1})

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path / "c.pt", {"step": 2})
    assert load_checkpoint(tmp_path / "c.pt")["step"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["c.pt"]


class _Payload:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def _saved(value) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (lambda mark: b"", "damaged"),
        (lambda mark: b"not a checkpoint", "damaged"),
        (lambda mark: _saved({"format": "pconv checkpoint 1", "step": 3})[:-200], "damaged"),
        (lambda mark: _saved({"weight": torch.zeros(2)}), "not a checkpoint of pconv"),
        (lambda mark: _saved([1, 2]), "not a checkpoint of pconv"),
        (lambda mark: _saved({"format": "pconv checkpoint 0"}), "another version"),
        (lambda mark: _saved({"format": _Payload(mark)}), "damaged"),
    ],
)
def test_what_is_no_checkpoint_is_refused_by_name_and_runs_nothing(content, says, tmp_path, capsys):
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(content(tmp_path / "mark"))
    with pytest.raises(ValueError, match=says) as error:
        load_checkpoint(path)
    assert str(path) in str(error.value)
    with pytest.raises(SystemExit) as stop:
        main(["train", *FLAGS, "--out", str(tmp_path), "--precision", "fp32", "--resume"])
    assert stop.value.code == 2 and "checkpoint.pt" in capsys.readouterr().err
    assert not (tmp_path / "mark").exists()


def test_going_on_with_other_settings_is_refused_by_name(tmp_path, capsys):
    command = ["train", *FLAGS, "--out", str(tmp_path / "o"), "--precision", "fp32", "--steps", "1"]
    main(command)
    for change, says in (
        (["--seed", "5"], "--seed 0, not 5"),
        (["--precision", "bf16"], "fp32"),
        (["--lr", "1"], "--lr"),
    ):
        with pytest.raises(SystemExit) as stop:
            main([*command, "--resume", *change])
        assert stop.value.code == 2 and says in capsys.readouterr().err


def test_a_second_training_is_kept_out_while_the_first_lives(tmp_path, capsys):
    folder = tmp_path / "o"
    folder.mkdir()
    with locked(folder):
        with pytest.raises(SystemExit) as stop:
            main(["train", *FLAGS, "--out", str(folder), "--precision", "fp32", "--steps", "1"])
        assert stop.value.code == 2 and "another training is running in" in capsys.readouterr().err
    main(["train", *FLAGS, "--out", str(folder), "--precision", "fp32", "--steps", "1", "--resume"])
    assert (folder / "weights.safetensors").exists()
