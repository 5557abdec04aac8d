"""Run by test_checkpoint.py: trains in child processes that are killed until one gets to the end.

Arguments: folder, precision, number of kills, seed. Each child saves a step of its own, goes on for
a random number of calls, and dies by SIGKILL. One time the calls of all Python code count, the next
time only those that open, write, sync or rename files, so that many children die while they save.
No clock is read: how fast the machine is does not matter. The children are forked after the
import, so that a kill costs no import. Prints how many were killed.
"""

import io
import os
import random
import signal
import sys

import torch

from pconv.cli import main

STEPS = 120


def train(folder: str, precision: str) -> None:
    torch.set_num_threads(1)
    arguments = ["train", "--out", folder, "--precision", precision, "--steps", str(STEPS)]
    arguments += ["--size", "16", "--batch", "2", "--widths", "4,4", "--lr", "1e-3"]
    arguments += ["--vgg", "random", "--vgg-layers", "pool1", "--device", "cpu"]
    main([*arguments, "--save-every", "1", "--resume"])


def handles_files(function) -> bool:
    on_a_file = isinstance(getattr(function, "__self__", None), io.IOBase)
    return on_a_file or any(function is one for one in (open, os.fsync, os.replace))


def die_after(calls: int, of_files: bool) -> None:
    """This process is killed so many calls after it has saved for the first time."""
    replace = os.replace

    def count(frame, event, function):
        nonlocal calls
        if not of_files or (event.startswith("c_") and handles_files(function)):
            calls -= 1
            if calls == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def replace_and_count(*arguments):
        replace(*arguments)
        os.replace = replace
        sys.setprofile(count)

    os.replace = replace_and_count


def run_child(folder: str, precision: str, death: tuple[int, bool] | None) -> int:
    """Its exit code."""
    child = os.fork()
    if child == 0:
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (until the process ends)
        if death:
            die_after(*death)
        train(folder, precision)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    folder, precision, kills, seed = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    moments = random.Random(seed)
    for kill in range(kills):
        of_files = kill % 2 == 0
        calls = moments.randint(1, 60 if of_files else 60_000)  # of two or three steps each
        assert run_child(folder, precision, (calls, of_files)) == -signal.SIGKILL
    assert run_child(folder, precision, None) == 0
    print(kills)
