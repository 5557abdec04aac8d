"""What the masks of a U-Net cost in time, measured and recorded, for notebook 02."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from course.claims import show_claim
from pconv.benchmark import time_interleaved


def show_times(networks: Mapping[str, Callable[[], Tensor]], repeats: int = 10) -> None:
    """Times three {name: forward pass}, the first of which is the baseline; prints the ratios.

    They take turns, so that whatever else the machine does slows all of them; the fastest turn of
    each counts. On one thread, as two would wait for each other. Forward alone, then forward and
    backward.
    """
    works = {
        "forward": dict(networks),
        "forward and backward": {
            name: lambda run=run: run().sum().backward() for name, run in networks.items()
        },
    }
    first, second, third = networks
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for title, steps in works.items():
        turns = time_interleaved(steps, torch.device("cpu"), repeats)
        base, *others = (min(times) for times in turns.values())
        print(f"{title}, {first} = 1:", end=" ")
        print(
            *(f"{name} {time / base:.2f}" for name, time in zip((second, third), others)), sep=", "
        )
        show_claim(f"{second} cost less time than {third}", others[0] < others[1])
    torch.set_num_threads(threads)


def show_recorded(path: str | Path) -> None:
    """Prints a record of `pconv bench`: each network's time, beside the plain one, and memory."""
    record = json.loads(Path(path).read_text())
    names = {"plain": "no mask", "partial": "masks in parts", "textbook": "a mask per feature"}
    print(f"recorded on {record['device']['name']}, {record['date']}, by")
    print(record["command"])
    for row in record["rows"]:
        kept = row["saved_bytes"] / 2**20
        name = f"{row['precision']}, {names[row['layer']]}"
        print(f"{name:25} {row['relative_time']:.2f} times the time, {kept:4.0f} MiB kept")
