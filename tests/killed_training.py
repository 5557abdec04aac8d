"""Run by test_checkpoint.py: trains in child processes that are killed at random moments until one gets to the end.

Arguments: folder, precision, number of kills, seed. The children are forked after the import, before any computation:
a kill costs no import. Prints how many were killed.
"""

import os
import random
import signal
import sys
import time

import torch

from pconv.cli import main


def train(folder: str, precision: str) -> None:
    torch.set_num_threads(1)
    main(["train", "--out", folder, "--precision", precision, "--size", "16", "--batch", "2", "--steps", "24",
          "--widths", "4,4", "--vgg", "random", "--vgg-layers", "pool1", "--save-every", "1", "--device", "cpu",
          "--resume", "--lr", "1e-3"])  # fmt: skip


def fork(folder: str, precision: str) -> int:
    child = os.fork()
    if child == 0:
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (until the process ends)
        train(folder, precision)
        os._exit(0)
    return child


if __name__ == "__main__":
    folder, precision, wanted, seed = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    moments, killed = random.Random(seed), 0
    while killed < wanted:
        child = fork(folder, precision)
        time.sleep(moments.uniform(0.2, 0.8))
        os.kill(child, signal.SIGKILL)
        killed += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    child = fork(folder, precision)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    print(killed)
