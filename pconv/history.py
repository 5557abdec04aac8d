"""What a run measured, step by step."""

import csv
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pconv.files import atomic_write


class History:
    """Rows of measurements, each a dict with its `step` and what was measured at that step."""

    def __init__(self, rows: list[dict] | None = None):
        self.rows = rows or []

    def record(self, step: int, **values: float) -> None:
        """Adds values to the row of `step`: the last row, or a new one."""
        if not self.rows or self.rows[-1]["step"] != step:
            self.rows.append({"step": step})
        self.rows[-1].update(values)

    def series(self, name: str) -> tuple[list[int], list[float]]:
        """(steps, values) of one quantity, for a plot."""
        rows = [row for row in self.rows if name in row]
        return [row["step"] for row in rows], [row[name] for row in rows]

    def to_csv(self, path: str | Path) -> None:
        """Writes one line per row, with an empty field for what was not measured at that step."""
        columns = list(dict.fromkeys(key for row in self.rows for key in row))
        with atomic_write(path) as temporary, open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(self.rows)


class Throughput:
    """Samples per second of training alone, from one `restart` to the next."""

    def __init__(self):
        self.samples = 0
        self._start = time.perf_counter()

    def restart(self) -> float:
        """Samples per second since the last restart; then both begin at 0 again."""
        now = time.perf_counter()
        rate = self.samples / (now - self._start)
        self.samples = 0
        self._start = now
        return rate

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What is done inside takes no time."""
        before = time.perf_counter()
        yield
        self._start += time.perf_counter() - before
