"""Packs a spread of a large set of photos into one file that can be carried.

python scripts/pack_photos.py --photos photos/train --out photos.tar --megabytes 30

The subfolders take turns, so that each kind of photo is there; within one, they are drawn at
random, as neighbors look alike. The files are packed as they are.
"""

import argparse
import tarfile
from itertools import zip_longest
from pathlib import Path

import numpy as np

from pconv.photos import photo_files


def choose(folder: Path, budget: int) -> list[Path]:
    """Photos of `folder` and its subfolders with at most `budget` bytes in all."""
    groups = {}
    for name in photo_files(folder):
        path = Path(folder) / name
        groups.setdefault(path.parent, []).append(path)
    # Each group in an order that is random, and always the same.
    rng = np.random.default_rng(0)
    shuffled = ([group[i] for i in rng.permutation(len(group))] for group in groups.values())
    chosen, taken = [], 0
    for path in (path for turn in zip_longest(*shuffled) for path in turn if path is not None):
        # In a tar every file has a header and is filled up to a multiple of 512 bytes.
        size = 512 + -(-path.stat().st_size // 512) * 512
        if taken + size > budget:
            break
        taken += size
        chosen.append(path)
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--megabytes", type=float, default=30)
    options = parser.parse_args()
    chosen = choose(options.photos, int(options.megabytes * 2**20) - 10240)
    with tarfile.open(options.out, "w", format=tarfile.USTAR_FORMAT) as archive:
        for path in chosen:
            archive.add(path, path.relative_to(options.photos))
    size = options.out.stat().st_size / 2**20
    total = len(photo_files(options.photos))
    print(f"{options.out}: {len(chosen)} of {total} photos, {size:.1f} MB")


if __name__ == "__main__":
    main()
