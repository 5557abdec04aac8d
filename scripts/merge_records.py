"""Takes what record_gpu.py recorded into the project.

python scripts/merge_records.py runs/gpu

Checks the records, writes them to data/results, and rebuilds what is made of them: the README's
tables and the notebooks that show them. Weights are not merged: `scripts/ship_weights.py pack` does
that, once they have proved better.
"""

import argparse
import json
import re
import sys
from pathlib import Path

import readme_tables
from readme_tables import RESULTS, ROOT

from pconv.files import write_json

sys.path.insert(0, str(ROOT / "notebooks"))
from course.execute import execute

KINDS = ("speed", "bench", "profile", "training")
PARTS = {"device", "versions", "date", "command", "seed", "settings", "rows"}


def read(path: Path) -> dict:
    """A record, whole; raises ValueError for one that says too little about itself."""
    record = json.loads(path.read_text())
    missing = PARTS - record.keys()
    if missing or not record["rows"]:
        raise ValueError(f"{path}: it has no {', '.join(sorted(missing)) or 'rows'}")
    if "curves" in record:
        keep_whole_seeds(record)
        if not record["rows"]:
            raise ValueError(f"{path}: no seed was trained in all precisions")
    # The command to make it again, here: not where it lay on the other machine.
    target = f"data/results/{path.name}"
    record["command"] = re.sub(r"--json \S+", f"--json {target}", record["command"])
    return record


def keep_whole_seeds(record: dict) -> None:
    """Drops the last seed of a training that was stopped before all precisions had it."""
    precisions = {row["precision"] for row in record["rows"]}
    runs = {(row["seed"], row["precision"]) for row in record["rows"]}
    whole = [seed for seed in record["seed"] if all((seed, name) in runs for name in precisions)]
    record["seed"] = whole
    for part in ("rows", "curves"):
        record[part] = [row for row in record[part] if row["seed"] in whole]


def showing_notebooks(names: list[str]) -> list[Path]:
    """The notebooks whose code reads one of these records."""
    found = []
    for path in sorted((ROOT / "notebooks").glob("**/[0-9]*.ipynb")):
        cells = json.loads(path.read_text())["cells"]
        code = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        # speed_cuda.json is also read as f"speed_{kind}.json"
        if any(re.search(rf"{name.split('_')[0]}_(cuda|\{{)", code) for name in names):
            found.append(path)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="what record_gpu.py wrote")
    options = parser.parse_args()
    paths = [p for p in sorted(options.folder.glob("*.json")) if p.name.split("_")[0] in KINDS]
    if not paths:
        parser.error(f"{options.folder} holds no record of {', '.join(KINDS)}")
    records = {path.name: read(path) for path in paths}
    for name, record in records.items():
        rows = record.pop("rows")
        write_json(RESULTS / name, rows, record)
        print(f"data/results/{name}: {len(rows)} rows, {record['device']['name']}")
    readme_tables.update_readmes()
    print("README.md, data/README.md: their tables")
    for path in showing_notebooks(list(records)):
        execute(path)
        print(f"{path.relative_to(ROOT)}: executed")


if __name__ == "__main__":
    main()
