"""The pictures that `pconv demo` writes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pconv.files import atomic_write
from pconv.history import History

# A precision looks the same in every plot, and differs in color, gray value and dashes.
PRECISION_STYLES = {
    "fp32": {"color": "#1f4e79", "linestyle": "-"},
    "bf16": {"color": "#e07b00", "linestyle": "--"},
    "fp16": {"color": "#3a9a5b", "linestyle": ":"},
    "tf32": {"color": "#999999", "linestyle": "-."},
}


def write_sheet(
    samples: Sequence[tuple[np.ndarray, np.ndarray]], methods: dict, path: Path
) -> None:
    """Writes a PNG with one row per sample: the photo, and what each method makes of it.

    samples: (photo, holes) pairs; methods: functions (photo, holes) -> photo, by name.
    """
    from matplotlib.figure import Figure  # only where used

    columns = {"photo": lambda photo, holes: photo, **methods}
    size = (2.2 * len(columns), 2.4 * len(samples))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(samples), len(columns), squeeze=False)
    for row, sample in zip(axes, samples):
        for axis, (title, restore) in zip(row, columns.items()):
            axis.imshow(restore(*sample))
            axis.set_title(title)
            axis.axis("off")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=120)


def plot_curves(histories: dict[str, History], quantities: dict[str, str], path: Path) -> None:
    """Writes a PNG of curves over the training steps, with one panel per quantity.

    histories: by name, such as the precision. quantities: {name in the rows: label with its unit}.
    """
    from matplotlib.figure import Figure  # only where used

    figure = Figure(figsize=(4 * len(quantities), 3.2), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(quantities)))
    for axis, (name, label) in zip(axes, quantities.items(), strict=True):
        for title, history in histories.items():
            axis.plot(*history.series(name), label=title, **PRECISION_STYLES.get(title, {}))
        axis.set_xlabel("training step")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=120)
