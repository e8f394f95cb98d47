"""The dashboard as one picture, in its own grid."""

from collections.abc import Sequence
from io import BytesIO

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from monitoring.api import Prometheus
from monitoring.dashboard import Panel
from monitoring.plot import COLORS, FAINT, INK, Named, timeseries
from monitoring.units import written

DPI = 90
COLUMN, ROW = 0.8, 0.36  # inches, of a column and a row of the grid
GAP = 0.05  # inches, around each panel
MARGIN = 0.1  # inches, around all panels
HEAD = 0.55  # inches, of the title
CELL = 14  # letters of a table's cell; what is longer is cut
CELL_MARGIN = 3  # letters
PAPER, CARD = "#eef0f3", "white"


def drawn(panels: Sequence[Panel], prometheus: Prometheus, minutes: float) -> bytes:
    """Every panel of the last minutes, as PNG."""
    figure = Figure(figsize=_size(panels), dpi=DPI, facecolor=PAPER)
    width, height = figure.get_size_inches()
    title = f"Digit service, the last {minutes:g} minutes"
    figure.text(2 * MARGIN / width, 1 - HEAD / 2 / height, title, size=17, weight="bold", color=INK, va="center")
    for panel in panels:
        if panel.kind == "row":
            _row(figure, panel)
        elif found := _asked(panel, prometheus, minutes):
            _panel(_card(figure, panel), panel, found, minutes)
        else:
            _empty(_card(figure, panel), panel.field.get("noValue", "no data"))
    file = BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def _panel(card: Axes, panel: Panel, found: Named, minutes: float) -> None:
    if panel.kind == "timeseries":
        timeseries(card, panel, found, minutes)
    elif panel.kind == "stat":
        _stat(card, panel, found)
    else:
        _table(card, panel, found)


def _size(panels: Sequence[Panel]) -> tuple[float, float]:
    across = max(each.x + each.width for each in panels)
    down = max(each.y + each.height for each in panels)
    return 2 * MARGIN + across * COLUMN, HEAD + MARGIN + down * ROW


def _asked(panel: Panel, prometheus: Prometheus, minutes: float) -> Named:
    is_over_time = panel.kind == "timeseries"
    return [
        (query.name(each.labels), each)
        for query in panel.queries
        for each in (prometheus.range(query.text, minutes) if is_over_time else prometheus.now(query.text))
    ]


def _box(figure: Figure, panel: Panel) -> tuple[float, float, float, float]:
    """Left, bottom, width and height of the panel, in inches."""
    top = figure.get_size_inches()[1] - HEAD - panel.y * ROW
    left, bottom = MARGIN + panel.x * COLUMN, top - panel.height * ROW
    return left + GAP, bottom + GAP, panel.width * COLUMN - 2 * GAP, panel.height * ROW - 2 * GAP


def _axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes at a place in inches."""
    across, down = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / down, width / across, height / down))


def _row(figure: Figure, panel: Panel) -> None:
    left, bottom, _, height = _box(figure, panel)
    across, down = figure.get_size_inches()
    at = left / across, (bottom + height / 2) / down
    figure.text(*at, panel.title, size=12, weight="bold", color=INK, va="center")


def _card(figure: Figure, panel: Panel) -> Axes:
    """The panel's whole place, with its title."""
    left, bottom, width, height = _box(figure, panel)
    axes = _axes(figure, left, bottom, width, height)
    axes.set(facecolor=CARD, xticks=[], yticks=[], xlim=(0, 1), ylim=(0, 1))
    for spine in axes.spines.values():
        spine.set_color("#d5d9df")
    at = 8 / 72 / width, 1 - 8 / 72 / height
    axes.text(*at, panel.title, va="top", size=9.5, weight="bold", color=INK)
    return axes


def _empty(card: Axes, text: str) -> None:
    card.text(0.5, 0.45, text, ha="center", va="center", size=12, color=FAINT)


def _stat(card: Axes, panel: Panel, found: Named) -> None:
    value = max(each.values[-1] for _, each in found)
    text = panel.mapped(value) or written(value, panel.unit)
    if panel.options["textMode"] == "name":
        text = ", ".join(sorted(name for name, _ in found))
    card.set_facecolor(COLORS[panel.color(value)])
    card.texts[0].set_color("white")
    room = card.get_window_extent().width / DPI
    size = min(25.0, 90 * room / len(text))
    card.text(0.5, 0.42, text, ha="center", va="center", size=size, weight="bold", color="white")


def _table(card: Axes, panel: Panel, found: Named) -> None:
    rows = [each.labels | {"Value": written(each.values[-1], panel.unit)} for _, each in found]
    cells = [
        list(panel.columns.values()),
        *([_cut(row[label]) for label in panel.columns] for row in rows[: panel.height - 2]),
    ]
    letters = [CELL_MARGIN + max(map(len, column)) for column in zip(*cells, strict=True)]
    height = len(cells) / panel.height
    made = card.table(
        cells,
        cellLoc="left",
        colWidths=[each / sum(letters) for each in letters],
        bbox=Bbox.from_bounds(0.01, 0.8 - height, 0.98, height),
    )
    made.auto_set_font_size(False)
    made.set_fontsize(8.5)
    for (row, _), cell in made.get_celld().items():
        cell.set_edgecolor("#e6e8ec")
        cell.get_text().set_color(INK if row else FAINT)


def _cut(text: str) -> str:
    return text if len(text) <= CELL else f"{text[: CELL - 1]}…"
