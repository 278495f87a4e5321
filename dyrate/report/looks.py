"""One colour and one shape for each family of methods, the same on every figure of a report.

Colours are the page's own properties (`drawing.CURVES`), which people who see fewer colours can tell apart;
where colours come again, the shape is another. Controls are grey: they are no competitors.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from dyrate.analysis.ablations import DYRATE
from dyrate.analysis.measurement import NONE, Measurement
from dyrate.analysis.pareto import TITLE
from dyrate.report.drawing import CURVES, INK, MUTED

# Filled and hollow, by matplotlib's names for them.
GLYPHS = {
    "D": "◆◇", "o": "●○", "s": "■□", "v": "▼▽", "^": "▲△", "<": "◀◁", ">": "▶▷", "*": "★☆",
}  # fmt: skip
SHAPES = "osv^<>"
OURS = f"{TITLE}+"


@dataclass(frozen=True)
class Look:
    """How a family is drawn."""

    shape: str  # matplotlib's name
    number: int | None = None  # of a curve's colour
    control: bool = False

    @property
    def colour(self) -> str:
        """The stand-in of the drawing."""
        return MUTED if self.control else INK if self.number is None else CURVES[self.number]

    @property
    def variable(self) -> str:
        """The same colour as the style sheet names it."""
        return "--muted" if self.control else "--ink" if self.number is None else f"--curve-{self.number}"

    def glyph(self, hollow: bool = False) -> str:
        """The character that looks like it."""
        return GLYPHS[self.shape][hollow]


def family(m: Measurement) -> str:
    """The family of a measurement: its method; of DyRate, whose it is."""
    return (OURS if m.origin == "ours" else TITLE) if m.method == DYRATE else m.kind


def looks(measurements: Sequence[Measurement]) -> dict[str, Look]:
    """The look of each family among all of a report's measurements, in their order."""
    found = {NONE: Look("*"), TITLE: Look("D", 0), OURS: Look("D", 1)}
    controls = methods = 0
    for m in measurements:
        name = family(m)
        if name in found:
            continue
        if m.control:
            found[name] = Look(SHAPES[controls % len(SHAPES)], control=True)
            controls += 1
            continue
        lap, at = divmod(methods, len(CURVES) - 2)
        found[name] = Look(SHAPES[(at + lap) % len(SHAPES)], at + 2)
        methods += 1
    return found
