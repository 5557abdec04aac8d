"""What a run measured, step by step: to a table, to a file, to curves."""

import csv
import json
import os
from pathlib import Path

import numpy as np


class History:
    """Rows of measurements, each a dict with its `step`; a quantity that was not measured at a step is absent there."""

    def __init__(self, rows: list[dict] | None = None):
        self.rows = rows or []

    def record(self, step: int, **values: float) -> None:
        """Adds values to the row of `step`, the last one or a new one."""
        if not self.rows or self.rows[-1]["step"] != step:
            self.rows.append({"step": step})
        self.rows[-1].update(values)

    def series(self, name: str) -> tuple[list[int], list[float]]:
        """(steps, values) of one quantity, for a plot."""
        rows = [row for row in self.rows if name in row]
        return [row["step"] for row in rows], [row[name] for row in rows]

    def median(self, name: str) -> float:
        """The median of one quantity. Raises KeyError where it was never measured."""
        values = self.series(name)[1]
        if not values:
            raise KeyError(f"{name} was never measured; there is {sorted({key for row in self.rows for key in row})}")
        return float(np.median(values))

    def to_csv(self, path: str | Path) -> None:
        """One line a row, an empty field for what was not measured."""
        columns = list(dict.fromkeys(key for row in self.rows for key in row))
        with replacing(path) as temporary, open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(self.rows)

    def to_json(self, path: str | Path) -> None:
        write_json(path, self.rows)


class replacing:  # noqa: N801 (used as `with replacing(path)`)
    """`with replacing(path) as temporary:` write to `temporary`; it takes path's place only when all went well."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.temporary = self.path.with_name(f".{self.path.stem[:40]}.{os.getpid()}{self.path.suffix}")

    def __enter__(self) -> Path:
        return self.temporary

    def __exit__(self, kind, error, trace) -> None:
        if isinstance(error, OSError) and error.errno and error.filename is None:  # such as: no space left on device
            error.filename = str(self.path)
        try:
            if kind is None:
                os.replace(self.temporary, self.path)
        finally:
            self.temporary.unlink(missing_ok=True)


def write_json(path: str | Path, rows: list[dict], record: dict | None = None) -> None:
    """A list of rows, or a record that holds them; what is no number becomes null: JSON has no other word for it."""
    rows = [{key: None if value != value else value for key, value in row.items()} for row in rows]
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(rows if record is None else {**record, "rows": rows}, indent=1) + "\n")


def plot_curves(histories: dict[str, History], quantities: dict[str, str], path: str | Path) -> None:
    """Curves over the training steps as a PNG: a panel a quantity, a line a history.

    histories: by name, such as the precision. quantities: {name in the rows: axis label with its unit}.
    """
    from matplotlib.figure import Figure  # only where used

    figure = Figure(figsize=(4 * len(quantities), 3.2), layout="constrained")
    for panel, (name, label) in zip(
        np.atleast_1d(figure.subplots(1, len(quantities))), quantities.items(), strict=True
    ):
        for title, history in histories.items():
            panel.plot(*history.series(name), label=title, **STYLES.get(title, {}))
        panel.set_xlabel("training step")
        panel.set_ylabel(label)
        panel.grid(alpha=0.3)
        panel.legend(frameon=False)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)


# A precision looks the same in every plot: told apart by colour, by grey value and by dash.
STYLES = {
    "fp32": {"color": "#1f4e79", "linestyle": "-"},
    "bf16": {"color": "#e07b00", "linestyle": "--"},
    "fp16": {"color": "#3a9a5b", "linestyle": ":"},
    "tf32": {"color": "#999999", "linestyle": "-."},
}
