"""Records in a few minutes all that this project wants to know of a GPU.

python scripts/record_gpu.py --minutes 9 --photos photos.tar --vgg vgg19.safetensors

Nothing needs to be installed beyond torch, torchvision, numpy, scikit-image, Pillow, safetensors
and tqdm. The stages, each with its share of the minutes:

a  2 of 9    speed and memory of the training step (record_speed): the paper's U-Net with the full
             loss at 512x512 pixels, in FP32 (TF32 off), TF32, FP16 and BF16, at a batch and at
             twice as many; compiled in all but TF32
b  1 of 9    `pconv bench` at 512x512, one step at a time and 20 between two waits; a profile of
             plain and partial convolutions (record_profile); the bench compiled in BF16
c  4.5 of 9  the shipped weights trained on (recipe.py)
d  the rest  the same small U-Net in FP32, BF16 and FP16, over seeds (record_training)

A stage may use what those before it left. One that fails or overruns its share is stopped and
reported, and the next one runs; the whole ends in time. Records are written row by row into --out;
what is recorded there or in data/results by the same command is not measured again (--again does).

Rehearse it: `--device cpu --dry-run` does the same with tiny sizes and without shares, compiles
nothing, and leaves nothing behind. Afterwards, where the project is installed:

python scripts/merge_records.py runs/gpu
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NEEDED = {
    "torch": "torch",
    "torchvision": "torchvision",
    "numpy": "numpy",
    "skimage": "scikit-image",
    "PIL": "Pillow",
    "safetensors": "safetensors",
    "tqdm": "tqdm",
}
# By when each stage ends, of the whole time; the last part is for ending.
SHARES = {"a": 2 / 9, "b": 3 / 9, "c": 7.5 / 9, "d": 1 - 0.1 / 9}


# What the commands of the stages are given, and what in the rehearsal.
PAPER = "--size 512 --batch 6 --widths 64,128,256,512,512,512,512,512"
TURNS = "--repeats 3 --steps-between-syncs 20"
RECIPE = "--size 256 --batch 32 --workers 8"
TRAINING = "--size 64 --batch 16 --steps 300 --every 150 --seeds 0,1,2,3,4,5,6,7 --workers 8"
TINY = {
    PAPER: "--size 32 --batch 1 --widths 4,8",
    TURNS: "--repeats 1 --steps-between-syncs 2",
    RECIPE: "--size 64 --batch 2",
    TRAINING: "--size 32 --batch 1 --steps 2 --every 1 --seeds 0,1,2 --widths 4,4",
}


@dataclass
class Command:
    """A program of the project; `json` is what it writes, complete with `rows` rows."""

    arguments: list[str]
    json: str
    rows: int


def commands(options: argparse.Namespace, photos: Path | None, minutes: float) -> dict:
    """{stage: its commands}. minutes: for the recipe, which ends by itself."""
    on_gpu = options.device != "cpu"
    device = f"--device {options.device}"
    kind = options.device.partition(":")[0]
    precisions = ["fp32", "tf32", "fp16", "bf16"] if on_gpu else ["fp32", "bf16"]
    compiled = [name for name in precisions if name != "tf32"]
    some = [name for name in ("fp32", "bf16", "fp16") if name in precisions]
    every = f"--precision {','.join(precisions)}"
    bench = f"-m pconv bench {PAPER} {device} --channels-last {TURNS}"
    # The speed does not depend on the values of VGG's filters, nor which precision trains better.
    speed = f"scripts/record_speed.py {PAPER} {device} {every} --compile {','.join(compiled)}"
    training = f"scripts/record_training.py {TRAINING} {device} --precision {','.join(some)}"
    recipe = f"scripts/recipe.py {RECIPE} {device} --out {options.out} --minutes {minutes:.2f}"
    recipe += f" --photos {photos}" if photos else ""
    recipe += f" --vgg {options.vgg}" if options.vgg else ""
    rows = {"speed": 4 * len(precisions) + len(compiled), "training": 3 * len(some) * 12}
    stages = {
        "a": [(f"{speed} --repeats 9 --vgg random", f"speed_{kind}", rows["speed"])],
        "b": [
            (f"{bench} {every}", f"bench_{kind}_512", 3 * len(precisions)),
            (
                f"scripts/record_profile.py {PAPER} {device} --precision fp32,bf16",
                f"profile_{kind}_512",
                2 * 2 * 8,
            ),
            (
                f"{bench} --precision bf16 --layers plain,partial --compile",
                f"bench_{kind}_512_compiled",
                2,
            ),
        ],
        "c": [(recipe, "recipe", 3)],
        "d": [(f"{training} --vgg random", f"training_{kind}", rows["training"])],
    }
    return {
        stage: [make_command(options, line, name, rows) for line, name, rows in stages[stage]]
        for stage in options.stages
    }


def make_command(options: argparse.Namespace, line: str, name: str, rows: int) -> Command:
    for large, tiny in TINY.items() if options.dry_run else ():
        line = line.replace(large, tiny)
    if name != "recipe":
        line += f" --json {options.out}/{name}.json"
    return Command(line.split(), f"{name}.json", rows)


def is_recorded(command: Command, out: Path) -> bool:
    """Whether the record of that very command is complete, in `out` or in data/results."""
    for folder in (out, ROOT / "data" / "results"):
        path = folder / command.json
        if path.is_file():
            record = json.loads(path.read_text())
            program = record["command"].removeprefix("python ").removeprefix("pconv ").split()
            same = essentials(program) == essentials(command.arguments)
            if same and len(record["rows"]) >= command.rows:
                return True
    return False


def essentials(arguments: list[str]) -> list[str]:
    """The arguments without where files lie and how long the recipe may take."""
    kept = [word for word in arguments if word not in ("-m", "pconv")]
    for flag in ("--json", "--out", "--photos", "--vgg", "--minutes"):
        if flag in kept:
            at = kept.index(flag)
            del kept[at : at + 2]
    return kept


def run(command: Command, until: float, environment: dict[str, str]) -> str:
    """Runs a command, no longer than `until` (of time.monotonic), and says how it ended."""
    left = until - time.monotonic()
    if left < 1:
        return "no time left"
    print("$ " + " ".join(["python", *command.arguments]), flush=True)
    process = subprocess.Popen(
        [sys.executable, *command.arguments], cwd=ROOT, env=environment, start_new_session=True
    )
    try:
        code = process.wait(left)
    except subprocess.TimeoutExpired:
        return "stopped: its share of the time was over"
    finally:
        stop(process)
    return "done" if code == 0 else f"failed with exit status {code}"


def stop(process: subprocess.Popen) -> None:
    """Ends a process and those that it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(3)
        except subprocess.TimeoutExpired:
            continue


def unpack(photos: Path | None, folder: Path) -> Path | None:
    """The folder of photos, unpacked into `folder` if they are packed."""
    if photos is None or photos.is_dir():
        return photos
    with tarfile.open(photos) as archive:
        archive.extractall(folder, filter="data")
    return folder


def record(options: argparse.Namespace, scratch: Path) -> list[dict]:
    """Runs the stages; returns a row per command: stage, what it writes, how it ended, seconds."""
    start = time.monotonic()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    if options.dry_run:
        environment |= {"PYTHONDONTWRITEBYTECODE": "1", "TORCH_COMPILE_DISABLE": "1"}
        environment |= {
            "OMP_NUM_THREADS": "1"
        }  # so small nets wait longer for threads than they compute
    photos = unpack(options.photos, scratch / "photos") if "c" in options.stages else None
    rows = []
    for stage in options.stages:
        until = start + 60 * options.minutes * (1 if options.dry_run else SHARES[stage])
        minutes = max(0, until - time.monotonic()) / 60
        # The recipe ends by itself; what is taken off here is for its start and its end.
        minutes = 0.05 if options.dry_run else max(0.05, 0.95 * minutes - 0.2)
        for command in commands(options, photos, minutes)[stage]:
            begun = time.monotonic()
            if not options.again and is_recorded(command, options.out):
                state = "recorded before"
            else:
                state = run(command, until, environment)
            seconds = round(time.monotonic() - begun, 1)
            rows.append(
                {"stage": stage, "record": command.json, "state": state, "seconds": seconds}
            )
            print(f"== stage {stage}, {command.json}: {state}, {seconds} s", flush=True)
            if not options.dry_run:
                (options.out / "stages.json").write_text(json.dumps(rows, indent=1) + "\n")
    return rows


def check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Ends with one line if something is missing or cannot be done."""
    missing = [name for module, name in NEEDED.items() if find_spec(module) is None]
    if missing:
        parser.error(f"missing: {', '.join(missing)}; pip install {' '.join(missing)}")
    unknown = set(options.stages) - SHARES.keys()
    if unknown or not options.stages:
        parser.error(f"--stages {','.join(options.stages)}: expected some of a,b,c,d")
    for path in filter(None, (options.photos, options.vgg)):
        if not path.exists():
            parser.error(f"{path} is not there")
    if "c" in options.stages and options.photos is None and not options.dry_run:
        parser.error("stage c trains: give --photos, a folder or a .tar of one")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=9, help="the whole time")
    parser.add_argument("--photos", type=Path, help="for stage c: a folder, or a .tar of one")
    parser.add_argument("--vgg", type=Path, help="for stage c: VGG19's features up to relu3_1")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="folder of the records")
    parser.add_argument("--stages", type=lambda text: text.split(","), default="a,b,c,d")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes, nothing is kept")
    parser.add_argument("--again", action="store_true", help="measure what is recorded, too")
    options = parser.parse_args()
    check(parser, options)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        if options.dry_run:
            options.out = scratch / "records"
        options.out.mkdir(parents=True, exist_ok=True)
        rows = record(options, scratch)
        kept = sorted(path.name for path in options.out.iterdir())
    print(f"{'stage':<7}{'record':<32}{'seconds':>8}  state")
    for row in rows:
        print(f"{row['stage']:<7}{row['record']:<32}{row['seconds']:>8.1f}  {row['state']}")
    print(f"{'written, and removed' if options.dry_run else 'in ' + str(options.out)}: {kept}")
    sys.exit(any("failed" in row["state"] for row in rows))


if __name__ == "__main__":
    main()
