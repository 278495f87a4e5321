"""Questions about the background and what it is good for."""

from dyrate.testbed.world.draw import Draw
from dyrate.testbed.world.question_kinds.question import YES_NO, Question, others, yes_no
from dyrate.testbed.world.referring_expressions import Facts
from dyrate.testbed.world.vocabulary import SETTING_NAMES


def ask_scene(facts: Facts, draw: Draw, _: str | None) -> Question:
    """Ask for the background."""
    text = draw.pick(
        ("What is in the background?", "What is the background made of?", "What is behind the things?")
    )
    setting = facts.scene.setting
    return Question("scene", text, setting, others(draw, SETTING_NAMES, setting))


def ask_setting(facts: Facts, draw: Draw, answer: str | None) -> Question:
    """Ask whether the background is the named one."""
    answer = answer or draw.pick(YES_NO)
    named = facts.scene.setting
    if answer == "no":
        named = draw.pick([setting for setting in SETTING_NAMES if setting != named])
    text = draw.pick(
        ("Is the background {}?", "Is there {} in the background?", "Was this photo taken over {}?")
    )
    return yes_no("setting", text.format(named), answer)


_USES = {
    "Could you build a snowman here?": {"snow"},
    "Could you swim here?": {"water"},
    "Is this a place where plants grow?": {"grass"},
    "Could you build a sandcastle here?": {"sand"},
    "Was this made by a bricklayer?": {"brick"},
    "Was this made by a carpenter?": {"wood"},
    "Would a boat be useful here?": {"water"},
    "Would you need warm clothes here?": {"snow"},
    "Is the background something that grew on trees?": {"wood"},
    "Does this look like a meadow?": {"grass"},
    "Does this look like a wall?": {"brick"},
    "Does this look like a beach or a desert?": {"sand"},
}


def ask_commonsense(facts: Facts, draw: Draw, answer: str | None) -> Question:
    """Ask what the background could be used for, is made by, or looks like."""
    answer = answer or draw.pick(YES_NO)
    texts = [text for text, fits in _USES.items() if (facts.scene.setting in fits) == (answer == "yes")]
    return yes_no("commonsense", draw.pick(texts), answer)
