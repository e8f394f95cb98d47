"""Series over time as a panel's plot: scale, thresholds, legend."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from monitoring.api import Series
from monitoring.dashboard import Panel
from monitoring.units import written

LEFT, RIGHT, TOP, BOTTOM = 0.66, 0.16, 0.42, 0.34  # inches, around the axes of a panel
EDGE = 0.1  # inches, left of a legend
LEGEND = 0.2  # inches, of a legend's line
LETTER = 0.066  # inches, of a legend's letter
SWATCH = 0.45  # inches, of a legend's line and the space around it
NEAR = 3.0  # of what is reached: so far off a threshold is still shown
INK, FAINT = "#24292f", "#6b7280"
COLORS = {"green": "#2f9e5b", "yellow": "#d9a300", "red": "#d1383d", "blue": "#3b73c4"}
CYCLE = (
    "#3b73c4", "#e08a1e", "#2f9e5b", "#8a5cc2", "#c2478a",
    "#14a0a6", "#9a6b3f", "#7a8794", "#a8b820", "#d1605e",
)  # fmt: skip

Floats = NDArray[np.float64]
Named = list[tuple[str, Series]]  # a series and its legend


def timeseries(card: Axes, panel: Panel, found: Named, minutes: float) -> None:
    """Draws the last minutes into a card, whose own axes go from 0 to 1."""
    named = sorted(found, key=lambda each: each[0]) if panel.is_stacked else found
    width, height = _inches(card)
    lines = _legend_lines([name for name, _ in named], width - 2 * EDGE)
    under = BOTTOM + LEGEND * len(lines)
    across, up = (width - LEFT - RIGHT) / width, (height - TOP - under) / height
    axes = card.inset_axes((LEFT / width, under / height, across, up))
    (_stack if panel.is_stacked else _lines)(axes, named)
    if not panel.is_stacked:
        _limits(axes, panel, max(max(each.values) for _, each in named))
    axes.set_xlim(-minutes, 0)
    _dress(axes, "percentunit" if panel.is_stacked else panel.unit)
    _legend(card, lines)


def _inches(card: Axes) -> tuple[float, float]:
    figure = card.get_figure(root=True)
    assert figure is not None
    extent = card.get_window_extent()
    return extent.width / figure.dpi, extent.height / figure.dpi


def _lines(axes: Axes, named: Named) -> None:
    for (_, each), color in zip(named, _cycle(len(named)), strict=True):
        marker = "o" if len(each.values) == 1 else None
        axes.plot(*_with_gaps(each), color=color, lw=1.6, marker=marker, ms=3)


def _with_gaps(series: Series) -> tuple[Floats, Floats]:
    """Times and values, with a NaN where points are missing, so that no line is drawn there."""
    times, values = np.array(series.times), np.array(series.values)
    distances = np.diff(times)
    missing = np.flatnonzero(distances > 1.5 * distances.min(initial=np.inf)) + 1
    return np.insert(times, missing, times[missing]), np.insert(values, missing, np.nan)


def _stack(axes: Axes, named: Named) -> None:
    times = sorted({when for _, each in named for when in each.times})
    rows = [dict(zip(each.times, each.values, strict=True)) for _, each in named]
    values = np.array([[row.get(when, 0.0) for when in times] for row in rows])
    sums = values.sum(axis=0)
    shares = values / np.where(sums > 0, sums, 1)
    axes.stackplot(times, shares, colors=_cycle(len(named)), alpha=0.8, lw=0)
    axes.set_ylim(0, 1)


def _cycle(count: int) -> list[str]:
    return [CYCLE[index % len(CYCLE)] for index in range(count)]


def _limits(axes: Axes, panel: Panel, highest: float) -> None:
    """The scale from 0, and the thresholds that lie in it; one that is near is brought in."""
    values = [value for value, _ in panel.limits]
    reached = 1.15 * highest if highest > 0 else max(values, default=1.0)
    top = panel.field.get("max") or max([reached, *(1.15 * value for value in values if value <= NEAR * reached)])
    axes.set_ylim(0, top)
    for value, color in panel.limits if panel.field["custom"]["thresholdsStyle"]["mode"] != "off" else []:
        if value <= top:
            axes.axhline(value, color=COLORS[color], lw=1, ls=(0, (4, 3)), alpha=0.8, zorder=1)


def _dress(axes: Axes, unit: str) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 3, 5, 6, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda minute, _: f"{minute:g} min" if minute else "now"))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: written(float(value), unit)))
    axes.tick_params(labelsize=7.5, colors=FAINT, length=0)
    axes.tick_params("x", pad=6)
    axes.grid(color="#e6e8ec", lw=0.7)
    axes.set_axisbelow(True)
    for name, spine in axes.spines.items():
        spine.set_visible(name == "bottom")
        spine.set_color("#c9ced6")


def _legend_lines(names: Sequence[str], room: float) -> list[list[tuple[int, str]]]:
    """Number and name of each series, as many a line as there is room for, in inches."""
    lines: list[list[tuple[int, str]]] = [[]]
    used = 0.0
    for number, name in enumerate(names):
        wanted = SWATCH + LETTER * len(name)
        if lines[-1] and used + wanted > room:
            lines.append([])
            used = 0.0
        lines[-1].append((number, name))
        used += wanted
    return lines


def _legend(card: Axes, lines: list[list[tuple[int, str]]]) -> None:
    width, height = _inches(card)
    for index, line in enumerate(lines):
        at, y = EDGE, (LEGEND * (len(lines) - index) - LEGEND / 3) / height
        for number, name in line:
            ends, color = (at / width, (at + 0.16) / width), CYCLE[number % len(CYCLE)]
            card.plot(ends, (y, y), color=color, lw=3, solid_capstyle="butt")
            card.text((at + 0.22) / width, y, name, size=8, color=INK, va="center_baseline")
            at += SWATCH + LETTER * len(name)
