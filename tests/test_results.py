"""Recorded results have their provenance, in one format; the README's tables are made of them."""

import copy
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from pconv.holes import BUCKETS

ROOT = Path(__file__).parent.parent
RESULTS = sorted((ROOT / "data" / "results").glob("*.json"))
README, DATA_README = (ROOT / "README.md").read_text(), (ROOT / "data" / "README.md").read_text()
KEYS = {"device", "versions", "date", "command", "seed", "settings", "rows"}
# a path that starts at a root: not data/results/x.json
MACHINE = re.compile(r"(^|[\s\"'=])(/|~/|[A-Za-z]:\\)\w")


def _leaves(value):
    """All that is no list and no dict, names included."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield key
            yield from _leaves(part)
    elif isinstance(value, list):
        for part in value:
            yield from _leaves(part)
    else:
        yield value


def problems(record: dict, name: str) -> list[str]:
    """All that is wrong with a record, in words."""
    if not KEYS <= record.keys() <= KEYS | {"curves"}:
        return [f"its parts are {sorted(record)}, expected {sorted(KEYS)}"]
    issues = []
    device, seeds, rows = record["device"], record["seed"], record["rows"]
    if not device.get("name") or device.get("kind") not in ("cpu", "cuda"):
        issues.append("the device has no name, or another kind than cpu and cuda")
    if not {"python", "torch", "numpy"} <= record["versions"].keys():
        issues.append("versions are missing")
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", record["date"]):
        issues.append(f"the date {record['date']!r} is not like 2026-01-31")
    if f"--json data/results/{name}" not in record["command"]:
        issues.append("the command does not write this file")
    if not all(
        isinstance(seed, int) for seed in (seeds if isinstance(seeds, list) and seeds else [seeds])
    ):
        issues.append(f"the seed is {seeds!r}")
    if not rows or any(row.keys() != rows[0].keys() for row in rows):
        issues.append("there are no rows, or not all have the same quantities")
    leaves = list(_leaves(record))
    if any(isinstance(leaf, float) and not math.isfinite(leaf) for leaf in leaves):
        issues.append("a number is not finite")
    issues += [
        f"a path of one machine: {leaf}"
        for leaf in leaves
        if isinstance(leaf, str) and MACHINE.search(leaf)
    ]
    return issues + (_training_problems(record) if "curves" in record else [])


def _training_problems(record: dict) -> list[str]:
    """All seeds and precisions have the same steps and every bucket; loss scales add up."""
    issues, settings = [], record["settings"]
    names = list(dict.fromkeys(row["precision"] for row in record["rows"]))
    if names[0] != "fp32" or len(names) < 2 or len(record["seed"]) < 2:
        issues.append("nothing to compare: fp32 and another precision, and two seeds, are needed")
    steps = sorted({*range(0, settings["steps"] + 1, settings["every"]), settings["steps"]})
    buckets = [(*bucket, holes) for bucket in BUCKETS for holes in ("interior", "border")]
    for seed, name in ((seed, name) for seed in record["seed"] for name in names):
        mine = [
            [row for row in record[part] if (row["seed"], row["precision"]) == (seed, name)]
            for part in ("curves", "rows")
        ]
        if [row["step"] for row in mine[0]] != steps:
            issues.append(f"{name}, seed {seed}: its curve is not measured at steps {steps}")
        if [(row["low"], row["high"], row["holes"]) for row in mine[1]] != buckets:
            issues.append(f"{name}, seed {seed}: its rows are not those of all buckets")
        for row in mine[0]:
            doubled = math.log2(row.get("loss_scale", 65536) / 65536) + row["skipped_steps"]
            if (
                "loss_scale" in row
                and not 0 <= doubled == int(doubled) <= row["step"] / settings["growth"]
            ):
                issues.append(
                    f"{name}, seed {seed}, step {row['step']}: the loss scale does not add up"
                )
        if "fp16" in name and any("loss_scale" not in row for row in mine[0]):
            issues.append(f"{name}, seed {seed}: no loss scale")
    return issues


def _no_constant(text: str):
    raise ValueError(f"{text} is no JSON")


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.name)
def test_results_say_where_they_are_from(path):
    assert problems(json.loads(path.read_text(), parse_constant=_no_constant), path.name) == []
    assert f"`results/{path.name}`" in DATA_README


def test_trainings_are_recorded_in_fp32_and_amp_over_time():
    record = json.loads((ROOT / "data" / "results" / "training_cpu.json").read_text())
    assert {"fp32", "bf16", "fp16-emulated"} <= {row["precision"] for row in record["curves"]}
    assert len(record["seed"]) >= 3 and _training_problems(record) == []
    assert all(
        {"total", "ssim", "psnr", "skipped_steps"} <= row.keys()
        for row in record["curves"]
        if row["step"]
    )
    before, after = (
        [row["ssim"] for row in record["curves"] if row["step"] == step]
        for step in (0, record["settings"]["steps"])
    )
    # the same SSIM says something of networks that have learned
    assert min(np.subtract(after, before)) > 0.05


def test_long_use_is_recorded_and_memory_was_flat():
    record = json.loads((ROOT / "data" / "results" / "long_use_cpu.json").read_text())
    counts = {
        what: [row for row in record["rows"] if row["what"] == what]
        for what in ("training steps", "strokes")
    }
    assert counts["training steps"][-1]["count"] >= 2000 and counts["strokes"][-1]["count"] >= 300
    for rows in counts.values():
        first, *later = (row["memory_bytes"] for row in rows)  # the first part warms up
        assert max(later) < 1.02 * first


def test_no_name_of_a_result_in_the_readmes_is_wrong():
    named = set(re.findall(r"`(?:data/)?results/(\w+\.json)`", DATA_README + README))
    assert named and named <= {path.name for path in RESULTS}


def test_readmes_kodak_table_is_the_recorded_one():
    rows = json.loads((ROOT / "data" / "results" / "evaluate_kodak.json").read_text())["rows"]
    head, *body = (
        re.search(r"^\| hole ratio \|.*?\n(?=<!)", README, re.M | re.S).group().splitlines()
    )
    methods = [cell.strip() for cell in head.strip("|").split("|")][1:]
    assert set(methods) == {row["method"] for row in rows} and "fsr-fast" in methods
    assert len(body) == 1 + len(BUCKETS)
    for (low, high), line in zip(BUCKETS, body[1:]):
        ratio, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        assert ratio == f"({low:.2f}, {high:.2f}]"
        means = {}
        for method, cell in zip(methods, cells, strict=True):
            mine = [
                row
                for row in rows
                if (row["method"], row["low"], row["high"]) == (method, low, high)
            ]
            assert [row["holes"] for row in mine] == ["interior", "border"]
            shown = cell.replace("*", "").split(" / ")
            for key, text, digit in zip(("psnr", "ssim", "lpips"), shown, (0.01, 0.001, 0.001)):
                means[method, key] = np.mean([row[key] for row in mine])
                assert float(text) == pytest.approx(means[method, key], abs=0.501 * digit)
        # Bold is the best, whoever's it is.
        for key, best in (("psnr", max), ("ssim", max), ("lpips", min)):
            column = ("psnr", "ssim", "lpips").index(key)
            bold = [m for m, c in zip(methods, cells) if c.split(" / ")[column].startswith("*")]
            assert bold == [best(methods, key=lambda method, key=key: means[method, key])]


def test_the_readme_says_plainly_which_method_is_ahead():
    assert re.search(r"ahead of all methods without training in \d by PSNR", README)
    for word in ("best without training", "ahead of every"):
        assert word not in README


# Each way to break a record, and the words that name it


def _set(*where, value):
    def damage(record):
        for key in where[:-1]:
            record = record[key]
        record[where[-1]] = value

    return damage


BROKEN = {
    "a part less": (lambda record: record.pop("date"), "its parts are"),
    "a part more": (_set("note", value="fast"), "its parts are"),
    "device": (_set("device", "kind", value="gpu"), "the device"),
    "no device": (_set("device", "name", value=""), "the device"),
    "versions": (lambda record: record["versions"].pop("torch"), "versions are missing"),
    "date": (_set("date", value="31.1.2026"), "the date"),
    "command": (_set("command", value="pconv evaluate"), "does not write this file"),
    "seed": (_set("seed", value="0"), "the seed is"),
    "no rows": (_set("rows", value=[]), "there are no rows"),
    "a ragged row": (lambda record: record["rows"][1].pop("ssim"), "the same quantities"),
    "not finite": (_set("rows", 0, "ssim", value=math.nan), "not finite"),
    "infinite": (_set("settings", "x", value=[math.inf]), "not finite"),
    "a path": (_set("settings", "photos", value="/data/photos"), "a path of one machine"),
    "a path in the command": (
        lambda record: record.update(command=record["command"] + " --photos ~/kodak"),
        "a path of one machine",
    ),
}
BROKEN_TRAINING = {
    "one seed": (_set("seed", value=[0]), "nothing to compare"),
    "a gap": (lambda record: record["curves"].pop(0), "its curve is not measured"),
    "a bucket less": (lambda record: record["rows"].pop(0), "not those of all buckets"),
    "a forgotten skip": (
        lambda record: next(row for row in record["curves"] if "loss_scale" in row).update(
            loss_scale=2.0**-200
        ),
        "does not add up",
    ),
    "no scale": (
        lambda record: [row.pop("loss_scale", None) for row in record["curves"]],
        "no loss scale",
    ),
}


@pytest.mark.parametrize("name", BROKEN | BROKEN_TRAINING)
def test_a_broken_record_is_noticed(name):
    damage, words = (BROKEN | BROKEN_TRAINING)[name]
    file = "evaluate_kodak.json" if name in BROKEN else "training_cpu.json"
    record = copy.deepcopy(json.loads((ROOT / "data" / "results" / file).read_text()))
    damage(record)
    assert any(words in problem for problem in problems(record, file)), problems(record, file)
