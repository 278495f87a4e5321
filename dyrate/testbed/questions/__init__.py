"""Questions about a scene, one function per kind: referents are unique, answers follow from the scene.

How questions become prompts is left to `prompts`, which kinds a benchmark asks to `benchmarks`.
"""

from dyrate.testbed.draw import Draw
from dyrate.testbed.facts import Facts
from dyrate.testbed.questions import amounts, hints, places, settings, signs, things
from dyrate.testbed.questions.hints import blind_question
from dyrate.testbed.questions.question import (
    COLOR_NAMES,
    SETTING_NAMES,
    SIZE_NAMES,
    UNANSWERABLE,
    YES_NO,
    Asker,
    Question,
)
from dyrate.testbed.questions.things import absent
from dyrate.testbed.vocabulary import SHAPES, TEXTURES

__all__ = ["ANSWERS", "ASKERS", "UNANSWERABLE", "Question", "absent", "ask", "blind_question"]


def ask(kind: str, facts: Facts, draw: Draw, answer: str | None = None) -> Question | None:
    """Return a random question of the kind, None when the scene allows none.

    `answer` is the answer it shall have, which the scene may not allow either.
    """
    question = ASKERS[kind](facts, draw, answer)
    return question if question and answer in (None, question.answer) else None


ASKERS: dict[str, Asker] = {
    "existence": things.ask_existence,
    "verify": things.ask_verify,
    "verify_color": things.ask_verify_color,
    "choose": things.ask_choose,
    "color": things.ask_color,
    "shape": things.ask_shape,
    "texture": things.ask_texture,
    "size": things.ask_size,
    "count": amounts.ask_count,
    "quantity": amounts.ask_quantity,
    "position": places.ask_position,
    "quadrant": places.ask_quadrant,
    "place": places.ask_place,
    "relation": places.ask_relation,
    "neighbor": places.ask_neighbor,
    "compare": amounts.ask_compare,
    "scene": settings.ask_scene,
    "setting": settings.ask_setting,
    "commonsense": settings.ask_commonsense,
    "word": signs.ask_word,
    "number": signs.ask_number,
    "reading": signs.ask_reading,
    "arithmetic": signs.ask_arithmetic,
    "hint": hints.ask_hint,
    "unanswerable": hints.ask_unanswerable,
}
"""The function that asks each kind of question."""

_YES_NO_KINDS = (
    "existence",
    "verify",
    "verify_color",
    "quantity",
    "place",
    "relation",
    "compare",
    "setting",
    "commonsense",
    "reading",
    "arithmetic",
)

ANSWERS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(_YES_NO_KINDS, YES_NO),
    "color": COLOR_NAMES,
    "shape": SHAPES,
    "texture": TEXTURES,
    "size": SIZE_NAMES,
    "count": amounts.COUNTS,
    "scene": SETTING_NAMES,
    "quadrant": places.QUADRANTS,
}
"""The answers of the kinds that have few; a benchmark asks for all of them equally often."""
