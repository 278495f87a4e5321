"""How hard scenes are to see: the dials of the world."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Difficulty:
    """How hard scenes are to see; shares are probabilities per thing unless said otherwise."""

    things: tuple[int, int] = (4, 12)
    """Fewest and most things."""
    sizes: dict[str, float] = field(default_factory=lambda: {"small": 0.35, "medium": 0.4, "large": 0.25})
    """Weights of the size classes."""
    textured: float = 0.5
    """Share with a pattern (small things are always plain: their pattern could not be seen)."""
    lookalike: float = 0.25
    """Share that takes a colour easily confused with that of an earlier thing."""
    occluded: float = 0.3
    """Share that may cover a part of earlier things."""
    repeated: float = 0.5
    """Share of scenes in which several things have one colour, shape or both in common."""
    signs: dict[int, float] = field(default_factory=lambda: {0: 0.3, 1: 0.45, 2: 0.25})
    """Weights of the number of signs in a scene."""
    numbers: float = 0.4
    """Share of signs that carry a number, not a word."""
    noise: tuple[int, int] = (3, 18)
    """Lowest and highest standard deviation of pixel noise, in 1/255."""
    mild: float = 0.16
    """Share of photos that are somewhat blurred or dark, half of them each, and still answerable."""
    blurs: tuple[float, ...] = (0.8, 1.2, 1.6, 2.0)
    """Radii in pixels of the blur in such photos."""
    dark: tuple[int, int] = (60, 130)
    """Lowest and highest brightness of such photos, in 1/256."""
    strong: float = 0.04
    """Share of photos too blurred or dark to answer anything."""


DEFAULT = Difficulty()
