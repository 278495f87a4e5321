"""One colour and one shape for each family of methods, the same on every figure of a report.

Colours are the page's own properties (`drawing.CURVES`), which people who see fewer colours can tell apart;
where colours come again, the shape is another. Controls are grey: they are no competitors.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from dyrate.analysis.ablations import DYRATE
from dyrate.analysis.measurement import CONTROLS, NONE, Measurement
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


@dataclass(frozen=True)
class Mark:
    """How one of a family's settings is drawn: as its family, but for what tells it from the others."""

    look: Look
    hollow: bool = False

    @property
    def glyph(self) -> str:
        """The character that looks like it."""
        return self.look.glyph(self.hollow)

    @classmethod
    def nth(cls, look: Look, number: int) -> "Mark":
        """The mark of a family's setting of that number, from 0: the family's own, and then other shapes."""
        shapes = [look.shape, *(shape for shape in GLYPHS if shape != look.shape)]
        lap, at = divmod(number, len(shapes))
        return cls(replace(look, shape=shapes[at]), lap % 2 == 1)


def family(m: Measurement) -> str:
    """The family of a measurement: its method; of DyRate, whose it is."""
    return (OURS if m.origin == "ours" else TITLE) if m.method == DYRATE else m.kind


def looks(measurements: Sequence[Measurement], timed: Sequence[str] = ()) -> dict[str, Look]:
    """The look of each family among all of a report's measurements, in their order, and then of the methods
    that were `timed`.
    """
    found = {NONE: Look("*"), TITLE: Look("D", 0), OURS: Look("D", 1)}
    controls = methods = 0
    known = [(family(m), m.control) for m in measurements]
    for name, control in [*known, *((name, name in CONTROLS) for name in timed)]:
        if name in found:
            continue
        if control:
            found[name] = Look(SHAPES[controls % len(SHAPES)], control=True)
            controls += 1
            continue
        lap, at = divmod(methods, len(CURVES) - 2)
        found[name] = Look(SHAPES[(at + lap) % len(SHAPES)], at + 2)
        methods += 1
    return found
