"""The testbed's words: what can stand in a scene, what it is called, and which combinations are held out."""

SHAPES = ("circle", "square", "triangle", "diamond", "star", "heart", "cross", "ring", "moon", "hexagon")

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (222, 40, 40),
    "maroon": (128, 18, 44),
    "orange": (247, 130, 30),
    "gold": (214, 172, 20),
    "green": (44, 165, 58),
    "olive": (118, 122, 28),
    "teal": (0, 124, 124),
    "cyan": (40, 200, 222),
    "blue": (44, 92, 232),
    "navy": (22, 28, 104),
    "purple": (134, 48, 172),
    "pink": (246, 128, 190),
}
"""Name to RGB, 0-255."""

LOOKALIKES = {
    "red": ("maroon", "orange", "pink"),
    "maroon": ("red", "purple"),
    "orange": ("gold", "red"),
    "gold": ("orange", "olive"),
    "green": ("olive", "teal"),
    "olive": ("green", "gold"),
    "teal": ("green", "cyan"),
    "cyan": ("teal", "blue"),
    "blue": ("navy", "cyan"),
    "navy": ("blue", "purple"),
    "purple": ("pink", "navy", "maroon"),
    "pink": ("purple", "red"),
}
"""Name to the colours easily taken for it; symmetric."""

TEXTURES = ("plain", "striped", "dotted", "checkered", "outlined")

SIZES = {"small": (14, 16, 18), "medium": (24, 26, 28, 30), "large": (38, 40, 42, 44)}
"""Name to possible widths in pixels; the gaps between the classes keep size questions unambiguous."""

SIZE_OF = {pixels: name for name, widths in SIZES.items() for pixels in widths}

SETTINGS: dict[str, tuple[int, int, int]] = {
    "grass": (158, 192, 128),
    "sand": (224, 204, 160),
    "snow": (232, 237, 243),
    "water": (150, 194, 222),
    "brick": (192, 146, 130),
    "wood": (206, 172, 130),
}
"""Name of the background to its mean RGB, 0-255."""

PLATES: dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "white": ((250, 250, 250), (16, 16, 16)),
    "black": ((20, 20, 20), (245, 245, 245)),
    "yellow": ((252, 226, 60), (16, 16, 16)),
}
"""Colour of a sign to the RGB of its plate and of its letters."""

# fmt: off
WORDS = (
    "apple", "bank", "bear", "bird", "boat", "book", "bread", "bus", "cafe", "cake", "camp", "car", "cat",
    "city", "coffee", "cold", "dance", "dog", "door", "exit", "farm", "film", "fire", "fish", "food", "free",
    "fruit", "game", "gate", "gift", "glass", "home", "hot", "hotel", "ice", "juice", "king", "lake", "lamp",
    "market", "milk", "mail", "music", "north", "open", "park", "pizza", "post", "rain", "road", "sale",
    "salt", "school", "shop", "south", "stop", "sugar", "taxi", "tea", "train",
)
# fmt: on
"""The words that signs carry."""

# fmt: off
NUMBER_WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen",
)
# fmt: on

COLOR_NAMES, SETTING_NAMES, SIZE_NAMES = tuple(COLORS), tuple(SETTINGS), tuple(SIZES)

HELD_OUT = frozenset(
    (COLOR_NAMES[(5 * i + step) % len(COLOR_NAMES)], shape)
    for i, shape in enumerate(SHAPES)
    for step in (1, 7)
)
"""The (colour, shape) pairs that exist only in the NoCaps-like benchmark: drawn and named nowhere else."""


def plural(noun: str) -> str:
    """Return the plural of a shape's name or of "thing"."""
    return noun + ("es" if noun.endswith("s") else "s")


def with_article(phrase: str) -> str:
    """Return the phrase with "a" or "an" before it."""
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase
