"""Questions about a scene, one function per kind: referents are unique, answers follow from the scene.

How questions become prompts is left to `prompts`, which kinds a benchmark asks to its spec.
"""

from functools import partial

from dyrate.testbed.world.draw import Draw
from dyrate.testbed.world.question_kinds import attributes, background, counting, hints, scene_text, spatial
from dyrate.testbed.world.question_kinds.attributes import absent
from dyrate.testbed.world.question_kinds.hints import blind_question
from dyrate.testbed.world.question_kinds.question import UNANSWERABLE, YES_NO, Asker, Question
from dyrate.testbed.world.referring_expressions import Facts
from dyrate.testbed.world.vocabulary import COLOR_NAMES, SETTING_NAMES, SHAPES, SIZE_NAMES, TEXTURES

__all__ = ["ANSWERS", "ASKERS", "UNANSWERABLE", "Question", "absent", "ask", "blind_question"]


def ask(kind: str, facts: Facts, draw: Draw, answer: str | None = None) -> Question | None:
    """Return a random question of the kind, None when the scene allows none.

    `answer` is the answer it shall have, which the scene may not allow either.
    """
    question = ASKERS[kind](facts, draw, answer)
    return question if question and answer in (None, question.answer) else None


ASKERS: dict[str, Asker] = {
    "existence": attributes.ask_existence,
    "verify": attributes.ask_verify,
    "verify_color": partial(attributes.ask_verify, hide="color"),
    "choose": attributes.ask_choose,
    **{name: partial(attributes.ask_attribute, name) for name in ("color", "shape", "texture", "size")},
    "count": counting.ask_count,
    "quantity": counting.ask_quantity,
    "position": spatial.ask_position,
    "quadrant": spatial.ask_quadrant,
    "place": spatial.ask_place,
    "relation": spatial.ask_relation,
    "neighbor": spatial.ask_neighbor,
    "compare": counting.ask_compare,
    "scene": background.ask_scene,
    "setting": background.ask_setting,
    "commonsense": background.ask_commonsense,
    **{kind: partial(scene_text.ask_sign, kind) for kind in ("word", "number")},
    "reading": scene_text.ask_reading,
    "arithmetic": scene_text.ask_arithmetic,
    "hint": hints.ask_hint,
    "unanswerable": hints.ask_unanswerable,
}
"""The function that asks each kind of question."""

_YES_NO_KINDS = (
    "existence", "verify", "verify_color", "quantity", "place", "relation", "compare", "setting",
    "commonsense", "reading", "arithmetic",
)  # fmt: skip

ANSWERS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(_YES_NO_KINDS, YES_NO),
    "color": COLOR_NAMES,
    "shape": SHAPES,
    "texture": TEXTURES,
    "size": SIZE_NAMES,
    "count": counting.COUNTS,
    "scene": SETTING_NAMES,
    "quadrant": spatial.QUADRANTS,
}
"""The answers of the kinds that have few; a benchmark asks for all of them equally often."""
