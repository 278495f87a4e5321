"""How every figure is drawn: by matplotlib, in the page's colours, with its data, and as files to paste.

A drawing has the light colours of the style sheet; on a page its SVG refers to the sheet's custom properties
instead, so that dark mode works.
"""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from dyrate import files
from dyrate.report.grid import Grid, csv_text, html
from dyrate.report.html import TEMPLATES
from dyrate.report.site import FIGURES

SHEET = (TEMPLATES / "style.css").read_text(encoding="utf-8").partition("@media")[0]
_LIGHT: dict[str, str] = dict(re.findall(r"--([a-z]+(?:-\d)?): (#[0-9a-f]{6})\b", SHEET))
INK, MUTED, LINE, PAPER = (_LIGHT[name] for name in ("ink", "muted", "line", "paper"))
MODELS = [_LIGHT[f"model-{i}"] for i in range(4)]
CURVES = [_LIGHT[f"curve-{i}"] for i in range(8)]
COLOURS = {
    _LIGHT[name]: f"var(--{name})"
    for name in ("ink", "muted", "line", "paper", *(n for n in _LIGHT if n.startswith(("model-", "curve-"))))
}
MARKERS = "oDs^"
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "dyrate",
    "pdf.fonttype": 42,  # text that can be searched and edited
    "text.parse_math": False,  # labels come from configs: a dollar sign is a dollar sign
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": LINE,
    "xtick.color": MUTED,
    "ytick.color": INK,
    **{f"{axis}tick.{kind}.size": 0 for axis in "xy" for kind in ("major", "minor")},
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.titlecolor": MUTED,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
}
UNDATED = {
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
SHADES = 20  # of a heat map: equal neighbours are one shape
STRENGTHS = 5  # of the scale below it
ROWS = 60  # of the table below a figure: more are in its CSV
BELOW = "The data stand in the table below."
"""What is said of a figure to who does not see it, where there is nothing shorter to say than all of it."""

Datum = str | float | None
_album: ContextVar["dict[str, Picture] | None"] = ContextVar("album", default=None)


@dataclass(frozen=True, eq=False)
class Picture:
    """A figure with its data: on a page the drawing, a table of the data, and links to the files.

    `name` is that of its files, and makes the ids of its SVG unique on the page; `title` says what it shows,
    `told` what there is to see. `rows` have an entry for each of `fields`, the first of which name a row.
    """

    drawing: Figure
    name: str
    title: str
    fields: Sequence[str]
    rows: Sequence[Sequence[Datum]]
    told: str = BELOW

    def __post_init__(self) -> None:
        """Lay the figure out, once for all its files, and join the album that is open, if one is."""
        with mpl.rc_context(STYLE):
            self.drawing.draw_without_rendering()
            self.drawing.set_layout_engine(None)
        if (album := _album.get()) is not None:
            album[self.name] = self

    @cached_property
    def svg(self) -> Markup:
        """An <svg> element that takes its colours from the page, byte for byte the same each time."""
        text = self.saved("svg").decode()
        text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
        text = re.sub(r'(?<= id=")', f"{self.name}-", text)
        text = re.sub(r'(?<=href="#)|(?<=url\(#)', f"{self.name}-", text)
        for light, colour in COLOURS.items():
            text = text.replace(light, colour)
        opening, rest = text.split(">", 1)  # labels are escaped by matplotlib
        return Markup(opening) + Markup(
            ' role="img" aria-label="{}"><title>{}</title><desc>{}</desc>{}'
        ).format(self.title, self.title, self.told, Markup(rest))

    @property
    def csv(self) -> str:
        """All of the data."""
        return csv_text(self.fields, [dict(zip(self.fields, row, strict=True)) for row in self.rows])

    def saved(self, suffix: str) -> bytes:
        """The drawing as a file, of "svg" or "pdf": no date in it, and the same bytes each time."""
        stream = io.BytesIO()
        with mpl.rc_context(STYLE):
            self.drawing.savefig(stream, format=suffix, metadata=UNDATED[suffix])
        return stream.getvalue()

    def __html__(self) -> str:
        """What a template shows of it."""
        links = (
            Markup('<a href="{0}/{1}.{2}" aria-label="{3} as {4}">{4}</a>').format(
                FIGURES, self.name, suffix, self.title, suffix.upper()
            )
            for suffix in ("svg", "pdf", "csv")
        )
        shown = [[_shown(datum) for datum in row] for row in self.rows[:ROWS]]
        more = len(self.rows) - len(shown)
        rest = Markup('<p class="small muted">{} more rows are in the CSV.</p>').format(more) if more else ""
        return self.svg + Markup(
            '\n<div class="beside"><p>{}</p>\n<details class="data"><summary>Data</summary>'
            '<div class="scroll" tabindex="0" role="region" aria-label="Data: {}">{}</div>{}</details></div>'
        ).format(
            Markup(" · ").join(links),
            self.title,
            Markup(html(Grid(self.title, self.fields, [("", shown)]))),
            rest,
        )


@contextmanager
def album() -> Iterator[Mapping[str, Picture]]:
    """Collect, by name, every picture that is made while it is open."""
    found: dict[str, Picture] = {}
    token = _album.set(found)
    try:
        yield found
    finally:
        _album.reset(token)


def write(pictures: Mapping[str, Picture], folder: Path) -> None:
    """Write each as SVG, PDF and CSV."""
    files.make_folder(folder)
    for name, picture in pictures.items():
        files.write_text(folder / f"{name}.csv", picture.csv)
        for suffix in ("svg", "pdf"):
            with files.replacing(folder / f"{name}.{suffix}") as temporary:
                temporary.write_bytes(picture.saved(suffix))


@contextmanager
def canvas(width: float, height: float) -> Iterator[tuple[Figure, Axes]]:
    """A transparent figure of that many inches, in the house style."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        yield figure, axes


def gridded(axes: Axes) -> None:
    """Draw a faint grid behind everything."""
    axes.grid(color=LINE, linewidth=0.5, alpha=0.6)
    axes.set_axisbelow(True)


def heat_map(layers: Sequence[Sequence[float]], colour: str, title: str, most: float = 1.0) -> Figure:
    """Shares by layer (down) and step (across): the deeper the colour the more, `most` being all of it."""
    depth, steps = len(layers), len(layers[0])

    def cell(x: float, y: float, width: float, height: float, strength: float) -> None:
        # Without smoothing, or the page would shine through between two cells.
        axes.add_patch(
            Rectangle((x, y), width, height, facecolor=colour, alpha=strength, linewidth=0, antialiased=False)
        )

    with canvas(3.5, 1.3 + 0.13 * depth) as (figure, axes):
        for layer, values in enumerate(layers):
            start = 0
            for strength, run in groupby(round(SHADES * min(1.0, v / most)) / SHADES for v in values):
                length = len(list(run))
                cell(start - 0.5, layer - 0.5, length, 1.0, strength)
                start += length
        width, bottom = steps / STRENGTHS, depth + 1.2
        for i in range(STRENGTHS):
            strength = (i + 1) / STRENGTHS
            cell(i * width - 0.5, bottom, width, 0.7, strength)
            label = f"{100 * strength * most:.0f}%"
            axes.text((i + 0.5) * width - 0.5, bottom + 1.6, label, ha="center", fontsize=7, color=MUTED)
        axes.set_xlim(-0.5, steps - 0.5)
        axes.set_ylim(bottom + 1.8, -0.5)
        axes.set_yticks(range(0, depth, max(1, depth // 6)))
        axes.set_title(title)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.xaxis.tick_top()
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(labelcolor=MUTED)
    return figure


def named(*parts: object) -> str:
    """A name for files and ids: what is no letter, digit, dot or dash is there as its code."""
    return re.sub(r"[^A-Za-z0-9.-]", lambda found: f"_{ord(found[0]):x}", "-".join(map(str, parts)))


def _shown(datum: Datum) -> str:
    if isinstance(datum, float):
        return f"{datum:.4g}".replace("-", "−")
    return "–" if datum is None else str(datum)
