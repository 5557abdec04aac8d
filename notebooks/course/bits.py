"""Floating-point formats bit by bit: what a pattern of bits means, a figure of it, and switches."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import torch
from ipywidgets import HTML, Button, HBox, Layout, ToggleButton, VBox
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

# The background of a 0 and of a 1, by field. Readable in gray: a 1 is dark.
COLORS = {
    "sign": ("#e4e4e4", "#5f5f5f"),
    "exponent": ("#d6e2f5", "#2f5fa8"),
    "fraction": ("#e6dcf2", "#6f4aa0"),
}

GAP = 0.4  # between two fields, in bits


@dataclass(frozen=True)
class Format:
    """1 bit for the sign, then `exponent` and `fraction` bits; `integers` has as many bits."""

    name: str
    dtype: torch.dtype
    integers: torch.dtype
    exponent: int
    fraction: int

    @property
    def bits(self) -> int:
        return 1 + self.exponent + self.fraction

    @property
    def bias(self) -> int:
        """What is subtracted from the exponent's bits, read as a whole number."""
        return 2 ** (self.exponent - 1) - 1


FORMATS = {
    "fp32": Format("FP32", torch.float32, torch.int32, 8, 23),
    "bf16": Format("BF16", torch.bfloat16, torch.int16, 8, 7),
    "fp16": Format("FP16", torch.float16, torch.int16, 5, 10),
    "e5m2": Format("FP8 e5m2", torch.float8_e5m2, torch.int8, 5, 2),
    "e4m3": Format("FP8 e4m3", torch.float8_e4m3fn, torch.int8, 4, 3),
}


@dataclass(frozen=True)
class Number:
    """What a pattern of bits means: its fields and its value as text, and the value's formula."""

    fields: dict[str, str]
    value: float
    text: str  # with as many digits as tell it from its neighbors
    kind: str
    formula: str


def stored(value: float, format: str) -> int:
    """The pattern, a whole number, that a format stores for a value."""
    kind = FORMATS[format]
    pattern = torch.tensor(value, dtype=torch.float64).to(kind.dtype).view(kind.integers).item()
    return pattern % 2**kind.bits


def read(pattern: int, format: str) -> Number:
    """What a pattern (a whole number from 0 to 2^bits - 1) means in a format."""
    kind = FORMATS[format]
    text = f"{pattern:0{kind.bits}b}"
    split = 1 + kind.exponent
    fields = {"sign": text[0], "exponent": text[1:split], "fraction": text[split:]}
    signed = pattern - 2**kind.bits * int(text[0])  # torch's integers have a sign
    value = torch.tensor(signed, dtype=kind.integers).view(kind.dtype).double().item()
    exponent, fraction = int(fields["exponent"], 2), int(fields["fraction"], 2)
    sign = "-" if text[0] == "1" else ""
    part = rf"\frac{{{fraction}}}{{{2**kind.fraction}}}"
    if not math.isfinite(value):
        name = "NaN" if math.isnan(value) else "infinity"
        return Number(fields, value, "NaN" if math.isnan(value) else f"{value:g}", name, "")
    shown = f"{value:.{9 if kind.bits == 32 else 6}g}"
    if exponent:
        formula = rf"{sign}2^{{{exponent - kind.bias}}}\cdot\left(1+{part}\right)"
        return Number(fields, value, shown, "normal", formula)
    formula = rf"{sign}2^{{{1 - kind.bias}}}\cdot{part}"
    return Number(fields, value, shown, "subnormal" if fraction else "zero", formula)


def draw_bits(rows: Sequence[tuple[str, int, str]]) -> Axes:
    """Draws patterns, one per row, and beside each its value, its kind and its formula.

    rows: (what stands at the left, pattern, name of a format) each.
    """
    numbers = [(label, read(pattern, format)) for label, pattern, format in rows]
    most = max(FORMATS[format].bits for *_, format in rows) + 2 * GAP
    figure = plt.figure(figsize=(9.4, 0.42 * len(rows) + 0.35), layout="constrained")
    axis = figure.subplots()
    axis.set(xlim=(-0.36 * most, 2.02 * most), ylim=(len(rows) - 0.4, -1.1))
    axis.set_axis_off()
    for row, (label, number) in enumerate(numbers):
        axis.text(-0.4, row, label, ha="right", va="center")
        draw_fields(axis, row, number, size=9 if most <= 20 else 7, named=row == 0)
        axis.text(1.03 * most, row, number.text, va="center", weight="bold")
        axis.text(1.36 * most, row, number.kind, va="center")
        if number.formula:
            axis.text(1.6 * most, row, f"${number.formula}$", va="center")
    return axis


def draw_fields(axis: Axes, row: float, number: Number, size: int, named: bool = False) -> None:
    """Draws the bits of a number in a row of an axis whose unit is a bit, from 0 to the right.

    size: of the digits, in points. named: whether the fields' names stand above.
    """
    column = 0.0
    for field, text in number.fields.items():
        if named:
            x, align = (1, "right") if field == "sign" else (column, "left")
            color = COLORS[field][1]
            axis.text(x, row - 0.6, field, ha=align, va="bottom", color=color, fontsize=9)
        for place, bit in enumerate(text):
            corner = (column + place + 0.04, row - 0.36)
            axis.add_patch(Rectangle(corner, 0.92, 0.72, color=COLORS[field][int(bit)]))
            style = {"ha": "center", "va": "center", "fontsize": size}
            color = "black" if bit == "0" else "white"
            axis.text(column + place + 0.5, row, bit, color=color, **style)
        column += len(text) + GAP


class BitFlipper(VBox):
    """A switch per bit of a number, and under them what the bits mean; `pattern` is their value."""

    def __init__(self, value: float = 1.0, format: str = "fp16"):
        self.format = format
        self.toggles = [
            ToggleButton(layout=Layout(width="30px", padding="0", margin="1px"))
            for _ in range(FORMATS[format].bits)
        ]
        self.label = HTML()
        buttons = []
        for words, step in (("previous pattern", -1), ("next pattern", 1)):
            button = Button(description=words)
            button.on_click(lambda _, step=step: self.set_pattern(self.pattern + step))
            buttons.append(button)
        super().__init__([HTML(_STYLE), HBox(self._groups()), HBox(buttons), self.label])
        self.set_pattern(stored(value, format))
        for toggle in self.toggles:
            toggle.observe(self._show, "value")

    @property
    def pattern(self) -> int:
        return int("".join(str(int(toggle.value)) for toggle in self.toggles), 2)

    def set_pattern(self, pattern: int) -> None:
        """Sets all switches; beyond the last pattern comes the first."""
        pattern %= 2 ** len(self.toggles)
        for toggle, bit in zip(self.toggles, f"{pattern:0{len(self.toggles)}b}", strict=True):
            toggle.value = bit == "1"
        self._show()

    def _groups(self) -> list[VBox]:
        kind, rest, groups = FORMATS[self.format], list(self.toggles), []
        for field, count in (("sign", 1), ("exponent", kind.exponent), ("fraction", kind.fraction)):
            mine, rest = rest[:count], rest[count:]
            for toggle in mine:
                toggle.add_class(f"pconv-{field}")
            groups.append(VBox([HTML(field), HBox(mine)], layout=Layout(margin="0 8px 0 0")))
        return groups

    def _show(self, change=None) -> None:
        for toggle in self.toggles:
            toggle.description = str(int(toggle.value))
        self.label.value = _as_html(read(self.pattern, self.format), self._neighbor())

    def _neighbor(self) -> str:
        """What the next pattern means, which lies further from 0."""
        return read((self.pattern + 1) % 2 ** len(self.toggles), self.format).text

    def __repr__(self) -> str:
        number = read(self.pattern, self.format)
        return f"BitFlipper({' '.join(number.fields.values())}: {number.text}, {number.kind})"


_STYLE = "<style>{}</style>".format(
    "".join(
        f".pconv-{field} {{background: {zero} !important; color: black !important}}"
        f".pconv-{field}.mod-active {{background: {one} !important; color: white !important}}"
        for field, (zero, one) in COLORS.items()
    )
)


def _as_html(number: Number, neighbor: str) -> str:
    formula = number.formula
    for tex, html in ((r"\cdot", " · "), (r"\left", ""), (r"\right", ""), ("+", " + ")):
        formula = formula.replace(tex, html)
    formula = formula.replace(r"\frac{", "").replace("}{", "/").replace("2^{", "2<sup>")
    for end in ("</sup>", ""):
        formula = formula.replace("}", end, 1)
    equals = f" = {formula}" if formula else ""
    return (
        f"<span style='font-size: 150%'><b>{number.text}</b></span>{equals}<br>"
        f"<b>{number.kind}</b>; exponent bits {number.fields['exponent']} = "
        f"{int(number.fields['exponent'], 2)}; the next pattern is {neighbor}"
    )
