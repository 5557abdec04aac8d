"""What the records and the code say of the talk's claims, for notebook 10."""

import ast
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats

from course.records import RESULTS

AMP_CALLS = {"precision.context", "scaler.scale", "scaler.step", "scaler.update"}


def amp_calls(step: Callable) -> list[str]:
    """The calls of autocast and of the loss scaler in a training step, read from its code."""
    tree = ast.parse(inspect.getsource(step))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [name for name in map(ast.unparse, (call.func for call in calls)) if name in AMP_CALLS]


class Difference(NamedTuple):
    """SSIM of a precision minus that of FP32, over pairs of runs with the same seed."""

    precision: str
    mean: float
    half_width: float  # of its 90 % interval over seeds
    seeds: int


def ssim_differences(name: str = "training_cpu.json", folder: Path = RESULTS) -> list[Difference]:
    """One per precision but FP32; SSIM is the mean over the held-out photos and all buckets.

    A 90 % interval inside the margin is what two one-sided tests at 5 % ask for.
    """
    rows = json.loads((folder / name).read_text())["rows"]
    precisions, seeds = (
        list(dict.fromkeys(row[key] for row in rows)) for key in ("precision", "seed")
    )
    values = {}
    for row in rows:
        values.setdefault((row["precision"], row["seed"]), []).append(row["ssim"])
    found = []
    for precision in precisions[1:]:
        pairs = [(values[precision, seed], values["fp32", seed]) for seed in seeds]
        d = np.array([np.mean(ours) - np.mean(theirs) for ours, theirs in pairs])
        half = stats.t.ppf(0.95, len(d) - 1) * d.std(ddof=1) / len(d) ** 0.5
        found.append(Difference(precision, float(d.mean()), float(half), len(d)))
    return found


def recorded_facts(name: str = "numerics_cuda.json", folder: Path = RESULTS) -> tuple[str, dict]:
    """The device of a record of numerics, and {fact: what was found}."""
    record = json.loads((folder / name).read_text())
    return record["device"]["name"], {row["fact"]: row["found"] for row in record["rows"]}
