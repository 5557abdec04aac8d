"""`pconv train`: what it writes, what it refuses, a full disk, two trainings at once."""

import csv
import errno
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from helpers import TINY, TRAIN, assert_refused, listing, no_permission, run_to_exit
from odd_photos import BAD
from torch import nn

import pconv.cli.train
from pconv import InpaintingLoss, Trainer, load_weights
from pconv.checkpoint import load_checkpoint, save_checkpoint
from pconv.cli import main
from pconv.holes import HOLE_KINDS, mixed_holes
from pconv.inpainting import read_metadata


def test_weights_and_history_are_written_and_the_total_is_the_weighted_sum(tmp_path, photos):
    out = tmp_path / "out"
    flags = ["--vgg", "random", "--widths", "4,6,8", "--precision", "fp32"]
    flags += ["--loss-weights", "valid=1,hole=2,tv=0"]
    main(["train", *TINY, "--photos", str(photos), "--out", str(out), *flags])
    assert load_weights(out / "weights.safetensors").widths == (4, 6, 8)
    with open(out / "history.csv", newline="") as file:
        row = list(csv.DictReader(file))[-1]
    total = 1 * float(row["valid"]) + 2 * float(row["hole"]) + 0.05 * float(row["perceptual"])
    total += 120 * (float(row["style_out"]) + float(row["style_comp"]))
    assert row["step"] == "2" and float(row["total"]) == pytest.approx(total, rel=1e-4)


def test_weights_tell_how_they_were_trained_from_the_first_phase_on(tmp_path, photos, capsys):
    common = ["train", *TINY, "--photos", str(photos), "--precision", "fp32", "--vgg", "random"]
    main(
        [
            *common,
            "--out",
            str(tmp_path / "one"),
            "--widths",
            "4,6",
            "--no-residual",
            "--loss-weights",
            "perceptual=0,style_out=0,style_comp=0,ssim=1",
        ]
    )
    one = tmp_path / "one" / "weights.safetensors"
    main(
        [
            *common,
            "--out",
            str(tmp_path / "two"),
            "--init",
            str(one),
            "--schedule",
            "cosine",
            "--seed",
            "1",
        ]
    )
    phases = json.loads(read_metadata(tmp_path / "two" / "weights.safetensors")["training"])
    assert phases[:1] == json.loads(read_metadata(one)["training"]) and len(phases) == 2
    assert [phase["seed"] for phase in phases] == [0, 1]
    assert [phase["steps"] for phase in phases] == [2, 2]
    assert [phase["photos"] for phase in phases] == [3, 3]
    assert [phase["settings"]["vgg"] for phase in phases] == ["not used", "random"]
    assert phases[1]["settings"]["schedule"] == "cosine over 2 steps"
    # those of the weights it starts from
    assert {phase["settings"]["widths"] for phase in phases} == {"(4, 6)"}
    assert {phase["settings"]["residual"] for phase in phases} == {"False"}


def test_a_cosine_goes_on_over_the_same_steps(tmp_path, photos, capsys):
    command = ["train", *TINY, "--photos", str(photos), "--widths", "4", "--vgg", "random"]
    command += ["--precision", "fp32", "--schedule", "cosine", "--out", str(tmp_path / "out")]
    main(command)
    capsys.readouterr()
    refusal = assert_refused(capsys, [*command, "--resume", "--steps", "4"])
    assert "--schedule cosine over 2 steps, not cosine over 4 steps" in refusal


@pytest.mark.parametrize("flag", [[], ["--residual"], ["--no-residual"]])
def test_train_learns_a_residual_unless_told(tmp_path, photos, flag):
    main(
        [
            "train",
            *TINY,
            "--photos",
            str(photos),
            "--widths",
            "4",
            "--vgg",
            "random",
            "--precision",
            "fp32",
            "--out",
            str(tmp_path / "out"),
            *flag,
        ]
    )
    assert load_weights(tmp_path / "out" / "weights.safetensors").residual == (
        flag != ["--no-residual"]
    )


def test_train_starts_from_given_weights(tmp_path, photos, weights):
    main(
        [
            "train",
            *TINY,
            "--photos",
            str(photos),
            "--out",
            str(tmp_path / "o"),
            "--vgg",
            "random",
            "--init",
            str(weights),
            "--lr",
            "1e-9",
            "--precision",
            "fp32",
        ]
    )
    start, end = load_weights(weights), load_weights(tmp_path / "o" / "weights.safetensors")
    assert torch.allclose(start.encoder[0].conv.weight, end.encoder[0].conv.weight, atol=1e-6)


# Refusals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--lr", "-1"], "--lr"),
        (["--vgg", "gone.pth"], "gone.pth"),
        (["--vgg-arch", "vgg99"], "vgg99"),
        (["--vgg-layers", "pool9"], "pool9"),
        (["--loss-weights", "hole=many"], "hole=many"),
        (["--loss-weights", "holes=1"], "holes=1"),
        (["--widths", "8,x"], "x"),
        (["--init", "gone.safetensors"], "gone.safetensors"),
    ],
)
def test_train_refuses_by_name(flags, words, tmp_path, capsys):
    random = [] if "--vgg" in flags else ["--vgg", "random"]
    assert_refused(
        capsys, ["train", "--out", tmp_path / "out", "--device", "cpu", *random, *flags], words
    )
    assert not (tmp_path / "out").exists()


def test_train_refuses_a_used_folder(tmp_path, capsys):
    (tmp_path / "history.csv").write_text("precious")
    assert_refused(
        capsys, ["train", "--out", tmp_path, "--vgg", "random", "--device", "cpu"], "not empty"
    )
    assert (tmp_path / "history.csv").read_text() == "precious"


def test_a_training_on_cut_photos_alone_is_refused_before_it_makes_a_folder(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "cut.jpg").write_bytes(BAD["cut.jpg"])
    assert_refused(
        capsys,
        [*TRAIN, "--photos", tmp_path / "in", "--out", tmp_path / "out"],
        "cut.jpg",
        unchanged=tmp_path,
    )


def test_a_folder_of_photos_without_permission(tmp_path, capsys):
    closed = tmp_path / "in" / "closed"
    closed.mkdir(parents=True)
    arguments = [*TRAIN, "--photos", closed, "--out", tmp_path / "out"]
    with no_permission(closed):
        assert_refused(capsys, arguments, closed)
    assert not (tmp_path / "out").exists()


# A full disk --------------------------------------------------------------------------------------


@pytest.mark.parametrize("room", [0, 8192])
def test_training_on_a_full_disk_keeps_what_was_saved_and_ends_in_one_line(
    room, small_disk, capsys
):
    out = small_disk.folder / "out"
    main([*TRAIN, "--steps", "2", "--out", str(out)])
    kept = {path: path.read_bytes() for path in listing(out)}
    small_disk.leave(room)
    more = [*TRAIN, "--steps", "4", "--save-every", "1", "--resume", "--out", out]
    code, lines = run_to_exit(capsys, more)
    assert code == 1 and len(lines) == 1 and "No space left" in lines[0] and str(out) in lines[0]
    assert {path: path.read_bytes() for path in out.iterdir()} == kept  # no half of a file
    assert load_checkpoint(out / "checkpoint.pt")["step"] == 2
    load_weights(out / "weights.safetensors")
    small_disk.leave(None)
    main([str(argument) for argument in more])
    assert load_checkpoint(out / "checkpoint.pt")["step"] == 4


def test_an_end_without_room_for_the_weights_names_them_and_keeps_the_checkpoint(
    small_disk, trained, capsys
):
    out = small_disk.folder / "out"
    sizes = {path.name: path.stat().st_size for path in trained.iterdir()}
    half_the_weights = sizes["weights.safetensors"] // 2
    small_disk.leave(sizes["checkpoint.pt"] + sizes["history.csv"] + half_the_weights)
    code, lines = run_to_exit(capsys, [*TRAIN, "--steps", "2", "--out", out])
    assert code == 1
    message = f"[Errno {errno.ENOSPC}] No space left on device: '{out / 'weights.safetensors'}'"
    assert lines == [f"pconv: {message}"]
    assert load_checkpoint(out / "checkpoint.pt")["step"] == 2
    assert sorted(path.name for path in out.iterdir()) == [".lock", "checkpoint.pt", "history.csv"]


# Two at once --------------------------------------------------------------------------------------


RACE = """
import os, sys
from pconv.cli import main
read, write = os.pipe()
children = []
for name in sys.argv[1:3]:
    children.append(os.fork())
    if children[-1] == 0:
        os.close(write)
        sys.stdout, sys.stderr = open(os.devnull, "w"), open(name, "w", buffering=1)
        os.read(read, 1)  # until the parent closes its end: both start at once
        try:
            main(sys.argv[3:])
            code = 0
        except SystemExit as stop:
            code = stop.code
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            code = 99
        os._exit(code)
os.close(write)
print(*(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks processes")
def test_of_two_trainings_started_at_the_same_moment_one_goes_on(tmp_path):
    out, errors = tmp_path / "out", [tmp_path / "first", tmp_path / "second"]
    command = [sys.executable, "-c", RACE, *errors, *TRAIN, "--steps", "30", "--out", out]
    run = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=True, timeout=600
    )
    assert sorted(run.stdout.split()) == ["0", "2"], [path.read_text() for path in errors]
    error = errors[run.stdout.split().index("2")].read_text()
    assert error.count("\n") == 1 and str(out) in error
    assert "another training" in error or "not empty" in error
    assert load_checkpoint(out / "checkpoint.pt")["step"] == 30
    left = sorted(path.name for path in out.iterdir())
    assert left == [".lock", "checkpoint.pt", "history.csv", "weights.safetensors"]


@pytest.mark.parametrize("resume", [[], ["--resume"]])
def test_a_training_that_ended_before_the_lock_was_free_is_seen(
    resume, trained, tmp_path, capsys, monkeypatch
):
    """Another training fills the folder after this one has looked and before it has the lock."""
    out, lock = tmp_path / "out", pconv.cli.train.lock_folder

    def lock_later(folder):
        shutil.copytree(trained, out, dirs_exist_ok=True)
        return lock(folder)

    monkeypatch.setattr("pconv.cli.train.lock_folder", lock_later)
    command = [*TRAIN, "--steps", "3", "--out", str(out), *resume]
    if resume:
        main(command)
        assert "resumed at step 2" in capsys.readouterr().out
    else:
        assert_refused(capsys, command, "not empty")
        for name in ("weights.safetensors", "checkpoint.pt", "history.csv"):
            assert (out / name).read_bytes() == (trained / name).read_bytes()


# Flags of the loop --------------------------------------------------------------------------------


def spy_on_trainer(monkeypatch) -> dict:
    """What the command gives to Trainer, by name."""
    given = {}

    class Spy(Trainer):
        def __init__(self, *arguments, **keywords):
            given.update(keywords)
            super().__init__(*arguments, **keywords)

    monkeypatch.setattr("pconv.cli.train.Trainer", Spy)
    return given


@pytest.mark.parametrize(
    ("flags", "name", "value"),
    [
        ([], "fine_tune_at", None),
        (["--fine-tune-at", "1"], "fine_tune_at", 1),
        (["--fine-tune-lr", "1e-3"], "fine_tune_lr", 1e-3),
        (["--max-grad-norm", "0.5"], "max_grad_norm", 0.5),
        (["--grad-accum-steps", "2"], "grad_accum_steps", 2),
        ([], "grad_accum_steps", 1),
        ([], "compile", False),
        (["--ema", "0.99"], "ema", 0.99),
        ([], "ema", None),
        (["--ramp", "7"], "texture_ramp_steps", 7),
        ([], "texture_ramp_steps", 0),
    ],
)
def test_flags_of_the_loop_reach_the_trainer(flags, name, value, tmp_path, monkeypatch):
    given = spy_on_trainer(monkeypatch)
    main([*TRAIN, "--steps", "2", "--out", str(tmp_path / "out"), *flags])
    assert given[name] == value


def test_flags_of_the_holes_and_of_the_features_reach_them(tmp_path, monkeypatch):
    made = []
    init = InpaintingLoss.__init__

    def watched(self, *arguments):
        init(self, *arguments)
        made.append(self)

    monkeypatch.setattr("pconv.cli.train.InpaintingLoss.__init__", watched)
    kinds = []
    monkeypatch.setitem(HOLE_KINDS, "mixed", lambda *a: kinds.append(a) or mixed_holes(*a))
    flags = ["--holes", "mixed", "--vgg-pooling", "average", "--vgg-shift", "3"]
    main([*TRAIN, "--steps", "1", "--out", str(tmp_path / "out"), *flags])
    assert len(kinds) == 2 and made[0].shift == 3
    assert isinstance(made[0].features.stack[-1], nn.AvgPool2d)


def test_copy_texture_trains_a_copier_and_needs_four_widths(tmp_path, capsys):
    flags = [*TRAIN, "--steps", "1", "--copy-texture", "--out", str(tmp_path / "out")]
    main([*flags, "--size", "32", "--widths", "4,4,4,4"])
    weights = tmp_path / "out" / "weights.safetensors"
    assert load_weights(weights).copy_texture
    capsys.readouterr()
    assert_refused(capsys, [*flags[:-1], tmp_path / "other"], "--copy-texture needs 4")
    main([*TRAIN, "--steps", "1", "--init", str(weights), "--out", str(tmp_path / "more")])
    assert load_weights(tmp_path / "more" / "weights.safetensors").copy_texture


def test_the_weights_are_the_average(tmp_path):
    main([*TRAIN, "--steps", "3", "--out", str(tmp_path / "a"), "--ema", "0.9", "--lr", "0.01"])
    state = load_checkpoint(tmp_path / "a" / "checkpoint.pt")
    saved = load_weights(tmp_path / "a" / "weights.safetensors").state_dict()
    assert all(torch.equal(value, state["average"][f"module.{n}"]) for n, value in saved.items())
    name = "decoder.0.conv.weight"
    assert not torch.equal(saved[name], state["model"][name])


@pytest.mark.compile
def test_compile_compiles_the_model(tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr("torch.compile", lambda model: compiled.append(model) or model)
    main([*TRAIN, "--steps", "1", "--out", str(tmp_path / "out"), "--compile"])
    assert len(compiled) == 1


@pytest.mark.parametrize(
    "flags",
    [
        ["--fine-tune-at", "0"],
        ["--fine-tune-lr", "0"],
        ["--max-grad-norm", "-1"],
        ["--max-grad-norm", "nan"],
        ["--grad-accum-steps", "x"],
        ["--ema", "1"],
        ["--ema", "0"],
        ["--ramp", "-3"],
        ["--holes", "round"],
        ["--vgg-shift", "0"],
        ["--vgg-pooling", "median"],
    ],
)
def test_wrong_flags_of_the_loop_are_refused_by_name(flags, tmp_path, capsys):
    assert_refused(capsys, [*TRAIN, "--out", tmp_path / "out", *flags], flags[0])


def test_a_checkpoint_from_before_a_flag_existed_goes_on_with_its_default(tmp_path, capsys):
    command = [*TRAIN, "--steps", "2", "--out", str(tmp_path / "out")]
    main(command)
    path = tmp_path / "out" / "checkpoint.pt"
    state = load_checkpoint(path)
    for name in (
        "fine_tune_at",
        "fine_tune_lr",
        "max_grad_norm",
        "grad_accum_steps",
        "ema",
        "ramp",
    ):
        del state["settings"][name]
    save_checkpoint(path, {key: value for key, value in state.items() if key != "format"})
    capsys.readouterr()
    assert_refused(capsys, [*command, "--resume", "--max-grad-norm", "1"], "--max-grad-norm None")
    main([*command[:-1], str(tmp_path / "out"), "--resume", "--steps", "3"])
    assert "resumed at step 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    "where",
    [
        "pconv.cli.train.TrainingBatches.__init__",
        "pconv.cli.train.PConvUNet.__init__",
        "pconv.cli.train.InpaintingLoss.__init__",
        "pconv.cli.train.Trainer.__init__",
        "pconv.cli.train.Trainer.fit",
        "pconv.cli.train_results.save_weights",
    ],
)
def test_a_bug_shows_its_traceback(where, tmp_path, monkeypatch):
    """Only checks of what the user gave are turned into one line, not the work."""

    def fail(*arguments, **keywords):
        raise ValueError("a bug")

    monkeypatch.setattr(where, fail)
    with pytest.raises(ValueError, match="a bug"):
        main([*TRAIN, "--steps", "1", "--out", str(tmp_path / "out")])


# Stopped, resumed, finished -----------------------------------------------------------------------


STOPPED = """
import os, signal, sys
from pconv.train import Trainer
from pconv.__main__ import main

train_on = Trainer._train_on

def interrupt(self, images, masks):
    terms = train_on(self, images, masks)
    if self.step == 3:
        os.kill(os.getpid(), signal.SIGINT)
    return terms

Trainer._train_on = interrupt
sys.argv = ["pconv", *sys.argv[1:]]
main()
"""


@pytest.mark.skipif(os.name == "nt", reason="sends signals as Unix does")
@pytest.mark.parametrize("ema", [[], ["--ema", "0.5"]])
def test_a_stopped_training_says_so_at_once_and_can_be_finished(ema, tmp_path, photos, capsys):
    out = tmp_path / "out"
    command = [*TRAIN, "--out", str(out), "--photos", str(photos), *ema]
    command += ["--schedule", "cosine", "--steps", "500"]
    run = subprocess.run(
        [sys.executable, "-c", STOPPED, *command], capture_output=True, text=True, check=False
    )
    assert run.returncode == 130 and "Traceback" not in run.stderr
    assert "pconv: stopping after this step ..." in run.stderr
    assert "Stopped and saved after step 3" in run.stdout and "--finish" in run.stdout
    assert not (out / "weights.safetensors").exists()
    main(["train", "--out", str(out), "--finish"])
    assert f"Weights: {out / 'weights.safetensors'}" in capsys.readouterr().out
    state = load_checkpoint(out / "checkpoint.pt")
    expected = state["average"] if ema else state["model"]
    for name, value in load_weights(out / "weights.safetensors").state_dict().items():
        assert torch.equal(value, expected["module." * bool(ema) + name])
    (phase,) = json.loads(read_metadata(out / "weights.safetensors")["training"])
    assert (
        phase["steps"] == 3
        and phase["photos"] == 3
        and str(tmp_path)
        not in str({name: value for name, value in phase["settings"].items() if name != "photos"})
    )
    assert (out / "history.csv").is_file()
    assert_refused(capsys, ["train", "--out", tmp_path / "none", "--finish"], "no checkpoint at")


def test_the_same_folder_may_be_named_in_another_way(tmp_path, photos, capsys, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.chdir(tmp_path)
    command = [*TRAIN, "--out", str(out)]
    main([*command, "--photos", "photos", "--steps", "1"])
    main([*command, "--photos", str(photos), "--steps", "2", "--resume"])
    main([*command, "--photos", "../" + tmp_path.name + "/photos", "--steps", "3", "--resume"])
    assert capsys.readouterr().out.count("resumed at step") == 2
    other = tmp_path / "other"
    shutil.copytree(photos, other)
    resume = [*command, "--photos", other, "--steps", "4", "--resume"]
    capsys.readouterr()
    assert "was trained with --photos" in assert_refused(capsys, resume, f"photos, not {other}")


def test_another_precision_is_refused_with_its_flag(tmp_path, capsys):
    out = tmp_path / "out"
    main([*TRAIN, "--out", str(out), "--steps", "1"])
    resume = [*TRAIN, "--out", out, "--steps", "2", "--resume", "--precision", "bf16"]
    capsys.readouterr()
    assert_refused(capsys, resume, "was trained with --precision fp32, not bf16")


def test_threads_are_those_of_this_machine_and_another_number_is_said(tmp_path, capsys):
    out, threads = tmp_path / "out", torch.get_num_threads()
    main([*TRAIN, "--out", str(out), "--steps", "1"])
    state = load_checkpoint(out / "checkpoint.pt")
    save_checkpoint(
        out / "checkpoint.pt", {k: v for k, v in state.items() if k != "format"} | {"threads": 48}
    )
    main([*TRAIN, "--out", str(out), "--steps", "2", "--resume"])
    assert torch.get_num_threads() == threads
    words = f"saved with 48 threads and goes on with {threads}, so not bit for bit"
    assert words in capsys.readouterr().out


@pytest.mark.parametrize("command", ["demo", "train", "evaluate", "inpaint", "bench"])
@pytest.mark.parametrize("seed", ["-1", str(2**64), "1.5", "x"])
def test_seeds_that_cannot_be_are_refused_by_name(command, seed, capsys):
    files = ["photo", "mask", "-o", "out.png"] if command == "inpaint" else []
    assert_refused(capsys, [command, *files, f"--seed={seed}"], f"argument --seed: {seed} is not")


def test_photos_that_vanish_while_training_are_skipped_and_reported(
    tmp_path, photos, capsys, monkeypatch
):
    fit = Trainer.fit

    def vanish(self, *arguments, **options):
        (photos / "b.jpg").unlink()
        (photos / "more" / "c.PNG").write_bytes(b"cut")
        return fit(self, *arguments, **options)

    monkeypatch.setattr(Trainer, "fit", vanish)
    flags = ["--photos", str(photos), "--steps", "8", "--out", str(tmp_path / "out")]
    main([*TRAIN, *flags, "--verbose"])
    error = capsys.readouterr().err
    assert "2 unreadable, skipped: " in error and "b.jpg" in error
    assert "no photo at" in error and "c.PNG is not a readable photo" in error
    (photos / "more" / "c.PNG").unlink()

    def lose_all(self, *arguments, **options):
        (photos / "a.png").unlink()
        return fit(self, *arguments, **options)

    monkeypatch.setattr(Trainer, "fit", lose_all)
    flags[-1] = str(tmp_path / "lost")
    code, lines = run_to_exit(capsys, [*TRAIN, *flags])
    assert code == 1 and "100 photos in a row could not be read" in lines[0]


# TensorBoard --------------------------------------------------------------------------------------


def read_events(folder):
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = loader.EventAccumulator(str(folder), size_guidance={"images": 0})
    events.Reload()
    return events


def test_a_log_for_tensorboard_has_curves_and_pictures(tmp_path, capsys):
    out, log = tmp_path / "out", tmp_path / "log"
    command = [*TRAIN, "--out", str(out), "--log-dir", str(log), "--log-images-every", "10"]
    main([*command, "--steps", "20"])
    events = read_events(log)
    with open(out / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    logged = events.Scalars("loss/total")
    assert [event.step for event in logged] == [10, 20]
    for event, row in zip(logged, rows, strict=True):
        assert event.value == pytest.approx(float(row["total"]), rel=1e-6)
    assert {"speed/samples_per_second", "held out/psnr"} <= set(events.Tags()["scalars"])
    pictures = events.Images("held out: damaged, filled, photo")
    assert [event.step for event in pictures] == [10, 20]
    assert (pictures[0].width, pictures[0].height) == (3 * 16, 2 * 16)  # two photos, --size 16
    main([*command, "--steps", "30", "--resume"])
    assert [event.step for event in read_events(log).Scalars("loss/total")] == [10, 20, 30]


def test_without_tensorboard_the_extra_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.delitem(sys.modules, "pconv.cli.tensorboard", raising=False)
    command = [*TRAIN, "--out", tmp_path / "out", "--log-dir", tmp_path / "log"]
    assert_refused(capsys, command, "--log-dir needs tensorboard: pip install 'pconv[tensorboard]'")
