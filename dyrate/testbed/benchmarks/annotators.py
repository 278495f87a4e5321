"""Ten people who answer the same question: most agree, some misspell, rephrase, give up or err."""

from dataclasses import dataclass

from dyrate.testbed.world.draw import Draw
from dyrate.testbed.world.question_kinds import UNANSWERABLE

ANNOTATORS = 10

_SYNONYMS = {
    "striped": ("stripes", "stripy"),
    "dotted": ("dots", "polka dots"),
    "checkered": ("checks", "checkerboard"),
    "outlined": ("outline", "black outline"),
    "plain": ("no pattern", "solid"),
    "ring": ("donut", "hoop"),
    "moon": ("crescent", "half moon"),
    "cross": ("plus", "plus sign"),
    "gold": ("yellow", "golden"),
    "maroon": ("dark red", "burgundy"),
    "navy": ("dark blue", "navy blue"),
    "teal": ("dark cyan", "blue green"),
    "cyan": ("light blue", "turquoise"),
    "olive": ("dark green", "olive green"),
    "grass": ("lawn", "meadow"),
    "brick": ("bricks", "brick wall"),
    "wood": ("planks", "wooden floor"),
    "water": ("lake", "sea"),
    "sand": ("beach", "desert"),
    "snow": ("ice", "winter"),
    UNANSWERABLE: ("unsuitable", "unsuitable image"),
    "yes": ("no", "yeah"),
    "no": ("yes", "nope"),
}


@dataclass(frozen=True)
class Crowd:
    """How much ten annotators disagree.

    `strays` is the chance that one of them does not give the true answer; `contested` the share of questions
    of which only two or three give it; `gives_up` the chance that a stray answer is 'unanswerable'.
    """

    strays: float
    contested: float
    gives_up: float


UNANIMOUS = Crowd(strays=0.0, contested=0.0, gives_up=0.0)


def annotate(answer: str, crowd: Crowd, draw: Draw) -> list[str]:
    """Return ten annotators' answers to a question whose true answer is `answer`."""
    if draw.chance(crowd.contested):
        agreeing = draw.between(2, 3)
        true = [True] * agreeing + [False] * (ANNOTATORS - agreeing)
    else:
        true = [not draw.chance(crowd.strays) for _ in range(ANNOTATORS)]
    return [answer if agrees else _stray(answer, crowd, draw) for agrees in draw.shuffled(true)]


def _stray(answer: str, crowd: Crowd, draw: Draw) -> str:
    if answer != UNANSWERABLE and draw.chance(crowd.gives_up):
        return UNANSWERABLE
    if answer in _SYNONYMS and draw.chance(0.6):
        return draw.pick(_SYNONYMS[answer])
    if answer.isdigit():
        return str(max(0, int(answer) + draw.pick((-2, -1, 1, 2))))
    return _misspelt(answer, draw)


def _misspelt(answer: str, draw: Draw) -> str:
    """Return the word with one letter left out, doubled or exchanged with the next."""
    at = draw.below(max(len(answer) - 1, 1))
    match draw.below(3):
        case 0:
            wrong = answer[:at] + answer[at + 1 :]
        case 1:
            wrong = answer[: at + 1] + answer[at:]
        case _:
            wrong = answer[:at] + answer[at : at + 2][::-1] + answer[at + 2 :]
    return wrong if wrong not in ("", answer) else answer + answer[-1]
