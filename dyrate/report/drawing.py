"""How every figure is drawn: SVG text by matplotlib that takes its colours from the page."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Stand-ins in the drawing; the SVG text refers to the page's custom properties instead, so dark mode works.
COLOURS = {
    "#111111": "var(--ink)",
    "#777777": "var(--muted)",
    "#cccccc": "var(--line)",
    "#fefefe": "var(--paper)",
    "#0000aa": "var(--model-0)",
    "#aa5500": "var(--model-1)",
    "#006644": "var(--model-2)",
    "#880088": "var(--model-3)",
    "#c00000": "var(--curve-0)",
    "#0000c1": "var(--curve-1)",
    "#00a002": "var(--curve-2)",
    "#b0a003": "var(--curve-3)",
    "#a000a4": "var(--curve-4)",
    "#00a0a5": "var(--curve-5)",
    "#605046": "var(--curve-6)",
    "#8080f7": "var(--curve-7)",
}
INK, MUTED, LINE, PAPER = list(COLOURS)[:4]
MODELS, CURVES = list(COLOURS)[4:8], list(COLOURS)[8:]
MARKERS = "oDs^"
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "dyrate",
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


def as_svg(figure: Figure, name: str) -> Markup:
    """The figure as an <svg> element, byte for byte the same each time, its ids prefixed with `name`."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(?<= id=")', f"{name}-", text)
    text = re.sub(r'(?<=href="#)|(?<=url\(#)', f"{name}-", text)
    for stand_in, colour in COLOURS.items():
        text = text.replace(stand_in, colour)
    return Markup(text)  # labels are escaped by matplotlib


def described(svg: Markup, title: str, description: str = "") -> Markup:
    """The same <svg> with words for who does not see it."""
    words = Markup("<title>{}</title><desc>{}</desc>").format(title, description)
    opening, rest = svg.split(">", 1)
    return opening + Markup(' role="img" aria-label="{}">').format(title) + words + rest
