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
        """A list of rows; what is not a number becomes null, which JSON has no other word for."""
        rows = [{k: None if v != v else v for k, v in row.items()} for row in self.rows]
        with replacing(path) as temporary:
            Path(temporary).write_text(json.dumps(rows, indent=1) + "\n")


class replacing:  # noqa: N801 (used as `with replacing(path)`)
    """`with replacing(path) as temporary:` write to `temporary`; it takes path's place only when all went well."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.temporary = self.path.with_name(f".{self.path.stem}.{os.getpid()}{self.path.suffix}")

    def __enter__(self) -> Path:
        return self.temporary

    def __exit__(self, kind, error, trace) -> None:
        if kind is None:
            os.replace(self.temporary, self.path)
        else:
            self.temporary.unlink(missing_ok=True)


def plot_curves(histories: dict[str, History], quantities: dict[str, str], path: str | Path) -> None:
    """Curves over the training steps as a PNG: a panel a quantity, a line a history.

    histories: by name, such as the precision. quantities: {name in the rows: axis label with its unit}.
    """
    from matplotlib.figure import Figure  # only where used

    figure = Figure(figsize=(4 * len(quantities), 3.2), layout="constrained")
    for panel, (name, label) in zip(
        np.atleast_1d(figure.subplots(1, len(quantities))), quantities.items(), strict=True
    ):
        for style, (title, history) in zip(_STYLES, histories.items()):
            panel.plot(*history.series(name), label=title, **style)
        panel.set_xlabel("training step")
        panel.set_ylabel(label)
        panel.grid(alpha=0.3)
        panel.legend(frameon=False)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)


# FP32, BF16, FP16, and what else there is: told apart by colour, by grey value and by dash.
_STYLES = (
    {"color": "#1f4e79", "linestyle": "-"},
    {"color": "#e07b00", "linestyle": "--"},
    {"color": "#3a9a5b", "linestyle": ":"},
    {"color": "#999999", "linestyle": "-."},
)
