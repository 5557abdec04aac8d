"""Checkpoints: nothing that was saved is lost, and a resumed training is the uninterrupted one."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers import TRAIN, assert_refused
from hostile_files import OLD, Payload, compressed, saved

import pconv.train
from pconv import InpaintingLoss, PConvUNet, Trainer, VGGFeatures
from pconv.checkpoint import load_checkpoint, lock_folder, save_checkpoint
from pconv.cli import main
from pconv.data import TrainingBatches
from pconv.inpainting import load_weights
from pconv.photos import bundled_photos

SCRIPT = Path(__file__).with_name("killed_training.py")
FLAGS = ["--size", "16", "--batch", "2", "--widths", "4,4", "--device", "cpu"]
FLAGS += ["--vgg", "random", "--vgg-layers", "pool1"]


def read_weights(folder: Path) -> dict:
    return load_weights(folder / "weights.safetensors").state_dict()


def run_script(folder: Path, precision: str, kills: int) -> str:
    command = [sys.executable, str(SCRIPT), str(folder), precision, str(kills), "0"]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return run.stdout.strip()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_killed_at_random_moments_and_resumed_is_bit_for_bit_uninterrupted(precision, tmp_path):
    assert run_script(tmp_path / "killed", precision, 12) == "12"
    assert run_script(tmp_path / "whole", precision, 0) == "0"
    killed, whole = read_weights(tmp_path / "killed"), read_weights(tmp_path / "whole")
    assert killed.keys() == whole.keys()
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
    assert all(
        torch.equal(value, expected[name]) for name, value in second.model.state_dict().items()
    )
    assert [row["step"] for row in second.history.rows] == [5, 8]


def test_interrupted_saves_after_the_step_and_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    taken, real, handler = [], pconv.train.training_step, signal.getsignal(signal.SIGINT)

    def step(*arguments, **options):
        taken.append(1)
        if len(taken) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return real(*arguments, **options)

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
    out = tmp_path / "o"
    command = [sys.executable, "-m", "pconv", "train", *FLAGS, "--out", str(out)]
    command += ["--precision", "fp32", "--steps", "100000", "--save-every", "5", "--workers", "2"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, start_new_session=True, **pipes) as process:
        while not (out / "checkpoint.pt").exists() and process.poll() is None:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        output = process.communicate(timeout=600)[0]
    assert process.returncode == 130, output
    assert "Stopped and saved" in output and "Traceback" not in output, output
    assert load_checkpoint(out / "checkpoint.pt")["step"] >= 5


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path, monkeypatch):
    save_checkpoint(tmp_path / "c.pt", {"step": 1})

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path / "c.pt", {"step": 2})
    assert load_checkpoint(tmp_path / "c.pt")["step"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["c.pt"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (lambda mark: b"", "damaged"),
        (lambda mark: b"not a checkpoint", "damaged"),
        (lambda mark: saved({"format": "pconv checkpoint 1", "step": 3})[:-200], "damaged"),
        (lambda mark: saved({"weight": torch.zeros(2)}), "not a checkpoint of pconv"),
        (lambda mark: saved([1, 2]), "not a checkpoint of pconv"),
        (lambda mark: saved({"format": "pconv checkpoint 0"}), "another version"),
        (lambda mark: saved({"format": Payload(mark)}), "damaged"),
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
    with lock_folder(folder):
        with pytest.raises(SystemExit) as stop:
            main(["train", *FLAGS, "--out", str(folder), "--precision", "fp32", "--steps", "1"])
        assert stop.value.code == 2 and "another training is running in" in capsys.readouterr().err
    main(["train", *FLAGS, "--out", str(folder), "--precision", "fp32", "--steps", "1", "--resume"])
    assert (folder / "weights.safetensors").exists()


def test_a_checkpoint_that_lacks_a_part_or_holds_another_thing_is_refused_by_name(
    trained, tmp_path, capsys, monkeypatch
):
    features = VGGFeatures("random", layers=("pool1",))
    monkeypatch.setattr("pconv.cli.train.VGGFeatures", lambda *_, **__: features)  # made once
    whole = load_checkpoint(trained / "checkpoint.pt")
    path = tmp_path / "checkpoint.pt"
    (tmp_path / ".lock").touch()
    arguments = [*TRAIN, "--steps", "3", "--resume", "--out", tmp_path]
    wrong = {
        name: "another thing"
        for name in whole
        if name not in ("format", "precision", "random_cuda")
    }
    wrong |= {
        "settings": {},
        "model": {"encoder.0.conv.weight": 3},
        "optimizer": {},
        "random": torch.zeros(3),
    }
    for name, value in wrong.items():
        path.write_bytes(saved(whole | {name: value}))
        assert_refused(capsys, arguments, path, unchanged=tmp_path)
        if name != "average":  # which checkpoints did not always have
            path.write_bytes(saved({key: value for key, value in whole.items() if key != name}))
            assert_refused(capsys, arguments, path, unchanged=tmp_path)
    for content in (
        saved({"format": whole["format"]}),
        compressed(saved(whole)),
        saved(whole, **OLD)[:-9],
    ):
        path.write_bytes(content)
        assert_refused(capsys, arguments, path, unchanged=tmp_path)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_disk_that_cannot_lock_is_not_another_training(number, tmp_path, capsys, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def flock(file, operation):
        if operation & fcntl.LOCK_EX:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    main([*TRAIN, "--steps", "1", "--out", str(tmp_path / "out")])
    captured = capsys.readouterr()
    assert "cannot be locked" in captured.err and os.strerror(number) in captured.err
    assert "another training" not in captured.err and "Weights:" in captured.out
