"""What records share: where they lie, rows that are there already, means over their photos."""

import itertools
import json
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path

import numpy as np

from pconv import VGGFeatures

RESULTS = Path(__file__).parents[2] / "data" / "results"


def recorded_rows(path: Path, origin: dict, part: str = "rows") -> list[dict]:
    """The rows that a record at `path` has, if it is of the same device and the same settings.

    origin: the provenance of the measurement that is about to go on. part: the record's name for
    the rows. Of another device or other settings there are none.
    """
    if not path.is_file():
        return []
    record = json.loads(path.read_text())
    origin = json.loads(json.dumps(origin))  # tuples become lists, as in the file
    same = all(record[key] == origin[key] for key in ("device", "versions", "seed", "settings"))
    return record[part] if same else []


def missing_cases(rows: list[dict], **values: Iterable) -> list[tuple]:
    """All combinations of the values of which there is no row yet, the last name fastest.

    values: {name in a row: its values}.
    """
    done = {tuple(row[name] for name in values) for row in rows}
    return [case for case in itertools.product(*values.values()) if case not in done]


def mean_over_photos(
    record: dict, quantity: str, key: Callable[[dict], Hashable]
) -> dict[Hashable, np.ndarray]:
    """{key of a row: (seeds, lengths of training, ...)} of a record with a row per photo.

    quantity: a name in its rows, of a number or of a list of numbers.
    """
    seeds, lengths = record["seed"], record["settings"]["steps"]
    photos = record["settings"]["held_out"]
    means = {}
    for row in record["rows"]:
        value = np.array(row[quantity]) / len(photos)
        place = seeds.index(row["seed"]), lengths.index(row["steps"])
        shape = (len(seeds), len(lengths), *value.shape)
        means.setdefault(key(row), np.zeros(shape))[place] += value
    return means


def choose_features(vgg: str | None) -> VGGFeatures:
    """VGG16 with those weights (random, imagenet or a file); None: what can be had."""
    return VGGFeatures(vgg) if vgg else VGGFeatures.available()
