"""Run by test_checkpoint.py: trains in child processes that are killed at random moments until one gets to the end.

Arguments: folder, precision, number of kills at most, seed. A child is killed soon after it has saved a step of its
own, so that each gets a little further. The children are forked after the import, before any computation: a kill costs
no import. Prints how many were killed.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from pconv.cli import main


def train(folder: str, precision: str) -> None:
    torch.set_num_threads(1)
    main(["train", "--out", folder, "--precision", precision, "--size", "16", "--batch", "2", "--steps", "120",
          "--widths", "4,4", "--vgg", "random", "--vgg-layers", "pool1", "--save-every", "1", "--device", "cpu",
          "--resume", "--lr", "1e-3"])  # fmt: skip


def fork(folder: str, precision: str) -> int:
    child = os.fork()
    if child == 0:
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (until the process ends)
        train(folder, precision)
        os._exit(0)
    return child


def is_running(child: int) -> bool:
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def saved(checkpoint: Path) -> int:
    return checkpoint.stat().st_ino if checkpoint.exists() else 0  # another file each time


if __name__ == "__main__":
    folder, precision, wanted, seed = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    moments, killed, checkpoint = random.Random(seed), 0, Path(folder, "checkpoint.pt")
    while True:
        before, child = saved(checkpoint), fork(folder, precision)
        if killed < wanted:
            while saved(checkpoint) == before and is_running(child):
                time.sleep(0.001)
            time.sleep(moments.uniform(0, 0.08))
            os.kill(child, signal.SIGKILL)
        end = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if end == 0:
            break
        assert end == -signal.SIGKILL
        killed += 1
    print(killed)
