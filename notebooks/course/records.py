"""What the scripts that record share: rows that are there already, the VGG that is asked for."""

import json
from pathlib import Path

from pconv import VGGFeatures


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


def choose_features(vgg: str | None) -> VGGFeatures:
    """VGG16 with those weights (random, imagenet or a file); None: what can be had."""
    return VGGFeatures(vgg) if vgg else VGGFeatures.available()
