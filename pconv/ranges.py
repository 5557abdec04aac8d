"""How large the numbers in a network are, and what 16-bit formats make of them."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KINDS = ("activations", "weights", "gradients", "weight_gradients")


class Format(NamedTuple):
    """Where a floating-point format ends, as exponents of 2."""

    to_zero: int  # up to 2^to_zero a number rounds to 0
    normal: int  # below 2^normal it is subnormal: it keeps only some of its digits
    overflow: int  # from 2^overflow on, or what rounds to that, it becomes inf


FORMATS = {"fp16": Format(-25, -14, 16), "bf16": Format(-134, -126, 128)}


class Shares(NamedTuple):
    """What a format does to some values."""

    smallest: int | None  # the smallest that is not 0 lies in [2^smallest, 2^(smallest + 1))
    largest: int | None  # the largest that is finite in [2^largest, 2^(largest + 1))
    zeros: float  # the fraction of all values that are 0 already
    not_finite: float  # the fraction of all values that are inf or NaN already
    to_zero: float  # of the others, the fraction that rounds to 0,
    subnormal: float  # that keeps only some of its digits,
    overflow: float  # and that becomes inf


# A histogram has two bins per power of two: 2^k alone, and what lies between 2^k and 2^(k + 1).
_LOW, _HIGH = -160, 160
_LOG2 = np.arange(_LOW, _HIGH + 1).repeat(2)
_IS_POWER = np.arange(len(_LOG2)) % 2 == 0
_ZERO, _NOT_FINITE, _FIRST = range(len(_LOG2), len(_LOG2) + 3)  # what is stored after the bins
_NEVER = torch.iinfo(torch.int64).max
_PART = 2**24  # elements that are counted at a time: it bounds the memory that this needs


def count_exponents(values: Tensor) -> Tensor:
    """The histogram of `values` by power of two, int64, on their device, which is not waited for.

    A value that FP16 rounds up to a power of two, such as 65520, counts as that power. So the
    shares that become 0 and inf are exact, also after a multiplication with a power of two.

    values: floating, of any shape.
    """
    counts = torch.zeros(_FIRST, dtype=torch.int64, device=values.device)
    for part in values.detach().flatten().split(_PART):
        part = part if part.dtype == torch.float64 else part.float()
        mantissa, exponent = torch.frexp(part.abs())  # 0.5 <= mantissa < 1
        rounds_up = mantissa >= 1 - 2**-12
        is_power = rounds_up | (mantissa == 0.5)
        log2 = (exponent - 1 + rounds_up.int()).clamp(_LOW, _HIGH)
        place = 2 * (log2 - _LOW) + (~is_power).int()
        place = torch.where(part == 0, _ZERO, place)
        place = torch.where(part.isfinite(), place, _NOT_FINITE).long()
        counts.scatter_add_(0, place, torch.ones_like(place))
    return counts


class RangeReport:
    """What `pconv.diagnostics.range_report` records: in which layer numbers are how large.

    `print(report)` sums up; `table`, `plot` and `shares` go layer by layer. Their `kind` is
    "activations" (what layers return), "weights" (with the biases), "gradients" (those of the
    activations) or "weight_gradients". Their `scale`, a power of two, is what all values are
    multiplied with first, as a loss scale does with gradients.

    Args:
        loss_scale: what gradients are divided by when they are recorded; a power of two.

    Raises:
        ValueError: for a scale that is not a power of two, for another kind or format, and for a
            layer of which nothing of that kind was recorded.
    """

    def __init__(self, loss_scale: float = 1.0):
        self._loss_scale = _log2(loss_scale)
        self._counts: dict[tuple[str, str], Tensor] = {}
        self._read: dict[tuple[str, str], np.ndarray] | None = None
        self._calls = 0

    def record(self, kind: str, layer: str, values: Tensor) -> None:
        """Adds values, floating and of any shape, to those of a layer, without a wait."""
        counts = count_exponents(values.coalesce().values() if values.is_sparse else values)
        self._calls += 1
        first = torch.where(counts[_NOT_FINITE:] > 0, self._calls, _NEVER)  # call not finite first
        if (kind, layer) in self._counts:
            before = self._counts[kind, layer].to(counts.device)
            counts = counts + before[:_FIRST]
            first = torch.minimum(first, before[_FIRST:])
        self._counts[kind, layer] = torch.cat((counts, first))
        self._read = None

    def _histograms(self) -> dict[tuple[str, str], np.ndarray]:
        """All counts, read from the device in one transfer."""
        if self._read is None:
            counts = list(self._counts.values())
            rows = torch.stack([one.to(counts[0].device) for one in counts]).cpu() if counts else []
            self._read = {key: row.numpy() for key, row in zip(self._counts, rows, strict=True)}
        return self._read

    def layers(self, kind: str = "gradients") -> list[str]:
        """The layers of which there are values of that kind, in order of the forward pass."""
        if kind not in KINDS:
            raise ValueError(f"unknown kind {kind!r}; expected one of: {', '.join(KINDS)}")
        order = dict.fromkeys(layer for _, layer in self._counts)
        return [layer for layer in order if (kind, layer) in self._counts]

    def histogram(
        self, kind: str, layer: str | None = None, scale: float = 1.0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Exponents k, and how many values lie in [2^k, 2^(k + 1)); both of one dimension.

        layer: all layers together by default.
        """
        log2, counts = self._select(kind, layer, scale)
        return log2[::2], counts[:_ZERO].reshape(-1, 2).sum(1)

    def _select(self, kind: str, layer: str | None, scale: float) -> tuple[np.ndarray, np.ndarray]:
        """The exponent of each bin, and the counts of the bins and of what comes after them."""
        known = self.layers(kind)
        if layer is not None and layer not in known:
            expected = ", ".join(known) or "none"
            raise ValueError(f"no {kind} of layer {layer!r} were recorded; recorded: {expected}")
        chosen = known if layer is None else [layer]
        counts = sum(self._histograms()[kind, name][:_FIRST] for name in chosen)
        divisor = self._loss_scale if kind.endswith("gradients") else 0
        return _LOG2 + _log2(scale) - divisor, counts + np.zeros(_FIRST, np.int64)

    def shares(
        self, kind: str, layer: str | None = None, *, scale: float = 1.0, format: str = "fp16"
    ) -> Shares:
        """What "fp16" or "bf16" does to the values of a layer; of all layers by default."""
        if format not in FORMATS:
            raise ValueError(f"unknown format {format!r}; expected one of: {', '.join(FORMATS)}")
        limits = FORMATS[format]
        log2, counts = self._select(kind, layer, scale)
        bins = counts[:_ZERO]
        to_zero = (log2 < limits.to_zero) | ((log2 == limits.to_zero) & _IS_POWER)
        subnormal = (log2 < limits.normal) & ~to_zero
        bands = (to_zero, subnormal, log2 >= limits.overflow)
        fractions = (float(bins[band].sum() / max(1, bins.sum())) for band in bands)
        already = (float(counts[place] / max(1, counts.sum())) for place in (_ZERO, _NOT_FINITE))
        seen = log2[bins > 0].tolist()  # in ascending order
        return Shares(*(seen[:1] + seen[-1:] or (None, None)), *already, *fractions)

    def first_not_finite(self) -> tuple[str, str] | None:
        """The (kind, layer) of the first values, in time, among which was an inf or a NaN."""
        first = {key: row[_FIRST] for key, row in self._histograms().items()}
        key = min(first, key=first.get, default=None)
        return None if key is None or first[key] == _NEVER else key

    def loss_scales(self, tolerance: float = 1e-3) -> tuple[float | None, float]:
        """The smallest and the largest loss scale that would do for FP16, both powers of two.

        With the smallest, no more than the fraction `tolerance` of any layer's gradients, and of
        its weights' gradients, rounds to 0; it is None if that takes more than the largest. With
        the largest, no gradient overflows. Raises ValueError if no gradient was recorded.
        """
        pairs = self._gradients()
        ends = [self.shares(*pair).largest for pair in pairs]
        if all(end is None for end in ends):
            raise ValueError("no gradients were recorded: call backward() inside the `with`")
        top = FORMATS["fp16"].overflow - 1 - max(end for end in ends if end is not None)
        for scale in (2.0**power for power in range(min(0, top), top + 1)):
            if all(self.shares(*pair, scale=scale).to_zero <= tolerance for pair in pairs):
                return scale, 2.0**top
        return None, 2.0**top

    def _gradients(self) -> list[tuple[str, str]]:
        return [(kind, layer) for kind in KINDS[2:] for layer in self.layers(kind)]

    def table(self, kind: str = "gradients", scale: float = 1.0) -> str:
        """A line per layer: the range of its values, and what FP16 and BF16 do to them."""
        layers = self.layers(kind)
        width = max(map(len, (*layers, kind)), default=0)
        lines = (self._line(kind, layer, width, scale) for layer in layers)
        return "\n".join([*_head(kind, width), *lines])

    def _line(self, kind: str, layer: str | None, width: int, scale: float = 1.0) -> str:
        half = self.shares(kind, layer, scale=scale)
        brain = self.shares(kind, layer, scale=scale, format="bf16")
        ends = "".join(f"{'-' if end is None else f'2^{end}':>9}" for end in half[:2])
        fractions = (*half[2:], brain.to_zero, brain.overflow)
        return f"{layer or _name(kind):{width}}{ends}" + "".join(
            f"{_percent(part):>10}" for part in fractions
        )

    def __str__(self) -> str:
        kinds = [kind for kind in KINDS if self.layers(kind)]
        if not kinds:
            return "nothing was recorded: no layer of the model ran inside the `with`"
        lines = [*_head("", 16), *(self._line(kind, None, 16) for kind in kinds)]
        if first := self.first_not_finite():
            lines.append(f"not finite first: {_name(first[0])} of {first[1]}")
        if any(self.shares(*pair).largest is not None for pair in self._gradients()):
            lines.append(self._advice())
        return "\n".join(lines)

    def _advice(self) -> str:
        smallest, largest = self.loss_scales()
        at_most = f"loss scale for FP16: at most 2^{_log2(largest)}, or gradients overflow\n{'':21}"
        if smallest is not None:
            smallest = _log2(smallest)
            return at_most + f"at least 2^{smallest}, or over 0.1 % of a layer's gradients become 0"
        lost = {pair: self.shares(*pair, scale=largest).to_zero for pair in self._gradients()}
        (kind, layer), share = max(lost.items(), key=lambda item: item[1])
        return at_most + f"at which {_percent(share)} of the {_name(kind)} of {layer} become 0"

    def plot(
        self,
        kind: str = "gradients",
        *,
        scale: float = 1.0,
        layers: Sequence[str] | None = None,
        axis: "Axes | None" = None,
    ) -> "Axes":
        """Draws a histogram per layer over the ranges of FP16 and BF16, and returns the axes.

        layers: which ones; by default all. axis: to draw in; by default that of a new figure. It
        needs matplotlib.
        """
        from matplotlib import pyplot as plt  # only where used

        layers = self.layers(kind) if layers is None else list(layers)
        if axis is None:
            size = (9, 1.3 + 0.36 * len(layers))
            axis = plt.figure(figsize=size, layout="constrained").subplots()
        _draw_formats(axis, len(layers))
        for base, layer in enumerate(reversed(layers)):
            log2, counts = self.histogram(kind, layer, scale)
            there = counts > 0
            inside = (log2 >= FORMATS["fp16"].to_zero) & (log2 < FORMATS["fp16"].overflow)
            heights = 0.9 * counts / max(1, counts.max())
            for which, color in ((there & inside, _KEPT), (there & ~inside, _LOST)):
                axis.bar(log2[which] + 0.5, heights[which], 1, base, color=color)
            axis.axhline(base, color=_KEPT, linewidth=0.6)
            shares = self.shares(kind, layer, scale=scale)
            words = f"{_percent(shares.to_zero) if shares.to_zero else 'none'} lost"
            words += f", {_percent(shares.overflow)} inf" if shares.overflow else ""
            axis.text(1.01, base + 0.1, words, transform=axis.get_yaxis_transform())
        axis.set_yticks(np.arange(len(layers)) + 0.3, reversed(layers))
        factor = "" if scale == 1 else f" × 2^{_log2(scale)}"
        axis.set_xlabel(f"log2 |{_name(kind)[:-1]}{factor}|")
        return axis


_KEPT, _LOST = "#333333", "#6a3d9a"
_BANDS = {"rounds to 0": "#c9c9c9", "subnormal": "#e6f1e9"}  # from one limit of FP16 to the next
_BANDS |= {"normal FP16 numbers": "#b9dcc5", "inf": "#c9c9c9"}


def _draw_formats(axis: "Axes", rows: int) -> None:
    """The range of FP16 as bands behind `rows` rows; that of BF16 is wider than the axis."""
    edges = (-48, *FORMATS["fp16"], 24)
    for left, right, (name, color) in zip(edges, edges[1:], _BANDS.items(), strict=False):
        axis.axvspan(left, right, color=color, linewidth=0)
        axis.text((left + right) / 2, rows + 0.15, name, ha="center", va="bottom")
    axis.set(xlim=(edges[0], edges[-1]), ylim=(0, rows + 0.05))
    _, normal, overflow = FORMATS["bf16"]
    words = f"BF16: normal numbers from 2^{normal} to 2^{overflow}, beyond both ends"
    axis.set_title(f"⟵   {words}   ⟶", pad=24)


def _head(title: str, width: int) -> list[str]:
    columns = ("zeros", "inf, NaN", "to 0", "subnormal", "to inf", "to 0", "to inf")
    return [
        f"{'':{width + 38}}{'in FP16:':>10}{'':20}{'in BF16:':>10}",
        f"{_name(title):{width}}{'smallest':>9}{'largest':>9}"
        + "".join(f"{name:>10}" for name in columns),
    ]


def _name(kind: str) -> str:
    return kind.replace("_", " ")


def _percent(fraction: float) -> str:
    """0 is only what is exactly 0."""
    return "0" if fraction == 0 else f"{100 * fraction:.1f} %" if fraction >= 5e-4 else "< 0.1 %"


def _log2(scale: float) -> int:
    mantissa, exponent = math.frexp(scale)
    if mantissa != 0.5:
        raise ValueError(f"a scale of {scale!r} is not a power of two, such as 1.0 or 65536.0")
    return exponent - 1
