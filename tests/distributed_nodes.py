"""Starts a training as torchrun does on machines that share no folder but the photos."""

import os
import socket
import subprocess
import sys
from pathlib import Path


def start_nodes(folders: list[Path], *flags: object) -> list[subprocess.Popen]:
    """One node per folder, in which it runs; each has one process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nodes = []
    for rank, folder in enumerate(folders):
        command = [sys.executable, "-m", "torch.distributed.run", f"--nnodes={len(folders)}"]
        command += [f"--node-rank={rank}", "--nproc-per-node=1", "--master-addr=127.0.0.1"]
        command += [f"--master-port={port}", "-m", "pconv", "train", *flags]
        nodes.append(
            subprocess.Popen(
                list(map(str, command)),
                cwd=folder,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        )
    return nodes


def wait(nodes: list[subprocess.Popen]) -> list[tuple[int, str, str]]:
    """(exit status, stdout, stderr) of each."""
    outputs = [node.communicate(timeout=300) for node in nodes]
    return [(node.returncode, *output) for node, output in zip(nodes, outputs, strict=True)]
