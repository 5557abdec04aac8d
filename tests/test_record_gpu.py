"""scripts/record_gpu.py: its rehearsal, its shares of the time, what it skips; then the merging."""

import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from types import SimpleNamespace

import merge_records
import pack_photos
import pytest
import record_gpu
from PIL import Image
from record_gpu import Command

from pconv.files import write_json

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "record_gpu.py"
FILES = {
    "a": ["speed_cpu.json"],
    "b": ["bench_cpu_512.json", "profile_cpu_512.json", "bench_cpu_512_compiled.json"],
    "c": ["recipe.json"],
    "d": ["training_cpu.json"],
}


def run_script(*arguments, **options):
    return subprocess.run(
        [sys.executable, SCRIPT, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
        **options,
    )


def files_in(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_the_rehearsal_runs_every_stage_and_leaves_nothing_behind(photos, tmp_path):
    packed = tmp_path / "photos.tar"
    with tarfile.open(packed, "w") as archive:
        archive.add(photos, "photos")
    folders = (ROOT / "data", ROOT / "notebooks", ROOT / "scripts", ROOT / "pconv", tmp_path)
    before = [files_in(folder) for folder in folders]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = os.environ | {"TMPDIR": str(elsewhere), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("PYTHONPATH", None)
    arguments = ("--device", "cpu", "--dry-run", "--photos", packed)
    done = run_script(*arguments, cwd=elsewhere, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    for stage, names in FILES.items():
        for name in names:
            assert f"== stage {stage}, {name}: done" in done.stdout
            assert f"'{name}'" in done.stdout.splitlines()[-1]
    assert "'weights.safetensors'" in done.stdout.splitlines()[-1]
    assert [files_in(folder) for folder in folders] == before
    assert list(elsewhere.iterdir()) == []


def test_a_lack_is_said_in_one_line(monkeypatch, capsys, tmp_path):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["record_gpu.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            record_gpu.main()
        assert end.value.code == 2
        return capsys.readouterr().err.splitlines()[-1]

    assert "stage c trains: give --photos" in run()
    assert "none.tar is not there" in run("--photos", tmp_path / "none.tar")
    assert "--stages a,z" in run("--stages", "a,z")
    find = record_gpu.find_spec
    monkeypatch.setattr(
        record_gpu, "find_spec", lambda name: None if name in ("tqdm", "skimage") else find(name)
    )
    line = run("--stages", "a")
    assert "missing: scikit-image, tqdm" in line and "pip install" in line


def settings(**changes):
    values = {"device": "cuda", "dry_run": False, "vgg": None, "stages": ["a", "b", "c", "d"]}
    return SimpleNamespace(**values | {"out": Path("runs/gpu")} | changes)


def test_on_a_gpu_every_precision_is_measured():
    found = record_gpu.commands(settings(), Path("photos"), 4.5)
    lines = {c.json: " ".join(c.arguments) for commands in found.values() for c in commands}
    assert list(lines) == [
        name.replace("cpu", "cuda") for names in FILES.values() for name in names
    ]
    speed = lines["speed_cuda.json"]
    assert "--size 512 --batch 6 --widths 64,128,256,512,512,512,512,512" in speed
    assert "--precision fp32,tf32,fp16,bf16 --compile fp32,fp16,bf16" in speed
    # eager: two batches in two memory formats; compiled: one
    assert found["a"][0].rows == 4 * 4 + 3
    assert "--steps-between-syncs 20" in lines["bench_cuda_512.json"]
    assert "--precision bf16" in lines["bench_cuda_512_compiled.json"]
    assert "--compile" in lines["bench_cuda_512_compiled.json"]
    assert "--minutes 4.50 --photos photos" in lines["recipe.json"]
    assert "--precision fp32,bf16,fp16" in lines["training_cuda.json"]


def test_the_recipe_gets_half_of_the_time_and_all_ends_in_time():
    ends = list(record_gpu.SHARES.values())
    assert ends == sorted(ends) and ends[-1] < 1
    assert ends[2] - ends[1] >= 0.5


def test_a_stage_that_overruns_or_fails_is_reported_and_the_next_runs(monkeypatch, tmp_path, capfd):
    """The first would sleep for ten minutes, with a process of its own; the second fails."""
    alive = tmp_path / "alive"
    child = f"import time; time.sleep(5); open({str(alive)!r}, 'w')"
    sleeper = "import subprocess, sys, time; print('begun'); sys.stdout.flush(); "
    sleeper += f"subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(600)"
    programs = {
        "a": sleeper,
        "b": "raise SystemExit(3)",
        "d": f"open({str(tmp_path / 'd')!r}, 'w')",
    }
    monkeypatch.setattr(
        record_gpu,
        "commands",
        lambda *_: {s: [Command(["-c", code], f"{s}.json", 1)] for s, code in programs.items()},
    )
    monkeypatch.setattr(record_gpu, "SHARES", {"a": 0.4, "b": 0.7, "d": 1})
    options = settings(stages=list(programs), minutes=10 / 60, out=tmp_path, again=False)
    options.photos = None
    rows = record_gpu.record(options, tmp_path)
    assert [row["state"].split(":")[0] for row in rows] == [
        "stopped",
        "failed with exit status 3",
        "done",
    ]
    assert (tmp_path / "d").is_file()
    assert json.loads((tmp_path / "stages.json").read_text()) == rows
    assert "begun" in capfd.readouterr().out
    time.sleep(3)
    assert not alive.exists()  # what the stopped one had started was stopped, too


def test_what_is_recorded_is_not_measured_again(tmp_path, monkeypatch):
    monkeypatch.setattr(record_gpu, "ROOT", tmp_path)
    results = tmp_path / "data" / "results"
    results.mkdir(parents=True)
    out = tmp_path / "out"
    out.mkdir()
    found = record_gpu.commands(settings(out=out), Path("photos"), 4.5)
    bench, recipe = found["b"][0], found["c"][0]
    line = " ".join(bench.arguments).removeprefix("-m ")
    rows = [{"x": 1}] * bench.rows
    assert not record_gpu.is_recorded(bench, out)
    for folder in (out, results):
        elsewhere = line.replace(str(out), "data/results")
        write_json(folder / bench.json, rows, {"command": elsewhere})
        assert record_gpu.is_recorded(bench, out)
        write_json(folder / bench.json, rows[1:], {"command": elsewhere})
        assert not record_gpu.is_recorded(bench, out)
        other = elsewhere.replace("--batch 6", "--batch 5")
        write_json(folder / bench.json, rows, {"command": other})
        assert not record_gpu.is_recorded(bench, out)
    # The recipe may have had other minutes, and its photos another place.
    line = "python " + " ".join(recipe.arguments).replace("4.50", "3.21")
    write_json(
        out / recipe.json,
        [{"x": 1}] * 3,
        {"command": line.replace("--photos photos", "--photos x")},
    )
    assert record_gpu.is_recorded(recipe, out)


# The photos ---------------------------------------------------------------------------------------


def test_packed_photos_are_a_spread_within_the_budget(tmp_path, monkeypatch, capsys):
    for group, count in (("many", 40), ("few", 4)):
        (tmp_path / "in" / group).mkdir(parents=True)
        for index in range(count):
            Image.effect_noise((32, 32), 90).save(tmp_path / "in" / group / f"{index:02}.png")
    packed = tmp_path / "photos.tar"
    megabytes = 40 * 1024 / 2**20
    monkeypatch.setattr(
        sys,
        "argv",
        ["x", "--photos", str(tmp_path / "in"), "--out", str(packed), f"--megabytes={megabytes}"],
    )
    pack_photos.main()
    assert packed.stat().st_size <= 40 * 1024
    with tarfile.open(packed) as archive:
        names = archive.getnames()
    assert sum(name.startswith("few/") for name in names) == 4
    many = [name for name in names if name.startswith("many/")]
    assert 4 < len(many) < 40 and many != sorted(many)
    assert f"{len(names)} of 44 photos" in capsys.readouterr().out
    folder = record_gpu.unpack(packed, tmp_path / "out")
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*.png")} == set(names)


# Merging ------------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A copy of what merging writes to."""
    root = tmp_path / "project"
    (root / "data").mkdir(parents=True)
    results = root / "data" / "results"
    results.mkdir()
    for path in (ROOT / "data" / "results").iterdir():
        (results / path.name).write_bytes(path.read_bytes())
    for name in ("README.md", "data/README.md"):
        (root / name).write_text((ROOT / name).read_text())
    for module in (merge_records, merge_records.readme_tables):
        monkeypatch.setattr(module, "ROOT", root)
        monkeypatch.setattr(module, "RESULTS", results)
    return root


def test_merged_records_are_in_the_results_and_in_the_readme(
    project, tmp_path, monkeypatch, capsys
):
    record = json.loads((ROOT / "data" / "results" / "speed_cpu.json").read_text())
    record["device"] = {"name": "NVIDIA Test", "kind": "cuda"}
    record["command"] = "python scripts/record_speed.py --device cuda --json /x/y/speed_cuda.json"
    like = [row for row in record["rows"] if row["precision"] == "bf16"]
    record["rows"] += [{**row, "precision": name} for name in ("tf32", "fp16") for row in like]
    records = tmp_path / "records"
    records.mkdir()
    write_json(records / "speed_cuda.json", record.pop("rows"), record)
    write_json(records / "recipe.json", [{"step": 0}], record)  # of the weights: not merged
    executed = []
    monkeypatch.setattr(merge_records, "execute", executed.append)
    monkeypatch.setattr(merge_records, "showing_notebooks", lambda names: [project / "n.ipynb"])
    monkeypatch.setattr(sys, "argv", ["merge_records.py", str(records)])
    merge_records.main()
    merged = json.loads((project / "data" / "results" / "speed_cuda.json").read_text())
    assert merged["command"].endswith("--json data/results/speed_cuda.json")
    assert not (project / "data" / "results" / "recipe.json").exists()
    lines = (project / "README.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("| NVIDIA Test")]
    assert [row.split("|")[1].split(", ")[-1].strip() for row in rows] == [
        "FP32",
        "TF32",
        "FP16",
        "BF16",
    ]
    assert not any("not measured yet" in line for line in rows)
    assert "`results/speed_cuda.json`" in (project / "data" / "README.md").read_text()
    assert executed == [project / "n.ipynb"]
    assert "NVIDIA Test" in capsys.readouterr().out


def test_the_notebooks_that_show_a_record_are_found():
    found = {path.name for path in merge_records.showing_notebooks(["speed_cuda.json"])}
    assert found == {"09_speedup.ipynb", "10_memory_and_scale.ipynb"}


def test_a_seed_that_was_cut_short_is_dropped_and_a_poor_record_refused(tmp_path):
    path = tmp_path / "training_cuda.json"
    runs = [(seed, name) for seed in (0, 1) for name in ("fp32", "fp16")][:3]
    rows = [{"seed": seed, "precision": name} for seed, name in runs]
    whole = {key: "x" for key in merge_records.PARTS} | {"seed": [0, 1, 2], "curves": rows}
    whole["command"] = f"python x --json {path}"
    write_json(path, rows, whole)
    record = merge_records.read(path)
    assert record["seed"] == [0] and record["rows"] == record["curves"] == rows[:2]
    assert record["command"] == "python x --json data/results/training_cuda.json"
    write_json(path, rows, {key: value for key, value in whole.items() if key != "device"})
    with pytest.raises(ValueError, match=r"training_cuda\.json: it has no device"):
        merge_records.read(path)
